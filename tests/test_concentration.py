"""Measures of concentration at their ends, and how far they go beyond controls."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparsity import problem, statistics

from probenc_support.regression import Design, Interval
from probenc_support.sparsity import Components, concentration, controls
from probenc_support.sparsity.concentration import Concentration

# Slopes, not numbers so small that their squares are none, nor ones with fewer digits.
slopes = st.floats(-1e3, 1e3).map(lambda value: value if abs(value) > 1e-6 else 0.0)
vectors = st.lists(slopes, min_size=2, max_size=40).filter(any)


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


def test_the_share_of_the_first_components_is_that_of_their_r2():
    E, y = problem()
    fitted = statistics(E, y)
    components = Components.of(fitted)
    r = components.express(fitted).correlation
    first = statistics(components.scores(E, 3), y).r2
    many = concentration.share_of_first(np.stack([r, -2.0 * r]), 3)
    np.testing.assert_allclose(many, first / fitted.r2, rtol=1e-5)
    assert concentration.share_of_first(r, 7) == 1.0


def test_measures_of_each_draw_and_their_table():
    """Slopes of which all draws are the same have intervals without width."""
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=30)
    draws = concentration.of_each(np.stack([slopes, slopes]))
    rotated = concentration.of_each(controls.rotated_slopes(slopes, 300, rng))
    measured = concentration.intervals(slopes, draws)
    table = concentration.table(measured, Concentration.of(slopes**3), rotated)
    assert list(table.columns[:3]) == ["slopes", "low", "high"]
    np.testing.assert_allclose(table["low"], table["high"])
    ours = Concentration.of(slopes)
    assert table.loc["Gini coefficient", "slopes"] == pytest.approx(ours.gini)
    assert table.loc["share of top 10 %", "slopes"] == pytest.approx(ours.top_10_percent)
    assert table.loc["Gini coefficient", "standardised"] > ours.gini
    above = (rotated["gini"] > table.loc["Gini coefficient", "rotated, 97.5 %"]).mean()
    assert above == pytest.approx(0.025, abs=0.005)


def test_sorted_sizes_are_those_of_the_top():
    values = np.array([1.0, -3.0, 2.0, 0.0])
    np.testing.assert_array_equal(concentration.sorted_sizes(values), [3.0, 2.0, 1.0, 0.0])
    np.testing.assert_array_equal(
        concentration.sorted_sizes(values), np.abs(values[concentration.top(values, 4)])
    )


def test_the_table_beyond_controls_says_difference_and_interval():
    one = Interval(0.25, 0.1, 0.4, 0.0, np.empty(0))
    table = concentration.table_beyond([("a", 0.5, 0.25, one, None), ("b", 1.0, 0.75, one, one)])
    assert list(table["measure"]) == ["a", "b"]
    assert list(table["here"] - table["control"]) == [0.25, 0.25]
    assert table.iloc[0, 3] == "0.250 (0.100 to 0.400)"
    assert list(table.iloc[:, 4]) == ["", "0.250 (0.100 to 0.400)"]


def test_an_excess_is_a_difference_of_means_and_its_interval_that_of_both_draws():
    """Of normal draws: the variance of the difference is the sum of the variances."""
    rng = np.random.default_rng(0)
    draws, control = rng.normal(2.0, 0.3, 4000), rng.normal(1.2, 0.4, 5000)
    beyond = concentration.excess(2.0, draws, control, rng)
    assert beyond.estimate == pytest.approx(2.0 - control.mean(), abs=1e-12)
    half = 1.96 * np.hypot(0.3, 0.4)
    np.testing.assert_allclose(
        [beyond.low, beyond.high], [beyond.estimate - half, beyond.estimate + half], atol=0.05
    )


def test_a_ratio_is_one_of_means():
    rng = np.random.default_rng(1)
    draws, control = rng.lognormal(0.0, 0.05, 3000), rng.lognormal(1.0, 0.05, 20)
    beyond = concentration.ratio(1.0, draws, control, rng)
    assert beyond.estimate == pytest.approx(1.0 / control.mean(), abs=1e-12)
    assert beyond.low < beyond.estimate < beyond.high
    spread = np.hypot(0.05, np.log(control).std())
    assert np.log(beyond.high / beyond.low) == pytest.approx(2 * 1.96 * spread, rel=0.15)
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
    noise = controls.shuffled(Design.of(E), rng.normal(size=3000), n_shuffles=20)
    ginis = np.array([concentration.gini(s.slopes) for s in noise])
    rotated = [concentration.gini(s) for s in controls.rotated_slopes(noise[0].slopes, 300, rng)]
    assert ginis.mean() > np.mean(rotated) + 0.1
