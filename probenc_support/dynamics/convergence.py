"""How near the parameters of a checkpoint are to where they end, group by group (section 5)."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
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


AT_ONCE = 2**30
"""Bytes of all checkpoints together, in float32, that a sweep over them holds at a time."""


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

    The files of each of the C checkpoints are read once, see `pieces`. What is held, beside
    `AT_ONCE` bytes of weights, is what is returned: 8 bytes for each row of each checkpoint's
    matrices, a d-th of the weights themselves.
    """
    sweep = _Sweep.over(run, embedding_only)
    squares = sweep.table(len(run.steps))
    products = {group: np.zeros((len(run.steps), 5)) for group in sweep.members}
    for group, columns, now in sweep.pieces():
        squares[:, columns] = _squares_by_row(now, now[-1])
        pairs = itertools.pairwise([now[0], *now])
        products[group] += [_products(now[0], before, at, now[-1]) for before, at in pairs]
    moved = _with_unions(products)
    spans = np.diff(run.steps, prepend=run.steps[0]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return Convergence(
            run.steps,
            sweep.by_group(squares),
            change={g: np.sqrt(sums[:, 0] / sums[:, 1]) / spans for g, sums in moved.items()},
            cosine={g: s[:, 2] / np.sqrt(s[:, 3] * s[:, 4]) for g, s in moved.items()},
        )


def to_earlier_ends(
    run: TrainingRun, ends: Sequence[int], *, embedding_only: bool = False
) -> dict[int, Distances]:
    """The distances as if the run had stopped at each of some earlier checkpoints, by these.

    The files of each checkpoint are read once for all ends, as in `of_parameters`.

    Args:
        ends: steps of the run, ascending.
    """
    sweep = _Sweep.over(run.select(step for step in run.steps if step <= ends[-1]), embedding_only)
    squares = {end: sweep.table(run.steps.index(end) + 1) for end in ends}
    for _, columns, now in sweep.pieces():
        for table in squares.values():
            n = len(table)
            table[:, columns] = _squares_by_row(now[:n], now[n - 1])
    return {
        end: Distances(run.steps[: len(table)], sweep.by_group(table))
        for end, table in squares.items()
    }


def pieces(
    tensors: Sequence[Tensor], rows: Tensor | None = None
) -> Iterator[tuple[slice, list[Tensor]]]:
    """The same rows of a tensor of every checkpoint, some at a time.

    Of tensors that are mapped from files (see `TrainingRun.mapped`) every byte is read once. A part
    and the one before it are in memory, together `AT_ONCE` bytes (or two rows of each), however
    many and large the tensors are.

    Args:
        tensors: of equal shape, rows first; a vector's entries count as rows.
        rows: numbers of those that are wanted; None: all.

    Yields:
        Which of the rows, and a part [n, size of a row] of each tensor, float32.
    """
    tables = [each.reshape(len(each), -1) if each.ndim else each.reshape(1, 1) for each in tensors]
    n, size = tables[0].shape if rows is None else (len(rows), tables[0].shape[1])
    step = max(1, AT_ONCE // (2 * 4 * size * len(tables)))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        wanted = part if rows is None else rows[part]
        yield part, [each[wanted].float() for each in tables]


@dataclass(frozen=True, eq=False)
class _Sweep:
    """One pass over the files of all checkpoints of a run, a piece of a tensor at a time."""

    weights: list[dict[str, Tensor]]
    """At each step, mapped."""
    members: dict[str, list[str]]
    """Names of the tensors of each group, in the model's order, E last."""

    @classmethod
    def over(cls, run: TrainingRun, embedding_only: bool) -> "_Sweep":
        weights = [run.mapped(step, embedding_only=embedding_only) for step in run.steps]
        if embedding_only:
            return cls(weights, {EMBEDDING: ["E"]})
        return cls(weights, _groups(weights[-1], run.head_names(run.steps[-1])))

    def pieces(self) -> Iterator[tuple[str, slice, list[Tensor]]]:
        """Every row once: its group, its columns of a `table`, and it at each step (`pieces`)."""
        for group, names in self.members.items():
            start = self._columns[group].start
            for name in names:
                for part, now in pieces([each[name] for each in self.weights]):
                    yield group, slice(start + part.start, start + part.stop), now
                start += self._rows(name)

    def table(self, n: int) -> Array:
        """[n, n_rows] room for something of the rows of all groups at the first n steps."""
        return np.empty((n, sum(map(self._rows, itertools.chain(*self.members.values())))))

    def by_group(self, table: Array) -> dict[str, Array]:
        """The columns of each group and of the unions of groups, as views of one table."""
        parts = {group: table[:, columns] for group, columns in self._columns.items()}
        if len(parts) > 1:
            parts |= {BODY: table[:, : self._columns[EMBEDDING].start], WHOLE: table}
        return parts

    @property
    def _columns(self) -> dict[str, slice]:
        sizes = [sum(map(self._rows, names)) for names in self.members.values()]
        edges = itertools.pairwise(itertools.accumulate(sizes, initial=0))
        return {group: slice(*ends) for group, ends in zip(self.members, edges, strict=True)}

    def _rows(self, name: str) -> int:
        tensor = self.weights[-1][name]
        return len(tensor) if tensor.ndim else 1


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


def _with_unions(sums: dict[str, Array]) -> dict[str, Array]:
    """Sums over the tensors of each group, with those of `BODY` and `WHOLE` where there is more
    than E."""
    rest = [values for group, values in sums.items() if group != EMBEDDING]
    if not rest:
        return sums
    return sums | {BODY: np.add.reduce(rest), WHOLE: np.add.reduce([*rest, sums[EMBEDDING]])}


def _squares_by_row(now: Sequence[Tensor], final: Tensor) -> Array:
    """[n_steps, n] squared distance of each row of a piece from its final value."""
    return np.stack([(each - final).double().square().sum(1).numpy() for each in now])


def _products(first: Tensor, before: Tensor, now: Tensor, final: Tensor) -> Array:
    """[5] over a piece: ||W_t - W_before||^2, ||W_t||^2, and of the moves W_t - W_0 and
    W_final - W_0 their product and their squares."""
    change, moved, whole = now - before, now - first, final - first
    pairs = ((change, change), (now, now), (moved, whole), (moved, moved), (whole, whole))
    return np.array([_inner(a, b) for a, b in pairs])


def _inner(a: Tensor, b: Tensor) -> float:
    a, b = a.flatten().double(), b.flatten().double()
    return float(torch.dot(a, b))
