"""Edits of a token's output embedding that multiply its mean probability (section 3)."""

from probenc_support.steering.checking import closed_form_error
from probenc_support.steering.closed_form import (
    Effects,
    TopTwo,
    achieved,
    effects,
    expected_log_scale,
    is_reachable,
    log_mean,
    new_probability,
    sums_by_group,
    top_two,
)
from probenc_support.steering.directions import (
    RIDGES,
    choose_ridge,
    folds,
    mean_hidden,
    min_norm,
    min_variance,
    paper_direction,
    random_direction,
    scaled_to,
)
from probenc_support.steering.editing import (
    Steered,
    default_detection,
    default_direction,
    edited_rows,
    steer,
)
from probenc_support.steering.neighbours import change_of_log_a, nearest, spread_over_ranks
from probenc_support.steering.robust_direction import Calibration, Robust, calibrations, robust
from probenc_support.steering.solving import joint_log_p, solve_jointly, solve_steps

__all__ = [
    "RIDGES",
    "Calibration",
    "Effects",
    "Robust",
    "Steered",
    "TopTwo",
    "achieved",
    "calibrations",
    "change_of_log_a",
    "choose_ridge",
    "closed_form_error",
    "default_detection",
    "default_direction",
    "edited_rows",
    "effects",
    "expected_log_scale",
    "folds",
    "is_reachable",
    "joint_log_p",
    "log_mean",
    "mean_hidden",
    "min_norm",
    "min_variance",
    "nearest",
    "new_probability",
    "paper_direction",
    "random_direction",
    "robust",
    "scaled_to",
    "solve_jointly",
    "solve_steps",
    "spread_over_ranks",
    "steer",
    "sums_by_group",
    "top_two",
]
