"""The figures of sparsity that no other page has: panels for `figures.show`."""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from probenc_support.notebook import figures
from probenc_support.notebook.figures import GREY, LINES, PALETTE
from probenc_support.regression.arrays import Array


def plane(scores: Array, percentile: Array, shown: npt.NDArray[np.int64]) -> Figure:
    """Tokens on two components by the colour of their probability, with each quarter's density.

    Args:
        scores: [n, 2] coordinates of all tokens on the components.
        percentile: [n] of their probabilities, 0 to 100.
        shown: [m] tokens that are drawn; the densities at the margins are those of all.
    """
    figure = Figure(figsize=(4.6, 4.3))
    panels = figure.subplot_mosaic(
        [["top", "."], ["plane", "side"]], width_ratios=[4, 1], height_ratios=[1, 4]
    )
    cloud = panels["plane"].scatter(
        scores[shown, 0],
        scores[shown, 1],
        c=percentile[shown],
        s=2,
        linewidths=0,
        vmin=0,
        vmax=100,
        rasterized=True,
    )
    panels["plane"].set(xlabel="component 1", ylabel="component 2")
    figure.colorbar(cloud, ax=panels["side"], label="percentile of $a_w$", aspect=30)
    for k, quarter in enumerate(quarters(percentile)):
        look: dict[str, Any] = {"color": plt.get_cmap("cividis")(0.12 + 0.26 * k)}
        look |= {"linestyle": LINES[k], "linewidth": 1.2}
        panels["top"].plot(*_density(scores[quarter, 0]), **look)
        panels["side"].plot(*_density(scores[quarter, 1])[::-1], **look)
    panels["top"].set(xlim=panels["plane"].get_xlim(), xticks=[], yticks=[])
    panels["side"].set(ylim=panels["plane"].get_ylim(), xticks=[], yticks=[])
    for side in ("top", "side"):
        panels[side].spines[:].set_visible(False)
    return figure


def quarters(percentile: Array) -> list[npt.NDArray[np.bool_]]:
    """Which tokens [n] are in each quarter of the percentiles [n], the least probable first."""
    return [(percentile >= low) & (percentile <= low + 25) for low in (0, 25, 50, 75)]


def _density(values: Array) -> tuple[Array, Array]:
    """Middles and heights [60] of a histogram of area one."""
    heights, edges = np.histogram(values, bins=60, density=True)
    return (edges[1:] + edges[:-1]) / 2, heights


def spectrum(r: Array, *, chance: float, ylabel: str) -> Figure:
    """A stem for the correlation of each component, over their numbers on a logarithmic axis.

    Args:
        r: [d] correlations, -1 to 1.
        chance: size of the largest correlation that tokens in random order gave: a grey band.
    """
    figure, axes = figures.panel()
    number = np.arange(1, len(r) + 1)
    axes.axhspan(-chance, chance, color=GREY, alpha=0.35, linewidth=0, label="shuffled")
    axes.vlines(number, 0, r, linewidth=1.2, color=PALETTE[0])
    axes.plot(number, r, "o", markersize=2.5, color=PALETTE[0])
    axes.set(xscale="log", xlabel="principal component", ylabel=ylabel)
    axes.legend()
    return figure


def slopes_against(
    values: Array, slopes: Array, leaders: npt.NDArray[np.int64], *, xlabel: str
) -> Figure:
    """Sizes of slopes against another measure of their dimensions, on logarithmic axes.

    Args:
        values: [d] the other measure, not negative.
        slopes: [d] in nats; the smallest 2 % are below the panel.
        leaders: [k] dimensions that are marked.
    """
    sizes = np.abs(slopes)
    series = {
        "all dimensions": figures.Curve(values, sizes, joined=False),
        "top ten": figures.Curve(values[leaders], sizes[leaders], joined=False),
    }
    return figures.curves(
        series,
        legend="below",
        xscale="log",
        yscale="log",
        xlabel=xlabel,
        ylabel="$|A_i|$ (nats)",
        ylim=(np.quantile(sizes, 0.02), None),
    )
