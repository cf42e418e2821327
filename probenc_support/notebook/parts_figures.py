"""The figure of where the direction comes from: a panel for `figures.show`."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from probenc_support.notebook import figures
from probenc_support.notebook.figures import GREY, PALETTE, PANEL, WIDE

_FEW_LAYERS = 12
"""Layers up to which each has a label, and the panel is one of two that stand side by side."""

_OUTSIDE = "outside of layers"
"""In the legend: embedding and bias, which stand by themselves."""


def shares_by_layer(table: pd.DataFrame, *, share: str, xlabel: str) -> Figure:
    """Bars of the shares of parts, from the input of the network to its final norm.

    Args:
        table: of `theory.MeanHiddenParts.table`.
        share: the column that is drawn, with its intervals where it is `share`.
        xlabel: what the panel is of; the layers are numbered above it.
    """
    n_layers = int(table["layer"].max())
    few = n_layers <= _FEW_LAYERS
    figure, axes = figures.panel(PANEL if few else WIDE)
    inside = list(dict.fromkeys(table.loc[table["layer"] > 0, "part"]))
    outside = list(table.loc[table["layer"] == 0, "part"])
    # The bias comes first in the table and last in the network.
    places = {part: float(at) for at, part in zip((n_layers + 1, 0), outside, strict=False)}
    kinds = [(part, table[table["part"] == part]) for part in inside]
    for k, (label, rows) in enumerate([*kinds, (_OUTSIDE, table[table["layer"] == 0])]):
        look: dict[str, Any] = {"color": PALETTE[k], "width": 0.8 / max(1, len(inside))}
        look |= {"hatch": ("", "//", "..", "xx")[k], "edgecolor": "white"} if few else {}
        at = rows["layer"] + (k - (len(inside) - 1) / 2) * look["width"]
        if label == _OUTSIDE:
            at = rows["part"].map(places)
        reach = None
        if share == "share":
            ends = (rows["share"] - rows["low"], rows["high"] - rows["share"])
            reach = np.clip(np.stack(ends), 0.0, None)
        thin = {"linewidth": 1.2 if few else 0.6}
        axes.bar(at, rows[share], yerr=reach, label=label, error_kw=thin, linewidth=0, **look)
    numbered = range(1, n_layers + 1) if few else range(5, n_layers + 1, 5)
    ticks = {**{at: part for part, at in places.items()}, **{float(n): str(n) for n in numbered}}
    axes.set_xticks(list(ticks), list(ticks.values()), rotation=45, ha="right")
    axes.axhline(0, color=GREY, linewidth=0.6)
    axes.set(xlabel=xlabel, ylabel="share")
    figure.legend(loc="outside upper center", ncols=2)
    return figure
