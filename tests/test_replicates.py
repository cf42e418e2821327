"""Draws of documents against single fits, and their significance against the classical test."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from test_sparsity import problem

from probenc_support import regression
from probenc_support.regression import Design
from probenc_support.sparsity import Components, Statistics
from probenc_support.sparsity.replicates import Replicates, Significance


def test_every_draw_is_a_fit_of_its_own():
    E, y = problem(n=200)
    design = Design.of(E)
    groups = -y + 0.1 * np.random.default_rng(0).normal(size=(16, 200))
    found = Statistics.of(design, -regression.log_mean_exp(groups, np.ones(16)))
    components = Components.of(found)
    y_draws = -regression.bootstrap_log_a(groups, np.ones(16), n_replicates=50, seed=1)
    draws = Replicates.of(design, found, components, y_draws)
    third = Statistics.of(design, y_draws[:, 3])
    assert len(draws) == 50
    np.testing.assert_allclose(draws.slopes[3], third.slopes, rtol=1e-8)
    np.testing.assert_allclose(draws.r2[3], third.r2, rtol=1e-10)
    np.testing.assert_allclose(draws.dimension_r[3], third.correlation, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        draws.component_r[3], components.express(third).correlation, rtol=1e-8, atol=1e-10
    )
    np.testing.assert_allclose((draws.component_r**2).sum(1), draws.r2, rtol=1e-9)
    one = draws.statistics(3)
    for name in ("slopes", "r2", "correlation"):
        np.testing.assert_allclose(getattr(one, name), getattr(third, name), rtol=1e-8)


def test_significance_of_a_mean_is_students():
    """The slope of nothing on nothing: a mean of groups, for which the test is known."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(24, 40)) + np.linspace(0.0, 1.0, 40)
    weights = rng.multinomial(24, np.full(24, 1 / 24), size=20_000) / 24
    found = Significance.over_documents(values.mean(0), weights @ values, 24)
    theirs = stats.ttest_1samp(values, 0.0)
    np.testing.assert_allclose(found.stderr, values.std(0, ddof=1) / np.sqrt(24), rtol=0.03)
    np.testing.assert_allclose(found.p, theirs.pvalue, atol=0.02)
    calls, corrected, _, _ = multipletests(found.p, method="fdr_bh")
    np.testing.assert_allclose(found.q, corrected, rtol=1e-12)
    np.testing.assert_array_equal(found.significant(), calls)
    np.testing.assert_allclose(
        found.interval(), theirs.confidence_interval(), atol=0.05 * found.stderr.max()
    )


def test_significance_from_standard_errors_is_that_of_the_fit():
    E, y = problem()
    fit = regression.fit(E, y, robust=True)
    found = Significance.of(fit.slopes, fit.stderr, fit.residual_dof)
    np.testing.assert_allclose(found.p, fit.p, rtol=1e-12)
    wider = found.with_tokens(fit.stderr)
    np.testing.assert_allclose(wider.stderr, np.sqrt(2.0) * fit.stderr, rtol=1e-12)


def test_numbers_without_an_error():
    found = Significance.of(np.array([0.0, 2.0]), np.zeros(2), 10)
    np.testing.assert_array_equal(found.p, [1.0, 0.0])


@pytest.mark.parametrize("with_tokens", [False, True])
def test_text_alone_calls_what_the_order_of_tokens_made_and_both_together_do_not(with_tokens):
    """y has nothing to do with E, but it is the same in every document: the vocabulary lasts."""
    rng = np.random.default_rng(1)
    E, base = rng.normal(size=(400, 20)), rng.normal(size=400)
    groups = -base + 0.05 * rng.normal(size=(30, 400))
    design = Design.of(E)
    y = -regression.log_mean_exp(groups, np.ones(30))
    found, fit = Statistics.of(design, y), design.fit(y, robust=True)
    y_draws = -regression.bootstrap_log_a(groups, np.ones(30), n_replicates=200)
    draws = Replicates.of(design, found, Components.of(found), y_draws)
    test = Significance.over_documents(found.slopes, draws.slopes, 30)
    called = (test.with_tokens(fit.stderr) if with_tokens else test).significant().sum()
    assert called == 0 if with_tokens else called > 10
