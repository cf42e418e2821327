"""What R^2 can mean where tokens are few for so many slopes.

Slopes fitted to noise explain d / (n - 1) of it on average. Adjusted R^2 takes that mean away and
not its spread, and it says what a fit to endless tokens would explain, not what this one explains
of a token that it has not seen: its slopes are noisy, and the more so the nearer d comes to n.
"""

import math
from dataclasses import dataclass

from scipy import stats

from probenc_support.regression.arrays import Matrix
from probenc_support.regression.linear_fit import Design, adjusted, r2_of

FEW = 20.0
"""Tokens a slope below which the notebooks say what their number does to R^2: the expected loss on
unseen tokens is then a twentieth or more of what the fit leaves unexplained."""


@dataclass(frozen=True)
class FewTokens:
    """What n tokens for d slopes do to R^2."""

    n: int
    """Tokens."""
    d: int
    """Slopes."""
    r2_adj: float
    """Adjusted R^2 of the fit."""
    r2_left_one_out: float
    """R^2 of each token's prediction by the fit to all others; at most 1, and often below 0."""

    @classmethod
    def of(cls, design: Design, y: Matrix) -> "FewTokens":
        """Of the fit of y [n] on a design."""
        r2_adj = float(design.fit_many(y).r2_adj[0])
        return cls(design.n, design.d, r2_adj, r2_of(y, design.left_one_out(y)))

    @property
    def tokens_a_slope(self) -> float:
        """n / d."""
        return self.n / self.d

    @property
    def are_few(self) -> bool:
        """Whether `tokens_a_slope` is below `FEW`."""
        return self.tokens_a_slope < FEW

    @property
    def r2_of_noise(self) -> float:
        """R^2 that the slopes explain of noise on average, d / (n - 1); adjusted it is 0."""
        return self.d / (self.n - 1)

    def r2_adj_of_noise(self, level: float = 0.975) -> float:
        """Quantile of the adjusted R^2 of normal noise.

        Its R^2 has the beta distribution with d / 2 and (n - d - 1) / 2, whatever E is.
        """
        r2 = stats.beta.ppf(level, self.d / 2, (self.n - self.d - 1) / 2)
        return float(adjusted(r2, self.n, self.d))

    @property
    def r2_expected_left_out(self) -> float:
        """R^2 on unseen tokens that noise in the slopes alone leaves of this adjusted R^2; NaN
        where d is n - 2 or more.

        Where y is linear in normal rows with equal errors, the error at a new row is (1 + 1/n)
        (n - 2) / (n - d - 2) times the residual variance (Stein 1960). A fit that does worse is
        one of rows of high leverage, or not linear.
        """
        if self.n - self.d <= 2:
            return math.nan
        factor = (1 + 1 / self.n) * (self.n - 2) / (self.n - self.d - 2)
        return 1.0 - (1.0 - self.r2_adj) * factor

    def metrics(self) -> dict[str, float]:
        """By name, for a notebook."""
        return {
            "tokens_a_slope": self.tokens_a_slope,
            "r2_adj_of_noise_high": self.r2_adj_of_noise(),
            "r2_left_one_out": self.r2_left_one_out,
            "r2_expected_left_out": self.r2_expected_left_out,
        }
