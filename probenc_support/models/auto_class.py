"""The class of transformers that builds a model with the head that it was trained with."""

import re
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)


def auto_class(config: Any) -> Any:
    """The auto class for a model's configuration: causal, unless that says otherwise."""
    if getattr(config, "is_encoder_decoder", False):
        hears = config.model_type in MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES
        return AutoModelForSpeechSeq2Seq if hears else AutoModelForSeq2SeqLM
    names = getattr(config, "architectures", None) or []
    both = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    # BERT's first files are named after both of its tasks.
    masked = any(re.search("ForMaskedLM$|ForPreTraining$", name) for name in names)
    return AutoModelForMaskedLM if both and masked else AutoModelForCausalLM
