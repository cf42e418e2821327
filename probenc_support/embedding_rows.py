"""Mean, spread and length of the rows of E, some thousand at a time and without a copy of E."""

import torch
from torch import Tensor

from probenc_support.precision import ROWS_AT_ONCE, wide


def mean_row(E: Tensor) -> Tensor:
    """[d] float64 mean of the rows of E [n, d], where E lies."""
    parts = [wide(rows).sum(dim=0) for rows in E.split(ROWS_AT_ONCE)]
    return torch.stack(parts).sum(dim=0) / len(E)


def standard_deviations(E: Tensor) -> Tensor:
    """[d] float64 standard deviation of each column of E [n, d], by n - 1, where E lies."""
    mean = mean_row(E)
    parts = [(wide(rows) - mean).square().sum(dim=0) for rows in E.split(ROWS_AT_ONCE)]
    return (torch.stack(parts).sum(dim=0) / (len(E) - 1)).sqrt()


def mean_length(E: Tensor) -> float:
    """Mean length of the rows of E [n, d] about their mean."""
    mean = mean_row(E)
    parts = [(wide(rows) - mean).norm(dim=1) for rows in E.split(ROWS_AT_ONCE)]
    return float(torch.cat(parts).mean())
