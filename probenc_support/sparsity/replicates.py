"""The fit as it would be for other text: documents drawn with replacement.

The tokens of a vocabulary are not a sample: there are no others. What is sampled is the text, and
positions of one document depend on each other, so that text is drawn by the document.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

from probenc_support.regression import Design, Matrix
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Components, Statistics


@dataclass(frozen=True)
class Replicates:
    """The fit in B draws of documents with replacement; E and its components stay as they are."""

    whole: Statistics
    """Of the fit to all text."""
    cross: Array
    """[d, B] (E - mean)'(y - y_mean) in every draw."""
    total: Array
    """[B] sum of squares of y - y_mean in every draw."""
    slopes: Array
    """[B, d] slopes of every draw."""
    r2: Array
    """[B] R^2 of every draw."""
    component_r: Array
    """[B, d] correlation of every principal component with y in every draw."""
    dimension_r: Array
    """[B, d] correlation of every dimension of E with y in every draw."""

    @classmethod
    def of(
        cls, design: Design, whole: Statistics, components: Components, y: Matrix
    ) -> "Replicates":
        """From the draws of y [n, B], for instance minus `regression.bootstrap_log_a`."""
        cross, total = design.cross_products(y)
        slopes = linalg.solve(whole.gram, cross, assume_a="pos")
        along = components.directions.T @ cross
        return cls(
            whole=whole,
            cross=cross,
            total=total,
            slopes=slopes.T,
            r2=np.asarray((cross * slopes).sum(0) / total),
            component_r=_correlation(along, components.variances * (design.n - 1), total),
            dimension_r=_correlation(cross, whole.gram.diagonal(), total),
        )

    def __len__(self) -> int:
        """Number of draws."""
        return len(self.total)

    def statistics(self, draw: int) -> Statistics:
        """Statistics of one draw; `y_mean` stays that of all text, as no measure here uses it."""
        return replace(self.whole, cross=self.cross[:, draw], total=float(self.total[draw]))

    def each(self, *, at_most: int) -> Iterator[Statistics]:
        """Statistics of the draws one by one, of the first few where there are more."""
        return (self.statistics(draw) for draw in range(min(at_most, len(self))))


def _correlation(cross: Array, squares: Array, total: Array) -> Array:
    return np.asarray((cross / np.sqrt(np.outer(squares, total))).T)
