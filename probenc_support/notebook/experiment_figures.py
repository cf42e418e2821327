"""Figures of experiments: the arms over training steps, seeds thin and their mean thick."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from probenc_support.experiments import context_gain, further_training, over_seeds
from probenc_support.notebook import figures, training_figures
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
            steps, means = context_gain.running_mean(curve, window)
            table = pd.DataFrame({"arm": arm, "seed": seed, "step": steps, column: means})
            tables.append(table.iloc[:: max(1, window // 2)])
    return pd.concat(tables, ignore_index=True)


def before_and_after(changes: pd.DataFrame) -> list[Figure]:
    """Two panels with a row an arm: excess loss before and after, and what was forgotten.

    Args:
        changes: see `further_training.changes`.
    """
    arms = [str(arm) for arm in changes.index.get_level_values("arm").unique()]
    pruned = [arm for arm in arms if arm != further_training.INTACT]
    excess = {"before": "excess before", "after": "excess after"}
    label = "loss beyond the intact twin's (nats)"
    return [
        figures.intervals(
            pruned,
            {name: _estimates(changes, column) for name, column in excess.items()},
            value="value",
            xlabel=label,
        ),
        figures.intervals(
            arms,
            {"forgot": _estimates(changes, "forgot")},
            value="value",
            xlabel="rise of the loss on the first text (nats)",
        ),
    ]


def _estimates(changes: pd.DataFrame, column: str) -> pd.DataFrame:
    return over_seeds.table(further_training.by_arm(changes, column))
