"""Correlations and ranks against scipy and statsmodels."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from test_sparsity import problem, statistics

from probenc_support.sparsity import correlations


@pytest.mark.parametrize("d", [1, 70])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("digits", [8, 0])
def test_rank_correlation_equals_scipy_with_and_without_ties(digits, dtype, d):
    E, y = problem(n=200, d=70)
    E, y = np.round(E, digits).astype(dtype)[:, :d], np.round(y, digits)
    assert digits or (np.signbit(E) & (E == 0.0)).any(), "zeros of both signs are one value"
    ours = correlations.spearman(E, y)
    np.testing.assert_allclose(ours, [stats.spearmanr(c, y).statistic for c in E.T], atol=1e-12)
    assert (len(np.unique(E[:, 0])) < 100) == (digits == 0)


def test_intervals_and_p_values_equal_scipy_and_statsmodels():
    E, y = problem(n=60)
    found = correlations.infer(statistics(E, y).correlation, len(y))
    for k, column in enumerate(E.T):
        theirs = stats.pearsonr(column, y)
        interval = theirs.confidence_interval()
        np.testing.assert_allclose([found.low[k], found.high[k]], interval, rtol=1e-9)
        np.testing.assert_allclose(found.p[k], theirs.pvalue, rtol=1e-8)
    calls, adjusted, _, _ = multipletests(found.p, method="fdr_bh")
    np.testing.assert_allclose(found.q, adjusted, rtol=1e-12)
    np.testing.assert_array_equal(found.significant(), calls)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, rho, n = np.random.default_rng(0), 0.6, 80
    x = rng.normal(size=(n, 1000))
    y = rho * x + np.sqrt(1.0 - rho**2) * rng.normal(size=x.shape)
    r = np.array([stats.pearsonr(a, b).statistic for a, b in zip(x.T, y.T, strict=True)])
    found = correlations.infer(r, n)
    assert abs(((found.low < rho) & (rho < found.high)).mean() - 0.95) < 0.02
