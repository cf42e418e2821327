"""Edits of the real model: rows of its output embedding changed, checked, restored, saved."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probenc_support import cache, corpora, inference, models
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.precision import wide, wide_device
from probenc_support.steering.closed_form import log_mean
from probenc_support.steering.directions import choose_ridge, min_variance, moments_of_runs
from probenc_support.steering.joint import check_feasible, joint_log_p, solve_jointly


@dataclass(frozen=True, eq=False)
class Steered:
    """A model while it is steered."""

    lm: LanguageModel
    """The model with the edited output embedding: its own E, untied"""
    tokens: Tensor
    """[K] int64 the edited tokens"""
    scales: Tensor
    """[K] float64 wanted factors on their mean probabilities"""
    steps: Tensor
    """[K] float64 how far each went along the direction"""
    before: Tensor
    """[K] float64 mean probabilities on the detecting corpus before the edit"""
    expected: Tensor
    """[K] float64 the same afterwards, in closed form"""

    def save_steered(self, path: str | Path) -> Path:
        """Writes the steered model as a folder that transformers loads, all of it or nothing.

        Raises:
            InputError: something is at `path` already, or it cannot be written.
        """
        path = Path(path).expanduser()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists already; name a new folder for the steered model.")
        with cache.atomic_path(path) as temporary:
            models.save(self.lm, temporary)
        return path


@contextmanager
def steer(
    lm: LanguageModel,
    scales: Mapping[str | int, float],
    *,
    detection: Detection | None = None,
    direction: Tensor | None = None,
    exact: bool = True,
) -> Iterator[Steered]:
    """Inside the context the model gives some tokens `scales` times their mean probability.

    The rows of these tokens in the output embedding are replaced; a tied head is untied first, so
    that the input embedding stays. On leaving, also by an exception, everything is as it was. In a
    model of half precision the new row is rounded to it, and the factors with it.

    Args:
        scales: token (a text that is one token, or an id) to factor, for instance
            `{" Paris": 5.0, " London": 0.2}`.
        detection: the corpus on which the factors hold; by default the built-in docstrings.
        direction: [d] along which rows move, or [K, d] one for each token; by default the
            minimum-variance direction.
        exact: solve for the steps, all tokens together; else the linear rule, step = log r.

    Raises:
        InputError: a name that is not one token, an id without a token, a factor that is not
            positive, or mean probabilities that would pass 1.
    """
    tokens, factors = _wanted(lm, scales)
    if detection is None:
        detection = default_detection(lm)
    vector = default_direction(detection) if direction is None else direction.double()
    log_p = lm.head.log_p(detection.h, tokens, detection.z)
    names = [lm.token_text(int(token)) for token in tokens]
    check_feasible(log_mean(log_p), factors.log(), names)
    vectors = vector.expand(len(tokens), -1)
    g = detection.h.double() @ vectors.T
    steps = solve_jointly(log_p, g, factors.log(), names=names) if exact else factors.log()
    after = log_mean(joint_log_p(log_p, g * steps)).exp()
    with edited_rows(lm, tokens, steps[:, None] * vectors) as edited:
        yield Steered(edited, tokens, factors, steps, log_mean(log_p).exp(), after)


def default_detection(lm: LanguageModel) -> Detection:
    """The pass over 16,384 positions of the built-in docstrings, from the cache if there."""
    length = min(256, lm.context_length)
    return inference.detect(lm, corpora.blocks("docstrings", lm.tokenizer, sequence_length=length))


def default_direction(detection: Detection) -> Tensor:
    """[d] minimum variance, its ridge chosen on runs of positions that are left out of the fit."""
    return min_variance(detection.moments, choose_ridge(moments_of_runs(detection.h)))


def _wanted(lm: LanguageModel, scales: Mapping[str | int, float]) -> tuple[Tensor, Tensor]:
    """Ids and factors, checked."""
    if not scales:
        raise InputError("No token is named; give a mapping such as {' Paris': 5.0}.")
    ids = [_token(lm, name) for name in scales]
    for name, other in zip(scales, ids, strict=True):
        if ids.count(other) > 1:
            raise InputError(f"The token {name!r} is named twice; give it one scale.")
    for name, scale in scales.items():
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not 0 < scale < math.inf:
            raise InputError(f"The scale of {name!r} is {scale!r}; it must be a positive number.")
    return torch.tensor(ids), torch.tensor([float(s) for s in scales.values()], dtype=torch.float64)


def _token(lm: LanguageModel, name: str | int) -> int:
    if isinstance(name, str):
        return lm.token_id(name)
    if isinstance(name, bool) or not isinstance(name, int) or name not in set(lm.tokens.tolist()):
        raise InputError(
            f"{name!r} is no token of {lm.name}; name a text that is one token, or an id that its "
            "tokenizer knows."
        )
    return name


@contextmanager
def edited_rows(lm: LanguageModel, tokens: Tensor, change: Tensor) -> Iterator[LanguageModel]:
    """Adds `change` [K, d] to rows of the output embedding, in a matrix of the head's own.

    See `own_output_embedding`. What the context gives is the model with the edited E.
    """
    with own_output_embedding(lm) as weight:
        change = add_to_rows(lm, weight, tokens, change)
        yield _as_edited(lm, weight, tokens, change)


@contextmanager
def own_output_embedding(lm: LanguageModel) -> Iterator[Tensor]:
    """Inside the context the head's weight is a copy [V, d] that may be written to.

    The weight itself is never written to: the input embedding that may share it, and lm.E, stay.
    On leaving, it is put back.
    """
    models.check_editable(lm)
    head: Any = lm.model.get_output_embeddings()
    old = head.weight
    own = old.detach().clone()
    configs = _tying_configs(lm.model)
    was_tied = [config.__dict__.get("tie_word_embeddings") for config in configs]
    try:
        head.weight = torch.nn.Parameter(own, requires_grad=False)
        for config in configs:
            config.tie_word_embeddings = False
        yield own
    finally:
        head.weight = old
        for config, tied in zip(configs, was_tied, strict=True):
            _restore(config, tied)


def add_to_rows(lm: LanguageModel, weight: Tensor, tokens: Tensor, change: Tensor) -> Tensor:
    """Writes rows of E that are moved by `change` [K, d] into a head's weight [V, d].

    Where the model scales its logits, E is the weight times that scale.

    Returns:
        [K, d] float64, by how much the rows of the weight were to change.
    """
    scale = lm.scale
    change = change.to(device=wide_device(weight.device), dtype=torch.float64) / scale
    weight[tokens] = (wide(weight[tokens]) + change).to(weight)
    return change


def _tying_configs(model: Any) -> list[Any]:
    """The configuration and, of models with several parts, that of the text model; none of T5's
    kin, which read from it whether they scale what the head reads, and load untied all the same."""
    text = model.config.get_text_config()
    if "t5" in text.model_type:
        return []
    return [model.config] if text is model.config else [model.config, text]


def _restore(config: Any, tied: bool | None) -> None:
    if tied is None:
        config.__dict__.pop("tie_word_embeddings", None)
    else:
        config.tie_word_embeddings = tied


def _as_edited(lm: LanguageModel, weight: Tensor, tokens: Tensor, change: Tensor) -> LanguageModel:
    """The model with its new E, and a hash of its own so that no cached pass is taken for its."""
    digest = hashlib.sha256(lm.weights_hash.encode())
    for array in (tokens, change.cpu()):
        digest.update(array.contiguous().numpy().tobytes())
    scale = lm.scale
    E = (weight if weight.dtype == torch.float64 else weight.float()) * scale
    return replace(lm, head=Head(E, lm.b, lm.tokens), tied=False, weights_hash=digest.hexdigest())
