"""When a curve over training has come half-way, with an interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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


@dataclass(frozen=True)
class Halfway:
    """When something was half-way to where it ended."""

    name: str
    step: float
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end of the same."""


def halfway_of(name: str, steps: Sequence[int], curve: Array, replicates: Array) -> Halfway:
    """The half-way step of a curve [n_steps] with the interval of its replicates [B, n_steps]."""
    values = [halfway(steps, replicate) for replicate in replicates]
    known = [value for value in values if not math.isnan(value)] or [math.nan]
    low, high = np.quantile(known, [0.025, 0.975])
    return Halfway(name, halfway(steps, curve), float(low), float(high))
