"""Small multiples that compare models: each measure against the width of the model."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from probenc_support.claims.comparison import Measure
from probenc_support.notebook import figures

TICKS = 5
"""About so many widths are written on an axis."""


def against_width(measured: Sequence[tuple[Measure, pd.Series]], widths: pd.Series) -> list[Figure]:
    """One panel a measure, with a marker for each model that has it; the first has the legend.

    Args:
        measured: measures with their values by model, see `comparison.measures_of`.
        widths: d by model; a model has the same marker in all panels.
    """
    looks = list(zip(figures.PALETTE * 9, figures.MARKERS * 9, strict=True))
    by_model = dict(zip(widths.index, looks, strict=False))
    width_of = widths.to_dict()
    ticks = sorted(widths.dropna().unique())
    ticks = ticks[:: max(1, len(ticks) // TICKS)]
    panels = []
    for measure, values in measured:
        panel, axes = figures.panel((3.3, 2.6))
        for model, value in values.items():
            color, marker = by_model[model]
            axes.plot(width_of[model], value, marker, color=color, markersize=7, label=model)
        axes.set(xscale="log", xlabel="width d", ylabel=measure.label.replace(": ", ":\n", 1))
        axes.set_xticks([], minor=True)
        axes.set_xticks(ticks, labels=[f"{width:.0f}" for width in ticks])
        axes.margins(0.3)
        panels.append(panel)
    if panels:
        panels[0].axes[0].legend(fontsize=7, loc="best")
    return panels


def in_words(measure: Measure, values: pd.Series) -> str:
    """What one panel shows, for who cannot see it."""
    told = ", ".join(f"{model} {value:.3g}" for model, value in values.items())
    return f"{measure.label} against width: {told}."
