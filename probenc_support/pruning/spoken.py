"""One body, several heads: continuations of the same prompts, and MAUVE with intervals.

A pruned head leaves the body as it is, so the prompts are read once for all heads. What MAUVE
compares, the body's hidden state at a text's last token, is left over from writing it.
"""

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probenc_support import generation
from probenc_support.generation import Samples
from probenc_support.models import LanguageModel, with_first_token
from probenc_support.pruning.pruned_head import swapped
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
    length. The model's own head is back afterwards.

    Args:
        heads: by name; None: the model's own.
        n_tokens: of each continuation.
        seeds: of the draws, by the heads' names.

    Raises:
        InputError: the texts would not fit into the model's context, or it does not generate.
    """
    generation.check_lengths(lm, prompts.shape[1], n_tokens)
    generators = {name: torch.Generator(lm.device).manual_seed(seeds[name]) for name in heads}
    written: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in heads}
    for batch in prompts.split(batch_size):
        ids = with_first_token(lm, batch.to(lm.device))
        read = _read(lm, ids[:, :-1])
        for name, head in heads.items():
            own = copy.deepcopy(read)
            with swapped(lm, lm.model.get_output_embeddings() if head is None else head):
                written[name].append(_continue(lm, ids[:, -1:], own, n_tokens, generators[name]))
    return {
        name: Spoken(
            Samples(prompts.cpu(), torch.cat([ids for ids, _ in parts])),
            torch.cat([last for _, last in parts]).numpy(),
        )
        for name, parts in written.items()
    }


def _read(lm: LanguageModel, ids: Tensor) -> Any:
    """What the body keeps of a text [n, T]; None where there is none."""
    if not ids.shape[1]:
        return None
    return lm.model.base_model(input_ids=ids, use_cache=True).past_key_values


def _continue(
    lm: LanguageModel, token: Tensor, read: Any, n_tokens: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Tokens [n, n_tokens] drawn after [n, 1], and the last hidden states [n, d]."""
    end = generation.end_of_text(lm)
    drawn = []
    for _ in range(n_tokens):
        out = lm.model(input_ids=token, past_key_values=read, use_cache=True)
        logits = out.logits[:, -1].float()
        logits[:, end] = -torch.inf
        token = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)
        drawn.append(token)
        read = out.past_key_values
    body = lm.model.base_model(input_ids=token, past_key_values=read, use_cache=True)
    return torch.cat(drawn, dim=1).cpu(), body.last_hidden_state[:, -1].float().cpu()


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
    found = {}
    k = max(2, round(len(index) / 10))
    for name, other in others.items():
        texts = principal(reference.features, other.features)
        scores = []
        for i in range(n_clusterings):
            found_in = clusters(texts, k, seed=seed + i)
            here, there = (_counts(c, weights, k) for c in np.split(found_in, [len(index)]))
            scores.append(mauve_of(here, there))
        score = np.mean(scores, axis=0)
        interval = Interval.of(float(score[0]), score[1:])
        found[name] = replace(interval, low=max(0.0, interval.low), high=min(1.0, interval.high))
    return found


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


def _counts(found: NDArray[np.int64], weights: Array, k: int) -> Array:
    """[B, k] weight of each cluster in each draw."""
    return np.asarray(weights @ np.eye(k)[found])


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
