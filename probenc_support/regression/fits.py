"""What a fit leaves: coefficients with their errors, many fits at once, and intervals."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from probenc_support.regression.arrays import Array, Matrix, as_array, as_tensor, rows_at_once


@dataclass(frozen=True)
class LinearFit:
    """One least-squares fit y ~ E . slopes + intercept, and what can be inferred from it."""

    slopes: Array
    """[d] the common direction A of the paper, in nats per unit of E."""
    intercept: float
    """B of the paper, in nats."""
    n: int
    """Observations (tokens) that were fitted."""
    r2: float
    """Share of the variance of y that the fit explains, at most 1."""
    r2_adj: float
    """The same, adjusted for the d slopes."""
    residual_sd: float
    """Root of the residual sum of squares over its degrees of freedom, in nats."""
    stderr: Array
    """[d] standard errors of the slopes."""
    intercept_stderr: float
    """Standard error of the intercept."""
    robust: bool
    """Whether the standard errors are HC3 (MacKinnon and White 1985) or assume equal variances."""

    @property
    def residual_dof(self) -> int:
        """Degrees of freedom of the residuals, n - d - 1."""
        return self.n - len(self.slopes) - 1

    @property
    def t(self) -> Array:
        """[d] slopes over their standard errors."""
        return self.slopes / self.stderr

    @property
    def p(self) -> Array:
        """[d] two-sided p values of the slopes, by Student's t with `residual_dof`."""
        return np.asarray(2.0 * stats.t.sf(np.abs(self.t), self.residual_dof), dtype=np.float64)

    def confidence_interval(self, level: float = 0.95) -> Array:
        """[d, 2] lower and upper ends of the slopes' confidence intervals."""
        half = stats.t.ppf(0.5 + level / 2.0, self.residual_dof) * self.stderr
        return np.stack([self.slopes - half, self.slopes + half], axis=1)

    def predict(self, E: Matrix) -> Array:
        """[n] fitted values for the rows of E [n, d], in nats."""
        E = as_tensor(E)
        slopes = torch.as_tensor(self.slopes, device=E.device)
        parts = [rows.double() @ slopes for rows in E.split(rows_at_once(E.device))]
        return as_array(torch.cat(parts)) + self.intercept


@dataclass(frozen=True)
class ManyFits:
    """Least-squares fits of m vectors y on the same E."""

    slopes: Array
    """[d, m]"""
    intercepts: Array
    """[m]"""
    r2: Array
    """[m]"""
    r2_adj: Array
    """[m]"""


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval."""

    estimate: float
    """The estimate from all texts."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    bias: float
    """Mean of the replicates minus the estimate."""
    replicates: Array
    """[B] the estimate in every replicate, as it came."""

    def metrics(self, name: str) -> dict[str, float]:
        """As three flat metrics: the estimate, and its ends under `_low` and `_high`."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}

    @classmethod
    def unknown(cls, estimate: float) -> "Interval":
        """An estimate from one group of text, which tells nothing of other texts: ends of NaN."""
        return cls(estimate, math.nan, math.nan, math.nan, np.empty(0))

    @classmethod
    def of(cls, estimate: float, replicates: Array, level: float = 0.95) -> "Interval":
        """The percentile interval of some replicates [B], less their bias.

        A replicate holds some texts twice and others not at all, so it knows less text than the
        sample does, and its R^2 is lower on average. That bias is taken out: the interval is the
        quantiles of the replicates, shifted by the difference of the estimate from their mean.
        """
        bias = float(replicates.mean()) - estimate
        low, high = np.quantile(replicates, [0.5 - level / 2.0, 0.5 + level / 2.0]) - bias
        return cls(estimate, float(low), float(high), bias, replicates)

    @classmethod
    def percentile(cls, estimate: float, replicates: Array, level: float = 0.95) -> "Interval":
        """The percentile interval of some replicates [B], which always holds the estimate.

        It suits errors and ratios, which a shift could take below zero. An error of drawn tokens
        and texts is a little larger on average than the one measured; where all replicates lie
        above the estimate, the interval is stretched down to it. Replicates that are not finite
        are left out, and where none is left the ends are NaN.
        """
        finite = replicates[np.isfinite(replicates)]
        if not len(finite) or not math.isfinite(estimate):
            return cls.unknown(estimate)
        low, high = np.quantile(finite, [0.5 - level / 2.0, 0.5 + level / 2.0])
        bias = float(finite.mean()) - estimate
        return cls(estimate, min(float(low), estimate), max(float(high), estimate), bias, finite)
