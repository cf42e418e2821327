"""How near each layer of a checkpoint is to where it ends: cosines of weights over training.

With the part of E along which frequency is read apart from the rest (section 5).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.dynamics.frequency import Frequencies
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.weights import HeadNames

Array = NDArray[np.float64]


EMBEDDING = "output embedding"
"""The group of parameters that is E."""


BODY = "all other parameters"


WHOLE = "all parameters"


_LAYER = re.compile(r"\b(?:layers|h|blocks|layer)\.(\d+)\.")


def group_of(name: str, names: HeadNames) -> str:
    """Which part of the model a tensor belongs to: input embedding, a layer, final norm, or E.

    Args:
        names: what the architecture calls its embeddings, see `TrainingRun.head_names`.
    """
    if name in names.head or (names.tied and name in names.inputs):
        return EMBEDDING
    if name in names.bias:
        return "head bias"
    if found := _LAYER.search(name):
        return f"layer {int(found[1]) + 1}"
    if name in names.inputs or re.search(r"\b(wpe|position|embed_)", name):
        return "input embedding"
    return "final norm" if re.search(r"norm|ln_f", name) else "other"


@dataclass(frozen=True)
class Convergence:
    """How far the parameters of each group are from their final values, at each step."""

    groups: list[str]
    """Names in the model's order; `all other parameters` and `all parameters` come last."""
    steps: list[int]
    to_final: dict[str, Array]
    """[n_steps, n_rows] squared distance of each row of a group's matrices from its final value
    (of each entry, for norms and biases). The last step is zero."""
    change: dict[str, Array]
    """[n_steps] ||W_t - W_before|| / ||W_t|| a step; not a number at the first checkpoint."""
    cosine: dict[str, Array]
    """[n_steps] cosine of W_t - W_0 and W_final - W_0, in [-1, 1]; NaN at the first checkpoint."""

    def distance(self, group: str) -> Array:
        """[n_steps] ||W_t - W_final|| / ||W_0 - W_final||: 1 at the first step, 0 at the last."""
        squares = self.to_final[group].sum(1)
        return _relative(squares, squares[0])

    def bootstrap(self, group: str, *, n_replicates: int = 400, seed: int = 0) -> Array:
        """[n_replicates, n_steps] the distance over rows drawn with replacement."""
        rng = np.random.default_rng(seed)
        rows = self.to_final[group]
        n = rows.shape[1]
        draws = np.empty((n_replicates, len(rows)))
        for i in range(n_replicates):
            weights = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)
            draws[i] = rows @ weights
        return _relative(draws, draws[:, :1])


