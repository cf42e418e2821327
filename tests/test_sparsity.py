"""Sparsity against brute force and independent oracles, its invariances, and its controls."""

import dataclasses
import json

import nbformat
import numpy as np
import pandas as pd
import pytest
import rules
import statsmodels.api as sm
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import execute
from scipy import stats
from scipy.spatial import distance
from sklearn.linear_model import lasso_path as sklearn_lasso_path

from probenc_support import regression, sparsity
from probenc_support.errors import InputError
from probenc_support.regression import Design
from probenc_support.sparsity import Components, Statistics, concentration, controls

problems = st.tuples(st.integers(2, 8), st.integers(30, 90), st.integers(0, 2**32 - 1)).filter(
    lambda shape: np.linalg.cond(problem(shape[1], shape[0], seed=shape[2])[0]) < 1e4
)
"""Normal equations square the condition number, so that R^2 has eight digits here, or more."""


def problem(n=300, d=7, *, seed=0):
    """E [n, d] of unequal variances and correlated columns, y [n]."""
    rng = np.random.default_rng(seed)
    E = rng.normal(size=(n, d)) * np.geomspace(3.0, 0.2, d) @ rng.normal(size=(d, d)) + 2.0
    return E, E @ rng.normal(size=d) + rng.normal(size=n) * 2.0


def statistics(E, y):
    return Statistics.of(Design.of(E), y)


def refit(E, y):
    return sm.OLS(y, sm.add_constant(E, has_constant="add")).fit().rsquared


# --------------------------------------------------------------------------------------- the basis


def test_statistics_say_all_that_the_fit_says():
    E, y = problem()
    fitted, fit = statistics(E, y), regression.fit(E, y)
    np.testing.assert_allclose(fitted.slopes, fit.slopes, rtol=1e-9)
    np.testing.assert_allclose(fitted.r2, fit.r2, rtol=1e-12)
    correlation = [stats.pearsonr(column, y).statistic for column in E.T]
    np.testing.assert_allclose(fitted.correlation, correlation, rtol=1e-10)
    standard = regression.fit(stats.zscore(E), stats.zscore(y)).slopes
    np.testing.assert_allclose(fitted.standardised_slopes, standard, rtol=1e-9)


