"""How much text the fit takes: the same fit from few positions, drawn at random.

A fit from few positions is judged by what it says of the average probabilities over all of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.regression import slopes
from probenc_support.regression.arrays import Matrix
from probenc_support.regression.linear_fit import Design, r2_of

DRAWS = {16: 10, 64: 5, 256: 2, 1024: 1}
"""How many draws are made of each number of positions: of few, which differ most, the most."""


def draws_of_positions(
    n_positions: int, *, draws: Mapping[int, int] = DRAWS, seed: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Random positions of a text, without replacement, for every number that the text exceeds.

    Args:
        draws: how many draws of each number of positions.
        seed: of one sequence of random numbers, which all draws share.

    Yields:
        The number of the draw among those of its size, and [size] int64 positions.
    """
    generator = torch.Generator().manual_seed(seed)
    for size, n_draws in draws.items():
        for draw in range(n_draws if size < n_positions else 0):
            yield draw, torch.randperm(n_positions, generator=generator)[:size]


def growth(
    head: Head, design: Design, h: Tensor, y: Matrix, *, draws: Mapping[int, int] = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Fits from few positions beside the fit from all, one row a draw and a last one for all.

    Args:
        head: of n tokens; design: of its rows; h: [N, d] hidden states; y: [n] -log a over all
            positions, nats.

    Returns:
        positions, draw, r2_adj (of the draw's own average probabilities), cosine (of its slopes
        with those from all), correlation (of its fitted values with those from all), r2_for_all
        (its fit, intercept included, of -log a over all positions).
    """
    whole = design.fit(y)
    rows = []
    for draw, positions in draws_of_positions(len(h), draws=draws, seed=seed):
        few = design.fit(-head.log_mean_p(h[positions]))
        rows.append(
            {
                "positions": len(positions),
                "draw": draw,
                "r2_adj": few.r2_adj,
                "cosine": slopes.cosine(few.slopes, whole.slopes),
                "correlation": slopes.fitted_correlation(design, few.slopes, whole.slopes),
                "r2_for_all": r2_of(y, few.predict(design.E)),
            }
        )
    exact = {"r2_adj": whole.r2_adj, "cosine": 1.0, "correlation": 1.0, "r2_for_all": whole.r2}
    return pd.DataFrame([*rows, {"positions": len(h), "draw": 0, **exact}])


@dataclass(frozen=True)
class Fewest:
    """The draws of the fewest positions, and when the direction settles."""

    positions: int
    """How many positions the fewest are."""
    n_draws: int
    """How many draws were made of so few."""
    r2_adj: float
    """Mean over the draws of the adjusted R^2 of their own average probabilities."""
    cosine: float
    """Mean over the draws of the cosine with the direction from all positions."""
    worst_correlation: float
    """Of the fitted values with those from all positions, in the worst draw."""
    worst_r2: float
    """R^2 of -log a over all positions, in the worst draw."""
    mean_r2: float
    """The same in the mean over the draws."""
    positions_for_cosine: int
    """The fewest positions of which one draw has a cosine of 0.95 or more."""

    @classmethod
    def of(cls, table: pd.DataFrame, *, cosine: float = 0.95) -> "Fewest":
        """From the table of `growth`."""
        fewest = table[table["positions"] == table["positions"].min()]
        return cls(
            positions=int(fewest["positions"].min()),
            n_draws=len(fewest),
            r2_adj=float(fewest["r2_adj"].mean()),
            cosine=float(fewest["cosine"].mean()),
            worst_correlation=float(fewest["correlation"].min()),
            worst_r2=float(fewest["r2_for_all"].min()),
            mean_r2=float(fewest["r2_for_all"].mean()),
            positions_for_cosine=int(table[table["cosine"] >= cosine]["positions"].min()),
        )

    def metrics(self) -> dict[str, float]:
        """Under the names of the first notebook's metrics."""
        return {
            "positions_fewest": self.positions,
            "positions_for_cosine_95": self.positions_for_cosine,
            "cosine_fewest": self.cosine,
            "r2_adj_fewest": self.r2_adj,
            "r2_fewest_worst": self.worst_r2,
            "r2_fewest_mean": self.mean_r2,
            "corr_fitted_fewest_worst": self.worst_correlation,
        }
