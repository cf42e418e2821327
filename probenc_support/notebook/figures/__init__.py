"""Figures: one look for all, the kinds that recur, and their place on a page."""

from probenc_support.notebook.figures.kinds import (
    Curve,
    bars,
    cloud,
    curves,
    equality,
    measured_against_predicted,
)
from probenc_support.notebook.figures.of_tables import grouped, intervals
from probenc_support.notebook.figures.style import (
    GREY,
    LINES,
    MARKERS,
    PALETTE,
    PANEL,
    WIDE,
    panel,
    show,
    use,
)

__all__ = [
    "GREY",
    "LINES",
    "MARKERS",
    "PALETTE",
    "PANEL",
    "WIDE",
    "Curve",
    "bars",
    "cloud",
    "curves",
    "equality",
    "grouped",
    "intervals",
    "measured_against_predicted",
    "panel",
    "show",
    "use",
]
