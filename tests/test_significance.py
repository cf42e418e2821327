"""Tests of slopes and correlations against the classical ones, and what each of the three calls."""

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests
from test_sparsity import problem, statistics

from probenc_support import regression
from probenc_support.regression import Design
from probenc_support.sparsity import Components, Statistics
from probenc_support.sparsity.replicates import Replicates
from probenc_support.sparsity.significance import AgainstZero, Significance


def test_correlations_are_tested_as_scipy_and_statsmodels_do():
    E, y = problem(n=60)
    test = Significance.of_correlations(statistics(E, y).correlation, len(y))
    theirs = [stats.pearsonr(column, y).pvalue for column in E.T]
    np.testing.assert_allclose(test.p, theirs, rtol=1e-8)
    calls, adjusted, _, _ = multipletests(test.p, method="fdr_bh")
    np.testing.assert_allclose(test.q, adjusted, rtol=1e-12)
    np.testing.assert_array_equal(test.significant(), calls)
    certain = Significance.of_correlations(np.array([1.0, -1.0, 0.0]), 60)
    np.testing.assert_array_equal(certain.p, [0.0, 0.0, 1.0])


def test_significance_of_a_mean_is_students():
    """The slope of nothing on nothing: a mean of groups, for which the test is known."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(24, 40)) + np.linspace(0.0, 1.0, 40)
    weights = rng.multinomial(24, np.full(24, 1 / 24), size=20_000) / 24
    test = Significance.over_documents(values.mean(0), weights @ values, 24)
    theirs = stats.ttest_1samp(values, 0.0)
    np.testing.assert_allclose(test.stderr, values.std(0, ddof=1) / np.sqrt(24), rtol=0.03)
    np.testing.assert_allclose(test.p, theirs.pvalue, atol=0.02)
    calls, corrected, _, _ = multipletests(test.p, method="fdr_bh")
    np.testing.assert_allclose(test.q, corrected, rtol=1e-12)
    np.testing.assert_array_equal(test.significant(), calls)
    np.testing.assert_allclose(
        test.interval(), theirs.confidence_interval(), atol=0.05 * test.stderr.max()
    )


def test_significance_from_standard_errors_is_that_of_the_fit():
    E, y = problem()
    fit = regression.fit(E, y, robust=True)
    test = Significance.of(fit.slopes, fit.stderr, fit.residual_dof)
    np.testing.assert_allclose(test.p, fit.p, rtol=1e-12)
    wider = test.with_tokens(fit.stderr)
    np.testing.assert_allclose(wider.stderr, np.sqrt(2.0) * fit.stderr, rtol=1e-12)


def test_numbers_without_an_error():
    test = Significance.of(np.array([0.0, 2.0]), np.zeros(2), 10)
    np.testing.assert_array_equal(test.p, [1.0, 0.0])


def test_text_alone_calls_what_the_order_of_tokens_made_and_both_together_do_not():
    """y has nothing to do with E, but it is the same in every document: the vocabulary lasts."""
    rng = np.random.default_rng(1)
    E, base = rng.normal(size=(400, 20)), rng.normal(size=400)
    groups = -base + 0.05 * rng.normal(size=(30, 400))
    design = Design.of(E)
    y = -regression.log_mean_exp(groups, np.ones(30))
    whole, fit = Statistics.of(design, y), design.fit(y, robust=True)
    y_draws = -regression.bootstrap_log_a(groups, np.ones(30), n_replicates=200)
    draws = Replicates.of(design, whole, Components.of(whole), y_draws)
    called = AgainstZero.of_slopes(fit, draws.slopes, n_groups=30).counts()
    assert called["documents"] > 10
    assert called["tokens"] == called["both"] == 0
    r = AgainstZero.of_correlations(whole.correlation, draws.dimension_r, n_groups=30, n=400)
    assert r.counts()["documents"] > 10
    assert r.counts()["tokens"] == r.counts()["both"] == 0


def test_an_effect_is_called_by_all_three():
    rng = np.random.default_rng(2)
    E = rng.normal(size=(400, 20))
    base = E @ np.r_[3.0, -2.0, np.zeros(18)] + 0.3 * rng.normal(size=400)
    groups = -base + 0.05 * rng.normal(size=(30, 400))
    design, y = Design.of(E), -regression.log_mean_exp(groups, np.ones(30))
    fit, whole = design.fit(y, robust=True), Statistics.of(design, y)
    y_draws = -regression.bootstrap_log_a(groups, np.ones(30), n_replicates=200)
    draws = Replicates.of(design, whole, Components.of(whole), y_draws)
    tests = AgainstZero.of_slopes(fit, draws.slopes, n_groups=30)
    for test in (tests.documents, tests.tokens, tests.both):
        assert test.significant()[:2].all()
    np.testing.assert_allclose(
        tests.both.stderr**2, tests.documents.stderr**2 + tests.tokens.stderr**2
    )
    assert tests.counts() == {name: test.significant().sum() for name, test in vars(tests).items()}
    assert list(tests.metrics("n").values()) == list(tests.counts().values())
    assert list(tests.metrics("n")) == ["n_bh", "n_tokens", "n_both"]
