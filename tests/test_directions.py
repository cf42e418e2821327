"""Correlations of fitted values against their definition; tests of slopes against what is known."""

import numpy as np
import pytest
import torch

from probenc_support import regression
from probenc_support.regression import Design
from probenc_support.regression import slopes as directions


def problem(n=200, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * np.geomspace(1.0, 0.01, d) + 3.0, rng


def test_correlation_of_fitted_values_is_that_of_the_products():
    E, rng = problem()
    a, b = rng.normal(size=(2, 5))
    found = directions.fitted_correlation(Design.of(E), a, b)
    assert found == pytest.approx(np.corrcoef(E @ a, E @ b)[0, 1], rel=1e-10)
    many = directions.fitted_correlations(
        Design.of(E), np.stack([a, b], axis=1), -np.stack([a, b]).T
    )
    np.testing.assert_allclose(many, -1.0)


def test_dimensions_along_which_rows_are_alike_decide_the_cosine_and_not_the_correlation():
    E, _ = problem()
    E[:, 4] = 3.0 + 1e-6 * E[:, 4]
    one, other = np.array([1.0, 0, 0, 0, 9.0]), np.array([1.0, 0, 0, 0, -9.0])
    assert directions.cosine(one, other) < -0.9
    assert directions.fitted_correlation(Design.of(E), one, other) > 0.9999


def test_correlation_with_the_mean_hidden_state_over_draws_of_documents():
    E, rng = problem()
    design = Design.of(E)
    h, group = rng.normal(size=(60, 5)) + 1.0, np.repeat(np.arange(6), 10)
    draws = regression.draws_of_groups(6, 30, seed=1)
    slopes = rng.normal(size=(5, 31))
    found = directions.with_mean_hidden(design, slopes, h, group, draws)
    assert found.estimate == pytest.approx(
        directions.fitted_correlation(design, slopes[:, 0], -h.mean(axis=0))
    )
    drawn = np.concatenate([np.tile(h[group == g], (n, 1)) for g, n in enumerate(draws[4])])
    expected = directions.fitted_correlation(design, slopes[:, 5], -drawn.mean(axis=0))
    assert found.replicates[4] == pytest.approx(expected)


def test_slopes_of_texts_that_agree_are_significant_and_those_of_noise_are_not():
    rng = np.random.default_rng(0)
    B, d, G = 400, 200, 40
    truth = np.where(np.arange(d) < 50, 1.0, 0.0)
    error = 0.1 * rng.normal(size=d)
    slopes = np.column_stack(
        [truth + error, (truth + error)[:, None] + 0.1 * rng.normal(size=(d, B))]
    )
    tests = directions.slope_tests(slopes, G)
    np.testing.assert_allclose(tests.stderr, 0.1, rtol=0.2)
    found = tests.p_adjusted <= 0.05
    assert found[:50].all()
    assert found[50:].mean() < 0.03
    assert tests.share() == found.mean()
    # Without correction one slope in twenty would pass by chance.
    assert (tests.p[50:] <= 0.05).mean() > found[50:].mean()


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg():
    rng = np.random.default_rng(1)
    slopes = rng.normal(size=(30, 101)) + rng.normal(size=(30, 1))
    tests = directions.slope_tests(slopes, 20)
    order = np.argsort(tests.p)
    scaled = tests.p[order] * 30 / np.arange(1, 31)
    expected = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    np.testing.assert_allclose(tests.p_adjusted[order], expected)


def test_cosine_of_tensors_and_arrays():
    assert directions.cosine(torch.tensor([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(
        0.5**0.5
    )
