"""Figures of curves over training steps: single runs thin, their mean thick."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from probenc_support.dynamics import BODY, EMBEDDING, Dynamics, split_distances
from probenc_support.dynamics.rivals import Probe
from probenc_support.notebook import figures
from probenc_support.regression.arrays import Array

OverSteps = tuple[Sequence[int], Any]
"""Steps [n_steps], and values [n_steps] of one run or [n_runs, n_steps] of several."""


SIZE = (4.4, 3.6)
"""Inches of a panel: curves over steps have long legends."""


CLASSES = ("most frequent fifth", "second", "third", "fourth", "least frequent fifth")
"""Tokens by frequency, as `dynamics.by_frequency` numbers them."""


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
        if len(steps)
    }
    settings = {"xlabel": f"step ({scale} axis)", "size": SIZE, **settings}
    figure = figures.curves(curves, marked=scale == "log", legend=legend, **settings)
    if scale == "log":
        figure.axes[0].set_xscale("symlog", linthresh=1)
        last = max((steps[-1] for steps, _ in series.values() if len(steps)), default=1)
        figure.axes[0].set_xlim(0, 1.1 * max(1, last))
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
    chosen = {
        str(name): table[name].dropna() for name in (table.columns if columns is None else columns)
    }
    return {name: (values.index.tolist(), values.to_numpy()) for name, values in chosen.items()}


def some_of(names: Sequence[Any], most: int = 8) -> list[Any]:
    """At most eight of many, evenly spread, the first and the last among them: a panel holds no
    more curves."""
    places = np.unique(np.linspace(0, len(names) - 1, most).astype(int))
    return [names[place] for place in places]


def shares_of_the_way(runs: Sequence[Dynamics]) -> dict[str, OverSteps]:
    """R^2 of frequency as it is, and how far parameters, loss and predictions are from their first
    to their last values (0 to 1), for `over_steps`."""
    first, steps, read_steps = runs[0], runs[0].steps, runs[0].read_steps
    shares: dict[str, OverSteps] = {
        r"$R^2$ of frequency on $E$": (steps, [each.r2_adj for each in runs])
    }
    for group, label in ((EMBEDDING, "$E$ moved"), (BODY, "other parameters moved")):
        if group in first.convergence.groups:
            shares[label] = (steps, [1 - each.convergence.distance(group) for each in runs])
    if first.behaviour:
        shares["loss fallen"] = (read_steps, [_share(each.loss) for each in runs])
        nearer = [_share(each.kl_to_final) for each in runs]
        shares["predictions as the final ones"] = (read_steps, nearer)
    ceilings = [each.r2_text_so_far for each in runs if each.r2_text_so_far is not None]
    if ceilings:
        shares["$R^2$ of the text so far"] = (steps, np.mean(ceilings, axis=0))
    return shares


def _share(curve: Array) -> Array:
    share: Array = (curve[0] - curve) / (curve[0] - curve[-1])
    return share


def of_probes(
    probes: Sequence[Sequence[Probe]],
) -> tuple[dict[str, OverSteps], dict[str, OverSteps]]:
    """R^2 of each property as a share of its ceiling, and as it is, for `over_steps`.

    Args:
        probes: of each run, of the same properties in the same order; see `rivals.probe`.
    """
    shares: dict[str, OverSteps] = {}
    plain: dict[str, OverSteps] = {}
    for of_property in zip(*probes, strict=True):
        name, steps = of_property[0].name, of_property[0].steps
        shares[name] = (steps, [each.share for each in of_property])
        plain[name] = (steps, [each.r2_adj for each in of_property])
    return shares, plain


def of_parts(runs: Sequence[Dynamics]) -> dict[str, OverSteps]:
    """Distances of the frequency part of E and of the rest from their final values."""
    splits = [split_distances(each.run, each.frequencies, n_replicates=0) for each in runs]
    return {part: (runs[0].steps, [split[part][0] for split in splits]) for part in splits[0]}


def against_distance(runs: Sequence[Dynamics], lines: Sequence[pd.DataFrame]) -> Figure:
    """R^2 of frequency against how far E still has to go, in training and on straight lines.

    Args:
        lines: of each run, see `dynamics.straight_line_of`.
    """
    distances = [each.convergence.distance(EMBEDDING) for each in runs]
    shuffled = [[fit.r2_adj_shuffled.max() for fit in each.fits] for each in runs]
    on_line = [[line[name] for line in lines] for name in ("distance", "r2_adj")]
    curves = {
        "training": figures.Curve.of_runs(
            distances, [each.r2_adj for each in runs], marks=apart(runs[0].steps)
        ),
        "straight line": figures.Curve.of_runs(*on_line, marks=[]),
        "shuffled, largest": figures.Curve.of_runs(distances, shuffled, control=True),
    }
    return figures.curves(
        curves,
        marked=True,
        legend="center right",
        size=SIZE,
        xlim=(1.02, -0.02),
        xlabel=r"distance of $E$ from its final value (training goes to the right)",
        ylabel=r"adjusted $R^2$ of frequency",
    )


def classes_over_steps(classes: pd.DataFrame) -> Figure:
    """Mean fitted -log f of classes of tokens over steps; dotted in the same colour, the truth.

    Args:
        classes: columns `true` and `fitted` of `dynamics.by_frequency`, indexed by class and step.
    """
    fitted = classes["fitted"].unstack("group")
    room_for_legend = classes[["true", "fitted"]].min().min() - 1.6
    names = dict(zip(fitted, CLASSES, strict=True))
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
