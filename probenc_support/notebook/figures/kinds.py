"""The kinds of figures that recur, one drawing function each: all pages look of one hand."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from probenc_support.notebook.figures.style import GREY, LINES, MARKERS, PALETTE, PANEL, panel

_CONTROL_LINES = (":", (0, (5, 2)), (0, (5, 1, 1, 1)))
"""Of the controls of one panel, in order."""

_FEW = 50
"""Points up to which they are drawn large."""

_MANY = 2000
"""Points above which a cloud is shown by its density."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a panel, with a band where it is known how sure it is."""

    x: Any
    """[n] where it is measured; for a band, in order."""
    y: Any
    """[n] values."""
    low: Any = None
    """[n] lower end of the band; None: there is none."""
    high: Any = None
    """[n] upper end of the band."""
    control: bool = False
    """Whether it is a control: grey and dotted, apart from what it is held against."""
    joined: bool = True
    """Whether a line joins the points; else each is a mark of its own."""
    repeats: Any = None
    """Pairs of x [n] and y [n], one a repetition (a run, a seed) of which this is the mean: drawn
    thin beside it; None: there are none."""
    marks: Any = None
    """Which points get a marker where the panel is marked, by number; None: every one. Where there
    are none, there is none in the legend."""

    @classmethod
    def of_runs(cls, x: Any, y: Any, **settings: Any) -> "Curve":
        """The mean of several runs, with each of them beside it.

        Args:
            x: [n] or [n_runs, n]; y: [n] of one run, or [n_runs, n].
        """
        ys = np.atleast_2d(np.asarray(y, dtype=np.float64))
        xs = np.broadcast_to(np.asarray(x, dtype=np.float64), ys.shape)
        pairs = list(zip(xs, ys, strict=True)) if len(ys) > 1 else None
        return cls(xs.mean(0), ys.mean(0), repeats=pairs, **settings)

    @classmethod
    def over_ranks(cls, values: Any, **settings: Any) -> "Curve":
        """Values over the ranks 1, 2, and so on."""
        return cls(np.arange(1, len(values) + 1), values, **settings)

    @classmethod
    def with_ends(cls, frame: pd.DataFrame, x: str, y: str, **settings: Any) -> "Curve":
        """Column y of a table over its column x, with the columns `<y>_low` and `<y>_high`."""
        rows = frame.sort_values(x)
        return cls(rows[x], rows[y], rows[f"{y}_low"], rows[f"{y}_high"], **settings)


def cloud(
    x: Any, y: Any, *, counted: str = "", size: tuple[float, float] = PANEL, **settings: Any
) -> Figure:
    """One panel of points or, where they are many, of how many lie in each hexagon.

    Args:
        x: [n]; y: [n].
        counted: what a colour bar counts, such as `tokens`; empty: there is no colour bar.
        settings: of the axes, for instance `xlabel`.
    """
    figure, axes = panel(size)
    x, y = (np.asarray(values, dtype=np.float64) for values in (x, y))
    if len(x) > _MANY:
        grid = axes.hexbin(x, y, gridsize=60, bins="log", mincnt=1, linewidths=0.1)
        if counted:
            figure.colorbar(grid, label=counted)
    else:
        axes.plot(x, y, "o", markersize=3, alpha=0.6, color=PALETTE[0], rasterized=True)
    axes.set(**settings)
    return figure


def measured_against_predicted(
    predicted: Any,
    measured: Any,
    *,
    xlabel: str,
    ylabel: str,
    legend: str = "upper left",
    counted: str = "",
    size: tuple[float, float] = PANEL,
) -> Figure:
    """A `cloud` with a dashed line where both values are equal.

    Args:
        predicted: [n] on the horizontal axis; measured: [n] on the vertical one.
        legend: where it stands; empty: there is none.
        counted: see `cloud`.
    """
    labels = {"xlabel": xlabel, "ylabel": ylabel}
    figure = cloud(predicted, measured, counted=counted, size=size, **labels)
    axes = figure.axes[0]
    both = np.concatenate([np.asarray(predicted), np.asarray(measured)])
    equality(axes, (float(both.min()), float(both.max())))
    if legend:
        _legend(axes, legend)
    return figure


def _legend(axes: Axes, where: str) -> None:
    options: dict[str, Any] = {"loc": where}
    axes.legend(**options)


