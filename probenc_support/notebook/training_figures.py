"""Figures of curves over training steps: single runs thin, their mean thick."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from probenc_support.notebook import figures

Array = NDArray[np.float64]


OverSteps = tuple[Sequence[int], Any]
"""Steps [n_steps], and values [n_steps] of one run or [n_runs, n_steps] of several."""


SIZE = (4.4, 3.6)


def over_steps(
    series: Mapping[str, OverSteps], *, scale: str = "log", legend: str = "", **settings: Any
) -> Figure:
    """One panel of `figures.curves` over training steps.

    Args:
        scale: of the steps, `log` (from step 1 on, with step 0 at its left) or `linear`.
        legend: where it stands, such as `lower right`; empty: there is none.
        settings: see `figures.curves`.
    """
    curves = {
        label: figures.Curve.of_runs(steps, values, marks=apart(steps))
        for label, (steps, values) in series.items()
    }
    settings = {"xlabel": f"step ({scale} axis)", "size": SIZE, **settings}
    figure = figures.curves(curves, marked=scale == "log", legend=legend, **settings)
    if scale == "log":
        figure.axes[0].set_xscale("symlog", linthresh=1)
        figure.axes[0].set_xlim(0, 1.1 * max(1, *(steps[-1] for steps, _ in series.values())))
    return figure


def apart(steps: Sequence[int], ratio: float = 1.2) -> list[int]:
    """Places of the steps that are far enough apart on a logarithmic axis for a marker each."""
    places = [0]
    for place, step in enumerate(steps):
        if step + 1 >= ratio * (steps[places[-1]] + 1):
            places.append(place)
    return places


def log_and_linear(
    series: Mapping[str, OverSteps], *, legend: str, **settings: Any
) -> list[Figure]:
    """The same curves on a logarithmic and on a linear axis, with one legend on the second.

    Args:
        legend, settings: see `over_steps`.
    """
    return [
        over_steps(series, scale="log", **settings),
        over_steps(series, scale="linear", legend=legend, **settings),
    ]


def by_column(table: pd.DataFrame, columns: Sequence[Any] | None = None) -> dict[str, OverSteps]:
    """The columns of a table that is indexed by step, for `over_steps`; NaN are left out.

    Args:
        columns: which, in this order; None: all.
    """
    chosen = {str(name): table[name].dropna() for name in (columns or table.columns)}
    return {name: (values.index.tolist(), values.to_numpy()) for name, values in chosen.items()}


def some_of(names: Sequence[Any], most: int = 8) -> list[Any]:
    """At most eight of many, evenly spread, the first and the last among them: a panel holds no
    more curves."""
    places = np.unique(np.linspace(0, len(names) - 1, most).astype(int))
    return [names[place] for place in places]


def against_distance(
    training: tuple[Array, Array], line: tuple[Array, Array], shuffled: Array
) -> Figure:
    """R^2 against how far E still has to go, in training and on the straight line to its end.

    Args:
        training: distances and R^2 [n_runs, n_steps].
        line: the same at points of the straight line [n_runs, n].
        shuffled: [n_runs, n_steps] the largest R^2 with shuffled counts.
    """
    curves = {
        "training": figures.Curve.of_runs(*training),
        "straight line": figures.Curve.of_runs(*line),
        "shuffled, largest": figures.Curve.of_runs(training[0], shuffled, control=True),
    }
    return figures.curves(
        curves,
        legend="center right",
        size=SIZE,
        xlim=(1.02, -0.02),
        xlabel=r"distance of $E$ from its final value (training goes to the right)",
        ylabel=r"adjusted $R^2$ of frequency",
    )


def classes_over_steps(classes: pd.DataFrame) -> Figure:
    """Mean fitted -log f of classes of tokens over steps; dotted in the same colour, the truth.

    Args:
        classes: columns `true` and `fitted`, indexed by class and step; see `dynamics.by_frequency`.
    """
    fitted = classes["fitted"].unstack("group")
    room_for_legend = classes[["true", "fitted"]].min().min() - 1.6
    names = dict(zip(fitted, ("most frequent", "second", "third", "fourth", "least"), strict=True))
    figure = over_steps(
        by_column(fitted.rename(columns=names)),
        ylabel=r"fitted $-\log f_w$ (nats)",
        legend="lower left",
        ylim=(room_for_legend, None),
    )
    truth = classes["true"].groupby("group").last()
    for color, level in zip(figures.PALETTE, truth, strict=False):
        figure.axes[0].axhline(level, linestyle=":", linewidth=1, color=color)
    return figure
