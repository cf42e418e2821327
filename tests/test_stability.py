"""Fits to halves of tokens and of documents, against fits to those rows and documents alone."""

import numpy as np
import pytest
from scipy import stats
from test_sparsity import problem, statistics

from probenc_support import regression
from probenc_support.regression import Design
from probenc_support.sparsity import stability


def test_halves_of_the_vocabulary_are_fitted_apart():
    E, y = problem(n=301)
    ours = stability.halves_of_vocabulary(Design.of(E), y, np.random.default_rng(3))
    left_out = np.array_split(np.random.default_rng(3).permutation(301), 2)
    for slopes, out in zip(ours, left_out, strict=True):
        rest = np.setdiff1d(np.arange(301), out)
        np.testing.assert_allclose(slopes, regression.fit(E[rest], y[rest]).slopes, rtol=1e-8)


@pytest.mark.parametrize("n_groups", [2, 5])
def test_halves_of_text_weigh_documents_by_their_positions(n_groups):
    E, y = problem(n=200)
    rng = np.random.default_rng(0)
    log_a, sizes = -y + 0.3 * rng.normal(size=(n_groups, 200)), rng.integers(1, 9, n_groups)
    ours = stability.halves_of_text(Design.of(E), log_a, sizes)
    middle = (n_groups + 1) // 2
    for slopes, part in zip(ours, (slice(middle), slice(middle, None)), strict=True):
        a = np.average(np.exp(log_a[part]), axis=0, weights=sizes[part])
        np.testing.assert_allclose(slopes, regression.fit(E, -np.log(a)).slopes, rtol=1e-8)


def test_the_table_counts_shared_leaders_and_compares_fitted_values():
    E, y = problem(d=12)
    first = np.r_[np.arange(12.0, 2.0, -1.0), 0.1, 0.2]
    second = np.r_[np.arange(12.0, 3.0, -1.0), 0.1, 0.0, -5.0]
    row = stability.table(statistics(E, y), {"a": (first, first), "b": (first, second)}).iloc[1]
    assert row["slopes from"] == "b"
    assert row["shared of the top ten"] == pytest.approx(0.9)
    assert row["by chance"] == pytest.approx(10 / 12)
    expected = stats.pearsonr(E @ first, E @ second).statistic
    assert row["correlation of the fits"] == pytest.approx(expected, abs=1e-10)
    assert row["cosine"] == pytest.approx(
        first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    )