def test_components_equal_a_singular_value_decomposition():
    E, y = problem()
    components = Components.of(statistics(E, y))
    centred = E - E.mean(0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(components.variances, lengths**2 / (len(E) - 1), rtol=1e-9)
    overlaps = np.abs((components.directions * directions.T).sum(0))
    np.testing.assert_allclose(overlaps, 1.0, atol=1e-9)
    scores = components.scores(E, 3)
    np.testing.assert_allclose(components.score(E, 2), scores[:, 2], atol=1e-5)
    np.testing.assert_allclose(scores, centred @ components.directions[:, :3], atol=1e-4)
    expressed = components.express(statistics(E, y))
    np.testing.assert_allclose(
        expressed.correlation[:3], [stats.pearsonr(s, y).statistic for s in scores.T], rtol=1e-5
    )
    np.testing.assert_array_equal(
        sparsity.correlations_of_components(statistics(E, y)), expressed.correlation
    )


def test_statistics_among_some_tokens_are_those_of_their_rows():
    E, y = problem()
    chosen = np.random.default_rng(1).random(len(y)) < 0.4
    ours, direct = sparsity.among(Design.of(E), y, chosen), statistics(E[chosen], y[chosen])
    for name in ("n", "mean", "gram", "cross", "total", "r2"):
        np.testing.assert_allclose(getattr(ours, name), getattr(direct, name), rtol=1e-8)
    few = np.arange(len(y)) < 14
    assert sparsity.among(Design.of(E), y, few) is None, "not more than two tokens a dimension"
    assert sparsity.among(Design.of(E), y, np.ones(len(y), bool)) is None, "they are all"


def test_rounding_does_not_choose_the_sign_of_a_component():
    """Of the component (1, -1) no entry is the largest but by rounding."""
    E, y = problem()
    fitted = statistics(E, y)
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = 1e-15 * rng.normal(size=(2, 2))
        gram = np.array([[2.0, 0.5], [0.5, 2.0]]) + noise + noise.T
        components = Components.of(dataclasses.replace(fitted, gram=gram, cross=np.ones(2)))
        np.testing.assert_allclose(components.directions * np.sqrt(2), [[1, 1], [1, -1]])


@settings(max_examples=30, deadline=None)
@given(problems)
def test_all_components_together_explain_what_all_dimensions_do(shape):
    d, n, seed = shape
    E, y = problem(n, d, seed=seed)
    fitted = statistics(E, y)
    by_variance, by_correlation = sparsity.component_shares(
        Components.of(fitted).express(fitted).correlation
    )
    full = regression.fit(E, y).r2
    for curve in (by_variance, by_correlation, sparsity.cumulative_r2(fitted)):
        assert curve[-1] == pytest.approx(full, abs=1e-7)
        assert (np.diff(curve) > -1e-7).all()
    assert (by_correlation >= by_variance - 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(problems)
def test_components_do_not_see_rotation_shift_or_order(shape):
    d, n, seed = shape
    E, y = problem(n, d, seed=seed)
    rng = np.random.default_rng(seed)
    turn, order = controls.random_rotation(d, rng), rng.permutation(n)

    def sizes(E, y):
        fitted = statistics(E, y)
        return np.abs(Components.of(fitted).express(fitted).correlation)

    plain = sizes(E, y)
    np.testing.assert_allclose(sizes(E @ turn, y), plain, atol=1e-6)
    np.testing.assert_allclose(sizes(E + rng.normal(size=d), y), plain, atol=1e-6)
    np.testing.assert_allclose(sizes(E[order], y[order]), plain, atol=1e-6)
    np.testing.assert_allclose(sizes(E, 3.0 - 2.0 * y), plain, atol=1e-9)


def test_rotated_statistics_are_those_of_the_rotated_embedding():
    E, y = problem()
    turn = controls.random_rotation(7, np.random.default_rng(1))
    ours, direct = statistics(E, y).rotated(turn), statistics(E @ turn, y)
    for name in ("mean", "gram", "cross", "slopes", "r2", "correlation"):
        np.testing.assert_allclose(getattr(ours, name), getattr(direct, name), rtol=1e-7, atol=1e-7)


def test_statistics_of_some_dimensions_are_those_of_a_basis_of_unit_vectors():
    E, y = problem()
    order = np.array([5, 0, 3])
    ours, direct = statistics(E, y).ordered(order), statistics(E, y).rotated(np.eye(7)[:, order])
    for name in ("mean", "gram", "cross", "slopes", "r2", "correlation"):
        np.testing.assert_allclose(getattr(ours, name), getattr(direct, name), rtol=1e-12)


# --------------------------------------------------------------------------- explained share


def test_forward_selection_equals_brute_force_refits():
    E, y = problem()
    taken, r2 = [], []
    for _ in range(E.shape[1]):
        gains = {j: refit(E[:, [*taken, j]], y) for j in range(E.shape[1]) if j not in taken}
        taken.append(max(gains, key=gains.get))
        r2.append(gains[taken[-1]])
    selection = sparsity.forward_selection(statistics(E, y))
    np.testing.assert_array_equal(selection.order, taken)
    np.testing.assert_allclose(selection.r2, r2, rtol=1e-10)
    short = sparsity.forward_selection(statistics(E, y), 3)
    np.testing.assert_array_equal(short.order, taken[:3])


def greedy(fitted, steps):
    """Forward selection by a whole update of E'E and E'y after every dimension."""
    gram, cross, order, gains = fitted.gram.copy(), fitted.cross.copy(), [], []
    for _ in range(steps):
        gain = np.full(fitted.d, -1.0)
        left = np.setdiff1d(np.flatnonzero(gram.diagonal() > 1e-9), order)
        gain[left] = cross[left] ** 2 / gram.diagonal()[left]
        best = int(gain.argmax())
        if gain[best] < 0.0:
            break
        order.append(best)
        gains.append(gain[best])
        cross -= gram[best] * cross[best] / gram[best, best]
        gram -= np.outer(gram[best], gram[best]) / gram[best, best]
    return order, np.cumsum(gains) / fitted.total


def test_forward_selection_of_more_dimensions_than_a_block_equals_whole_updates():
    rng = np.random.default_rng(4)
    E = rng.normal(size=(900, 299)) @ rng.normal(size=(299, 299))
    y = E @ rng.normal(size=299) + 20.0 * rng.normal(size=900)
    fitted = statistics(E, y).ordered(np.append(np.arange(299), 5))  # one of them twice
    order, r2 = greedy(fitted, 300)

    def taken(**stops):
        """Rounding decides which of the two equal dimensions is taken, so they count as one."""
        found = sparsity.forward_selection(fitted, **stops)
        return np.where(found.order == 299, 5, found.order), found.r2

    order = np.where(np.array(order) == 299, 5, order)
    ours, ours_r2 = taken()
    assert len(ours) == len(set(ours)) == 299
    np.testing.assert_array_equal(ours[:250], order[:250])
    np.testing.assert_allclose(ours_r2, r2, rtol=1e-9)
    for steps in (0, 1, 127, 128, 129, 256):
        np.testing.assert_array_equal(taken(n_steps=steps)[0], order[:steps])
    np.testing.assert_array_equal(taken(until=r2[170] * (1 - 1e-12))[0], order[:171])


def test_forward_selection_takes_one_of_two_equal_dimensions():
    """Its Gram matrix is singular; a `Design` would refuse it."""
    E, y = problem()
    E = np.c_[E, E[:, 0]] - np.r_[E.mean(0), E[:, 0].mean()]
    y = y - y.mean()
    twice = Statistics(len(y), np.zeros(8), E.T @ E, 0.0, E.T @ y, float(y @ y))
    selection = sparsity.forward_selection(twice)
    assert len(selection.order) == 7
    assert len({0, 7} & set(selection.order.tolist())) == 1
    assert selection.r2[-1] == pytest.approx(refit(E[:, :7], y), abs=1e-10)


def test_any_order_equals_refits():
    E, y = problem()
    order = np.array([4, 0, 6, 2])
    ours = sparsity.cumulative_r2(statistics(E, y), order)
    np.testing.assert_allclose(ours, [refit(E[:, order[: k + 1]], y) for k in range(4)], rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(problems)
def test_no_order_starts_better_than_forward_selection(shape):
    d, n, seed = shape
    fitted = statistics(*problem(n, d, seed=seed))
    chosen = sparsity.forward_selection(fitted)
    other = sparsity.cumulative_r2(fitted, np.random.default_rng(seed).permutation(d))
    assert chosen.r2[0] >= other[0] - 1e-12
    assert chosen.r2[-1] == pytest.approx(other[-1], abs=1e-7)
    np.testing.assert_allclose(sparsity.cumulative_r2(fitted, chosen.order), chosen.r2, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(problems, st.floats(0.05, 1.0))
def test_a_share_is_reached_as_early_without_the_rest_of_the_curve(shape, share):
    d, n, seed = shape
    fitted = statistics(*problem(n, d, seed=seed))
    whole = sparsity.count_for_share(sparsity.forward_selection(fitted).r2, share)
    assert abs(sparsity.dims_for_share(fitted, share) - whole) <= (share > 1 - 1e-9)


def test_agreement_of_directions_is_that_of_their_fitted_values():
    E, y = problem()
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 7))
    cosine, correlation = statistics(E, y).agreement(first, second)
    assert correlation == pytest.approx(stats.pearsonr(E @ first, E @ second).statistic, abs=1e-10)
    assert cosine == pytest.approx(1.0 - distance.cosine(first, second), abs=1e-12)


def test_count_for_share():
    curve = np.array([0.5, 0.7, 0.72, 0.8])
    assert sparsity.count_for_share(curve, 0.9) == 3
    assert sparsity.count_for_share(curve, 0.5) == 1
    assert sparsity.count_for_share(curve, 1.0) == 4
    assert sparsity.count_for_share(curve, 0.9, full=0.77) == 2


def test_lasso_path_equals_the_path_on_all_rows():
    E, y = problem()
    ours = sparsity.lasso_path(statistics(E, y), n_penalties=20)
    standard = stats.zscore(E, ddof=1)
    penalties, slopes, _ = sklearn_lasso_path(
        standard,
        y - y.mean(),
        alphas=ours.penalties * np.abs(standard.T @ (y - y.mean())).max() / len(y),
        tol=1e-8,
    )
    np.testing.assert_array_equal(ours.n_dims, (slopes != 0).sum(0))
    fitted = standard @ slopes
    r2 = [regression.r2_of(y - y.mean(), f) for f in fitted.T]
    np.testing.assert_allclose(ours.r2, r2, atol=1e-4)
    for k in (1, 10, 19):
        support = np.flatnonzero(slopes[:, k])
        assert ours.r2_refitted[k] == pytest.approx(refit(E[:, support], y), abs=1e-10)
    assert ours.n_dims[0] == 0
    assert (np.diff(penalties) < 0).all()


@pytest.mark.parametrize("choose", [lambda fitted: np.eye(fitted.d), sparsity.forward_order])
def test_held_out_curve_equals_a_loop_of_refits(choose):
    E, y = problem(n=83)
    ours = sparsity.heldout_curve(Design.of(E), y, choose, n_folds=4, seed=3)
    folds = np.array_split(np.random.default_rng(3).permutation(83), 4)
    errors, total = np.zeros(7), 0.0
    for fold in folds:
        rest = np.setdiff1d(np.arange(83), fold)
        basis = choose(statistics(E[rest], y[rest]))
        basis = np.eye(7)[:, basis] if basis.ndim == 1 else basis
        for k in range(7):
            X = sm.add_constant(E @ basis[:, : k + 1])
            errors[k] += ((y[fold] - sm.OLS(y[rest], X[rest]).fit().predict(X[fold])) ** 2).sum()
        total += ((y[fold] - y[rest].mean()) ** 2).sum()
    np.testing.assert_allclose(ours, 1.0 - errors / total, rtol=1e-8)


def test_held_out_curve_of_noise_is_not_positive():
    E, _ = problem(n=100)
    y = np.random.default_rng(5).normal(size=100)
    curve = sparsity.heldout_curve(Design.of(E), y, sparsity.forward_order)
    assert curve[-1] < 0.0
    assert sparsity.forward_selection(statistics(E, y)).r2[-1] > 0.0


def test_impossible_questions_are_refused():
    E, y = problem()
    nearly = np.c_[E, E[:, 0] + 1e-9 * np.random.default_rng(0).normal(size=len(y))]
    with pytest.raises(InputError, match="nearly linearly dependent"):
        statistics(nearly, y)
    with pytest.raises(InputError, match="n_folds is 1"):
        sparsity.heldout_curve(Design.of(E), y, sparsity.forward_order, n_folds=1)


# ---------------------------------------------------------------------------------------- notebook

CONTRACT = {
    "pc1_abs_corr",
    "pc2_abs_corr",
    "pc3_abs_corr",
    "r2_top3_pcs",
    "n_pcs_90",
    "n_dims_90",
    "gini_abs_slope",
    "gini_abs_slope_rotated",
    "participation_ratio_slope",
    "n_dims_significant_bh",
    "n_dims_significant_tokens",
    "spread_minus_log_a",
    "top3_excess",
    "top3_excess_low",
    "top3_excess_shuffled",
    "gini_excess",
    "gini_excess_high",
    "gini_excess_shuffled",
    "n_dims_90_ratio",
    "n_dims_90_ratio_high",
    "r2_last_tenth_pcs_rerounded",
    "top10_dims_overlap_corpora",
}


def run_notebook(folder, model, corpus, **parameters):
    done = execute("02", folder, model=model, corpus=corpus, n_positions=2048, **parameters)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((folder / "02_sparsity.metrics.json").read_text())
    assert set(metrics) >= CONTRACT
    assert all(np.isfinite(value) for value in metrics.values())
    tables = {
        name: pd.read_parquet(folder / f"02_sparsity.{name}.parquet")
        for name in ("components", "dimensions")
    }
    assert all((folder / f"02_sparsity.{name}.csv").is_file() for name in tables)
    page = nbformat.read(folder / "page.ipynb", as_version=4)
    outputs = [o for c in page.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    pages = " ".join(o.get("data", {}).get("text/html", "") for o in outputs)
    for name in ("pca", "correlations", "cumulative", "slopes", "dimensions", "late", "rounding"):
        assert f'id="fig-{name}"' in pages
    return metrics, tables


@pytest.mark.parametrize(("style", "eval_corpus"), [("untied", ""), ("padded", "python-manual")])
def test_notebook_end_to_end(tmp_path, text_file, style, eval_corpus):
    model = tiny.save(tmp_path / "model", style)
    metrics, tables = run_notebook(
        tmp_path, model, text_file, eval_corpus=eval_corpus, sequence_length=32,
        n_bootstrap=20, n_controls=5,
    )  # fmt: skip
    components, dimensions = tables["components"], tables["dimensions"]
    rules.check_run_of_a_null_model("02_sparsity", metrics)
    assert len(components) == len(dimensions) == tiny.WIDTH
    assert metrics["n_vocab"] == tiny.VOCABULARY
    full = metrics["r2"]
    assert components["r2_cumulative"].iloc[-1] == pytest.approx(full, abs=1e-10)
    assert dimensions["forward_r2"].max() == pytest.approx(full, abs=1e-10)
    assert (components["pearson"] ** 2).sum() == pytest.approx(full, abs=1e-10)
    assert components["pearson"].abs()[0] == pytest.approx(metrics["pc1_abs_corr"])
    assert (components["variance"].diff().dropna() <= 0).all()
    assert 1 <= metrics["n_pcs_90"] <= metrics["n_pcs_90_by_variance"] <= tiny.WIDTH
    assert metrics["n_dims_90"] <= metrics["n_dims_90_by_slope"] <= tiny.WIDTH
    assert metrics["gini_abs_slope_rotated"] == pytest.approx(np.sqrt(2.0) - 1.0, abs=0.05)
    difference = metrics["gini_abs_slope"] - metrics["gini_abs_slope_rotated"]
    assert metrics["gini_excess"] == pytest.approx(difference, abs=1e-12)
    assert metrics["n_dims_90_ratio"] == metrics["n_dims_90"] / metrics["n_dims_90_rotated"]


@pytest.mark.real_model
def test_identities_and_sparsity_of_a_real_embedding(real_lm, real_detection):
    E, y = real_lm.head.rows, real_detection.y
    design = Design.of(E)
    fitted, full = Statistics.of(design, y), design.fit(y).r2
    components = Components.of(fitted)
    curve, _ = sparsity.component_shares(components.express(fitted).correlation)
    forward = sparsity.forward_selection(fitted)
    assert curve[-1] == pytest.approx(full, abs=1e-10)
    assert forward.r2[-1] == pytest.approx(full, abs=1e-10)
    chosen = E[:, forward.order[:40].tolist()].double().numpy()
    assert forward.r2[39] == pytest.approx(refit(chosen, y.numpy()), abs=1e-10)
    rng = np.random.default_rng(0)
    random = controls.random_direction_shares(components.variances, 500, rng)[:, :3].sum(1)
    assert curve[2] / full > np.quantile(random, 0.975)
    rotated = [concentration.gini(s) for s in controls.rotated_slopes(fitted.slopes, 200, rng)]
    assert concentration.gini(fitted.slopes) > 1.2 * np.mean(rotated)
