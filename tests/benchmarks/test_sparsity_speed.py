"""The whole analysis of sparsity at gpt2-xl's size, beside the direct way to a part of it.

    pytest tests/benchmarks/test_sparsity_speed.py

The direct way, scikit-learn's PCA and then one statsmodels fit for every number of components,
would need 1,600 fits; here it makes the few of `STEPS`. `peak_memory_mb` is above the data.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from benchmarks.memory import peak_above_start
from sklearn.decomposition import PCA

from probenc_support import sparsity
from probenc_support.regression import Design
from probenc_support.sparsity import Components, Statistics, concentration, controls, correlations
from probenc_support.sparsity.concentration import Concentration
from probenc_support.sparsity.significance import Significance

V, D = 50_257, 1_600
STEPS = (3, 100, 1_600)
GROUP = f"Analysis of sparsity, {V:,} x {D:,}"


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    E = rng.standard_normal((V, D), dtype=np.float32) * np.geomspace(1.0, 0.1, D, dtype=np.float32)
    return E, E.astype(np.float64) @ rng.standard_normal(D) + 10.0 * rng.standard_normal(V)


def whole_analysis(E, y):
    """Every measure of one corpus and its controls; returns R^2 of the first `STEPS` components.

    The notebook goes on to held-out curves (`test_held_out_curve`) and to draws of other text.
    """
    rng = np.random.default_rng(0)
    design = Design.of(E)
    fit = design.fit(y)
    statistics = Statistics.of(design, y)
    components = Components.of(statistics)
    expressed = components.express(statistics)
    for basis in (statistics, expressed):
        Significance.of_correlations(basis.correlation, V)
    for X in (E, components.scores(E)):
        correlations.spearman(X, y)
    sparsity.cumulative_r2(statistics, concentration.top(fit.slopes, D))
    sparsity.forward_selection(statistics)
    sparsity.lasso_path(statistics)
    Concentration.of(fit.slopes)
    sparsity.forward_selection(next(controls.rotations(statistics, 1, rng)))
    sparsity.forward_selection(next(controls.gaussian(statistics, 1, rng)))
    controls.shuffled(design, y)
    return sparsity.component_shares(expressed.correlation)[0][[k - 1 for k in STEPS]]


def direct(E, y, solver):
    """R^2 of the first `STEPS` components and nothing else."""
    scores = PCA(svd_solver=solver).fit_transform(E.astype(np.float64))
    return [sm.OLS(y, sm.add_constant(scores[:, :k])).fit().rsquared for k in STEPS]


def direct_by_full_svd(E, y):
    return direct(E, y, "full")


def direct_by_covariance(E, y):
    return direct(E, y, "covariance_eigh")


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize(
    "way",
    [whole_analysis, direct_by_full_svd, direct_by_covariance],
    ids=[
        "the whole analysis",
        f"PCA by SVD and {len(STEPS)} fits",
        f"PCA by covariance and {len(STEPS)} fits",
    ],
)
def test_sparsity(benchmark: Any, data: Any, way: Callable[..., Any]) -> None:
    with peak_above_start() as memory:
        r2 = benchmark.pedantic(way, args=data, rounds=1)
    benchmark.extra_info["peak_memory_mb"] = round(memory.mb)
    expected = sparsity.component_shares(_correlations(*data))[0][[k - 1 for k in STEPS]]
    np.testing.assert_allclose(r2, expected, rtol=1e-6)


@pytest.mark.benchmark(group=f"{GROUP}, held out")
def test_held_out_curve(benchmark: Any, data: Any) -> None:
    """R^2 on tokens left out, for every number of components, in five folds."""
    E, y = data
    design = Design.of(E)
    directions = Components.of(Statistics.of(design, y)).directions
    curve = benchmark.pedantic(
        sparsity.heldout_curve, args=(design, y, lambda _: directions), rounds=1
    )
    full = design.fit(y).r2_adj
    assert abs(curve[-1] - full) < 0.05


def _correlations(E, y):
    statistics = Statistics.of(Design.of(E), y)
    return Components.of(statistics).express(statistics).correlation
