"""Which precisions are half, where float64 arithmetic runs (not every device has it), and on how
many rows at a time."""

import torch
from torch import Tensor

HALF = (torch.bfloat16, torch.float16)
"""Precisions of two bytes."""


ROWS_AT_ONCE = 8192
"""Rows of E that are multiplied or converted to float64 at a time, so that no copy of all of E is
needed."""


def wide_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU for one that has no float64 (`mps`)."""
    return torch.device("cpu") if device.type == "mps" else device


def wide(values: Tensor) -> Tensor:
    """The same values in float64, on the CPU where their device has none."""
    return values.to(wide_device(values.device)).double()
