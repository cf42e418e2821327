"""Rounding of an output embedding to few bits: a change that most people accept, as a yardstick."""

import torch
from torch import Tensor

from probenc_support.errors import InputError


def rounded(E: Tensor, bits: int, *, block: int = 0) -> Tensor:
    """Rows of E [V, d] on a symmetric grid of 2^bits - 1 values, each as wide as its largest entry.

    Args:
        bits: of each entry, from 2 to 16.
        block: entries that share a scale; 0: a whole row.

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
    """[V, d] distance of neighbouring values of each entry on the grid of `rounded`."""
    parts = E.abs().split(block or E.shape[1], dim=1)
    largest = torch.cat([part.amax(1, keepdim=True).expand_as(part) for part in parts], dim=1)
    distance: Tensor = largest / (2 ** (bits - 1) - 1)
    return distance
