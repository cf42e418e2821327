"""Comparison of directions by what they say of the tokens, and which slopes text determines.

A cosine of two directions is decided by the few dimensions along which the rows of E hardly differ
but the hidden states do. The correlation of the fitted values A . E_w over the tokens is the cosine
in the metric of cov(E): it compares what the directions are used for.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from probenc_support.regression.arrays import Array, Matrix, as_tensor
from probenc_support.regression.fits import Interval
from probenc_support.regression.linear_fit import Design


def cosine(one: Matrix, other: Matrix) -> float:
    """Cosine of two vectors [d], -1 to 1."""
    a, b = as_tensor(one).double().cpu(), as_tensor(other).double().cpu()
    return float(a @ b / (a.norm() * b.norm()))


def fitted_correlations(design: Design, one: Matrix, other: Matrix) -> Array:
    """[m] correlations over the tokens of E . one [d, m] and E . other [d, m], column by column."""
    a, b = (as_tensor(x).to(design.gram).reshape(design.d, -1) for x in (one, other))
    product = design.gram @ b
    squares = (a * (design.gram @ a)).sum(dim=0) * (b * product).sum(dim=0)
    return np.asarray(((a * product).sum(dim=0) / squares.sqrt()).cpu())


def fitted_correlation(design: Design, one: Matrix, other: Matrix) -> float:
    """Correlation over the tokens of E . one and E . other, for directions [d]; -1 to 1."""
    return float(fitted_correlations(design, one, other)[0])


def with_mean_hidden(
    design: Design, slopes: Array, h: Matrix, group: Matrix, draws: Matrix
) -> Interval:
    """Correlation of fitted values with -mean(h) . E_w, with its interval over draws of documents.

    Args:
        slopes: [d, 1 + B] of the fit to all text and to each draw; see `regression.bootstrap_fits`.
        h: [N, d] hidden states; group: [N] document of each position.
        draws: [B, G] how often each document counts in each draw, the same as of the slopes.
    """
    states, labels = as_tensor(h).double(), as_tensor(group)
    times = as_tensor(draws).double()
    sums = torch.zeros(times.shape[1], states.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, states)
    sizes = torch.bincount(labels, minlength=len(sums)).double()
    weights = torch.cat([torch.ones(1, len(sums), dtype=torch.float64), times])
    means = weights @ sums / (weights @ sizes)[:, None]
    found = fitted_correlations(design, slopes, -means.T)
    return Interval.of(float(found[0]), found[1:])


@dataclass(frozen=True)
class SlopeTests:
    """Whether other text of the same kind would give a slope another sign."""

    stderr: Array
    """[d] standard deviations of the slopes over draws of documents."""
    p: Array
    """[d] two-sided p values, by Student's t with one degree of freedom less than documents."""
    p_adjusted: Array
    """[d] the same after Benjamini and Hochberg (1995): the share of false discoveries among the
    slopes that are this small or smaller."""

    def share(self, level: float = 0.05) -> float:
        """Share of the slopes that differ from zero, false discoveries held below `level`."""
        return float((self.p_adjusted <= level).mean())


def slope_tests(slopes: Array, n_documents: int) -> SlopeTests:
    """Tests of slopes [d, 1 + B]: of all text (column 0) and of draws of documents.

    The documents are the observations: the tokens of one vocabulary are neither a sample nor
    independent of each other.
    """
    stderr = slopes[:, 1:].std(axis=1, ddof=1)
    p = 2.0 * stats.t.sf(np.abs(slopes[:, 0]) / stderr, n_documents - 1)
    return SlopeTests(stderr, p, stats.false_discovery_control(p))
