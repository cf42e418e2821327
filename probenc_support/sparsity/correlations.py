"""Rank correlations of many variables with one y over the vocabulary."""

from concurrent.futures import ThreadPoolExecutor

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
    ranks are brought into that order.
    """
    columns = as_tensor(X).cpu().numpy()
    y_ranks = stats.rankdata(as_tensor(y).cpu().numpy())
    y_ranks -= y_ranks.mean()
    length = np.linalg.norm(y_ranks)

    def correlation(column: NDArray[np.floating]) -> float:
        order = column.argsort()
        ranks = _sorted_ranks(column[order])
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(ranks @ y_ranks[order] / (np.linalg.norm(ranks) * length))

    found: list[float] = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy sorts outside the GIL
        for first in range(0, columns.shape[1], _COLUMNS):
            together = np.ascontiguousarray(columns[:, first : first + _COLUMNS].T)
            found.extend(pool.map(correlation, together))
    return np.array(found)


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
