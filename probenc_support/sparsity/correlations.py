"""Rank correlations of many variables with one y over the vocabulary."""

import torch
from scipy import stats
from torch import Tensor

from probenc_support.precision import wide_device
from probenc_support.regression import Matrix, as_tensor
from probenc_support.regression.arrays import Array, as_array

_AT_ONCE = 2**19
"""Numbers that are sorted in one go: a few columns of a large vocabulary, many of a small one."""


def spearman(X: Matrix, y: Matrix) -> Array:
    """[k] Spearman's correlation of every column of X [n, k] with y [n], NaN for a constant one.

    It is Pearson's correlation of the ranks, in which ties share their mean. A column's ranks are
    never put back in the order of the tokens: sorted, they are 1, 2, ... n but for ties, and y's
    ranks are brought into that order. Sums of ranks are exact in float64. X is sorted where it
    lies.
    """
    columns = as_tensor(X)
    columns = columns.to(wide_device(columns.device))
    y_ranks = torch.from_numpy(stats.rankdata(as_tensor(y).cpu().numpy())).to(columns.device)
    y_ranks -= y_ranks.mean()
    at_once = max(1, _AT_ONCE // len(columns))
    found = [_correlations(part.T.contiguous(), y_ranks) for part in columns.split(at_once, dim=1)]
    return as_array(torch.cat(found))


def _correlations(rows: Tensor, y_ranks: Tensor) -> Tensor:
    """[k] of every row [k, n] with centred ranks [n]."""
    n = rows.shape[1]
    values, order = _sorted(rows)
    y_ranks_in_order = y_ranks.index_select(0, order.flatten()).view(order.shape)
    plain = torch.arange(n, dtype=torch.float64, device=rows.device) - (n - 1) / 2
    found = y_ranks_in_order @ plain / plain.norm()
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    for k in torch.nonzero(tied).flatten().tolist():
        ranks = _ranks_with_ties(values[k])
        found[k] = y_ranks_in_order[k] @ ranks / ranks.norm()
    correlations: Tensor = found / y_ranks.norm()
    return correlations


def _sorted(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each row [k, n] in ascending order, as whole numbers that are ordered and tied as its values
    are, and the places [k, n] that these had.

    All rows are sorted as one: torch sorts a long vector of whole numbers by their digits, which is
    several times as fast as by comparisons, and the number of the row is the first digit.
    """
    wide = rows.dtype == torch.float64
    # Floats are ordered as their bits are, those below zero the other way round; 0.0 makes one of
    # the two zeros.
    bits = (rows + 0.0).view(torch.int64) if wide else (rows.float() + 0.0).view(torch.int32)
    keys = torch.where(bits < 0, bits ^ torch.iinfo(bits.dtype).max, bits)
    if wide:  # no digit is left for the number of the row
        values, order = keys.sort(dim=1)
        return values, order
    number = torch.arange(len(rows), device=rows.device)[:, None]
    values, order = (keys.long() + (2**31 + (number << 32))).flatten().sort()
    return values.view(rows.shape), order.view(rows.shape) - number * rows.shape[1]


def _ranks_with_ties(values: Tensor) -> Tensor:
    """[n] float64 ranks of values in ascending order, less their mean; ties share their mean."""
    sizes = values.unique_consecutive(return_counts=True)[1]
    middle = sizes.cumsum(0) - (sizes + 1) / 2
    return torch.repeat_interleave(middle.double(), sizes) - (len(values) - 1) / 2
