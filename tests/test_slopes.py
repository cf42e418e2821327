"""Correlations of fitted values against their definition; tests of slopes against what is known."""

import numpy as np
import pytest
import torch
from scipy import stats

from probenc_support import regression
from probenc_support.regression import Design, slopes
from probenc_support.sparsity.significance import Significance


def problem(n=200, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.geomspace(1.0, 0.01, d) + 3.0, rng


def test_correlation_of_fitted_values_is_that_of_the_products():
    E, rng = problem()
    a, b = rng.normal(size=(2, 5))
    found = slopes.fitted_correlation(Design.of(E), a, b)
    assert found == pytest.approx(np.corrcoef(E @ a, E @ b)[0, 1], rel=1e-10)
    many = slopes.fitted_correlations(Design.of(E), np.stack([a, b], axis=1), -np.stack([a, b]).T)
    np.testing.assert_allclose(many, -1.0)


def test_dimensions_along_which_rows_are_alike_decide_the_cosine_and_not_the_correlation():
    E, _ = problem()
    E[:, 4] = 3.0 + 1e-6 * E[:, 4]
    one, other = np.array([1.0, 0, 0, 0, 9.0]), np.array([1.0, 0, 0, 0, -9.0])
    assert slopes.cosine(one, other) < -0.9
    assert slopes.fitted_correlation(Design.of(E), one, other) > 0.9999


def test_correlation_with_the_mean_hidden_state_over_draws_of_documents():
    E, rng = problem()
    design = Design.of(E)
    h, group = rng.normal(size=(60, 5)) + 1.0, np.repeat(np.arange(6), 10)
    draws = regression.draws_of_groups(6, 30, seed=1)
    drawn_slopes = rng.normal(size=(5, 31))
    found = slopes.correlation_with_mean_hidden(design, drawn_slopes, h, group, draws)
    assert found.estimate == pytest.approx(
        slopes.fitted_correlation(design, drawn_slopes[:, 0], -h.mean(axis=0))
    )
    drawn = np.concatenate([np.tile(h[group == g], (n, 1)) for g, n in enumerate(draws[4])])
    expected = slopes.fitted_correlation(design, drawn_slopes[:, 5], -drawn.mean(axis=0))
    assert found.replicates[4] == pytest.approx(expected)


def test_slopes_texts_that_agree_are_significant_and_those_of_noise_are_not():
    rng = np.random.default_rng(0)
    B, d, G = 400, 200, 40
    truth = np.where(np.arange(d) < 50, 1.0, 0.0)
    error = 0.1 * rng.normal(size=d)
    drawn_slopes = np.column_stack(
        [truth + error, (truth + error)[:, None] + 0.1 * rng.normal(size=(d, B))]
    )
    tests = slopes.slope_tests(drawn_slopes, G)
    np.testing.assert_allclose(tests.stderr, 0.1, rtol=0.2)
    found = tests.p_adjusted <= 0.05
    assert found[:50].all()
    assert found[50:].mean() < 0.03
    assert tests.share() == found.mean()
    # Without correction one slope in twenty would pass by chance.
    assert (tests.p[50:] <= 0.05).mean() > found[50:].mean()


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg():
    rng = np.random.default_rng(1)
    drawn_slopes = rng.normal(size=(30, 101)) + rng.normal(size=(30, 1))
    tests = slopes.slope_tests(drawn_slopes, 20)
    order = np.argsort(tests.p)
    scaled = tests.p[order] * 30 / np.arange(1, 31)
    expected = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    np.testing.assert_allclose(tests.p_adjusted[order], expected)


def test_cosine_of_tensors_and_arrays():
    assert slopes.cosine(torch.tensor([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(0.5**0.5)


def test_correlation_is_pearsons():
    one, other = np.random.default_rng(2).normal(size=(2, 50))
    expected = stats.pearsonr(one, other).statistic
    assert slopes.correlation(torch.from_numpy(one), other) == pytest.approx(expected)
    assert slopes.correlation(one, 5.0 - 2.0 * one) == pytest.approx(-1.0)


def test_the_table_of_the_direction_has_a_row_a_dimension():
    E, rng = problem()
    design = Design.of(E)
    fit = design.fit(E @ np.arange(5.0) + rng.normal(size=200))
    drawn = fit.slopes[:, None] + 0.1 * rng.normal(size=(5, 30))
    tests = slopes.slope_tests(np.column_stack([fit.slopes, drawn]), 20)
    table = slopes.direction_table(design, fit, tests, torch.arange(5))
    assert table["dimension"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(table["sd_of_E"], E.std(axis=0, ddof=1))
    np.testing.assert_array_equal(table["slope"], fit.slopes)
    np.testing.assert_array_equal(table["minus_mean_hidden"], np.arange(5.0))
    t = table["slope"] / table["stderr_documents"]
    np.testing.assert_allclose(table["p"], 2 * stats.t.sf(np.abs(t), 19))


def test_the_test_of_sparsity_is_the_same_but_for_the_correction_of_the_spread():
    rng = np.random.default_rng(4)
    estimate, draws = rng.normal(size=30), rng.normal(size=(30, 50))
    ours = slopes.slope_tests(np.column_stack([estimate, draws]), 12)
    theirs = Significance.over_documents(estimate, draws.T, 12)
    np.testing.assert_allclose(theirs.stderr / ours.stderr, (12 / 11) ** 0.5)
    same = Significance.of(estimate, ours.stderr, 11)
    np.testing.assert_allclose(ours.p, same.p)
    np.testing.assert_allclose(ours.p_adjusted, same.q)