def _relative(squares: Array, whole: Any) -> Array:
    """Root of the ratio; NaN for parameters that are at the end where they began."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Array, np.sqrt(squares / whole))


def convergence(run: TrainingRun, *, embedding_only: bool = False) -> Convergence:
    """Distances of the parameters (or of E alone) from those at the last step of the run.

    Four checkpoints are in memory at a time.
    """
    steps = run.steps

    def read(step: int) -> dict[str, Tensor]:
        return {"E": run.embedding(step)} if embedding_only else run.weights(step)

    first, final = read(steps[0]), read(steps[-1])
    members = {EMBEDDING: ["E"]} if embedding_only else _groups(final, run.head_names(steps[-1]))
    sums = {group: _Sums() for group in members}
    before = first
    for step in steps:
        now = read(step)
        for group, names in members.items():
            for name in names:
                sums[group].add(first[name], before[name], now[name], final[name])
            sums[group].next()
        before = now
    if rest := [sums[group] for group in members if group != EMBEDDING]:
        sums[BODY] = _Sums.join(rest)
        sums[WHOLE] = _Sums.join([*rest, sums[EMBEDDING]])
    spans = np.diff(steps, prepend=steps[0]).astype(np.float64)
    return Convergence(
        groups=list(sums),
        steps=steps,
        to_final={group: np.stack(found.rows) for group, found in sums.items()},
        change={group: found.change(spans) for group, found in sums.items()},
        cosine={group: found.cosine() for group, found in sums.items()},
    )


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


class _Sums:
    """Sums of squares and products over the tensors of one group, step by step."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self.scalars: list[Array] = []
        self._reset()

    def _reset(self) -> None:
        self._rows: list[Array] = []
        self._scalars: Array = np.zeros(5)

    def add(self, first: Tensor, before: Tensor, now: Tensor, final: Tensor) -> None:
        """Adds one tensor at one step; a vector's entries count as rows."""
        first, before, now, final = (
            t.reshape(len(t), -1) if t.ndim else t.reshape(1, 1)
            for t in (first, before, now, final)
        )
        self._rows.append((now - final).double().square().sum(1).numpy())
        moved, whole = (now - first).double(), (final - first).double()
        self._scalars += np.array(
            [
                float((now - before).double().square().sum()),
                float(now.double().square().sum()),
                float((moved * whole).sum()),
                float(moved.square().sum()),
                float(whole.square().sum()),
            ]
        )

    def next(self) -> None:
        """Ends a step."""
        self.rows.append(np.concatenate(self._rows))
        self.scalars.append(self._scalars)
        self._reset()

    @classmethod
    def join(cls, parts: Sequence["_Sums"]) -> "_Sums":
        """The union of several groups."""
        whole = cls()
        whole.rows = [np.concatenate(rows) for rows in zip(*(p.rows for p in parts), strict=True)]
        whole.scalars = [sum(s, np.zeros(5)) for s in zip(*(p.scalars for p in parts), strict=True)]
        return whole

    def change(self, spans: Array) -> Array:
        table = np.stack(self.scalars)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(table[:, 0] / table[:, 1]) / spans

    def cosine(self) -> Array:
        table = np.stack(self.scalars)
        with np.errstate(invalid="ignore", divide="ignore"):
            return table[:, 2] / np.sqrt(table[:, 3] * table[:, 4])


FREQUENCY_PART = "frequency part of E"


REST = "rest of E"


def split_distances(
    run: TrainingRun, known: Frequencies, *, n_replicates: int = 400, seed: int = 0
) -> dict[str, Array]:
    """Distance from the final E, like `Convergence.distance`, in the two parts of E by frequency.

    Like is compared with like here, distance with distance. Of the difference D [n_seen, d]
    between E and its final value, centred over tokens (one vector added to every row means
    nothing), the frequency part is the projection on y = -log f, so y (y'D) / y'y with y centred;
    the rest is what remains.

    Returns:
        `FREQUENCY_PART` and `REST`: [1 + n_replicates, n_steps]; the first row is the estimate,
        the others are over tokens drawn with replacement.
    """
    rng = np.random.default_rng(seed)
    n = len(known.tokens)
    draws = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(n_replicates)]
    weights = torch.from_numpy(np.stack([np.ones(n, dtype=np.int64), *draws])).double()
    tokens = torch.from_numpy(known.tokens)
    final = run.embedding(run.steps[-1])[tokens]
    squares = [_split(run.embedding(s)[tokens] - final, known.y, weights) for s in run.steps]
    parts = np.stack(squares, axis=2)
    return {
        name: _relative(part, part[:, :1])
        for name, part in zip((FREQUENCY_PART, REST), parts, strict=True)
    }


def _split(D: Tensor, y: Array, weights: Tensor) -> Array:
    """[2, B] squared size of the frequency part and of the rest of D [n, d], rows weighted."""
    D, target = D.double(), torch.from_numpy(y - y.mean())
    n = weights.sum(1)
    mean, mean_y = weights @ D / n[:, None], weights @ target / n
    cross = (weights * target) @ D - n[:, None] * mean_y[:, None] * mean
    part = cross.square().sum(1) / (weights @ target.square() - n * mean_y.square())
    whole = weights @ D.square().sum(1) - n * mean.square().sum(1)
    return torch.stack([part, (whole - part).clamp(min=0)]).numpy()
