"""Edits of a token's output embedding that multiply its mean probability (section 3)."""

from probenc_support.steering.checking import closed_form_error
from probenc_support.steering.closed_form import (
    achieved,
    effects,
    is_reachable,
    log_mean,
    new_probability,
)
from probenc_support.steering.directions import (
    choose_ridge,
    mean_hidden,
    min_norm,
    min_variance,
    moments_of_runs,
    paper_direction,
)
from probenc_support.steering.editing import Steered, default_direction, edited_rows, steer
from probenc_support.steering.exact_bias import hidden_bias
from probenc_support.steering.joint import joint_kl, joint_log_p, solve_jointly
from probenc_support.steering.omegas import Omega
from probenc_support.steering.own_text import calibration_of_own_text
from probenc_support.steering.robust_direction import calibrations, robust
from probenc_support.steering.scores import Edit
from probenc_support.steering.solving import solve_steps
from probenc_support.steering.sweep import Sweep
from probenc_support.steering.token_samples import spread_over_ranks, two_samples

__all__ = [
    "Edit",
    "Omega",
    "Steered",
    "Sweep",
    "achieved",
    "calibration_of_own_text",
    "calibrations",
    "choose_ridge",
    "closed_form_error",
    "default_direction",
    "edited_rows",
    "effects",
    "hidden_bias",
    "is_reachable",
    "joint_kl",
    "joint_log_p",
    "log_mean",
    "mean_hidden",
    "min_norm",
    "min_variance",
    "moments_of_runs",
    "new_probability",
    "paper_direction",
    "robust",
    "solve_jointly",
    "solve_steps",
    "spread_over_ranks",
    "steer",
    "two_samples",
]
