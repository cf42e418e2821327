"""The tables of dimensions and components, against what each column says."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from test_sparsity import problem, refit, statistics

from probenc_support import regression, sparsity
from probenc_support.regression import Design
from probenc_support.sparsity import Components, correlations, tables
from probenc_support.sparsity.replicates import Replicates
from probenc_support.sparsity.significance import AgainstZero


@pytest.fixture(scope="module")
def made():
    """E, y, and the two tables of them, with draws of nothing but noise."""
    E, y = problem()
    design, whole = Design.of(E), statistics(E, y)
    components = Components.of(whole)
    rng = np.random.default_rng(0)
    draws = Replicates.of(design, whole, components, y[:, None] + rng.normal(size=(300, 40)))
    r = components.express(whole).correlation
    h = torch.from_numpy(rng.normal(size=(50, 7)))
    sizes = {"n_groups": 40, "n": 300}
    dimensions = tables.of_dimensions(
        whole,
        AgainstZero.of_slopes(design.fit(y), draws.slopes, n_groups=40),
        AgainstZero.of_correlations(whole.correlation, draws.dimension_r, **sizes),
        spearman=correlations.spearman(E, y),
        h=h,
        forward=sparsity.forward_selection(whole),
    )
    curve = sparsity.component_shares(r)[0]
    of_components = tables.of_components(
        whole,
        components,
        AgainstZero.of_correlations(r, draws.component_r, **sizes),
        spearman=correlations.spearman(components.scores(E), y),
        r2_cumulative=curve,
        r2_cumulative_heldout=curve,
    )
    return E, y, h, dimensions, of_components


def test_every_dimension_has_its_own_numbers(made):
    E, y, h, table, _ = made
    fit = regression.fit(E, y)
    np.testing.assert_allclose(table["slope"], fit.slopes)
    np.testing.assert_allclose(table["stderr_tokens_hc3"], fit.stderr)
    np.testing.assert_allclose(table["sd_of_E"], E.std(axis=0, ddof=1))
    np.testing.assert_allclose(table["mean_of_E"], E.mean(axis=0))
    np.testing.assert_allclose(table["mean_hidden"], h.mean(0))
    np.testing.assert_allclose(table["rms_hidden"], h.square().mean(0).sqrt())
    np.testing.assert_allclose(table["pearson"], [stats.pearsonr(c, y).statistic for c in E.T])
    assert (
        (table["pearson_low"] < table["pearson"]) & (table["pearson"] < table["pearson_high"])
    ).all()
    by_step = table.sort_values("forward_step")
    for k, r2 in enumerate(by_step["forward_r2"], start=1):
        assert r2 == pytest.approx(refit(E[:, by_step["dimension"][:k]], y), abs=1e-10)


def test_every_component_has_its_own_numbers(made):
    E, y, _, _, table = made
    scores = Components.of(statistics(E, y)).scores(E)
    for k, column in enumerate(scores.T):
        row = table.iloc[k]
        assert row["component"] == k + 1
        assert row["variance"] == pytest.approx(column.var(ddof=1), rel=1e-4)
        assert row["slope"] == pytest.approx(stats.linregress(column, y).slope, rel=1e-3, abs=1e-3)
        assert row["spearman"] == pytest.approx(stats.spearmanr(column, y).statistic, abs=1e-12)
    assert table["variance_share"].sum() == pytest.approx(1.0)


def test_the_largest_slopes_stand_with_their_ranks():
    dimensions = pd.DataFrame(
        {
            "dimension": [0, 1, 2],
            "slope": [0.5, -3.0, 1.0],
            "stderr": 0.1,
            "mean_hidden": [0.1, 0.2, -0.3],
            "sd_of_E": [3.0, 2.0, 1.0],
            "pearson": [0.0, -0.9, 0.1],
            "forward_step": [3, 1, 2],
        }
    )
    top = tables.of_largest_slopes(dimensions, 2)
    assert top["dimension"].tolist() == [1, 2]
    assert top["rank_mean_hidden"].tolist() == [2, 1]
    assert top["rank_sd_of_E"].tolist() == [2, 3]
    assert top["rank_pearson"].tolist() == [1, 2]
    assert top["forward_step"].tolist() == [1, 2]
