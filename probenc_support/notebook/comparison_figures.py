"""Small multiples that compare models, with their names beside the points.

Colour tells the family of a model and the marker its kind, so that either can be read in grey.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probenc_support.claims.comparison import Measure
from probenc_support.claims.kinds_of_models import KINDS, UNKNOWN
from probenc_support.notebook import figures

ROW = 0.21
"""Inches of a row of names."""

TICKS = 5
"""About so many values are written on an axis of sizes."""


def looks(models: pd.DataFrame) -> dict[Hashable, dict[str, Any]]:
    """Colour by family and marker by kind, of each model.

    Args:
        models: indexed by model, with columns `kind` and `family`, see `kinds_of_models.described`.
    """
    families = list(dict.fromkeys(models["family"]))
    colours = {name: figures.PALETTE[i % len(figures.PALETTE)] for i, name in enumerate(families)}
    markers = dict(zip([*KINDS, UNKNOWN], figures.MARKERS, strict=False))
    return {
        model: {"color": colours[row["family"]], "marker": markers.get(row["kind"], "X")}
        for model, row in models.to_dict("index").items()
    }


def by_model(
    measured: Sequence[tuple[Measure, pd.DataFrame]], models: pd.DataFrame
) -> list[Figure]:
    """One panel a measure: a row a model, its name at the side, its value with the interval.

    Args:
        measured: measures with their values, see `comparison.with_intervals`: indexed by model,
            columns `value`, `low` and `high`.
        models: see `looks`; their order is that of the rows.
    """
    look = looks(models)
    panels = []
    for measure, values in measured:
        names = [model for model in models.index if model in values.index]
        panel, axes = figures.panel((4.4, 0.9 + ROW * len(names)))
        for place, model in enumerate(names):
            value, low, high = values.loc[model, ["value", "low", "high"]].to_numpy(float)
            if math.isfinite(low + high):
                axes.plot([low, high], [place, place], color=look[model]["color"], linewidth=1.2)
            axes.plot(value, place, linestyle="none", markersize=6, label=model, **look[model])
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set(xlabel=measure.label, ylim=(len(names) - 0.4, -0.6))
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        panels.append(panel)
    return panels


def key(models: pd.DataFrame) -> str:
    """What the colours and markers mean, for a caption (HTML)."""
    look = looks(models)
    by_family: dict[str, str] = {}
    by_kind: dict[str, str] = {}
    for model, row in models.to_dict("index").items():
        by_family.setdefault(str(row["family"]), str(look[model]["color"]))
        by_kind.setdefault(str(row["kind"]), _GLYPHS.get(str(look[model]["marker"]), ""))
    families = ", ".join(
        f'<span style="color: {colour}" aria-hidden="true">\N{BLACK SQUARE}</span> {name}'
        for name, colour in by_family.items()
    )
    kinds = ", ".join(f"{glyph} {KINDS.get(kind, kind)}" for kind, glyph in by_kind.items())
    return f"Colours tell families apart ({families}), markers kinds ({kinds})."


_GLYPHS = {
    "o": "\N{BLACK CIRCLE}",
    "s": "\N{BLACK SQUARE}",
    "^": "\N{BLACK UP-POINTING TRIANGLE}",
    "D": "\N{BLACK DIAMOND}",
    "v": "\N{BLACK DOWN-POINTING TRIANGLE}",
}
"""The markers of `figures.MARKERS` as characters."""


def against(
    size: pd.Series, values: pd.Series, models: pd.DataFrame, *, xlabel: str, ylabel: str
) -> Figure:
    """One panel of a measure against a size on a logarithmic axis, each point with its name.

    Names stand in a column at the right, in the order of their points, and a line leads to each.

    Args:
        size, values: by model; a model that lacks one of the two is left out.
        models: see `looks`.
    """
    panel, axes = figures.panel((6.0, 3.4))
    both = pd.DataFrame({"x": size, "y": values}).dropna()
    both = both[both["x"] > 0].sort_values("y", kind="stable")
    look = looks(models)
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    for model, row in both.iterrows():
        axes.plot(row["x"], row["y"], linestyle="none", markersize=7, label=model, **look[model])
    axes.margins(0.08)
    axes.set_xticks([], minor=True)
    ticks = sorted(both["x"].unique())
    ticks = ticks[:: max(1, math.ceil(len(ticks) / TICKS))]
    axes.set_xticks(ticks, labels=[f"{value:,.0f}" for value in ticks])
    _name(axes, both, look)
    return panel


def _name(axes: Axes, points: pd.DataFrame, look: Mapping[Hashable, dict[str, Any]]) -> None:
    """Writes the names of points beside the panel, as near to their height as there is room."""
    low, high = axes.get_ylim()
    wanted = ((points["y"] - low) / (high - low)).to_numpy()
    for (model, row), place in zip(points.iterrows(), spaced(wanted), strict=True):
        axes.annotate(
            str(model),
            (row["x"], row["y"]),
            (1.04, place),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": look[model]["color"]},
        )


def spaced(wanted: np.ndarray, gap: float = 0.07) -> np.ndarray:
    """Heights [n], ascending and at least `gap` apart, as near to the wanted ones as that allows.

    The least sum of squares, by pooling neighbours that are too near (isotonic regression); within
    0 and 1 where they fit there, else evenly over it.
    """
    n = len(wanted)
    if n * gap > 1 + gap:
        return np.linspace(0, 1, n)
    offsets = gap * np.arange(n)
    blocks: list[list[float]] = []
    for value in wanted - offsets:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value, count = blocks.pop()
            total = blocks[-1][1] + count
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + value * count) / total, total]
    pooled = np.repeat([value for value, _ in blocks], [int(count) for _, count in blocks])
    spread: np.ndarray = np.clip(pooled, 0, max(0.0, 1 - gap * (n - 1))) + offsets
    return spread


def in_words(measure: Measure, values: pd.DataFrame) -> str:
    """What one panel of `by_model` shows, for who cannot see it."""
    told = ", ".join(f"{model} {value:.3g}" for model, value in values["value"].items())
    return f"{measure.label} by model: {told}."
