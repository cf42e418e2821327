"""Dropping dimensions of the output embedding, and what that changes (section 4)."""

from probenc_support.pruning.bases import (
    Basis,
    MatrixBasis,
    PlainBasis,
    at_zero,
    compensated_basis,
    keeping_basis,
    levels,
    lost_variance,
    mean_basis,
    participation,
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
from probenc_support.pruning.text_parts import Parts, parts_of_text, read_elsewhere, thinned
from probenc_support.pruning.token_losses import loss_by_class
from probenc_support.pruning.yardsticks import rounded_heads

__all__ = [
    "Basis",
    "Choice",
    "Divergences",
    "Levels",
    "MatrixBasis",
    "Parts",
    "PlainBasis",
    "Reference",
    "at_zero",
    "choose_power",
    "compensated_basis",
    "evaluate",
    "keeping_basis",
    "levels",
    "loss_by_class",
    "lost_variance",
    "mean_basis",
    "participation",
    "parts_of_text",
    "positions_at_once",
    "power_weights",
    "read_elsewhere",
    "rotated_basis",
    "rounded_heads",
    "sweep",
    "thinned",
    "token_metric",
    "zero_basis",
]
