"""From a loaded transformers model to a `LanguageModel`: its head is found, and checked.

The checks refuse what would give wrong numbers without an error: a head that is not linear, logits
that E h + b does not reproduce, a tokenizer that does not fit, a model that sees the tokens that it
should predict.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models import tensor_parallel
from probenc_support.models.kinds import kind_of
from probenc_support.models.language_model import (
    LanguageModel,
    continued,
    hidden_states,
    logits,
    overflow,
    targets,
)
from probenc_support.models.vocabulary import Vocabulary
from probenc_support.precision import HALF

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
    """A `LanguageModel` around a loaded model, checked: its head, its tokenizer, what it sees.

    Args:
        first_token: see `load`.

    Raises:
        InputError: the model has no linear head, E h + b does not reproduce its logits, its
            tokenizer does not fit, or what it says of a token depends on that token.
    """
    model = model.eval().requires_grad_(False)
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise InputError(
            f"{name} has no linear output embedding, so its probabilities cannot be read from one; "
            "name a language model with a language modelling head."
        )
    scale = logit_scale(model.config)
    weight, bias = _present(head, name)
    vocabulary = Vocabulary(tokenizer, weight.shape[0])
    _check_vocabulary(vocabulary, name)
    kind, context_length = kind_of(model, vocabulary, first_token, name)
    outside = _outside(model, weight)
    lm = LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        head=Head(
            _float(weight, scale),
            _bias(bias, scale, outside),
            kind.text_rows(vocabulary),
            half=_half(weight),
            scale=scale,
        ),
        tied=_is_tied(model, head),
        context_length=context_length,
        device=weight.device,
        dtype=weight.dtype,
        revision=revision,
        weights_hash=weights_hash or _parameters_hash(model),
        kind=kind,
        scale=scale,
        outside=outside,
        quantisation=quantisation(model.config),
    )
    check_blind(lm)
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
    # Offloading, and division among processes, make two parameters of one.
    two = head.weight.device.type == "meta" or tensor_parallel.is_divided(model)
    return head.weight is inputs.weight or bool(two and model.config.tie_word_embeddings)


def logit_scale(config: Any) -> float:
    """Factor between E h + b and the logits: Cohere multiplies, Granite divides; 1 elsewhere.

    A model of text and images keeps the setting in the part of its configuration for text.
    """
    parts = (config.get_text_config(), config)
    times = next((s for part in parts if (s := getattr(part, "logit_scale", None))), 1.0)
    over = next((s for part in parts if (s := getattr(part, "logits_scaling", None))), 1.0)
    return float(times) / float(over)


def _present(head: torch.nn.Linear, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the head in memory, also where accelerate keeps them elsewhere, or where
    each of several processes holds a part.

    Raises:
        InputError: they are nowhere, so the model has no weights yet.
    """
    if head.weight.device.type != "meta":
        bias = None if head.bias is None else tensor_parallel.whole(head.bias)
        return tensor_parallel.whole(head.weight), bias
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


def _outside(model: PreTrainedModel, weight: Tensor) -> Tensor | None:
    """What a model adds to its logits after the head, [V] in float32 or more: BART and its kin."""
    added = getattr(model, "final_logits_bias", None)
    if added is None or not bool(added.any()):
        return None
    return _float(added.to(weight.device).flatten(), 1.0)


def _bias(bias: Tensor | None, scale: float, outside: Tensor | None) -> Tensor | None:
    """[V] all that is added to E h: the head's own bias and what comes after it."""
    own = None if bias is None else _float(bias, scale)
    return outside if own is None else own if outside is None else own + outside


def _float(weight: Tensor, scale: float) -> Tensor:
    """At least float32; shares the model's memory where neither precision nor scale change it."""
    wide = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    return wide if scale == 1.0 else wide * scale


def _half(weight: Tensor) -> Tensor | None:
    """The weight itself, where it is of half precision."""
    return weight.detach() if weight.dtype in HALF else None


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


BLIND_TOLERANCE = {
    torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05
}  # fmt: skip
"""Most that a token may change where it is to be predicted, relative to the change that it makes
elsewhere: what rounding may cause."""


@torch.inference_mode()
def check_blind(lm: LanguageModel) -> None:
    """Tries on the model itself that a token changes no hidden state that is to predict it, nor,
    but for a masked model, any that predicts an earlier one.

    Raises:
        InputError: it does, so the model sees what it should predict.
    """
    ids = _some_tokens(lm)
    if ids.shape[1] < 4 or len(lm.tokens) < 2:
        return
    # The last but one, so that there are positions on both sides of it.
    at = ids.shape[1] - 2
    other = ids.clone()
    other[0, at] = lm.tokens[(torch.searchsorted(lm.tokens, ids[0, at]) + 1) % len(lm.tokens)]
    # A speech model hears the text and should: what its decoder is given must not tell more.
    hears = lm.kind.name == "speech"
    after = continued(lm, ids, other[:, :-1]) if hears else hidden_states(lm, other)
    change = (hidden_states(lm, ids) - after)[0].abs().amax(dim=1)
    if not bool(change.isfinite().all()):
        raise InputError(overflow(lm))
    changed = targets(lm, ids)[0] != targets(lm, other)[0]
    predicts = int(torch.nonzero(changed)[0])
    masked = lm.kind.name == "masked"
    blind = changed if masked else torch.arange(len(change)) <= predicts
    blind = blind.to(change.device)
    before, elsewhere = float(change[blind].max()), float(change[~blind].max())
    if before > BLIND_TOLERANCE[lm.dtype] * elsewhere:
        raise InputError(
            f"{lm.name} sees what it should predict: a token changes what the model says "
            + ("of it although it is masked" if masked else "at earlier positions")
            + f" (by {before / max(elsewhere, 1e-30):.1%} of the change elsewhere); name a model "
            "that generates left to right, is masked, or has an encoder."
        )
