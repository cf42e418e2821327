"""What directions of the hidden states say of the tokens, one beside the other.

A direction u [d] gives token w the number E_w . u. It is held against -log a, against the frequency
of the tokens in text, and against the fitted A; and beside what directions by lot give.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support.regression import Design, Matrix, as_tensor
from probenc_support.regression.arrays import Array, as_array

BY_LOT = "95 % of directions by lot"
"""Name of the row that says how large correlations of random directions are."""

_N_BY_LOT = 1000


def directions_and_tokens(
    design: Design,
    directions: Mapping[str, Matrix],
    slopes: Matrix,
    y: Matrix,
    minus_log_f: Matrix,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a direction, and one that says how large the sizes of random ones are.

    Args:
        directions: [d] each, by name.
        slopes: [d] the fitted A; y: [n] -log a; minus_log_f: [n] -log frequency in text, nats.
        seed: of random directions, whose entries are independent normal numbers.

    Returns:
        direction, cosine (with A), fitted (correlation over the tokens of E . u and E . A), y and
        frequency (correlations of E . u with these); in the last row, 95 % quantiles of the sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(_N_BY_LOT, design.d, generator=generator, dtype=torch.float64)
    given = torch.stack([as_tensor(u).double().cpu() for u in directions.values()])
    of_given = _columns(design, given, slopes, y, minus_log_f)
    of_random = _columns(design, random, slopes, y, minus_log_f)
    rows = pd.DataFrame(of_given).assign(direction=list(directions))
    sizes = {name: [np.quantile(np.abs(values), 0.95)] for name, values in of_random.items()}
    together = pd.concat([rows, pd.DataFrame(sizes).assign(direction=BY_LOT)], ignore_index=True)
    return together[["direction", *of_given]]


def _columns(
    design: Design, directions: Tensor, slopes: Matrix, y: Matrix, minus_log_f: Matrix
) -> dict[str, Array]:
    """Of directions [m, d] the columns of the table, [m] each."""
    gram = design.gram.cpu()
    A = as_tensor(slopes).double().cpu()
    lengths = (directions @ gram * directions).sum(dim=1).sqrt()
    found = {
        "cosine": directions @ A / (directions.norm(dim=1) * A.norm()),
        "fitted": directions @ (gram @ A) / (lengths * (A @ gram @ A).sqrt()),
    }
    for name, values in {"y": y, "frequency": minus_log_f}.items():
        cross, squares = design.cross_products(values)
        found[name] = (
            directions @ torch.as_tensor(cross[:, 0]) / (lengths * float(squares[0]) ** 0.5)
        )
    return {name: as_array(values) for name, values in found.items()}
