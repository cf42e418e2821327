"""Dropping dimensions of the output embedding, and what that changes (section 4)."""

from probenc_support.pruning.bases import (
    Basis,
    compensated_basis,
    keeping_basis,
    levels,
    lost_variance,
    mean_basis,
    power_weights,
    rotated_basis,
    token_metric,
    zero_basis,
)
from probenc_support.pruning.divergence import (
    Choice,
    Divergences,
    Levels,
    Reference,
    choose_power,
    evaluate,
    positions_at_once,
    sweep,
)

__all__ = [
    "Basis",
    "Choice",
    "Divergences",
    "Levels",
    "Reference",
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
    "sweep",
    "token_metric",
    "zero_basis",
]
