"""From a loaded transformers model to a `LanguageModel`: its head is found, and checked.

The checks refuse what would give wrong numbers without an error: a head that is not linear, logits
that E h + b does not reproduce, a tokenizer that does not fit, a model that sees later tokens.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models.first_token import first_token_id
from probenc_support.models.language_model import LanguageModel, hidden_states, logits, overflow
from probenc_support.models.vocabulary import Vocabulary

HEAD_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest absolute difference in nats between E h + b and the model's own logits, by precision."""


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    revision: str = "",
    weights_hash: str = "",
    first_token: str = "none",
) -> LanguageModel:
    """A `LanguageModel` around a loaded model, checked: its head, its tokenizer, its causality.

    Args:
        first_token: see `load`.

    Raises:
        InputError: the model has no linear head, E h + b does not reproduce its logits, its
            tokenizer does not fit, or what it says of a token depends on later ones.
    """
    model = model.eval().requires_grad_(False)
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"{name} is an encoder-decoder model, of which this would read the decoder alone; name "
            "a causal language model."
        )
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise InputError(
            f"{name} has no linear output embedding, so its probabilities cannot be read from one; "
            "name a causal language model with an lm_head."
        )
    scale = logit_scale(model.config)
    weight, bias = _present(head, name)
    vocabulary = Vocabulary(tokenizer, weight.shape[0])
    _check_vocabulary(vocabulary, name)
    first = first_token_id(vocabulary, first_token, name)
    text_config = model.config.get_text_config()
    longest = int(getattr(text_config, "max_position_embeddings", None) or 2**31)
    lm = LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        head=Head(
            _float(weight, scale),
            None if bias is None else _float(bias, scale),
            vocabulary.rows,
        ),
        tied=_is_tied(model, head),
        context_length=longest if first is None else longest - 1,
        device=weight.device,
        dtype=weight.dtype,
        revision=revision,
        weights_hash=weights_hash or _parameters_hash(model),
        first_token=first,
        quantisation=quantisation(model.config),
    )
    check_causal(lm)
    check_head(lm)
    return lm


def quantisation(config: Any) -> str:
    """In how few bits the weights of a model are stored, by its configuration; empty: in no fewer
    than they were trained in.

    A GGUF file's conversion keeps this (`gguf_conversion.stored_as`); transformers' own quantised
    models name their method.
    """
    if stored := getattr(config, "stored_as", ""):
        return str(stored)
    settings: Any = getattr(config, "quantization_config", None) or {}
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    if not settings:
        return ""
    method = settings.get("quant_method", "quantised")
    bits = settings.get("bits") or (4 if settings.get("load_in_4bit") else 0)
    return str(getattr(method, "value", method)) + (f", {bits} bits" if bits else "")


def _is_tied(model: PreTrainedModel, head: torch.nn.Linear) -> bool:
    inputs: Any = model.get_input_embeddings()
    # Offloading makes two parameters of one.
    offloaded = head.weight.device.type == "meta" and model.config.tie_word_embeddings
    return head.weight is inputs.weight or bool(offloaded)


def logit_scale(config: Any) -> float:
    """Factor between E h + b and the logits: Cohere multiplies, Granite divides; 1 elsewhere.

    A model of text and images keeps the setting in the part of its configuration for text.
    """
    parts = (config.get_text_config(), config)
    times = next((s for part in parts if (s := getattr(part, "logit_scale", None))), 1.0)
    over = next((s for part in parts if (s := getattr(part, "logits_scaling", None))), 1.0)
    return float(times) / float(over)


