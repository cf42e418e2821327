"""What other text would do to the fit: draws of documents, and significance that counts on them.

The tokens of a vocabulary are not a sample: there are no others. What is sampled is the text, and
positions of one document depend on each other, so that text is drawn by the document. A slope that
differs from zero by this is there again in other text; that the order of the tokens could have
given it by chance is another question, which `regression`'s robust errors over tokens answer.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

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
        """Of one draw; its mean of y is left as it was, and no measure of sparsity asks for it."""
        return replace(self.whole, cross=self.cross[:, draw], total=float(self.total[draw]))


def _correlation(cross: Array, squares: Array, total: Array) -> Array:
    return np.asarray((cross / np.sqrt(np.outer(squares, total))).T)


@dataclass(frozen=True)
class Significance:
    """Which of k numbers differ from zero, their errors being those that are given."""

    estimate: Array
    """[k] the numbers, for instance slopes or correlations."""
    stderr: Array
    """[k] their standard errors."""
    dof: float
    """Degrees of freedom of the errors."""
    p: Array
    """[k] two-sided p values by Student's t, not corrected."""
    q: Array
    """[k] p values corrected for the k tests by their false discovery rate (Benjamini and Hochberg
    1995)."""

    @classmethod
    def of(cls, estimate: Array, stderr: Array, dof: float) -> "Significance":
        """From estimates [k] and standard errors [k], where both are zero: p = 1."""
        moved = estimate != 0.0
        t = np.divide(
            np.abs(estimate), stderr, out=np.where(moved, np.inf, 0.0), where=stderr > 0.0
        )
        p = np.asarray(2.0 * stats.t.sf(t, dof))
        q = np.asarray(stats.false_discovery_control(p))
        return cls(estimate, np.asarray(stderr), dof, p, q)

    @classmethod
    def over_documents(cls, estimate: Array, draws: Array, n_groups: int) -> "Significance":
        """From estimates [k] and the same in draws of n_groups documents with replacement [B, k].

        The spread of the draws is that of a mean of n_groups, whose deviations are taken from their
        own mean: as for any standard error of a mean, n_groups - 1 stands in its denominator, and
        is the degrees of freedom.
        """
        spread = draws.std(axis=0, ddof=1) * np.sqrt(n_groups / (n_groups - 1))
        return cls.of(estimate, spread, n_groups - 1)

    def with_tokens(self, stderr: Array) -> "Significance":
        """The same with the variance between tokens added: what other text and another vocabulary
        would do together.

        Args:
            stderr: [k] over tokens as independent observations, for instance HC3.
        """
        both = np.hypot(self.stderr, stderr)
        return Significance.of(self.estimate, both, self.dof)

    def significant(self, level: float = 0.05) -> NDArray[np.bool_]:
        """[k] whether each is called non-zero at this false discovery rate."""
        return self.q <= level

    def interval(self, level: float = 0.95) -> Array:
        """[2, k] lower and upper ends of the intervals, one by one, not corrected."""
        half = stats.t.ppf(0.5 + level / 2.0, self.dof) * self.stderr
        return np.stack([self.estimate - half, self.estimate + half])
