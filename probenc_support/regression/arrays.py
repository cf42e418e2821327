"""Data as the regression takes it, and results as it gives them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]
"""What results are: NumPy, float64."""

Matrix = Tensor | npt.NDArray[Any]
"""What is accepted as data: a tensor on any device, or a NumPy array, of any real type."""


_ROWS = {"cpu": 1024, "cuda": 16384}
"""Rows of E that are converted to float64 at a time, while E itself stays in its own precision. On
a CPU they are so few that they stay in its cache while they are multiplied."""


def as_tensor(data: Matrix) -> Tensor:
    """The data as a tensor, which shares their memory where possible."""
    return data.detach() if isinstance(data, Tensor) else torch.as_tensor(data)


def as_array(data: Tensor) -> Array:
    return data.double().cpu().numpy()


def rows_at_once(device: torch.device) -> int:
    return _ROWS.get(device.type, 1024)
