"""Rank correlations of many variables with one y over the vocabulary."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from probenc_support.regression import Matrix, as_tensor
from probenc_support.regression.arrays import Array


def spearman(X: Matrix, y: Matrix) -> Array:
    """[k] Spearman's correlation of every column of X [n, k] with y [n].

    It is Pearson's correlation of SciPy's ranks, in which ties share their mean; `spearmanr` would
    rank y again for every column, and takes twice as long.
    """
    columns = as_tensor(X).cpu().numpy()
    y_ranks = stats.rankdata(as_tensor(y).cpu().numpy())

    def correlation(column: NDArray[np.floating]) -> float:
        return float(np.corrcoef(stats.rankdata(column), y_ranks)[0, 1])

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy sorts outside the GIL
        return np.array(list(pool.map(correlation, columns.T)))
