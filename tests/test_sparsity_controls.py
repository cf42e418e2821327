"""Controls of sparsity against the long way, and where nothing is planted."""

import numpy as np
import pytest
from scipy import stats
from test_sparsity import problem, statistics

from probenc_support import sparsity
from probenc_support.regression import Design
from probenc_support.sparsity import Components, concentration, controls
from probenc_support.sparsity.significance import Significance


def sparse_problem(n=2000, d=40):
    """y hangs on two raw dimensions of an E whose columns are independent."""
    rng = np.random.default_rng(0)
    E = rng.normal(size=(n, d))
    return E, 2.0 * E[:, 3] - E[:, 8] + 0.5 * rng.normal(size=n)


def test_planted_sparsity_is_found_and_a_rotation_takes_it_away():
    fitted = statistics(*sparse_problem())
    chosen = sparsity.forward_selection(fitted)
    assert chosen.order[:2].tolist() == [3, 8]
    assert sparsity.count_for_share(chosen.r2) == 2
    rng = np.random.default_rng(1)
    turned = fitted.rotated(controls.random_rotation(40, rng))
    assert turned.r2 == pytest.approx(fitted.r2, abs=1e-10)
    assert sparsity.count_for_share(sparsity.forward_selection(turned).r2) > 10
    ginis = [concentration.gini(s) for s in controls.rotated_slopes(fitted.slopes, 500, rng)]
    assert concentration.gini(fitted.slopes) > 0.8 > max(ginis)


def test_rotated_slopes_are_distributed_like_slopes_after_rotations():
    fitted = statistics(*sparse_problem())
    rng = np.random.default_rng(2)
    short = controls.rotated_slopes(fitted.slopes, 400, rng)
    long = [turned.slopes for turned in controls.rotations(fitted, 200, rng)]
    np.testing.assert_allclose(
        np.linalg.norm(short, axis=1), np.linalg.norm(fitted.slopes), rtol=1e-12
    )
    ginis = [[concentration.gini(s) for s in slopes] for slopes in (short, long)]
    assert stats.ks_2samp(*ginis).pvalue > 0.01


def test_rotations_are_orthogonal_and_uniform():
    rng = np.random.default_rng(0)
    turns = np.stack([controls.random_rotation(3, rng) for _ in range(2000)])
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.eye(3)[None].repeat(2000, 0), atol=1e-12
    )
    assert stats.kstest(turns[:, 0, 0], "uniform", args=(-1.0, 2.0)).pvalue > 0.01


def test_gaussian_control_is_distributed_like_drawn_embeddings():
    """Against the long way: E drawn row by row, y along a drawn direction, plus noise."""
    E, y = problem(n=120, d=4)
    fitted = statistics(E, y)
    rng = np.random.default_rng(3)
    root = np.linalg.cholesky(fitted.gram / (fitted.n - 1))

    def long():
        drawn = rng.normal(size=(120, 4)) @ root.T
        signal = drawn @ rng.normal(size=4)
        noise = np.sqrt(signal.var(ddof=1) * (1.0 / fitted.r2 - 1.0))
        return statistics(drawn, signal + noise * rng.normal(size=120))

    shorts = list(controls.gaussian(fitted, 400, rng))
    longs = [long() for _ in range(400)]
    for measure in (
        lambda s: s.r2,
        lambda s: s.gram[0, 0],
        lambda s: np.linalg.slogdet(s.gram)[1],
        lambda s: np.abs(Components.of(s).express(s).correlation[0]),
        lambda s: np.abs(s.correlation).max(),
        lambda s: np.log(s.total),
    ):
        pair = [[measure(s) for s in draws] for draws in (shorts, longs)]
        assert stats.ks_2samp(*pair).pvalue > 1e-3
    assert np.mean([s.r2 for s in shorts]) == pytest.approx(fitted.r2, abs=0.02)


def test_shares_of_a_random_direction():
    E, y = problem(n=4000)
    fitted = statistics(E, y)
    rng = np.random.default_rng(4)
    components = Components.of(fitted)
    short = controls.random_direction_shares(components.variances, 500, rng)
    np.testing.assert_allclose(short.sum(1), 1.0, rtol=1e-12)
    planted = [E @ rng.normal(size=7) for _ in range(200)]
    long = [components.express(statistics(E, v)).correlation[0] ** 2 for v in planted]
    assert stats.ks_2samp(short[:, 0], long).pvalue > 0.01


def test_shuffled_y_shows_nothing():
    E, y = sparse_problem()
    shuffled = controls.shuffled(Design.of(E), y, n_shuffles=30)
    tests = [Significance.of_correlations(s.correlation, s.n) for s in shuffled]
    calls = [test.significant().sum() for test in tests]
    assert np.mean(np.array(calls) > 0) < 0.2
    assert np.mean([s.r2 for s in shuffled]) == pytest.approx(40 / 1999, abs=0.004)
    planted = Significance.of_correlations(statistics(E, y).correlation, len(y))
    assert planted.significant()[[3, 8]].all()


def test_a_rotation_keeps_what_does_not_depend_on_the_basis():
    """The full R^2, the length of the slopes and the components; not the single dimensions."""
    fitted = statistics(*sparse_problem())
    for turned in controls.rotations(fitted, 3, np.random.default_rng(6)):
        assert turned.r2 == pytest.approx(fitted.r2, abs=1e-10)
        assert np.linalg.norm(turned.slopes) == pytest.approx(np.linalg.norm(fitted.slopes))
        np.testing.assert_allclose(
            Components.of(turned).variances, Components.of(fitted).variances, rtol=1e-9
        )
        assert np.abs(turned.correlation - fitted.correlation).max() > 0.1


def test_controls_are_drawn_one_after_another_from_one_generator():
    fitted = statistics(*sparse_problem())
    for draw in (controls.rotations, controls.gaussian):
        two = [s.cross for s in draw(fitted, 2, np.random.default_rng(0))]
        one = [s.cross for s in draw(fitted, 1, np.random.default_rng(0))]
        np.testing.assert_array_equal(two[0], one[0])
        assert not np.allclose(two[0], two[1])
