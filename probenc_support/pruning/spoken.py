"""One body, several heads: continuations of the same prompts, and MAUVE with intervals.

A pruned head leaves the body as it is, so the prompts are read once for all heads, and each token
that is drawn is read once: its hidden state gives the next token, and at a text's end it is what
MAUVE compares.
"""

import copy
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probenc_support import generation
from probenc_support.generation import Samples
from probenc_support.models import LanguageModel, check_editable, head_logits, next_state
from probenc_support.models.kinds import Causal
from probenc_support.regression import Interval, draws_with_replacement
from probenc_support.regression.arrays import Array

_SCALING = 5.0
"""MAUVE's constant c (Pillutla et al. 2021)."""


_MIXTURES = np.linspace(1e-6, 1 - 1e-6, 25)
"""Weights of the mixtures on the divergence curve, as mauve-text has them."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """What one head wrote."""

    samples: Samples
    features: NDArray[np.float32]
    """[n, d] hidden state at each text's last token, of the body, which all heads share."""


def prompts_of(ids: Tensor, group: Tensor, n: int, length: int = 16) -> tuple[Tensor, Tensor]:
    """Consecutive pieces of text blocks: the first n, or as many as there are.

    Args:
        ids: [B, T] tokens of the blocks.
        group: [B * P] document of each position that is predicted, the last P of each block.
        length: of a piece; shorter where a quarter of a block is.

    Returns:
        The pieces [n, length], and the document [n] in which each ends.
    """
    length = max(1, min(length, ids.shape[1] // 4))
    pieces = ids[:, : ids.shape[1] // length * length].reshape(-1, length)[:n]
    group = group.reshape(len(ids), -1)
    # Where only the last positions of a block are predicted, the first of these stands for those
    # before it.
    skipped = ids.shape[1] - group.shape[1]
    ends = torch.arange(length - 1, ids.shape[1], length).sub(skipped).clamp(min=0)
    return pieces, group[:, ends].flatten()[: len(pieces)]


@torch.no_grad()
def speak(
    lm: LanguageModel,
    heads: Mapping[str, nn.Module | None],
    prompts: Tensor,
    *,
    n_tokens: int,
    seeds: Mapping[str, int],
    batch_size: int = 128,
) -> dict[str, Spoken]:
    """Continuations of prompts [n, T] by the model with each of several heads.

    Plain sampling at temperature 1. The end-of-text token is not drawn, so that all texts have one
    length. The model itself is not changed.

    Args:
        heads: by name, for instance pruned ones; None: the model's own.
        n_tokens: of each continuation.
        seeds: of the draws, by the heads' names; heads of one seed draw with the same noise.

    Raises:
        InputError: the texts would not fit into the model's context, or it does not generate.
    """
    generation.check_lengths(lm, prompts.shape[1], n_tokens)
    check_editable(lm)
    generators = {seed: torch.Generator(lm.device).manual_seed(seed) for seed in seeds.values()}
    written: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in heads}
    for batch in prompts.split(min(batch_size, lm.kind.at_once)):
        begun = _begin(lm, batch)
        voices = [_Voice(lm, heads[name], copy.deepcopy(begun), seeds[name]) for name in heads]
        for _ in range(n_tokens):
            noise: dict[int, Tensor] = {}
            for voice in voices:
                voice.draw(noise, generators)
        for name, voice in zip(heads, voices, strict=True):
            written[name].append((torch.cat(voice.drawn, dim=1).cpu(), voice.h.float().cpu()))
    return {
        name: Spoken(
            Samples(prompts.cpu(), torch.cat([ids for ids, _ in parts])),
            torch.cat([last for _, last in parts]).numpy(),
        )
        for name, parts in written.items()
    }


class _Kept:
    """How far a causal model has read: it keeps what it needs of it, and reads on from there."""

    def __init__(self, past: Any, h: Tensor) -> None:
        self.past, self.h = past, h

    def read_on(self, lm: LanguageModel, token: Tensor) -> None:
        """Reads one more token of each text, token [n, 1]."""
        body: Any = lm.model.base_model
        out = body(input_ids=token, past_key_values=self.past, use_cache=True)
        self.h, self.past = out.last_hidden_state[:, -1], out.past_key_values


class _Anew:
    """How far a model of another kind has read, which reads everything again for each token."""

    def __init__(self, prompts: Tensor, new: Tensor, h: Tensor) -> None:
        self.prompts, self.new, self.h = prompts, new, h

    def read_on(self, lm: LanguageModel, token: Tensor) -> None:
        """Reads one more token of each text, token [n, 1]."""
        self.new = torch.cat([self.new, token.to(self.new)], dim=1)
        self.h = next_state(lm, self.prompts, self.new)


def _begin(lm: LanguageModel, prompts: Tensor) -> _Kept | _Anew:
    """The prompts [n, T], read."""
    if not isinstance(lm.kind, Causal):
        return _Anew(prompts, prompts[:, :0], next_state(lm, prompts))
    body: Any = lm.model.base_model
    out = body(input_ids=lm.kind.framed(prompts.to(lm.device)), use_cache=True)
    h = out.last_hidden_state[:, -1]
    read = next_state(lm, prompts[:1])
    if not torch.allclose(h[:1].to(read), read, rtol=1e-3, atol=1e-3 * float(read.abs().max())):
        # Something lies between the body and the head, which the body alone does not give.
        return _Anew(prompts, prompts[:, :0], next_state(lm, prompts))
    return _Kept(out.past_key_values, h)


class _Voice:
    """One head on its way through the continuations of a batch of prompts."""

    def __init__(
        self, lm: LanguageModel, head: nn.Module | None, begun: _Kept | _Anew, seed: int
    ) -> None:
        self.lm, self.head, self.text, self.seed = lm, head, begun, seed
        self.barred = generation.never_drawn(lm)
        self.drawn: list[Tensor] = []

    @property
    def h(self) -> Tensor:
        """[n, d] the state that predicts the next token."""
        return self.text.h

    def draw(self, noise: dict[int, Tensor], generators: Mapping[int, torch.Generator]) -> None:
        """Draws the next token of each text and reads it.

        A token is the largest ratio of probability to exponential noise, as in
        `torch.multinomial`; heads of one seed share the noise of a step, which is kept in `noise`.
        """
        logits = head_logits(self.lm, self.h, self.head)
        logits[:, self.barred] = -torch.inf
        p = logits.softmax(dim=1)
        if self.seed not in noise:
            generator = generators[self.seed]
            noise[self.seed] = torch.empty_like(p).exponential_(generator=generator)
        token = p.div_(noise[self.seed]).argmax(dim=1, keepdim=True)
        self.drawn.append(token)
        self.text.read_on(self.lm, token)


# ------------------------------------------------------------------------------------------- MAUVE


def mauve_intervals(
    reference: Spoken,
    others: Mapping[str, Spoken],
    group: Tensor,
    *,
    n_clusterings: int = 5,
    n_replicates: int = 200,
    seed: int = 0,
) -> dict[str, Interval]:
    """MAUVE of several sets of texts against one, with intervals over draws of documents.

    The clusters, a tenth as many as texts, are made of all texts of a pair, `n_clusterings` times,
    and the score is the mean. The draws count the texts of drawn documents within them: `group`
    [n] is the document of each prompt, which comes with what was written to it on both sides.

    Raises:
        InputError: mauve-text is not installed, or there are fewer than 20 prompts.
    """
    generation.check_mauve(len(group))
    index = torch.unique(group, return_inverse=True)[1].numpy()
    n_groups = int(index.max()) + 1
    draws = draws_with_replacement(n_groups, n_replicates, seed=seed)
    weights = np.concatenate([np.ones((1, n_groups)), draws])[:, index]
    by_name = {}
    k = max(2, round(len(index) / 10))
    for name, other in others.items():
        texts = principal(reference.features, other.features)
        scores = []
        for i in range(n_clusterings):
            cluster = clusters(texts, k, seed=seed + i)
            here, there = (_counts(c, weights, k) for c in np.split(cluster, [len(index)]))
            scores.append(mauve_of(here, there))
        score = np.mean(scores, axis=0)
        interval = Interval.of(float(score[0]), score[1:])
        by_name[name] = replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))
    return by_name


