"""Figures of tables: curves of grouped rows, and rows of intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from probenc_support.notebook.figures.kinds import Curve
from probenc_support.notebook.figures.style import MARKERS, PALETTE, PANEL, panel


def grouped(
    frame: pd.DataFrame,
    by: str,
    x: str,
    y: str,
    *,
    names: Sequence[str] | None = None,
    controls: Sequence[str] = (),
    middle: str = "mean",
    band: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Curve]:
    """A curve for each value of column `by`: the middle of column y over the rows of each value of
    x, with a band from one quantile to another.

    Args:
        names: values of `by` that are shown, in order; None: all of them, in order of the rows.
        controls: those that are controls.
        middle: `mean` or `median`.
        band: the two quantiles; by default the band is from the least to the greatest.
    """
    curves = {}
    for name in frame[by].unique() if names is None else names:
        values = frame[frame[by] == name].groupby(x)[y]
        centre = values.agg(middle)
        low, high = (values.quantile(share) for share in band)
        curves[name] = Curve(centre.index, centre, low, high, control=name in controls)
    return curves


def intervals(
    names: Sequence[str],
    series: Mapping[str, pd.DataFrame],
    *,
    value: str,
    size: tuple[float, float] = PANEL,
    **settings: Any,
) -> Figure:
    """One panel with a row a name from top to bottom, and in it a mark a series, with its interval.

    Args:
        names: [n] of the rows.
        series: by their label in the legend, which there is where they are several; indexed by
            `names`, with a column `value` and perhaps `low` and `high`, the ends of its interval.
        settings: of the axes.
    """
    figure, axes = panel(size)
    for i, (label, frame) in enumerate(series.items()):
        rows = frame.loc[list(names)]
        reach = None
        if {"low", "high"} <= set(frame):
            reach = [(rows[value] - rows[end]).abs() for end in ("low", "high")]
        place = np.arange(len(names)) + 0.2 * (i - (len(series) - 1) / 2)
        look: dict[str, Any] = {"fmt": MARKERS[i], "color": PALETTE[i], "label": label}
        axes.errorbar(rows[value], place, xerr=reach, **look)
    axes.set_yticks(range(len(names)), list(names))
    axes.invert_yaxis()
    axes.set(**settings)
    if len(series) > 1:
        figure.legend(loc="outside upper center", ncols=len(series))
    return figure
