"""The kinds of figures that recur, one drawing function each: all pages look of one hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probenc_support.notebook.figures.style import GREY, LINES, MARKERS, PALETTE, PANEL, panel

Array = npt.NDArray[np.float64]

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

    @classmethod
    def over_ranks(cls, values: Any, **settings: Any) -> "Curve":
        """Values over the ranks 1, 2, and so on."""
        return cls(np.arange(1, len(values) + 1), values, **settings)

    @classmethod
    def with_ends(cls, frame: pd.DataFrame, x: str, y: str, **settings: Any) -> "Curve":
        """Column y of a table over its column x, with the columns `<y>_low` and `<y>_high`."""
        rows = frame.sort_values(x)
        return cls(rows[x], rows[y], rows[f"{y}_low"], rows[f"{y}_high"], **settings)


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
    """One panel: points or, where they are many, how many lie in each hexagon; dashed: equal.

    Args:
        predicted: [n] on the horizontal axis; measured: [n] on the vertical one.
        legend: where it stands; empty: there is none.
        counted: what a colour bar counts, such as `tokens`; empty: there is no colour bar.
    """
    figure, axes = panel(size)
    x, y = (np.asarray(values, dtype=np.float64) for values in (predicted, measured))
    if len(x) > _MANY:
        grid = axes.hexbin(x, y, gridsize=60, bins="log", mincnt=1, linewidths=0.1)
        if counted:
            figure.colorbar(grid, label=counted)
    else:
        axes.plot(x, y, "o", markersize=3, alpha=0.6, color=PALETTE[0], rasterized=True)
    equality(axes, (min(x.min(), y.min()), max(x.max(), y.max())))
    axes.set(xlabel=xlabel, ylabel=ylabel)
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
        levels: horizontal lines by what they are; bounds and yardsticks.
        marked: put a marker at every point.
        legend: where it stands, `below` for under the panel; empty: there is none.
        settings: of the axes, for instance `xlabel` or `xscale`.
    """
    figure, axes = panel(size)
    plain = 0
    for label, curve in series.items():
        look: dict[str, Any] = {"color": GREY, "linestyle": ":"}
        if not curve.control:
            look = {"color": PALETTE[plain], "linestyle": LINES[plain]}
            look |= {"marker": MARKERS[plain]} if marked else {}
            plain += 1
        axes.plot(curve.x, curve.y, label=label, **look)
        if curve.low is not None:
            axes.fill_between(
                curve.x, curve.low, curve.high, color=look["color"], alpha=0.15, linewidth=0
            )
    for k, (label, level) in enumerate((levels or {}).items()):
        axes.axhline(level, color=GREY, linewidth=0.8, linestyle=LINES[k], label=label)
    axes.set(**settings)
    if legend == "below":
        figure.legend(loc="outside lower center", ncols=2)
    elif legend:
        _legend(axes, legend)
    return figure


def bars(
    names: Sequence[str],
    series: Mapping[str, Any],
    *,
    errors: Mapping[str, Any] | None = None,
    legend: str = "best",
    size: tuple[float, float] = PANEL,
    **settings: Any,
) -> Figure:
    """One panel of vertical bars in the order given, side by side where there are several series.

    Args:
        names: [n] under the bars.
        series: [n] values by their label in the legend; told apart by colour and hatching.
        errors: [2, n] how far intervals reach below and above, by the same labels.
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
            color=PALETTE[k],
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


def lines(series: Mapping[str, Any], **settings: Any) -> tuple[Figure, Axes]:
    """`curves` over the ranks 1, 2, and so on, of values [k] by their label; with its axes."""
    figure = curves({label: Curve.over_ranks(v) for label, v in series.items()}, **settings)
    return figure, figure.axes[0]