def mauve_of_first(
    written: Mapping[str, Spoken], group: Tensor, numbers: Sequence[int], *, seed: int = 0
) -> dict[int, dict[str, Interval]]:
    """`mauve_intervals` of all others against `reference`, of the first texts alone, by number.

    group: [n] document of each prompt. Errors as for `mauve_intervals`.
    """
    scores = {}
    for n in numbers:
        first = {name: Spoken(s.samples, s.features[:n]) for name, s in written.items()}
        reference = first.pop("reference")
        scores[n] = mauve_intervals(reference, first, group[:n], seed=seed)
    return scores


def principal(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features p [n, d] and q [m, d], of length one, in their principal components: [n + m, k].

    As many components as carry 90 % of the variance, as mauve-text takes them.
    """
    data = np.vstack([p, q]).astype(np.float64)
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    data -= data.mean(axis=0)
    left, values, _ = np.linalg.svd(data, full_matrices=False)
    kept = int(np.argmax(np.cumsum(values**2) / np.sum(values**2) >= 0.9)) + 1
    return np.ascontiguousarray(left[:, :kept] * values[:kept], dtype=np.float32)


def clusters(scores: NDArray[np.float32], k: int, *, seed: int = 0) -> NDArray[np.int64]:
    """[n] k-means cluster of each row of scores [n, c]."""
    faiss: Any = importlib.import_module("faiss")
    means = faiss.Kmeans(scores.shape[1], k, niter=100, nredo=1, update_index=True, seed=seed)
    with generation.silent():
        means.train(scores)
    return np.asarray(means.index.search(scores, 1)[1][:, 0], dtype=np.int64)


def _counts(cluster: NDArray[np.int64], weights: Array, k: int) -> Array:
    """[B, k] weight of each cluster in each draw, of texts' clusters [n] and weights [B, n]."""
    return np.asarray(weights @ np.eye(k)[cluster])


def mauve_of(p: Array, q: Array) -> Array:
    """[B] MAUVE of pairs of histograms [B, k]: the area under the divergence curve.

    The curve's points are (exp(-c KL(q || r)), exp(-c KL(p || r))) for mixtures r of p and q.
    """
    p, q = (h / h.sum(axis=1, keepdims=True) for h in (p, q))
    x, y = [np.ones(len(p))], [np.zeros(len(p))]
    for w in _MIXTURES:
        mixed = w * p + (1 - w) * q
        x.append(np.exp(-_SCALING * _kl(q, mixed)))
        y.append(np.exp(-_SCALING * _kl(p, mixed)))
    x.append(np.zeros(len(p)))
    y.append(np.ones(len(p)))
    across, up = np.stack(x, axis=1), np.stack(y, axis=1)
    return 0.5 * (_area(across, up) + _area(up, across))


def _kl(p: Array, q: Array) -> Array:
    """[B] KL divergences of histograms [B, k], nats."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(p > 0, p * np.log(p / q), 0.0).sum(axis=1))


def _area(x: Array, y: Array) -> Array:
    """[B] areas under curves [B, n], by trapezoids in order of x."""
    order = np.argsort(x, axis=1, kind="stable")
    x, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    return np.asarray(((y[:, 1:] + y[:, :-1]) * np.diff(x, axis=1)).sum(axis=1) / 2)
