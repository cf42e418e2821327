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
"""Rows that are held in float64 at a time: E itself stays in its own precision. On a CPU so few
that a product over them finds them in its cache."""


def as_tensor(data: Matrix) -> Tensor:
    """A tensor that shares memory with the data where it can."""
    return data.detach() if isinstance(data, Tensor) else torch.as_tensor(data)


def as_array(data: Tensor) -> Array:
    return data.double().cpu().numpy()


def rows_at_once(device: torch.device) -> int:
    return _ROWS.get(device.type, 1024)
