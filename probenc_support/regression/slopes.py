"""Comparison of directions A by their fitted values, and tests of the slopes over documents.

The cosine of two directions depends mostly on the few dimensions in which hidden states are far
from zero and the rows of E hardly differ. The correlation over the tokens of the fitted values
A . E_w is the cosine in the metric of cov(E), and compares what the directions say of the tokens.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats

from probenc_support.moments import sums_by_label
from probenc_support.regression.arrays import Array, Matrix, as_array, as_tensor
from probenc_support.regression.fits import Interval, LinearFit
from probenc_support.regression.linear_fit import Design


def cosine(one: Matrix, other: Matrix) -> float:
    """Cosine of two vectors [d], -1 to 1."""
    a, b = as_tensor(one).double().cpu(), as_tensor(other).double().cpu()
    return float(a @ b / (a.norm() * b.norm()))


def correlation(one: Matrix, other: Matrix) -> float:
    """Pearson correlation of two vectors [n], -1 to 1."""
    return float(np.corrcoef(as_array(as_tensor(one)), as_array(as_tensor(other)))[0, 1])


def fitted_correlations(design: Design, one: Matrix, other: Matrix) -> Array:
    """[m] correlations over the tokens of E . one [d, m] and E . other [d, m], column by column."""
    a, b = (as_tensor(x).to(design.gram).reshape(design.d, -1) for x in (one, other))
    product = design.gram @ b
    squares = (a * (design.gram @ a)).sum(dim=0) * (b * product).sum(dim=0)
    return np.asarray(((a * product).sum(dim=0) / squares.sqrt()).cpu())


def fitted_correlation(design: Design, one: Matrix, other: Matrix) -> float:
    """Correlation over the tokens of E . one and E . other, for directions [d]; -1 to 1."""
    return float(fitted_correlations(design, one, other)[0])


def correlation_with_mean_hidden(
    design: Design, slopes: Array, h: Matrix, group: Matrix, draws: Matrix
) -> Interval:
    """Correlation of fitted values with -mean(h) . E_w, with its interval over draws of documents.

    In each draw both the slopes and the mean hidden state are those of the drawn documents.

    Args:
        slopes: [d, 1 + B] of the fit to all text and to each draw; see `regression.bootstrap_fits`.
        h: [N, d] hidden states; group: [N] document of each position.
        draws: [B, G] how often each document counts in each draw, the same as of the slopes.
    """
    labels, times = as_tensor(group), as_tensor(draws).double()
    sums = sums_by_label(as_tensor(h), labels, times.shape[1])
    sizes = torch.bincount(labels, minlength=len(sums)).double()
    sizes = sizes.to(sums.device)
    weights = torch.cat([torch.ones(1, len(sums), dtype=torch.float64), times.cpu()]).to(sums)
    means = weights @ sums / (weights @ sizes)[:, None]
    correlations = fitted_correlations(design, slopes, -means.T)
    return Interval.of(float(correlations[0]), correlations[1:])


@dataclass(frozen=True)
class SlopeTests:
    """Tests of every slope against zero, with documents as the observations."""

    stderr: Array
    """[d] standard deviations of the slopes over draws of documents."""
    p: Array
    """[d] two-sided p values, by Student's t with one degree of freedom less than documents."""
    p_adjusted: Array
    """[d] p values adjusted for the d tests by Benjamini and Hochberg (1995): the expected share of
    false discoveries, if all slopes with a p value this small or smaller are called non-zero."""

    def share(self, level: float = 0.05) -> float:
        """Share of the slopes that differ from zero, with a false discovery rate of `level`."""
        return float((self.p_adjusted <= level).mean())


def slope_tests(slopes: Array, n_documents: int) -> SlopeTests:
    """Tests of slopes [d, 1 + B]: of all text (column 0) and of draws of documents.

    The documents are the observations, since the tokens of one vocabulary are neither a sample nor
    independent of each other. The test of `sparsity.significance.Significance.over_documents` is
    the same, except that its standard errors are larger by the factor sqrt(G / (G - 1)) for G
    documents, the correction of a bootstrap's spread for small samples: 0.4 % at 128 documents.
    """
    stderr = slopes[:, 1:].std(axis=1, ddof=1)
    p = 2.0 * stats.t.sf(np.abs(slopes[:, 0]) / stderr, n_documents - 1)
    return SlopeTests(stderr, p, stats.false_discovery_control(p))


def direction_table(
    design: Design, fit: LinearFit, tests: SlopeTests, minus_mean_hidden: Matrix
) -> pd.DataFrame:
    """One row a dimension: its slope with the tests, minus mean hidden state, spread of E.

    Args:
        minus_mean_hidden: [d] what the slopes would be if the Jensen gap were a constant.
    """
    return pd.DataFrame(
        {
            "dimension": np.arange(design.d),
            "slope": fit.slopes,
            "stderr_documents": tests.stderr,
            "p": tests.p,
            "p_adjusted": tests.p_adjusted,
            "minus_mean_hidden": as_tensor(minus_mean_hidden).double().numpy(),
            "sd_of_E": design.standard_deviations,
        }
    )
