"""When a curve over training has come half-way, with an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probenc_support.regression.arrays import Array


def halfway(steps: Sequence[int], curve: Array) -> float:
    """The step at which a curve first is half-way from its first to its last value.

    Between checkpoints, the curve is taken as straight over log(1 + step), since checkpoints are
    spread so. NaN for a curve that ends where it began.
    """
    return crossing(steps, curve, 0.5 * (curve[0] + curve[-1]))


def crossing(steps: Sequence[int], curve: Array, level: float) -> float:
    """The first step at which a curve passes a level, interpolated over log(1 + step); or NaN."""
    ends_where_it_began = math.isclose(curve[0], curve[-1], rel_tol=1e-9, abs_tol=1e-12)
    if not np.isfinite(curve).all() or ends_where_it_began:
        return math.nan
    upwards = math.copysign(1.0, curve[-1] - curve[0])
    return math.expm1(first_at(upwards * level, upwards * curve, np.log1p(steps)))


def first_at(level: float, curve: Array, along: Array) -> float:
    """The value of `along` where a curve first reaches a level from below, interpolated; or NaN."""
    reached = curve >= level
    if not reached.any():
        return math.nan
    i = int(reached.argmax())
    if i == 0:
        return float(along[0])
    share = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(along[i - 1] + share * (along[i] - along[i - 1]))


def share_by(step: float, steps: Sequence[int], curve: Array) -> float:
    """Share of a curve's way from its first to its last value that lies behind it at a step.

    Interpolated over log(1 + step); 0 at the first step, 1 at the last.
    """
    done = (curve[0] - curve) / (curve[0] - curve[-1])
    return float(np.interp(np.log1p(step), np.log1p(steps), done))


def halfway_draws(steps: Sequence[int], curves: Array) -> Array:
    """[B] half-way steps of the curves [B, n_steps] of so many draws."""
    return np.array([halfway(steps, curve) for curve in curves])


@dataclass(frozen=True)
class Estimate:
    """A value with the 95 % percentile interval of its draws.

    `regression.Interval` shifts the percentiles by the mean difference of draws and estimate,
    because text drawn with replacement makes R^2 smaller. Here the tokens or documents that are
    drawn only weigh what was measured already, so the percentiles stay as they are.
    """

    value: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""

    @classmethod
    def of(cls, value: float, draws: Array) -> "Estimate":
        """From a value and its draws [B], of which those that are not finite are left out."""
        known = draws[np.isfinite(draws)]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
        return cls(value, float(low), float(high))

    @classmethod
    def mean_of_runs(cls, values: Sequence[float], draws: Sequence[Array]) -> "Estimate":
        """The mean over runs, from one value a run and the draws [B] of each."""
        return cls.of(float(np.mean(values)), np.mean(draws, axis=0))

    @classmethod
    def unknown(cls) -> "Estimate":
        """What could not be measured: not a number, without an interval."""
        return cls(math.nan, math.nan, math.nan)

    @property
    def known(self) -> bool:
        """Whether it could be measured."""
        return math.isfinite(self.value)

    def metrics(self, name: str) -> dict[str, float]:
        """The value and its ends under `name`, `name_low` and `name_high`; empty if not known."""
        if not self.known:
            return {}
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def __str__(self) -> str:
        if not self.known:
            return "–"
        ends = f" ({self.low:.2f} to {self.high:.2f})" if math.isfinite(self.low) else ""
        return f"{self.value:.2f}{ends}"
