"""The fit against independent oracles (statsmodels, NIST, brute force) and its own theorems."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
import tiny
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from statsmodels.datasets import longley

from probenc_support import corpora, inference, regression
from probenc_support.errors import InputError
from probenc_support.regression import Design, arrays, fit

shapes = st.tuples(st.integers(1, 8), st.integers(12, 80), st.integers(0, 2**32 - 1))


def problem(n=400, d=12, *, condition=10.0, mean=1.0, noise=1.0, seed=0):
    """E [n, d] with about the condition number that is asked for, and y [n]."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    E = rng.normal(size=(n, d)) * np.geomspace(1.0, 1.0 / condition, d) @ turn + mean
    return E, E @ rng.normal(size=d) + 3.0 + noise * rng.normal(size=n)


def ols(E, y, **options):
    return sm.OLS(y, sm.add_constant(E, has_constant="add")).fit(**options)


def assert_equals_statsmodels(ours, theirs, rtol):
    for mine, other in (
        (ours.slopes, theirs.params[1:]),
        (ours.intercept, theirs.params[0]),
        (ours.stderr, theirs.bse[1:]),
        (ours.intercept_stderr, theirs.bse[0]),
        (ours.t, theirs.tvalues[1:]),
        (ours.r2, theirs.rsquared),
        (ours.r2_adj, theirs.rsquared_adj),
        (ours.residual_dof, theirs.df_resid),
    ):
        np.testing.assert_allclose(mine, other, rtol=rtol)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_equals_statsmodels(condition, mean):
    E, y = problem(condition=condition, mean=mean)
    ours, theirs = fit(E, y), ols(E, y)
    assert_equals_statsmodels(ours, theirs, rtol=1e-8)
    np.testing.assert_allclose(ours.residual_sd**2, theirs.mse_resid, rtol=1e-8)
    np.testing.assert_allclose(ours.p, theirs.pvalues[1:], rtol=1e-6, atol=1e-300)
    for level in (0.9, 0.95):
        np.testing.assert_allclose(
            ours.confidence_interval(level), theirs.conf_int(1.0 - level)[1:], rtol=1e-7, atol=1e-9
        )
    np.testing.assert_allclose(ours.predict(E), theirs.fittedvalues, rtol=1e-8, atol=1e-9)


def test_robust_errors_equal_statsmodels_hc3():
    E, y = problem(n=300)
    y = y + 3.0 * E[:, 0] * np.random.default_rng(1).normal(size=len(y))
    robust = fit(E, y, robust=True)
    assert_equals_statsmodels(robust, ols(E, y, cov_type="HC3"), rtol=1e-8)
    # Here the variance does differ between rows, so the two kinds of error must differ.
    assert np.abs(robust.stderr / fit(E, y).stderr - 1.0).max() > 0.1


def test_equals_the_certified_values_of_nist():
    """Longley's data, the classical trial of least-squares programs (NIST StRD)."""
    data = longley.load_pandas()
    found = fit(np.array(data.exog, dtype=float), np.array(data.endog, dtype=float))
    slopes = [
        15.0618722713733,
        -0.358191792925910e-01,
        -2.02022980381683,
        -1.03322686717359,
        -0.511041056535807e-01,
        1829.15146461355,
    ]
    stderr = [
        84.9149257747669,
        0.334910077722432e-01,
        0.488399681651699,
        0.214274163161675,
        0.226073200069370,
        455.478499142212,
    ]
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-9)
    np.testing.assert_allclose(found.stderr, stderr, rtol=1e-9)
    np.testing.assert_allclose(found.intercept, -3482258.63459582, rtol=1e-9)
    np.testing.assert_allclose(found.intercept_stderr, 890420.383607373, rtol=1e-9)
    np.testing.assert_allclose(found.residual_sd, 304.854073561965, rtol=1e-9)
    np.testing.assert_allclose(found.r2, 0.995479004577296, rtol=1e-12)


