"""Measures of concentration at their ends, and controls against the long way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_sparsity import problem, statistics

from probenc_support import sparsity
from probenc_support.regression import Design
from probenc_support.sparsity import Components, concentration, correlations
from probenc_support.sparsity.concentration import Concentration

vectors = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40).filter(lambda v: any(v))


@settings(max_examples=100, deadline=None)
@given(vectors, st.floats(0.1, 10.0), st.randoms())
def test_concentration_knows_neither_scale_sign_nor_order(values, scale, random):
    v = np.array(values)
    turned = list(-scale * v)
    random.shuffle(turned)
    ours, again = Concentration.of(v), Concentration.of(np.array(turned))
    assert ours.gini == pytest.approx(again.gini, abs=1e-9)
    assert ours.participation_ratio == pytest.approx(again.participation_ratio, rel=1e-6)
    assert ours.top_10_percent == pytest.approx(again.top_10_percent, abs=1e-9)
    assert -1e-12 <= ours.gini <= 1.0 - 1.0 / len(v) + 1e-12
    assert 1.0 - 1e-12 <= ours.participation_ratio <= len(v) + 1e-9
    assert ours.top_1_percent <= ours.top_10_percent <= 1.0 + 1e-12
    pairs = np.abs(np.abs(v)[:, None] - np.abs(v)[None])
    assert ours.gini == pytest.approx(pairs.mean() / (2.0 * np.abs(v).mean()), abs=1e-9)


def test_concentration_at_its_ends():
    even, single = Concentration.of(np.full(50, -2.0)), Concentration.of(np.eye(50)[3])
    assert (even.gini, even.participation_ratio) == pytest.approx((0.0, 50.0))
    assert (even.top_1_percent, even.top_10_percent) == pytest.approx((0.02, 0.1))
    assert (single.gini, single.participation_ratio) == pytest.approx((0.98, 1.0))
    assert single.top_1_percent == 1.0
    normal = Concentration.of(np.random.default_rng(0).normal(size=200_000))
    assert normal.gini == pytest.approx(np.sqrt(2.0) - 1.0, abs=2e-3)
    assert normal.participation_ratio == pytest.approx(200_000 / 3, rel=0.02)


def test_overlap_counts_shared_leaders():
    first, second = np.array([5.0, -4.0, 3.0, 0.0, 0.1]), np.array([-9.0, 0.0, 8.0, 7.0, 0.1])
    assert concentration.top(first, 3).tolist() == [0, 1, 2]
    assert concentration.overlap(first, second, 3) == pytest.approx(2 / 3)
    assert concentration.overlap(first, first, 10) == 1.0


# ---------------------------------------------------------------------------------------- controls


def sparse_problem(n=2000, d=40):
    """y hangs on two raw dimensions of an E whose columns are independent."""
    rng = np.random.default_rng(0)
    E = rng.normal(size=(n, d))
    return E, 2.0 * E[:, 3] - E[:, 8] + 0.5 * rng.normal(size=n)


def test_planted_sparsity_is_found_and_a_rotation_takes_it_away():
    found = statistics(*sparse_problem())
    chosen = sparsity.forward_selection(found)
    assert chosen.order[:2].tolist() == [3, 8]
    assert sparsity.count_for_share(chosen.r2) == 2
    rng = np.random.default_rng(1)
    turned = found.rotated(concentration.random_rotation(40, rng))
    assert turned.r2 == pytest.approx(found.r2, abs=1e-10)
    assert sparsity.count_for_share(sparsity.forward_selection(turned).r2) > 10
    ginis = [concentration.gini(s) for s in concentration.rotated_slopes(found.slopes, 500, rng)]
    assert concentration.gini(found.slopes) > 0.8 > max(ginis)


def test_rotated_slopes_are_distributed_like_slopes_after_rotations():
    found = statistics(*sparse_problem())
    rng = np.random.default_rng(2)
    short = concentration.rotated_slopes(found.slopes, 400, rng)
    long = [found.rotated(concentration.random_rotation(40, rng)).slopes for _ in range(200)]
    np.testing.assert_allclose(
        np.linalg.norm(short, axis=1), np.linalg.norm(found.slopes), rtol=1e-12
    )
    ginis = [[concentration.gini(s) for s in slopes] for slopes in (short, long)]
    assert stats.ks_2samp(*ginis).pvalue > 0.01


def test_rotations_are_orthogonal_and_uniform():
    rng = np.random.default_rng(0)
    turns = np.stack([concentration.random_rotation(3, rng) for _ in range(2000)])
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.eye(3)[None].repeat(2000, 0), atol=1e-12
    )
    assert stats.kstest(turns[:, 0, 0], "uniform", args=(-1.0, 2.0)).pvalue > 0.01


def test_gaussian_control_is_distributed_like_drawn_embeddings():
    """Against the long way: E drawn row by row, y along a drawn direction, plus noise."""
    E, y = problem(n=120, d=4)
    found = statistics(E, y)
    rng = np.random.default_rng(3)
    root = np.linalg.cholesky(found.gram / (found.n - 1))

    def long():
        drawn = rng.normal(size=(120, 4)) @ root.T
        signal = drawn @ rng.normal(size=4)
        noise = np.sqrt(signal.var(ddof=1) * (1.0 / found.r2 - 1.0))
        return statistics(drawn, signal + noise * rng.normal(size=120))

    shorts = [concentration.gaussian_control(found, rng) for _ in range(400)]
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
    assert np.mean([s.r2 for s in shorts]) == pytest.approx(found.r2, abs=0.02)


def test_shares_of_a_random_direction():
    E, y = problem(n=4000)
    found = statistics(E, y)
    rng = np.random.default_rng(4)
    components = Components.of(found)
    short = concentration.random_direction_shares(components.variances, 500, rng)
    np.testing.assert_allclose(short.sum(1), 1.0, rtol=1e-12)
    planted = [E @ rng.normal(size=7) for _ in range(200)]
    long = [components.express(statistics(E, v)).correlation[0] ** 2 for v in planted]
    assert stats.ks_2samp(short[:, 0], long).pvalue > 0.01


def test_shuffled_y_shows_nothing():
    E, y = sparse_problem()
    shuffled = concentration.shuffled_control(Design.of(E), y, n_shuffles=30)
    calls = [correlations.infer(s.correlation, s.n).significant().sum() for s in shuffled]
    assert np.mean(np.array(calls) > 0) < 0.2
    assert np.mean([s.r2 for s in shuffled]) == pytest.approx(40 / 1999, abs=0.004)
    assert correlations.infer(statistics(E, y).correlation, len(y)).significant()[[3, 8]].all()


# ------------------------------------------------------------------------- beyond the control


def test_an_excess_is_a_difference_of_means_and_its_interval_that_of_both_draws():
    """Of normal draws: the variance of the difference is the sum of the variances."""
    rng = np.random.default_rng(0)
    draws, control = rng.normal(2.0, 0.3, 4000), rng.normal(1.2, 0.4, 5000)
    found = concentration.excess(2.0, draws, control, rng)
    assert found.estimate == pytest.approx(2.0 - control.mean(), abs=1e-12)
    half = 1.96 * np.hypot(0.3, 0.4)
    np.testing.assert_allclose(
        [found.low, found.high], [found.estimate - half, found.estimate + half], atol=0.05
    )


def test_a_ratio_is_one_of_means():
    rng = np.random.default_rng(1)
    draws, control = rng.lognormal(0.0, 0.05, 3000), rng.lognormal(1.0, 0.05, 20)
    found = concentration.ratio(1.0, draws, control, rng)
    assert found.estimate == pytest.approx(1.0 / control.mean(), abs=1e-12)
    assert found.low < found.estimate < found.high
    spread = np.hypot(0.05, np.log(control).std())
    assert np.log(found.high / found.low) == pytest.approx(2 * 1.96 * spread, rel=0.15)
    exact = concentration.ratio(6.0, np.full(40, 6.0), np.full(7, 3.0), rng)
    assert (exact.estimate, exact.low, exact.high) == pytest.approx((2.0, 2.0, 2.0))


def test_slopes_in_a_random_direction_have_no_excess_and_planted_ones_do():
    """One in twenty random directions may; the planted one must."""
    rng, d = np.random.default_rng(2), 40
    control = np.array([concentration.gini(s) for s in rng.normal(size=(500, d))])
    directions = [concentration.gini(s) for s in rng.normal(size=(400, d))]
    called = [concentration.excess(g, np.array([g]), control, rng).low > 0.0 for g in directions]
    assert np.mean(called) < 0.05
    planted = concentration.gini(np.r_[np.full(4, 10.0), rng.normal(size=d - 4)])
    assert concentration.excess(planted, np.array([planted]), control, rng).low > 0.1


def test_unequal_spread_makes_slopes_unequal_even_where_nothing_is_encoded():
    """Why the excess of shuffled tokens is a control of its own."""
    rng = np.random.default_rng(3)
    E = rng.normal(size=(3000, 40)) * np.geomspace(1.0, 0.05, 40)
    noise = concentration.shuffled_control(Design.of(E), rng.normal(size=3000), n_shuffles=20)
    ginis = np.array([concentration.gini(s.slopes) for s in noise])
    rotated = [
        concentration.gini(s) for s in concentration.rotated_slopes(noise[0].slopes, 300, rng)
    ]
    assert ginis.mean() > np.mean(rotated) + 0.1
