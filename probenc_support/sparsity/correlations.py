"""Correlations of many variables with one y over the vocabulary, by value and by rank."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from probenc_support.regression import Matrix, as_tensor
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Order


@dataclass(frozen=True)
class Correlations:
    """Correlations of k variables with y over n tokens, with what chance allows if tokens were
    independent draws: a yardstick of size. What other text would do is in `replicates`."""

    r: Array
    """[k] correlation coefficients, -1 to 1."""
    low: Array
    """[k] lower ends of 95 % intervals, by Fisher's z."""
    high: Array
    """[k] upper ends."""
    p: Array
    """[k] two-sided p values, tokens taken as independent."""
    q: Array
    """[k] p values adjusted for k tests (Benjamini and Hochberg 1995)."""

    def significant(self, level: float = 0.05) -> NDArray[np.bool_]:
        """[k] whether each is called non-zero at this false discovery rate."""
        return self.q <= level


def infer(r: Array, n: int) -> Correlations:
    """Intervals and p values for Pearson's correlations r [k] over n tokens (4 or more), the tokens
    taken as independent."""
    z = np.arctanh(np.clip(r, -1.0 + 1e-15, 1.0 - 1e-15))
    half = stats.norm.ppf(0.975) / np.sqrt(n - 3)
    t = r * np.sqrt((n - 2) / np.clip(1.0 - r**2, 1e-300, None))
    p = np.asarray(2.0 * stats.t.sf(np.abs(t), n - 2))
    q = np.asarray(stats.false_discovery_control(p))
    return Correlations(r, np.tanh(z - half), np.tanh(z + half), p, q)


def spearman(X: Matrix, y: Matrix) -> Array:
    """[k] rank correlation of every column of X [n, k] with y [n]; ties share their mean rank."""
    columns = as_tensor(X).cpu().numpy()
    y_ranks = stats.rankdata(as_tensor(y).cpu().numpy())

    def correlations(own: slice) -> list[float]:
        ranking = _Ranking(y_ranks)
        return [ranking.correlation(column) for column in _contiguous(columns[:, own])]

    threads = torch.get_num_threads()
    edges = [columns.shape[1] * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:  # NumPy sorts outside the GIL
        parts = pool.map(correlations, itertools.starmap(slice, itertools.pairwise(edges)))
    return np.array([r for part in parts for r in part])


def _contiguous(columns: NDArray[Any], *, at_once: int = 16) -> Iterator[NDArray[Any]]:
    """Every column in turn, in memory that the later ones overwrite: reading across the rows of a
    matrix costs a cache line an entry, whether one column is taken or sixteen."""
    buffer = np.empty((at_once, len(columns)), columns.dtype)
    for start in range(0, columns.shape[1], at_once):
        block = columns[:, start : start + at_once]
        np.copyto(buffer[: block.shape[1]], block.T)
        yield from buffer[: block.shape[1]]


class _Ranking:
    """Rank correlations of variables with one y, by one sort each of 64-bit integers.

    The upper half of an integer is the variable's value, as an integer of the same order; the lower
    half is twice the rank of y (an integer also where y is tied). Sorting brings the ranks of y
    into the order of the variable. All arrays are used again for every variable, since fresh memory
    would cost more than the sort.
    """

    def __init__(self, y_ranks: Array) -> None:
        n = len(y_ranks)
        self.twice = (2.0 * y_ranks).astype(np.int64)
        self.y_length = float(np.linalg.norm(y_ranks - (n + 1) / 2.0))
        self.ranks = np.arange(n, dtype=np.float64) - (n - 1) / 2.0
        self.keys, self.values = np.empty(n, np.int64), np.empty(n, np.int64)
        self.y_sorted = np.empty(n)
        self.same = np.empty(n - 1, np.bool_)

    def correlation(self, variable: NDArray[Any]) -> float:
        """With one variable [n]."""
        n, keys, values = len(self.ranks), self.keys, self.values
        np.left_shift(_ordered_integers(variable), 32, out=keys, dtype=np.int64, casting="unsafe")
        np.bitwise_or(keys, self.twice, out=keys)
        keys.sort()
        np.right_shift(keys, 32, out=values)
        np.bitwise_and(keys, 2**32 - 1, out=keys)
        np.multiply(keys, 0.5, out=self.y_sorted)
        np.subtract(self.y_sorted, (n + 1) / 2.0, out=self.y_sorted)
        np.equal(values[1:], values[:-1], out=self.same)
        where, shift = _shared_ranks(np.flatnonzero(self.same), self.ranks)
        product = self.ranks @ self.y_sorted + shift @ self.y_sorted[where]
        # Sharing a mean rank takes the variance within the ties away.
        length = np.sqrt(self.ranks @ self.ranks - shift @ shift)
        return float(product / (length * self.y_length))


def _ordered_integers(values: NDArray[Any]) -> NDArray[np.int32]:
    """[n] 32-bit integers in the order of the values, equal where they are equal."""
    if values.dtype != np.float32:
        return np.unique(values, return_inverse=True)[1].astype(np.int32)
    bits = (values + np.float32(0.0)).view(np.int32)  # no negative zero
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _shared_ranks(equal: Order, ranks: Array) -> tuple[Order, Array]:
    """Where the ranks of sorted values change because of ties, and by how much.

    Args:
        equal: [m] positions k, ascending, where values k and k + 1 are the same.
        ranks: [n] of values without ties.
    """
    if not len(equal):
        return equal, np.empty(0)
    gaps = np.flatnonzero(np.diff(equal) > 1)
    first, last = equal[np.r_[0, gaps + 1]], equal[np.r_[gaps, -1]] + 1
    where = np.union1d(equal, equal + 1)
    return where, np.repeat((ranks[first] + ranks[last]) / 2.0, last - first + 1) - ranks[where]
