"""The straight line from the first E to the last: a control for when R^2 rises (section 5).

R^2 depends on the direction of what was learnt more than on its size, so it rises early on any
path. Only where training is ahead of this line has frequency come before the rest of E.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support.dynamics.convergence import EMBEDDING
from probenc_support.dynamics.frequency import Frequencies
from probenc_support.dynamics.halfway_steps import first_at
from probenc_support.dynamics.run_dynamics import Dynamics
from probenc_support.regression import Design
from probenc_support.regression.arrays import Array


def straight_line(
    first: Tensor, final: Tensor, frequencies: Frequencies, *, n: int = 21
) -> pd.DataFrame:
    """The frequency fit along the straight line from the first E [V, d] to the final one.

    Columns: distance (1 to 0, as `Convergence.distance`), r2_adj.
    """
    shares = np.linspace(0.0, 1.0, n)
    y, tokens = frequencies.y, torch.from_numpy(frequencies.tokens)
    first, final = first[tokens].double(), final[tokens].double()
    r2_adj = [Design.of(first + s * (final - first)).fit_many(y).r2_adj[0] for s in shares]
    return pd.DataFrame({"distance": 1.0 - shares, "r2_adj": r2_adj})


def straight_line_of(measured: Dynamics, *, n: int = 21) -> pd.DataFrame:
    """`straight_line` between the first and the last E of a run."""
    first, final = (measured.run.embedding(measured.steps[place]) for place in (0, -1))
    return straight_line(first, final, measured.frequencies, n=n)


@dataclass(frozen=True)
class Ahead:
    """Distance of E from its final value (1 to 0) when the frequency fit is half-way."""

    training: float
    """In training."""
    straight: float
    """On the straight line between the same end points, see `straight_line`."""

    @property
    def lead(self) -> float:
        """How much more of the distance training has left; above zero where it is ahead."""
        return self.training - self.straight


def ahead_of(measured: Dynamics, line: pd.DataFrame) -> Ahead:
    """How far E has still to go when the frequency fit is half-way, on two ways to the end.

    Args:
        line: see `straight_line`, between this run's first and last E.
    """
    level = 0.5 * (measured.r2_adj[0] + measured.r2_adj[-1])
    ways: list[tuple[Array, Array]] = [
        (measured.convergence.distance(EMBEDDING), measured.r2_adj),
        (line["distance"].to_numpy(), line["r2_adj"].to_numpy()),
    ]
    return Ahead(*(first_at(level, r2_adj, distance) for distance, r2_adj in ways))