def _present(head: torch.nn.Linear, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the head in memory, also where accelerate keeps them elsewhere.

    Raises:
        InputError: they are nowhere, so the model has no weights yet.
    """
    if head.weight.device.type != "meta":
        return head.weight, head.bias
    stored = {key: _offloaded(head, key) for key, _ in head.named_parameters()}
    if any(tensor is None for tensor in stored.values()):
        raise InputError(
            f"The output embedding of {name} has no weights in memory (it is on the device "
            "'meta'); load the model without offloading, or on a machine with more memory."
        )
    return stored["weight"].clone(), stored.get("bias")


def _offloaded(module: torch.nn.Module, key: str) -> Any:
    """A tensor that accelerate keeps elsewhere between two calls of a module; None: it does not."""
    hook: Any = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        stored = getattr(each, "weights_map", None)
        if stored is not None:
            return stored[key].detach()
    return None


def check_editable(lm: LanguageModel) -> None:
    """Refuses to replace a head that lies elsewhere between two calls of the model.

    Raises:
        InputError: it does.
    """
    head: Any = lm.model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is not None and weight.device.type == "meta":
        raise InputError(
            f"The output embedding of {lm.name} is offloaded, so it cannot be edited in the model; "
            "use a machine on which the whole model fits."
        )


def _check_vocabulary(vocabulary: Vocabulary, name: str) -> None:
    """Refuses a tokenizer with tokens that have no row in the head; added tokens may lack one."""
    added = set(getattr(vocabulary.tokenizer, "added_tokens_decoder", {}))
    lost = [token for token in vocabulary.without_row if token not in added]
    if lost:
        raise InputError(
            f"The tokenizer of {name} has {len(lost)} tokens without a row in the output embedding "
            f"of {vocabulary.n_rows} rows ({vocabulary.pieces[lost[0]]!r} is number {lost[0]}); it "
            "belongs to another model."
        )


def _float(weight: Tensor, scale: float) -> Tensor:
    """At least float32; shares the model's memory where neither precision nor scale change it."""
    wide = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    return wide if scale == 1.0 else wide * scale


def _parameters_hash(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.state_dict().items()):
        if parameter.device.type == "meta":
            owner, _, key = name.rpartition(".")
            parameter = _offloaded(model.get_submodule(owner), key)
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _some_tokens(lm: LanguageModel) -> Tensor:
    """[1, T] up to 16 random tokens."""
    generator = torch.Generator().manual_seed(0)
    length = min(16, lm.context_length)
    return lm.tokens[torch.randint(len(lm.tokens), (1, length), generator=generator)]


@torch.inference_mode()
def check_head(lm: LanguageModel) -> None:
    """Compares E h + b with the model's own logits on 16 positions of random tokens.

    Raises:
        InputError: they differ by more than rounding (soft-capped logits, an unknown scale, or a
            layer between the body and the head), or are no numbers.
    """
    ids = _some_tokens(lm)
    theirs = logits(lm, ids)[0]
    ours = hidden_states(lm, ids)[0] @ lm.E.T
    if lm.b is not None:
        ours = ours + lm.b
    if not bool(theirs.isfinite().all()):
        raise InputError(overflow(lm))
    difference = (ours - theirs.to(ours)).abs()
    # Rounding of half-precision logits grows with their size, so the tolerance is relative to it.
    # Some models give their logits in float32, whatever they compute in.
    rounding = max(HEAD_TOLERANCE[lm.dtype], HEAD_TOLERANCE[theirs.dtype])
    tolerance = rounding * max(1.0, float(theirs.abs().max()) / 10)
    if not float(difference.max()) <= tolerance:
        cap = getattr(lm.model.config.get_text_config(), "final_logit_softcapping", None)
        why = f"its logits are soft-capped at {cap}" if cap else "a scale or a layer lies between"
        raise InputError(
            f"{lm.name}: output embedding times hidden state is not the model's logits (largest "
            f"difference {float(difference.max()):.3g}): {why}, so the log-linear encoding is not "
            "defined for it here; name another model."
        )


CAUSAL_TOLERANCE = {
    torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05
}  # fmt: skip
"""Most that a later token may change at earlier positions, relative to the change at its own: what
rounding may cause."""


@torch.inference_mode()
def check_causal(lm: LanguageModel) -> None:
    """Tries on the model itself that a later token changes no earlier hidden state.

    Raises:
        InputError: it does, so the model reads in both directions.
    """
    ids = _some_tokens(lm)
    if ids.shape[1] < 2 or len(lm.tokens) < 2:
        return
    other = ids.clone()
    other[0, -1] = lm.tokens[(torch.searchsorted(lm.tokens, ids[0, -1]) + 1) % len(lm.tokens)]
    change = (hidden_states(lm, ids) - hidden_states(lm, other))[0].abs().amax(dim=1)
    if not bool(change.isfinite().all()):
        raise InputError(overflow(lm))
    before, at = float(change[:-1].max()), float(change[-1])
    if before > CAUSAL_TOLERANCE[lm.dtype] * at:
        raise InputError(
            f"{lm.name} is not causal: a later token changes what it says at earlier positions "
            f"(by {before / at:.1%} of the change at its own), so it sees what it should predict; "
            "name a model that generates left to right."
        )
