"""The fit of a model's tokens on its output embedding: what the paper does first (section 2.1)."""

from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.regression.fits import LinearFit
from probenc_support.regression.linear_fit import fit


def fit_tokens(lm: LanguageModel, detection: Detection) -> LinearFit:
    """The fit y_w = A . E_w + c of y = -log a over the tokens of a model, without padding rows.

    Args:
        detection: a pass of the same model over the detecting corpus; see `inference.detect`.

    Raises:
        InputError: there are too few tokens for so many dimensions, or the pass is of a model with
            other tokens.
    """
    return fit(lm.head.rows, detection.y)