def exact_fit(E, y):
    """Slopes and standard errors of integers in rational arithmetic, by Gauss elimination."""
    X = [[Fraction(1), *map(Fraction, row)] for row in E]
    k = len(X[0])
    M = [[sum(x[i] * x[j] for x in X) for j in range(k)] for i in range(k)]
    M = [row + [Fraction(i == j) for j in range(k)] for i, row in enumerate(M)]
    for i in range(k):
        M[i] = [value / M[i][i] for value in M[i]]
        for j in set(range(k)) - {i}:
            M[j] = [a - M[j][i] * b for a, b in zip(M[j], M[i], strict=True)]
    inverse = [row[k:] for row in M]
    moments = [sum(x[i] * v for x, v in zip(X, y, strict=True)) for i in range(k)]
    slopes = [sum(a * b for a, b in zip(row, moments, strict=True)) for row in inverse]
    fitted = [sum(a * b for a, b in zip(x, slopes, strict=True)) for x in X]
    rss = sum((v - f) ** 2 for v, f in zip(y, fitted, strict=True))
    variances = [rss / (len(y) - k) * inverse[i][i] for i in range(k)]
    return np.array(slopes[1:], dtype=float), np.sqrt(np.array(variances[1:], dtype=float))


@pytest.mark.parametrize("size", [10**3, 10**5, 10**7])
def test_nearly_dependent_columns_against_exact_arithmetic(size):
    """Two columns that differ in their last digit; the fit by QR must keep nine digits."""
    rng = np.random.default_rng(0)
    E = rng.integers(-size, size, size=(40, 3))
    E[:, 2] = E[:, 1] + rng.integers(-3, 4, size=40)
    y = E @ np.array([1, 2, 3]) + rng.integers(-1, 2, size=40)
    slopes, stderr = exact_fit(E.tolist(), y.tolist())
    design = Design.of(E)
    found = design.fit(y)
    assert design.method == ("cholesky" if size == 10**3 else "qr")
    np.testing.assert_allclose(found.slopes, slopes, rtol=1e-9)
    np.testing.assert_allclose(found.stderr, stderr, rtol=1e-8)
    if size == 10**7:  # the control: without QR the digits are lost
        plain = np.linalg.solve(design.gram.numpy(), design.cross_products(y)[0][:, 0])
        assert np.abs(plain / slopes - 1.0).max() > 1e-7


def test_well_conditioned_embeddings_need_no_qr():
    E, _ = problem(condition=10.0)
    design = Design.of(E)
    assert design.method == "cholesky"
    centred = E - E.mean(0)
    assert np.linalg.cond(centred / np.linalg.norm(centred, axis=0)) <= design.condition


@pytest.mark.parametrize("size", [1, 2, 30, 200])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_condition_is_nearly_that_of_the_inverse_itself(size, condition):
    E, _ = problem(n=500, d=size, condition=condition)
    centred = E - E.mean(0)
    scaled = centred / np.linalg.norm(centred, axis=0)
    exact = np.sqrt(np.linalg.cond(scaled.T @ scaled, 1))
    assert 1 / np.sqrt(3) < Design.of(E).condition / exact < 1 + 1e-6


