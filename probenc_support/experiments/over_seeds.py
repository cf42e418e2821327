"""Means and ratios over the seeds of an experiment, with intervals.

Seeds are few, so intervals are Student's: of 3 seeds, 4.3 standard errors on each side. One seed
has no interval.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from probenc_support.dynamics.halfway_steps import Estimate
from probenc_support.regression.arrays import Array


def mean(values: Sequence[float] | Array) -> Estimate:
    """The mean of one value a seed, with its 95 % interval; unknown if any value is."""
    known = np.asarray(values, dtype=float)
    if not len(known) or not np.isfinite(known).all():
        return Estimate.unknown()
    centre = float(known.mean())
    if len(known) == 1:
        return Estimate(centre, math.nan, math.nan)
    reach = float(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))
    return Estimate(centre, centre - reach, centre + reach)


def ratio(one: Sequence[float] | Array, other: Sequence[float] | Array) -> Estimate:
    """The geometric mean of the ratios of positive values of the same seeds, with its interval.

    Unknown where a value is not known or not positive.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = mean(np.log(np.asarray(one, dtype=float)) - np.log(np.asarray(other, dtype=float)))
    if not logs.known:
        return Estimate.unknown()
    return Estimate(*(math.exp(end) for end in (logs.value, logs.low, logs.high)))


def table(found: Mapping[str, Estimate]) -> pd.DataFrame:
    """Columns `value`, `low` and `high`, a row each."""
    rows = {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index")
