"""The figures of steering: panels that a notebook hands to `figures.show`."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probenc_support.notebook import figures
from probenc_support.notebook.figures import LINES, MARKERS, PALETTE

GREY = PALETTE[7]


def curves(
    frame: pd.DataFrame,
    x: str,
    y: str,
    *,
    by: str,
    labels: tuple[str, str],
    names: Sequence[str] | None = None,
    nothing: float = math.nan,
) -> Figure:
    """One line a name on logarithmic axes: mean of y at each x, and a band over all rows there.

    Args:
        by: column that holds the names; names: which of them, in which order (default: all).
        labels: of the two axes.
        nothing: where an edit that does nothing would be, as a grey line.
    """
    figure, axes = figures.panel()
    for i, name in enumerate(frame[by].unique() if names is None else names):
        at = frame[frame[by] == name].groupby(x)[y]
        mean = at.mean()
        axes.fill_between(mean.index, at.min(), at.max(), color=PALETTE[i], alpha=0.12, lw=0)
        axes.plot(
            mean.index, mean, color=PALETTE[i], linestyle=LINES[i], marker=MARKERS[i], label=name
        )
    if math.isfinite(nothing):
        axes.axhline(nothing, color=GREY, linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel=labels[0], ylabel=labels[1])
    axes.legend(fontsize=7)
    return figure


def expected_actual(edits: pd.DataFrame, names: Sequence[str], where: str) -> Figure:
    """Wanted against actual scale: the median over tokens, and the band of the middle 80 %.

    Args:
        edits: rows of `Judged.edits` of one text.
        names: edits that are shown.
        where: the text, for the label.
    """
    figure, axes = figures.panel()
    for i, name in enumerate(names):
        part = edits[(edits["direction"] == name) & edits["in_reach"]].groupby("scale")["log_scale"]
        low, middle, high = (np.exp(part.quantile(share)) for share in (0.1, 0.5, 0.9))
        axes.fill_between(low.index, low, high, color=PALETTE[i], alpha=0.12, lw=0)
        axes.plot(
            middle.index,
            middle,
            color=PALETTE[i],
            linestyle=LINES[i],
            marker=MARKERS[i],
            label=name,
        )
    ends = [edits["scale"].min(), edits["scale"].max()]
    axes.plot(ends, ends, color=GREY, linewidth=0.8)
    axes.set(xscale="log", yscale="log", ylim=(0.01, 100))
    axes.set(xlabel="wanted scale", ylabel=f"actual scale ({where})")
    axes.legend(loc="upper left", fontsize=7)
    return figure


def errors(scores: pd.DataFrame, order: Sequence[str], titles: Mapping[str, str]) -> Figure:
    """Errors with intervals at one scale: a row a direction, a mark a text.

    Args:
        scores: columns `direction`, `domain`, `mae`, `low`, `high`.
        order: the directions from top to bottom.
        titles: the domains and how the legend calls them.
    """
    figure, axes = figures.panel((figures.WIDE[0], 0.36 * len(order) + 0.8))
    for i, (domain, title) in enumerate(titles.items()):
        at = scores[scores["domain"] == domain].set_index("direction").loc[list(order)]
        axes.errorbar(
            at["mae"],
            np.arange(len(order)) + 0.2 * (i - (len(titles) - 1) / 2),
            xerr=_reach(at, "mae"),
            fmt=MARKERS[i],
            color=PALETTE[i],
            label=title,
        )
    axes.set_xscale("symlog", linthresh=0.01)
    axes.set(xlabel="mean absolute error of log scale (nats)")
    _rows(axes, order)
    figure.legend(loc="outside upper center", ncols=len(titles))
    return figure


def points(
    frame: pd.DataFrame, x: str, y: str, *, kinds: Mapping[str, str], labels: tuple[str, str]
) -> Figure:
    """One mark a row on logarithmic axes, by kind.

    Args:
        frame: its column `direction` starts with one of `kinds`, whose values the legend shows.
        labels: of the two axes.
    """
    figure, axes = figures.panel()
    for i, (start, kind) in enumerate(kinds.items()):
        part = frame[frame["direction"].str.startswith(start)]
        axes.plot(part[x], part[y], MARKERS[i], color=PALETTE[i], label=kind)
    axes.set(xscale="log", yscale="log", xlabel=labels[0], ylabel=labels[1])
    axes.legend(fontsize=7)
    return figure


def rows_of(frame: pd.DataFrame, value: str, label: str, *, interval: bool) -> Figure:
    """One mark a row of `frame`, named by its column `sample`; `low` and `high` as its interval."""
    figure, axes = figures.panel()
    reach = _reach(frame, value) if interval else None
    axes.errorbar(frame[value], range(len(frame)), xerr=reach, fmt=MARKERS[0], color=PALETTE[0])
    axes.set(xlabel=label)
    _rows(axes, list(frame["sample"]))
    return figure


def _reach(frame: pd.DataFrame, value: str) -> list[pd.Series]:
    """How far the interval reaches below and above, a number a row."""
    return [(frame[value] - frame["low"]).abs(), (frame["high"] - frame[value]).abs()]


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.invert_yaxis()