def equality(axes: Axes, ends: tuple[float, float]) -> None:
    """Draws the line where both axes of a panel have the same value."""
    axes.plot(ends, ends, color=PALETTE[1], linestyle="--", label="equal")


def curves(
    series: Mapping[str, Curve],
    *,
    levels: Mapping[str, float] | None = None,
    marked: bool = False,
    legend: str = "best",
    size: tuple[float, float] = PANEL,
    **settings: Any,
) -> Figure:
    """One panel of curves, told apart by colour and by style, with their bands and controls.

    Args:
        series: curves by their label in the legend; eight at most, besides controls.
        levels: horizontal lines by what they are; bounds and yardsticks. One without a name is in
            no legend.
        marked: put markers at the points of curves that are no controls.
        legend: where it stands, `below` for under the panel; empty: there is none.
        settings: of the axes, for instance `xlabel` or `xscale`.
    """
    figure, axes = panel(size)
    plain = n_controls = 0
    for label, curve in series.items():
        look: dict[str, Any] = {"color": GREY, "linestyle": _CONTROL_LINES[n_controls % 3]}
        if curve.control:
            n_controls += 1
        else:
            look = {"color": PALETTE[plain], "linestyle": LINES[plain]}
            plain += 1
        for x, y in curve.repeats or ():
            axes.plot(x, y, linewidth=0.6, alpha=0.5, **look)
        unmarked = curve.marks is not None and not len(curve.marks)
        if not curve.control and not unmarked and (marked or not curve.joined):
            look |= {"marker": MARKERS[plain - 1], "markevery": curve.marks}
        if not curve.joined:
            look |= {"linestyle": "none", "marker": look.get("marker", "x")}
            look |= {"markersize": 3} if len(curve.x) > _FEW else {}
        axes.plot(curve.x, curve.y, label=label, **look)
        if curve.low is not None:
            axes.fill_between(
                curve.x, curve.low, curve.high, color=look["color"], alpha=0.15, linewidth=0
            )
    for k, (label, level) in enumerate((levels or {}).items()):
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=LINES[k], label=label)
    axes.set(**settings)
    for axis in (axes.xaxis, axes.yaxis):
        _label_in_plain_numbers(axis)
    if legend == "below":
        figure.legend(loc="outside lower center", ncols=2)
    elif legend:
        _legend(axes, legend)
    return figure


def _label_in_plain_numbers(axis: Axis) -> None:
    """Labels a logarithmic axis from 0.01 to 100,000 or less with plain numbers, not powers of 10.

    Where it spans few powers of ten, 2 and 5 times them are labelled as well.
    """
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() != "log" or not 0.01 <= low < high <= 1e5:
        return
    if isinstance(axis.get_major_locator(), ticker.LogLocator):
        steps = (1.0, 2.0, 5.0) if high < 200 * low else (1.0,)
        axis.set_major_locator(ticker.LogLocator(subs=steps))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def bars(
    names: Sequence[str],
    series: Mapping[str, Any],
    *,
    errors: Mapping[str, Any] | None = None,
    controls: Collection[str] = (),
    legend: str = "best",
    size: tuple[float, float] = PANEL,
    **settings: Any,
) -> Figure:
    """One panel of vertical bars in the order given, side by side where there are several series.

    Args:
        names: [n] under the bars.
        series: [n] values by their label in the legend; told apart by colour and hatching.
        errors: [2, n] how far intervals reach below and above, by the same labels.
        controls: labels of the series that are controls: grey.
        legend: where it stands; empty: there is none.
        settings: of the axes.
    """
    figure, axes = panel(size)
    place = np.arange(len(names), dtype=np.float64)
    width = 0.8 / len(series)
    for k, (label, values) in enumerate(series.items()):
        offset = (k - (len(series) - 1) / 2) * width
        axes.bar(
            place + offset,
            np.asarray(values, dtype=np.float64),
            width,
            yerr=(errors or {}).get(label),
            color=GREY if label in controls else PALETTE[k],
            hatch=("", "//", "..", "xx")[k % 4],
            edgecolor="white",
            label=label,
        )
    turned: dict[str, Any] = {"rotation": 45, "ha": "right"}
    axes.set_xticks(place, list(names), **(turned if max(map(len, names)) > 3 else {}))
    axes.set(**settings)
    if legend:
        _legend(axes, legend)
    return figure
