"""Figures of curves over training steps: single runs thin, their mean thick."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from probenc_support.notebook import figures

Array = NDArray[np.float64]


Curve = tuple[Sequence[int], Any]
"""Steps [n_steps], and values [n_steps] of one run or [n_runs, n_steps] of several."""


def over_steps(
    curves: Mapping[str, Curve],
    *,
    ylabel: str,
    scale: str = "log",
    ylim: tuple[float | None, float | None] | None = None,
    legend: str = "",
    levels: Mapping[str, float] | None = None,
    log_y: bool = False,
) -> Figure:
    """One panel: each quantity in a colour, line and marker of its own.

    Args:
        scale: of the steps, `log` (from step 1 on, with step 0 at its left) or `linear`.
        legend: where it stands, such as `lower right`; empty: there is none.
        levels: horizontal lines, by their names in the legend (none where the name is empty).
    """
    figure, axes = figures.panel((4.4, 3.6))
    last = 1
    for k, (label, (steps, values)) in enumerate(curves.items()):
        style: dict[str, Any] = {
            "color": figures.PALETTE[k % len(figures.PALETTE)],
            "linestyle": figures.LINES[k % len(figures.LINES)],
        }
        runs = np.atleast_2d(np.asarray(values, dtype=np.float64))
        for run in runs if len(runs) > 1 else ():
            axes.plot(steps, run, linewidth=0.6, alpha=0.5, **style)
        if scale == "log":
            style |= {"marker": figures.MARKERS[k % len(figures.MARKERS)], "markersize": 3.5}
            style["markevery"] = apart(steps)
        axes.plot(steps, runs.mean(0), label=label, **style)
        last = max(last, steps[-1])
    for label, level in (levels or {}).items():
        line = axes.axhline(level, color=figures.PALETTE[7], linewidth=0.8)
        if label:
            line.set_label(label)
    if scale == "log":
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(0, 1.1 * last)
    if log_y:
        axes.set_yscale("log")
    axes.set(xlabel=f"step ({scale} axis)", ylabel=ylabel)
    if ylim:
        axes.set_ylim(*ylim)
    if legend:
        options: dict[str, Any] = {"loc": legend}
        axes.legend(**options)
    return figure


def apart(steps: Sequence[int], ratio: float = 1.2) -> list[int]:
    """Places of the steps that are far enough apart on a logarithmic axis for a marker each."""
    places = [0]
    for place, step in enumerate(steps):
        if step + 1 >= ratio * (steps[places[-1]] + 1):
            places.append(place)
    return places


def log_and_linear(curves: Mapping[str, Curve], *, legend: str, **options: Any) -> list[Figure]:
    """The same curves on a logarithmic and on a linear axis, with one legend on the second.

    Args:
        legend, options: see `over_steps`.
    """
    return [
        over_steps(curves, scale="log", **options),
        over_steps(curves, scale="linear", legend=legend, **options),
    ]
