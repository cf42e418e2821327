"""Which slopes and correlations differ from zero, by three tests that take other things as drawn.

Other text, or another order of the tokens? A slope that differs from zero over draws of documents
would be there again in other text. Whether the order of the tokens in this one vocabulary could
have made it by chance is another question, which errors over tokens answer as if tokens were
independent observations.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from probenc_support.regression import LinearFit
from probenc_support.regression.arrays import Array

NAMES = {
    "documents": "over documents",
    "tokens": "over tokens, as if independent",
    "both": "both variances",
}
"""What the tests of `AgainstZero` are called in a table."""


@dataclass(frozen=True)
class Significance:
    """Which of k numbers differ from zero, given their standard errors."""

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
        """From estimates [k] and standard errors [k]; p is 1 where both are zero."""
        moved = estimate != 0.0
        t = np.divide(
            np.abs(estimate), stderr, out=np.where(moved, np.inf, 0.0), where=stderr > 0.0
        )
        p = np.asarray(2.0 * stats.t.sf(t, dof))
        q = np.asarray(stats.false_discovery_control(p))
        return cls(estimate, np.asarray(stderr), dof, p, q)

    @classmethod
    def of_correlations(cls, r: Array, n: int) -> "Significance":
        """Of Pearson's correlations r [k] over n tokens, taken as independent observations."""
        return cls.of(r, np.sqrt(np.clip(1.0 - r**2, 0.0, None) / (n - 2)), n - 2)

    @classmethod
    def over_documents(cls, estimate: Array, draws: Array, n_groups: int) -> "Significance":
        """From estimates [k] and the same in draws of n_groups documents with replacement [B, k].

        The spread of the draws is that of a mean of n_groups, whose deviations are taken from their
        own mean: as for any standard error of a mean, n_groups - 1 stands in its denominator, and
        is the degrees of freedom. `regression.slopes.slope_tests` makes the same test without this
        correction, so that its errors are smaller by the factor sqrt((n_groups - 1) / n_groups).
        """
        spread = draws.std(axis=0, ddof=1) * np.sqrt(n_groups / (n_groups - 1))
        return cls.of(estimate, spread, n_groups - 1)

    def with_tokens(self, stderr: Array) -> "Significance":
        """The test whose variance is that over documents plus that over tokens: what other text and
        another vocabulary would do together.

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


@dataclass(frozen=True)
class AgainstZero:
    """Three tests of the same k numbers, which differ in what would be drawn anew."""

    documents: Significance
    """Other text is drawn; the vocabulary is as it is."""
    tokens: Significance
    """Tokens are drawn, as independent observations; the text is as it is."""
    both: Significance
    """The variances of the other two, added."""

    @classmethod
    def of_correlations(cls, r: Array, draws: Array, *, n_groups: int, n: int) -> "AgainstZero":
        """Of correlations over the tokens.

        Args:
            r: [k] the correlations.
            draws: [B, k] the same in draws of documents.
            n_groups: documents in a draw.
            n: tokens.
        """
        return cls._of(
            Significance.over_documents(r, draws, n_groups), Significance.of_correlations(r, n)
        )

    @classmethod
    def of_slopes(cls, fit: LinearFit, draws: Array, *, n_groups: int) -> "AgainstZero":
        """Of the slopes of a fit, whose standard errors are those over tokens.

        Args:
            draws: [B, d] slopes in draws of documents.
            n_groups: documents in a draw.
        """
        return cls._of(
            Significance.over_documents(fit.slopes, draws, n_groups),
            Significance.of(fit.slopes, fit.stderr, fit.residual_dof),
        )

    @classmethod
    def _of(cls, documents: Significance, tokens: Significance) -> "AgainstZero":
        return cls(documents, tokens, documents.with_tokens(tokens.stderr))

    def metrics(self, name: str) -> dict[str, int]:
        """`counts` as three flat metrics, whose names end in `_bh` (over documents), `_tokens` and
        `_both`."""
        ends = {"documents": "bh", "tokens": "tokens", "both": "both"}
        return {f"{name}_{ends[test]}": count for test, count in self.counts().items()}

    def counts(self, level: float = 0.05) -> dict[str, int]:
        """How many of the k numbers each test calls different from zero, by the test's name."""
        return {name: int(test.significant(level).sum()) for name, test in vars(self).items()}
