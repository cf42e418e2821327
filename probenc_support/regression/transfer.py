"""Whether a fit is of the model or of its text: taken over unchanged to other text."""

from dataclasses import dataclass

from probenc_support.inference import Detection
from probenc_support.regression import slopes
from probenc_support.regression.arrays import Array, Matrix
from probenc_support.regression.bootstrap import bootstrap_r2_of
from probenc_support.regression.fits import Interval, LinearFit
from probenc_support.regression.linear_fit import Design, r2_of


@dataclass(frozen=True, eq=False)
class Transfer:
    """A fit on one text, judged by the average probabilities of the same model on another."""

    r2: Interval
    """R^2 of the unchanged fit there, its intercept included; over draws of that text's
    documents."""
    r2_itself: float
    """R^2 there of the -log a that was fitted: how far the average probabilities themselves carry
    over."""
    correlation: float
    """Of the unchanged fit with -log a there: slope and intercept left free."""
    r2_adj_there: float
    """Adjusted R^2 of a fit of that text's own."""
    cosine: float
    """Of the slopes of both fits."""
    fitted_correlation: float
    """Of the fitted values of both fits, over the tokens."""

    @classmethod
    def of(
        cls,
        design: Design,
        fit: LinearFit,
        y: Matrix,
        there: Detection,
        *,
        n_replicates: int = 200,
        seed: int = 0,
    ) -> "Transfer":
        """Of a fit to y [n], made on one text, to a pass of the same model over another.

        Args:
            n_replicates: draws of the other text's documents; seed: of the draws.
        """
        fitted: Array = fit.predict(design.E)
        own = design.fit(there.y)
        return cls(
            r2=bootstrap_r2_of(
                fitted, there.log_a_groups, there.group_sizes, n_replicates=n_replicates, seed=seed
            ),
            r2_itself=r2_of(there.y, y),
            correlation=slopes.correlation(there.y, fitted),
            r2_adj_there=own.r2_adj,
            cosine=slopes.cosine(fit.slopes, own.slopes),
            fitted_correlation=slopes.fitted_correlation(design, fit.slopes, own.slopes),
        )

    def metrics(self, suffix: str = "") -> dict[str, float]:
        """Under the names of the first notebook's metrics, with a suffix for a further text."""
        return {
            f"r2_transfer{suffix}": self.r2.estimate,
            f"r2_transfer_itself{suffix}": self.r2_itself,
            f"correlation_transfer{suffix}": self.correlation,
            f"r2_adj_eval{suffix}": self.r2_adj_there,
            f"cos_direction_corpora{suffix}": self.cosine,
            f"corr_fitted_corpora{suffix}": self.fitted_correlation,
            f"r2_transfer{suffix}_low": self.r2.low,
            f"r2_transfer{suffix}_high": self.r2.high,
        }
