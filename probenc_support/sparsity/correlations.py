"""Rank correlations of many variables with one y over the vocabulary."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from probenc_support.regression import Matrix, as_tensor
from probenc_support.regression.arrays import Array

_COLUMNS = 64
"""Columns that are brought together in memory at a time: sorting a column of a matrix that is kept
by rows would read all of it."""


def spearman(X: Matrix, y: Matrix) -> Array:
    """[k] Spearman's correlation of every column of X [n, k] with y [n], NaN for a constant one.

    It is Pearson's correlation of the ranks, in which ties share their mean. A column's ranks are
    never put back in the order of the tokens: sorted, they are 1, 2, ... n but for ties, and y's
    ranks are brought into that order. Sums of ranks are exact in float64. Columns are sorted on the
    CPU, one a thread.
    """
    columns = as_tensor(X).cpu().numpy()
    y_ranks = stats.rankdata(as_tensor(y).cpu().numpy())
    y_ranks -= y_ranks.mean()
    correlation = partial(_correlation, y_ranks=y_ranks, y_squares=_product(y_ranks, y_ranks))
    found: list[float] = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy sorts outside the GIL
        for first in range(0, columns.shape[1], _COLUMNS):
            together = np.ascontiguousarray(columns[:, first : first + _COLUMNS].T)
            found.extend(pool.map(correlation, together))
    return np.array(found)


def _correlation(column: NDArray[np.floating], y_ranks: Array, y_squares: float) -> float:
    order = _order(column)
    ranks = _sorted_ranks(column.take(order))
    squares = np.float64(_product(ranks, ranks) * y_squares)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(_product(ranks, y_ranks.take(order)) / np.sqrt(squares))


def _product(x: Array, y: Array) -> float:
    """x . y, not by BLAS, whose own threads would wait for one another in each thread here."""
    return float(np.einsum("i,i->", x, y))


def _order(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """[n] places of the values [n] in ascending order; equal ones stay in their order.

    As floats are ordered as their bits are, those below zero the other way round, they are sorted
    by digits of sixteen bits, the last one first: NumPy does that in a quarter of the time that it
    takes to compare floats.
    """
    bits = (values + values.dtype.type(0)).view(f"i{values.itemsize}")  # of two zeros makes one
    sign = bits >> (8 * values.itemsize - 1)
    digits = (bits ^ (sign | np.iinfo(bits.dtype).min)).view(np.uint16).reshape(len(values), -1)
    last_first = digits.T[:: 1 if sys.byteorder == "little" else -1].copy()
    order: NDArray[np.int64] = last_first[0].argsort(kind="stable")
    for digit in last_first[1:]:
        order = order.take(digit.take(order).argsort(kind="stable"))
    return order


def _sorted_ranks(values: NDArray[np.floating]) -> Array:
    """[n] ranks of values in ascending order, less their mean; ties share their mean."""
    n = len(values)
    ranks = np.arange(0.5 - n / 2, n / 2)
    new = values[1:] != values[:-1]
    if not new.all():
        starts = np.concatenate([[0], np.flatnonzero(new) + 1])
        sizes = np.diff(starts, append=n)
        ranks = np.repeat(starts + (sizes - n) / 2, sizes)
    return ranks
