"""Draws of documents against single fits."""

import numpy as np
from test_sparsity import problem

from probenc_support import regression
from probenc_support.regression import Design
from probenc_support.sparsity import Components, Statistics
from probenc_support.sparsity.replicates import Replicates


def test_every_draw_is_a_fit_of_its_own():
    E, y = problem(n=200)
    design = Design.of(E)
    groups = -y + 0.1 * np.random.default_rng(0).normal(size=(16, 200))
    whole = Statistics.of(design, -regression.log_mean_exp(groups, np.ones(16)))
    components = Components.of(whole)
    y_draws = -regression.bootstrap_log_a(groups, np.ones(16), n_replicates=50, seed=1)
    draws = Replicates.of(design, whole, components, y_draws)
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
    first = [one.total for one in draws.each(at_most=4)]
    np.testing.assert_array_equal(first, draws.total[:4])
    assert len(list(draws.each(at_most=60))) == 50
