"""Figures of what drives sparsity."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from probenc_support.experiments import over_seeds, sparsity_drivers
from probenc_support.notebook import figures


def by_cell(table: pd.DataFrame) -> list[Figure]:
    """Three panels with a row an optimiser, norm and gains: the Gini coefficient of the slopes and
    the participation ratio of mean h over those after rotations, and the share of the first
    components over that along a random direction.

    Args:
        table: see `sparsity_drivers.compare`.
    """
    named = table.assign(row=[cell.name_but_ties for cell in sparsity_drivers.cells_of(table)])
    rows = list(dict.fromkeys(named["row"]))
    panels = []
    for measure, scale in {"gini": "linear", "mean_h": "log", "components": "linear"}.items():
        series = {}
        for tied, own in named.groupby("tied"):
            found = {
                str(row): over_seeds.ratio(values.to_numpy(dtype=float), np.ones(len(values)))
                for row, values in own.groupby("row")[measure]
            }
            series["tied" if tied else "untied"] = over_seeds.table(found)
        figure = figures.intervals(
            rows,
            series,
            value="value",
            size=(5.2, 4.2),
            xlabel=sparsity_drivers.NAMES[measure],
            xscale=scale,
        )
        figure.axes[0].axvline(1.0, color="0.5", linestyle=":", linewidth=1.0)
        panels.append(figure)
    return panels
