"""The figure of where the direction comes from: a panel for `figures.show`."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from probenc_support.notebook import figures

_BIAS = "bias of the norm"
"""The last part, as the table names it."""

_FEW_LAYERS = 12
"""Layers up to which each has a label."""


def shares_by_layer(table: pd.DataFrame, *, share: str, xlabel: str, **settings: Any) -> Figure:
    """Bars of the shares of parts, from the input of the network to its final norm.

    Args:
        table: of `theory.MeanHiddenParts.table`.
        share: the column that is drawn, with its intervals where it is `share`.
        xlabel: what the panel is of; the layers are numbered above it.
        settings: of the axes.
    """
    layers = sorted(set(table["layer"]) - {0})
    every = 1 if len(layers) <= _FEW_LAYERS else 5
    pairs = list(zip(table["part"], table["layer"], strict=True))
    placed = table.assign(
        place=[layer or part for part, layer in pairs],
        kind=[part if layer else "outside of layers" for part, layer in pairs],
    )
    before = [part for part, layer in pairs if not layer and part != _BIAS]
    order = [*before, *layers, _BIAS]
    names = [str(at) if at in (*before, _BIAS) or at % every == 0 else "" for at in order]
    series, errors = {}, {}
    for kind, rows in placed.groupby("kind", sort=False):
        there = rows.set_index("place").reindex(order)
        series[str(kind)] = there[share].to_numpy()
        if share == "share":
            ends = (there["share"] - there["low"], there["high"] - there["share"])
            errors[str(kind)] = np.clip(np.stack(ends), 0.0, None)
    figure = figures.bars(names, series, errors=errors, xlabel=xlabel, **settings)
    figure.axes[0].axhline(0, color=figures.GREY, linewidth=0.6)
    return figure
