"""Rank correlations against SciPy's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
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


@settings(max_examples=50, deadline=None)
@given(
    arrays(
        st.sampled_from([np.float32, np.float64]),
        st.integers(1, 60),
        elements=st.floats(allow_nan=False, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    )
)
def test_values_are_ordered_by_their_bits_as_by_comparison(values):
    order = correlations._order(values)
    np.testing.assert_array_equal(order, np.argsort(values, kind="stable"))
