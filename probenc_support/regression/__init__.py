"""The log-linear fit y = A . E_w + c over the tokens, and how sure it is (section 2.1).

`fit_tokens` is the fit of a model after one pass over a text. A `Design` keeps what fits of other
values on the same tokens share; `bootstrap_*` give intervals over the documents of the text, and
`r2_heldout` the R^2 on tokens that took no part in the fit.
"""

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
from probenc_support.regression.few_tokens import FewTokens
from probenc_support.regression.fits import Interval, LinearFit
from probenc_support.regression.halves import Halves
from probenc_support.regression.head_bias import BesideBias
from probenc_support.regression.held_out import folds, out_of_fold, r2_heldout, r2_shuffled
from probenc_support.regression.linear_fit import Design, adjusted, fit, r2_of
from probenc_support.regression.of_model import fit_tokens
from probenc_support.regression.transfer import Transfer

__all__ = [
    "BesideBias",
    "Design",
    "FewTokens",
    "Halves",
    "Interval",
    "LinearFit",
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
