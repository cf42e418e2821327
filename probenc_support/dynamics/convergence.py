"""How near the parameters of a checkpoint are to where they end, group by group (section 5)."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from probenc_support.dynamics import resampling
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.weights import HeadNames
from probenc_support.regression.arrays import Array

EMBEDDING = "output embedding"
"""The group of parameters that is E."""


BODY = "all other parameters"
"""The group of parameters that are not E."""


WHOLE = "all parameters"
"""E and the body together."""


_LAYER = re.compile(r"\b(?:layers|h|blocks|layer)\.(\d+)\.")


_ENDS_AT_ONCE = 3
"""Ends whose weights are in memory together, beside one checkpoint."""


def group_of(name: str, names: HeadNames) -> str:
    """Which part of the model a tensor belongs to: input embedding, a layer, final norm, or E.

    Args:
        names: what the architecture calls its embeddings, see `TrainingRun.head_names`.
    """
    if name in names.head or (names.tied and name in names.inputs):
        return EMBEDDING
    if name in names.bias:
        return "head bias"
    if layer := _LAYER.search(name):
        return f"layer {int(layer[1]) + 1}"
    if name in names.inputs or re.search(r"\b(wpe|position|embed_|embeddings\.)", name):
        return "input embedding"
    return "final norm" if re.search(r"norm|ln_f", name, re.IGNORECASE) else "other"


@dataclass(frozen=True)
class Distances:
    """How far the parameters of each group are from their values at the last step."""

    steps: list[int]
    to_final: dict[str, Array]
    """[n_steps, n_rows] squared distance of each row of a group's matrices from its final value
    (of each entry, for norms and biases). The last step is zero. Groups are in the model's order;
    `all other parameters` and `all parameters` come last."""

    @property
    def groups(self) -> list[str]:
        """Names of the groups."""
        return list(self.to_final)

    def distance(self, group: str) -> Array:
        """[n_steps] ||W_t - W_final|| / ||W_0 - W_final||: 1 at the first step, 0 at the last."""
        squares = self.to_final[group].sum(1)
        return relative(squares, squares[0])

    def bootstrap(self, group: str, *, n_replicates: int = 400, seed: int = 0) -> Array:
        """[n_replicates, n_steps] the distance over rows drawn with replacement."""
        rows = self.to_final[group]
        times = resampling.draws(rows.shape[1], n_replicates, seed=seed)
        squares = np.array([rows @ weights for weights in times]).reshape(n_replicates, len(rows))
        return relative(squares, squares[:, :1])


@dataclass(frozen=True)
class Convergence(Distances):
    """Distances from the final parameters, with how the parameters move on the way there."""

    change: dict[str, Array]
    """[n_steps] ||W_t - W_before|| / ||W_t|| a step; not a number at the first checkpoint."""
    cosine: dict[str, Array]
    """[n_steps] cosine of W_t - W_0 and W_final - W_0, in [-1, 1]; NaN at the first checkpoint."""


def relative(squares: Array, whole: Any) -> Array:
    """Root of the ratio; NaN for parameters that are at the end where they began."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Array, np.sqrt(squares / whole))


