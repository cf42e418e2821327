"""Dropping dimensions of the output embedding, and what that changes (section 4)."""

from probenc_support.pruning.bases import (
    Basis,
    States,
    compensated_basis,
    keeping_basis,
    levels,
    lost_variance,
    mean_basis,
    power_weights,
    rotated_basis,
    square_roots,
    token_metric,
    zero_basis,
)
from probenc_support.pruning.divergence import (
    Choice,
    Divergences,
    Levels,
    choose_power,
    evaluate,
    positions_at_once,
    sweep,
    sweeps,
)

__all__ = [
    "Basis",
    "Choice",
    "Divergences",
    "Levels",
    "States",
    "choose_power",
    "compensated_basis",
    "evaluate",
    "keeping_basis",
    "levels",
    "lost_variance",
    "mean_basis",
    "positions_at_once",
    "power_weights",
    "rotated_basis",
    "square_roots",
    "sweep",
    "sweeps",
    "token_metric",
    "zero_basis",
]
