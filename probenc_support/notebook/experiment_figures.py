"""Figures of experiments: the arms over training steps, seeds thin and their mean thick."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from probenc_support.notebook import training_figures
from probenc_support.regression.arrays import Array


def over_steps(
    table: pd.DataFrame, column: str, *, level: float | None = None, **settings: Any
) -> Figure:
    """One panel: a column of a table for each arm, over steps on a linear axis.

    Args:
        table: with columns `arm`, `seed` and `step`; the seeds of an arm have the same steps.
        level: a dotted line across, if any.
        settings: see `training_figures.over_steps`.
    """
    series = {}
    for arm, own in table.groupby("arm", sort=False):
        wide = own.pivot(index="step", columns="seed", values=column)
        series[str(arm)] = (wide.index.tolist(), wide.to_numpy().T)
    if level is not None:
        settings["levels"] = {"": level}
    return training_figures.over_steps(series, scale="linear", **settings)


def smoothed(
    curves: Mapping[str, Sequence[Array]], *, window: int = 16, column: str = "gain"
) -> pd.DataFrame:
    """Means over the last `window` steps of one value a step, for `over_steps`, a row each
    `window` / 2 steps.

    Args:
        curves: [steps] values of each seed, by arm.
    """
    tables = []
    for arm, several in curves.items():
        for seed, curve in enumerate(several):
            own = min(window, len(curve))
            means = np.convolve(curve, np.full(own, 1.0 / own), mode="valid")
            steps = np.arange(own, len(curve) + 1)
            table = pd.DataFrame({"arm": arm, "seed": seed, "step": steps, column: means})
            tables.append(table.iloc[:: max(1, window // 2)])
    return pd.concat(tables, ignore_index=True)
