"""Rounding of an output embedding to few bits.

Most people accept what 8 bits do to a model, so that other changes can be measured against it.
"""

import torch
from torch import Tensor

from probenc_support.errors import InputError


def rounded(E: Tensor, bits: int, *, block: int = 0) -> Tensor:
    """Rounds every row of E [V, d] to a grid of 2^bits - 1 values.

    The grid is symmetric about zero, and its ends are the largest size in the row.

    Args:
        bits: of each entry, from 2 to 16.
        block: entries that share a grid, in place of the whole row; 0: the row.

    Returns:
        [V, d], in E's precision, each entry off by at most half of a step.

    Raises:
        InputError: fewer than 2 or more than 16 bits, or a negative block.
    """
    if not 2 <= bits <= 16 or block < 0:
        raise InputError(f"Entries are rounded to 2 to 16 bits in blocks of 0 or more, not {bits}.")
    step = steps(E, bits, block=block)
    step = torch.where(step > 0, step, torch.ones_like(step))
    return (E / step).round() * step


def steps(E: Tensor, bits: int, *, block: int = 0) -> Tensor:
    """[V, d] distance of neighbouring values on the grid of `rounded`, for every entry of E."""
    parts = E.abs().split(block or E.shape[1], dim=1)
    largest = torch.cat([part.amax(1, keepdim=True).expand_as(part) for part in parts], dim=1)
    distance: Tensor = largest / (2 ** (bits - 1) - 1)
    return distance