def of_parameters(run: TrainingRun, *, embedding_only: bool = False) -> Convergence:
    """Distances of the parameters (or of E alone) from those at the last step of the run.

    Four checkpoints are in memory at a time.
    """
    read = _reader(run, embedding_only)
    first, final = read(run.steps[0]), read(run.steps[-1])
    members = _members(run, final, embedding_only)
    rows: dict[str, list[Array]] = {group: [] for group in members}
    products: dict[str, list[Array]] = {group: [] for group in members}
    before = first
    for step in run.steps:
        now = read(step)
        for group, names in members.items():
            rows[group].append(_squares_by_row(now, final, names))
            products[group].append(_products(first, before, now, final, names))
        before = now
    moved = _with_unions({group: np.stack(sums) for group, sums in products.items()}, np.add.reduce)
    spans = np.diff(run.steps, prepend=run.steps[0]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Convergence(
            run.steps,
            _stacked(rows),
            change={g: np.sqrt(sums[:, 0] / sums[:, 1]) / spans for g, sums in moved.items()},
            cosine={g: s[:, 2] / np.sqrt(s[:, 3] * s[:, 4]) for g, s in moved.items()},
        )


def to_earlier_ends(
    run: TrainingRun, ends: Sequence[int], *, embedding_only: bool = False
) -> dict[int, Distances]:
    """The distances as if the run had stopped at each of some earlier checkpoints, by these.

    A checkpoint is read once for three ends: as many checkpoints are in memory as in
    `of_parameters`.

    Args:
        ends: steps of the run, ascending.
    """
    read = _reader(run, embedding_only)
    by_end = {}
    for start in range(0, len(ends), _ENDS_AT_ONCE):
        finals = {end: read(end) for end in ends[start : start + _ENDS_AT_ONCE]}
        members = _members(run, finals[ends[start]], embedding_only)
        rows = {end: {group: list[Array]() for group in members} for end in finals}
        for step in (s for s in run.steps if s <= max(finals)):
            now = read(step)
            for end in (end for end in finals if step <= end):
                for group, names in members.items():
                    rows[end][group].append(_squares_by_row(now, finals[end], names))
        for end, by_group in rows.items():
            by_end[end] = Distances([s for s in run.steps if s <= end], _stacked(by_group))
    return by_end


Weights = dict[str, Tensor]


def _reader(run: TrainingRun, embedding_only: bool) -> Callable[[int], Weights]:
    return (lambda step: {"E": run.embedding(step)}) if embedding_only else run.weights


def _members(run: TrainingRun, weights: Weights, embedding_only: bool) -> dict[str, list[str]]:
    """Names of the tensors of each group."""
    if embedding_only:
        return {EMBEDDING: ["E"]}
    return _groups(weights, run.head_names(run.steps[-1]))


def _groups(tensors: Iterable[str], names: HeadNames) -> dict[str, list[str]]:
    """Names of the tensors of each group, groups from the input to the output."""
    members: dict[str, list[str]] = {}
    for name in sorted(tensors):
        members.setdefault(group_of(name, names), []).append(name)
    return {group: members[group] for group in sorted(members, key=_depth)}


def _depth(group: str) -> tuple[int, int]:
    order = ("input embedding", "other", "layer", "final norm", "head bias", EMBEDDING)
    number = re.search(r"\d+", group)
    kind = "layer" if group.startswith("layer") else group
    return order.index(kind), int(number[0]) if number else 0


def _stacked(rows: Mapping[str, list[Array]]) -> dict[str, Array]:
    """[n_steps, n_rows] of each group and of the unions of groups."""
    by_group = {group: np.stack(steps) for group, steps in rows.items()}
    return _with_unions(by_group, lambda parts: np.concatenate(parts, axis=1))


def _with_unions(
    by_group: dict[str, Array], union: Callable[[list[Array]], Array]
) -> dict[str, Array]:
    """The same with `BODY` and `WHOLE`, where there is more than E."""
    rest = [values for group, values in by_group.items() if group != EMBEDDING]
    if not rest:
        return by_group
    return by_group | {BODY: union(rest), WHOLE: union([*rest, by_group[EMBEDDING]])}


def _squares_by_row(now: Weights, final: Weights, names: Iterable[str]) -> Array:
    """Squared distances of the rows of some tensors; a vector's entries count as rows."""
    differences = [(now[name] - final[name]).double() for name in names]
    rows = [D.reshape(len(D), -1) if D.ndim else D.reshape(1, 1) for D in differences]
    return np.concatenate([D.square().sum(1).numpy() for D in rows])


def _products(
    first: Weights, before: Weights, now: Weights, final: Weights, names: Iterable[str]
) -> Array:
    """[5] over some tensors: ||W_t - W_before||^2, ||W_t||^2, and of the moves W_t - W_0 and
    W_final - W_0 their product and their squares."""
    total = np.zeros(5)
    for name in names:
        change, size = now[name] - before[name], now[name]
        moved, whole = now[name] - first[name], final[name] - first[name]
        pairs = ((change, change), (size, size), (moved, whole), (moved, moved), (whole, whole))
        total += [_inner(a, b) for a, b in pairs]
    return total


def _inner(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    return float(torch.dot(a, b))
