"""Which kind a loaded model is, and what stands around the texts that it reads."""

import re
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probenc_support.errors import InputError
from probenc_support.models.kinds.base import Kind
from probenc_support.models.kinds.causal import Causal
from probenc_support.models.kinds.encoder_decoder import EncoderDecoder
from probenc_support.models.kinds.frames import first_token_id, put_around
from probenc_support.models.kinds.heard import longest_text
from probenc_support.models.kinds.masked import Masked
from probenc_support.models.kinds.speech import Speech, start_of
from probenc_support.models.vocabulary import Vocabulary

_UNLIMITED = 2**31
"""Context of a model whose configuration names no end of it."""


def is_masked(architecture: str) -> bool:
    """Whether a class of transformers, by its name, is a masked language model."""
    return bool(re.search(r"ForMaskedLM$", architecture))


def kind_of(
    model: PreTrainedModel, vocabulary: Vocabulary, first_token: str, name: str
) -> tuple[Kind, int]:
    """The kind of a model, and the largest number of tokens in a block that it can read.

    Args:
        first_token: of a causal model, see `models.load`; other kinds put around a text what their
            tokenizers do.

    Raises:
        InputError: it lacks what its kind needs, or `first_token` is named for another kind.
    """
    if model.main_input_name == "input_features":
        _only_auto(first_token, name, "a speech model")
        return _speech(model, vocabulary, name)
    if getattr(model.config, "is_encoder_decoder", False):
        _only_auto(first_token, name, "an encoder-decoder model")
        return _encoder_decoder(model, vocabulary, name)
    if is_masked(type(model).__name__):
        _only_auto(first_token, name, "a masked model")
        return _masked(model, vocabulary.tokenizer, name)
    first = first_token_id(vocabulary, first_token, name)
    return Causal(first), _longest(model) - (first is not None)


def _only_auto(first_token: str, name: str, what: str) -> None:
    if first_token not in ("auto", "none"):
        raise InputError(
            f"{name} is {what}, around whose texts its tokenizer puts what belongs there; leave "
            f"first_token at auto instead of {first_token!r}."
        )


def _longest(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or _UNLIMITED)


def _masked(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> tuple[Kind, int]:
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"{name} is a masked model and its tokenizer has no mask token, so nothing can be "
            "masked for it to predict; fetch its own tokenizer, or name another model."
        )
    before, after = put_around(tokenizer)
    # RoBERTa and its kin number positions from the padding token's id on.
    embeddings: Any = getattr(model.base_model, "embeddings", None)
    offset = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    lost = 0 if offset is None else int(offset) + 1
    kind = Masked(int(tokenizer.mask_token_id), before, after)
    return kind, _longest(model) - lost - len(before) - len(after)


def _encoder_decoder(model: PreTrainedModel, vocabulary: Vocabulary, name: str) -> tuple[Kind, int]:
    config, tokenizer = model.config, vocabulary.tokenizer
    before, after = put_around(tokenizer)
    # What a configuration says of generation lies in a file of its own in newer releases.
    settings = [s for s in (getattr(model, "generation_config", None), config) if s is not None]
    begins = _first_of(settings, "decoder_start_token_id")
    begins = _first_of(settings, "bos_token_id") if begins is None else begins
    if begins is None:
        raise InputError(
            f"{name} does not say with which token its decoder begins (decoder_start_token_id); "
            "set it in its configuration."
        )
    start: tuple[int, ...] = (int(begins),)
    pieces = {piece: token for token, piece in vocabulary.pieces.items()}
    if "t5" in config.model_type and "<extra_id_0>" in pieces:
        # T5 fills in what a sentinel stands for: here, all that comes after the prompt.
        sentinel = pieces["<extra_id_0>"]
        start, after = (*start, sentinel), (sentinel, *after)
    forced = _first_of(settings, "forced_bos_token_id")
    restores = config.model_type in ("bart", "mbart") and tokenizer.mask_token_id is not None
    if restores:
        forced = before[0] if forced is None and before else forced
        after = (int(tokenizer.mask_token_id), *after)
    if forced is not None:
        start = (*start, int(forced))
    kind = EncoderDecoder(start, before, after, repeats=restores)
    longest = _longest(model)
    if longest == _UNLIMITED:
        return kind, longest
    if restores:
        return kind, longest - max(len(start), len(before) + len(after))
    return kind, 2 * (longest - max(len(start), len(before) + len(after)))


def _speech(model: PreTrainedModel, vocabulary: Vocabulary, name: str) -> tuple[Kind, int]:
    if model.config.model_type != "whisper":
        raise InputError(
            f"{name} is a speech model of the type {model.config.model_type}, of which Whisper "
            "alone is known here; name a Whisper."
        )
    multilingual = getattr(model.generation_config, "is_multilingual", None)
    if multilingual is None:
        multilingual = "<|en|>" in vocabulary.pieces.values()
    try:
        start = start_of(vocabulary, bool(multilingual))
    except KeyError as error:
        raise InputError(
            f"The tokenizer of {name} has no token {error.args[0]}, so it is none of Whisper; "
            "fetch its own."
        ) from error
    written = int(model.config.max_target_positions) - len(start)
    return Speech(vocabulary, start), min(written, longest_text(model))


def _first_of(settings: list[Any], name: str) -> Any:
    return next((v for s in settings if (v := getattr(s, name, None)) is not None), None)
