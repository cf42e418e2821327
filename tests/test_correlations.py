"""Rank correlations against SciPy's own."""

import numpy as np
import pytest
from scipy import stats
from test_sparsity import problem

from probenc_support.sparsity import correlations


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("digits", [8, 0])
def test_rank_correlation_equals_scipy_with_and_without_ties(digits, dtype):
    E, y = problem(n=200, d=70)
    E, y = np.round(E, digits).astype(dtype), np.round(y, digits)
    assert digits or (np.signbit(E) & (E == 0.0)).any(), "zeros of both signs are one value"
    ours = correlations.spearman(E, y)
    np.testing.assert_allclose(ours, [stats.spearmanr(c, y).statistic for c in E.T], atol=1e-12)
    assert (len(np.unique(E[:, 0])) < 100) == (digits == 0)
