"""Curves of what pruning costs against the share of dimensions that go."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from probenc_support.notebook import figures


def curves(
    costs: pd.DataFrame,
    labels: Mapping[str, str],
    column: str,
    words: str,
    *,
    bounds: Mapping[str, float],
    log: bool = False,
) -> Figure:
    """One panel: a line with its band for each method.

    Args:
        costs: rows with `method`, `share`, and `column` with its ends `_low` and `_high`.
        labels: methods to draw, and what they are called; eight at most.
        words: of the vertical axis, with its unit.
        bounds: horizontal lines by what they are.
        log: logarithmic vertical axis, from half of the smallest value.
    """
    figure, axes = figures.panel((4.4, 4.2))
    for k, (method, label) in enumerate(labels.items()):
        line = costs[costs["method"] == method].sort_values("share")
        look: dict[str, Any] = {"color": figures.PALETTE[k], "linestyle": figures.LINES[k]}
        share = 100 * line["share"]
        axes.plot(share, line[column], marker=figures.MARKERS[k], label=label, **look)
        low, high = line[f"{column}_low"].clip(lower=1e-9), line[f"{column}_high"]
        axes.fill_between(share, low, high, color=look["color"], alpha=0.15, linewidth=0)
    for k, (label, bound) in enumerate(bounds.items()):
        axes.axhline(bound, color=figures.PALETTE[7], linewidth=0.8, linestyle=figures.LINES[k])
        axes.annotate(
            label,
            (1.0 - 0.15 * k, bound),  # apart, where two lines nearly meet
            xycoords=("axes fraction", "data"),
            fontsize=7,
            ha="right",
            va="bottom",
        )
    axes.set(xlabel="dimensions removed (%)", ylabel=words)
    if log:
        shown = costs[costs["method"].isin(list(labels))][column]
        axes.set_yscale("log")
        axes.set_ylim(bottom=max(1e-9, 0.5 * min([shown.min(), *bounds.values()])))
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