def test_condition_does_not_depend_on_the_units_of_the_columns():
    E, _ = problem(condition=10.0)
    scale = np.geomspace(1e-6, 1e6, E.shape[1])
    np.testing.assert_allclose(Design.of(E * scale).condition, Design.of(E).condition, rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_residuals_are_orthogonal_to_everything_that_was_fitted(shape):
    d, n, seed = shape
    E, y = problem(n, d, seed=seed)
    residuals = y - fit(E, y).predict(E)
    assert abs(residuals.sum()) < 1e-8 * n
    assert np.abs(residuals @ E).max() < 1e-8 * n


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_invariances(shape):
    """Order of tokens, a shift of every row, a rotation: R^2 and predictions stay as they are."""
    d, n, seed = shape
    E, y = problem(n, d, seed=seed)
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    order = rng.permutation(n)
    plain = fit(E, y)
    for changed in (
        fit(E[order], y[order]),
        fit(E + rng.normal(size=d), y),
        fit(E @ turn, y),
        fit(E, -2.0 * y),
    ):
        np.testing.assert_allclose(changed.r2, plain.r2, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(fit(E @ turn, y).slopes, turn.T @ plain.slopes, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(fit(E, y + 7.0).intercept, plain.intercept + 7.0, rtol=1e-8)


@settings(max_examples=40, deadline=None)
@given(shapes)
@example((1, 29, 29))  # R^2 is 1e-6
def test_no_other_slopes_fit_better(shape):
    d, n, seed = shape
    E, y = problem(n, d, seed=seed)
    best = fit(E, y)
    other = best.predict(E) + E @ np.random.default_rng(seed).normal(size=d) * 1e-3
    assert regression.r2_of(y, other) < regression.r2_of(y, best.predict(E))
    # R^2 is one less a share, so that its rounding is absolute.
    again = regression.r2_of(y, best.predict(E))
    np.testing.assert_allclose(again, best.r2, rtol=1e-10, atol=1e-14)


def test_a_planted_direction_is_recovered():
    E, _ = problem()
    slopes = np.linspace(-1.0, 1.0, E.shape[1])
    found = fit(E, E @ slopes - 2.0)
    np.testing.assert_allclose(found.slopes, slopes, atol=1e-11)
    np.testing.assert_allclose(found.intercept, -2.0, atol=1e-11)
    assert found.r2 > 1.0 - 1e-14


def test_confidence_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    E = rng.normal(size=(60, 4))
    design = Design.of(E)
    covered = []
    for _ in range(300):
        interval = design.fit(E @ np.ones(4) + rng.normal(size=60)).confidence_interval(0.9)
        covered.append((interval[:, 0] < 1.0) & (interval[:, 1] > 1.0))
    assert abs(np.mean(covered) - 0.9) < 0.03


def test_many_fits_at_once_equal_single_fits():
    E, y = problem()
    Y = np.stack([y, np.sin(y), np.random.default_rng(2).normal(size=len(y))], axis=1)
    design = Design.of(E)
    many = design.fit_many(Y)
    for k in range(3):
        single = design.fit(Y[:, k])
        np.testing.assert_allclose(many.slopes[:, k], single.slopes, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(many.intercepts[k], single.intercept, rtol=1e-9)
        np.testing.assert_allclose(many.r2[k], single.r2, rtol=1e-9)
        np.testing.assert_allclose(many.r2_adj[k], single.r2_adj, rtol=1e-9)


@pytest.mark.parametrize("condition", [10.0, 1e5])
@pytest.mark.parametrize("robust", [False, True])
def test_rows_left_out_equal_a_refit(condition, robust):
    E, y = problem(condition=condition)
    out = np.random.default_rng(3).choice(len(E), size=150, replace=False)
    rest = np.setdiff1d(np.arange(len(E)), out)
    subset = Design.of(E).without(out[:100]).without(out[100:])
    ours, again = subset.fit(y, robust=robust), fit(E[rest], y[rest], robust=robust)
    for name in ("slopes", "intercept", "r2", "r2_adj", "residual_sd", "stderr"):
        mine, other = getattr(ours, name), getattr(again, name)
        np.testing.assert_allclose(mine, other, rtol=1e-8 if condition == 10.0 else 1e-6)
    assert ours.n == len(rest)
    for mine, other in zip(
        subset.cross_products(y), Design.of(E[rest]).cross_products(y[rest]), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)


def test_what_is_left_out_has_no_influence():
    E, y = problem()
    wild = y.copy()
    wild[:50] = 1e6
    design = Design.of(E).without(np.arange(50))
    np.testing.assert_allclose(design.fit(wild).slopes, design.fit(y).slopes, rtol=1e-9)


def test_a_column_that_one_row_alone_tells_from_a_constant():
    """Without that row, what is left of the column is the rounding of a subtraction."""
    for seed in range(5):
        E = problem(seed=seed)[0].astype(np.float32)
        E[:, 2] = 0.3
        E[17, 2] = 5.0
        with pytest.raises(InputError, match="is constant"):
            Design.of(E).without(np.array([17]))


def test_digits_lost_by_subtraction_are_found_again():
    E, y = problem()
    E[17, 2] = 1e5
    ours = Design.of(E).without(np.array([17]))
    assert ours.method == "qr"
    rest = np.delete(np.arange(len(E)), 17)
    again = fit(E[rest], y[rest])
    np.testing.assert_allclose(ours.fit(y).slopes, again.slopes, rtol=1e-9)
    np.testing.assert_allclose(ours.fit(y).r2, again.r2, rtol=1e-9)


def test_more_rows_than_a_block_holds():
    E, y = problem(n=2 * arrays._ROWS["cpu"] + 5, d=6)
    assert_equals_statsmodels(fit(E, y), ols(E, y), rtol=1e-9)


def test_held_out_r2_equals_a_loop_of_refits():
    E, y = problem(n=103)
    ours = regression.r2_heldout(Design.of(E), y, n_folds=7, seed=5)
    order = np.random.default_rng(5).permutation(len(y))
    predicted = np.empty(len(y))
    for fold in np.array_split(order, 7):
        rest = np.setdiff1d(order, fold)
        predicted[fold] = ols(E[rest], y[rest]).predict(sm.add_constant(E[fold]))
    np.testing.assert_allclose(ours, regression.r2_of(y, predicted), rtol=1e-9)
    assert ours < fit(E, y).r2


def test_held_out_r2_of_noise_is_not_positive():
    E, _ = problem(n=200)
    assert regression.r2_heldout(Design.of(E), np.random.default_rng(0).normal(size=200)) < 0.0


def test_shuffled_control_is_what_chance_gives():
    E, y = problem(n=500, d=20, noise=0.01)
    shuffled = regression.r2_shuffled(Design.of(E), y, n_shuffles=200)
    assert fit(E, y).r2 > 0.99
    assert abs(shuffled.mean() - 20 / 499) < 0.005
    assert (regression.r2_shuffled(Design.of(E), y, seed=1) != shuffled[:20]).any()


def groups_of_text(G=6, V=40, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 20, size=G)
    log_p = [np.log(rng.dirichlet(np.full(V, 0.3), size=k) + 1e-30) for k in sizes]
    return np.stack([np.log(np.exp(p).mean(0)) for p in log_p]), sizes, log_p


def test_bootstrap_averages_the_texts_that_were_drawn():
    groups, sizes, log_p = groups_of_text()
    ours = regression.bootstrap_log_a(groups, sizes, n_replicates=5, seed=4)
    draws = np.random.default_rng(4).multinomial(6, np.full(6, 1 / 6), size=5)
    for replicate, times in enumerate(draws):
        texts = [log_p[g] for g in range(6) for _ in range(times[g])]
        direct = np.log(np.exp(np.concatenate(texts)).mean(0))
        np.testing.assert_allclose(ours[:, replicate], direct, rtol=1e-10)


def test_bootstrap_loses_no_token_to_underflow():
    groups = np.full((4, 3), -5.0)
    groups[1:, 0] = -3000.0
    log_a = regression.bootstrap_log_a(groups, np.full(4, 10), n_replicates=50)
    assert np.isfinite(log_a).all()
    assert log_a[0].min() == pytest.approx(-3000.0)
    assert log_a[0].max() > -7.0
    np.testing.assert_allclose(log_a[1:], -5.0)


def test_bootstrap_interval_holds_the_estimate_and_shrinks_with_more_text():
    E, y = problem(n=300, d=5, noise=0.5)
    rng = np.random.default_rng(0)
    widths = []
    for G in (8, 128):
        groups = -y + rng.normal(size=(G, len(y)))
        whole = np.log(np.exp(groups).mean(0))
        found = regression.bootstrap_r2_adj(Design.of(E), groups, np.full(G, 10))
        np.testing.assert_allclose(found.estimate, fit(E, -whole).r2_adj, rtol=1e-10)
        assert found.low < found.estimate < found.high
        assert found.bias < 0.0
        assert len(found.replicates) == 200
        widths.append(found.high - found.low)
    assert widths[1] < 0.5 * widths[0]


def test_bootstrap_fits_are_those_of_the_drawn_texts():
    groups, sizes, _ = groups_of_text()
    design = Design.of(np.random.default_rng(1).normal(size=(40, 3)))
    fits = regression.bootstrap_fits(design, groups, sizes, n_replicates=4, seed=2)
    whole = regression.log_mean_exp(groups, sizes)
    np.testing.assert_allclose(fits.slopes[:, 0], design.fit(-whole).slopes, rtol=1e-9)
    times = regression.draws_of_groups(6, 4, seed=2)[3]
    drawn = regression.log_mean_exp(groups, times * sizes)
    np.testing.assert_allclose(fits.slopes[:, 4], design.fit(-drawn).slopes, rtol=1e-9)


def test_interval_of_a_given_prediction_against_a_loop():
    groups, sizes, _ = groups_of_text()
    guess = -groups[0]
    found = regression.bootstrap_r2_of(guess, groups, sizes, n_replicates=6, seed=2)
    whole = regression.log_mean_exp(groups, sizes)
    assert found.estimate == pytest.approx(regression.r2_of(-whole, guess))
    for draw, times in enumerate(regression.draws_of_groups(6, 6, seed=2)):
        y = -regression.log_mean_exp(groups, times * sizes)
        assert found.replicates[draw] == pytest.approx(regression.r2_of(y, guess), rel=1e-9)


def test_intervals_widen_with_the_level():
    values = np.random.default_rng(0).normal(size=500)
    ends = [regression.Interval.of(0.0, values, level) for level in (0.5, 0.9, 0.99)]
    assert all(wide.low < narrow.low < narrow.high < wide.high for narrow, wide in pairwise(ends))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_any_precision_is_read_exactly(dtype):
    E = (torch.from_numpy(problem()[0]) * 8).to(dtype)
    y = torch.from_numpy(problem()[1])
    found = fit(E, y)
    np.testing.assert_array_equal(found.slopes, fit(E.double().numpy(), y.numpy()).slopes)
    assert found.slopes.dtype == np.float64


def test_data_are_left_as_they_were():
    E, y = problem()
    before = E.copy(), y.copy()
    design = Design.of(E)
    design.without(np.arange(5)).fit(y, robust=True)
    regression.r2_heldout(design, y)
    np.testing.assert_array_equal(E, before[0])
    np.testing.assert_array_equal(y, before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda E, y: (E[:13], y[:13]), "13 rows cannot determine 12 slopes"),
        (lambda E, y: (E[:, 0], y), "must be a matrix"),
        (lambda E, y: (E, y[:-1]), "399 values for the 400 rows"),
        (lambda E, y: (E, np.where(y > 0, np.nan, y)), "y holds values that are not finite"),
        (lambda E, y: (np.where(E > 1, np.inf, E), y), "E holds values that are not finite"),
        (lambda E, y: (np.c_[E, E[:, :1]], y), "linearly dependent"),
        (lambda E, y: (np.c_[E, np.full(400, 0.1)], y), "is constant"),
        (lambda E, y: (np.c_[E, np.zeros(400)], y), "is constant"),
        (lambda E, y: (E, np.full(400, 0.1)), "nothing to explain"),
    ],
)
def test_impossible_fits_are_refused(change, message):
    E, y = change(*problem())
    with pytest.raises(InputError, match=message):
        fit(E, y)


def test_impossible_resampling_is_refused():
    E, y = problem()
    with pytest.raises(InputError, match="n_folds is 1"):
        regression.r2_heldout(Design.of(E), y, n_folds=1)
    with pytest.raises(InputError, match="at least two groups"):
        regression.bootstrap_log_a(np.zeros((1, 5)), np.ones(1))
    with pytest.raises(InputError, match="rows cannot determine"):
        Design.of(E).without(np.arange(390))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_numbers():
    E, y = problem(n=5000, d=32)
    here, there = fit(E, y, robust=True), fit(torch.from_numpy(E).cuda(), y, robust=True)
    np.testing.assert_allclose(there.slopes, here.slopes, rtol=1e-9)
    np.testing.assert_allclose(there.stderr, here.stderr, rtol=1e-9)
    design = Design.of(torch.from_numpy(E).cuda())
    np.testing.assert_allclose(
        regression.r2_heldout(design, y), regression.r2_heldout(Design.of(E), y), rtol=1e-9
    )


@pytest.mark.real_model
def test_equals_statsmodels_on_a_real_embedding(real_lm):
    E = real_lm.E[real_lm.tokens[::4]]
    y = (
        problem(n=len(E), d=2)[1]
        + (E.double() @ torch.linspace(-1.0, 1.0, E.shape[1]).double()).numpy()
    )
    assert_equals_statsmodels(fit(E, y), ols(E.double().numpy(), y), rtol=1e-8)


def test_tokens_of_a_model_are_fitted_without_its_padding_rows() -> None:
    lm = tiny.language_model("padded")
    ids = torch.randint(0, int(lm.tokens[-1]), (40, 16), generator=torch.Generator().manual_seed(0))
    detection = inference.detect(
        lm, corpora.from_ids(ids, corpus="ids"), cache=False, progress=False
    )
    fitted = regression.fit_tokens(lm, detection)
    expected = ols(lm.E[lm.tokens], -detection.log_a_rows[lm.tokens])
    assert fitted.n == len(lm.tokens) < lm.V
    np.testing.assert_allclose(fitted.slopes, expected.params[1:], rtol=1e-5, atol=1e-8)


def test_second_moments_of_a_design_are_those_of_its_rows():
    rng = np.random.default_rng(3)
    E = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)) + 2.0
    design = Design.of(E)
    np.testing.assert_allclose(design.covariance, np.cov(E.T, ddof=0))
    np.testing.assert_allclose(design.standard_deviations, E.std(axis=0, ddof=1))
    rest = design.without(np.arange(10))
    np.testing.assert_allclose(rest.covariance, np.cov(E[10:].T, ddof=0))
    np.testing.assert_allclose(rest.standard_deviations, E[10:].std(axis=0, ddof=1))
