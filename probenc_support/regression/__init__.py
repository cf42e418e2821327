"""The log-linear fit y = A . E_w + c over the tokens, and how sure it is (section 2)."""

from probenc_support.regression.arrays import Matrix, as_tensor
from probenc_support.regression.bootstrap import (
    bootstrap_fits,
    bootstrap_log_a,
    bootstrap_r2_adj,
    bootstrap_r2_of,
    draws_of_groups,
    draws_with_replacement,
    log_mean_exp,
)
from probenc_support.regression.fits import Interval, LinearFit, ManyFits
from probenc_support.regression.halves import Halves
from probenc_support.regression.held_out import folds, out_of_fold, r2_heldout, r2_shuffled
from probenc_support.regression.linear_fit import Design, adjusted, fit, r2_of
from probenc_support.regression.of_model import fit_tokens
from probenc_support.regression.transfer import Transfer

__all__ = [
    "Design",
    "Halves",
    "Interval",
    "LinearFit",
    "ManyFits",
    "Matrix",
    "Transfer",
    "adjusted",
    "as_tensor",
    "bootstrap_fits",
    "bootstrap_log_a",
    "bootstrap_r2_adj",
    "bootstrap_r2_of",
    "draws_of_groups",
    "draws_with_replacement",
    "fit",
    "fit_tokens",
    "folds",
    "log_mean_exp",
    "out_of_fold",
    "r2_heldout",
    "r2_of",
    "r2_shuffled",
]
