"""Writes a model as a folder that plain transformers loads, also while its head is edited."""

from pathlib import Path
from typing import Any

from torch import Tensor

from probenc_support.models.language_model import LanguageModel
from probenc_support.models.runtime import quiet


def save(lm: LanguageModel, folder: Path) -> None:
    """Writes the model as it stands, and its tokenizer.

    Of tensors that share memory transformers writes one, and ties the others to it again where the
    configuration says so. Once an edit has untied the head, the configuration no longer says so of
    any of them (BERT's two biases of the head, the three input embeddings of BART), and a loader
    would fill the missing ones with random numbers: so each is written.
    """
    with quiet():
        lm.model.save_pretrained(folder, state_dict=_unshared(lm.model))
        lm.tokenizer.save_pretrained(folder)


def _unshared(model: Any) -> dict[str, Tensor] | None:
    """The model's tensors, those that share memory as copies; None: the model's own will do."""
    if model.config.get_text_config().tie_word_embeddings or model.device.type == "meta":
        return None
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        state[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return state
