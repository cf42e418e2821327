"""The untrained twin: a network of the same architecture with fresh weights, as a control."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from probenc_support.models import wrapping
from probenc_support.models.language_model import LanguageModel
from probenc_support.models.runtime import quiet


def twin(lm: LanguageModel, *, seed: int = 0) -> LanguageModel:
    """A model like `lm` (configuration, tokenizer, first token, precision, device), untrained.

    Its weights are drawn as transformers draws those of a new model, from `seed`; the state of
    torch's own generator is left as it was. Where `lm` was converted from another format, the
    configuration of the loaded model counts.

    Raises:
        InputError: the fresh model fails a check of `models.wrap`.
    """
    made_from: Callable[[Any], Any] = type(lm.model)
    usual = torch.get_default_dtype()
    try:
        # In place and in the model's precision: a large model has no room for a third in float32.
        torch.set_default_dtype(lm.dtype)
        with torch.random.fork_rng(), quiet(), lm.device:
            torch.manual_seed(seed)
            fresh = made_from(copy.deepcopy(lm.model.config))
    finally:
        torch.set_default_dtype(usual)
    fresh = fresh.to(device=lm.device, dtype=lm.dtype)
    made = wrapping.wrap(
        fresh, lm.tokenizer, name=f"{lm.name}, untrained", weights_hash=f"untrained-{seed}"
    )
    return replace(made, kind=lm.kind, context_length=lm.context_length)
