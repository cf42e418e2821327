"""Where float64 arithmetic runs: not every device has it."""

import torch
from torch import Tensor


def wide_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU for one that has no float64 (`mps`)."""
    return torch.device("cpu") if device.type == "mps" else device


def wide(values: Tensor) -> Tensor:
    """The same values in float64, on the CPU where their device has none."""
    return values.to(wide_device(values.device)).double()
