"""Orders of the theory against moments that are known in closed form, and the sign of the gap."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from probenc_support import moments, regression, theory
from probenc_support.head import Head


def head(seed=0, V=30, d=4, N=500):
    generator = torch.Generator().manual_seed(seed)
    E = torch.randn(V, d, generator=generator, dtype=torch.float64)
    b = torch.randn(V, generator=generator, dtype=torch.float64)
    h = torch.randn(N, d, generator=generator, dtype=torch.float64) + 1.0
    return E, b, h, torch.logsumexp(h @ E.T + b, dim=1)


@pytest.mark.parametrize("bias", [True, False])
def test_cumulants_equal_k_statistics_of_the_log_probabilities(bias):
    E, b, h, z = head()
    b = b if bias else None
    log_p = (h @ E.T + (0.0 if b is None else b) - z[:, None]).numpy()
    found = theory.cumulants(Head(E, b), h, z)
    centred = log_p - log_p.mean(axis=0)
    second, third, fourth = ((centred**k).mean(axis=0) for k in (2, 3, 4))
    expected = np.stack([log_p.mean(axis=0), second, third, fourth - 3 * second**2])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    # k-statistics estimate the same cumulants, but for terms of order 1 / N.
    for order in (2, 3, 4):
        k = np.array([stats.kstat(column, order) for column in log_p.T])
        np.testing.assert_allclose(found[order - 1], k, rtol=0.05, atol=0.05 * np.abs(k).max())


def test_series_begins_with_the_first_and_second_order():
    E, b, h, z = head()
    series = theory.cumulant_series(Head(E, b), h, z)
    torch.testing.assert_close(series[0], theory.first_order(Head(E, b), h, z))
    torch.testing.assert_close(series[1], theory.second_order(Head(E, b), h, z))


def test_rows_are_measured_alone_as_among_others():
    E, b, h, z = head()
    rows = torch.tensor([3, 17, 4])
    alone = theory.cumulants(Head(E[rows], b[rows]), h, z)
    torch.testing.assert_close(alone, theory.cumulants(Head(E, b), h, z)[:, rows])


def test_series_converges_for_logits_that_hardly_vary_and_not_for_wide_ones():
    E, b, h, _ = head(N=4000)
    errors = {}
    for scale in (0.05, 6.0):
        states = scale * h
        logits = states @ E.T + b
        z = torch.logsumexp(logits, dim=1)
        y = math.log(len(h)) - torch.logsumexp(logits - z[:, None], dim=0)
        errors[scale] = (theory.cumulant_series(Head(E, b), states, z) - y).abs().mean(dim=1)
    assert (errors[0.05].diff() < 0).all()
    assert errors[6.0][3] > errors[6.0][1]


def test_the_gap_is_never_negative_and_is_what_lies_between_the_two_means():
    E, b, h, z = head()
    sums = Head(E, b).sums()
    sums.add(h)
    gap = theory.jensen_gap(sums.log_a, sums.mean_log_p)
    assert (gap > 0).all()
    torch.testing.assert_close(gap, theory.first_order(Head(E, b), h, z) + sums.log_a)
    same = Head(E, b).sums()
    same.add(h[:1].repeat(10, 1))
    assert theory.jensen_gap(same.log_a, same.mean_log_p).abs().max() < 1e-12


@pytest.mark.parametrize("bias", [True, False])
def test_mean_log_probability_without_the_bias_is_linear_and_the_average_probability_is_not(bias):
    E, b, h, _ = head()
    own = Head(E, b if bias else None)
    sums = own.sums()
    sums.add(h)
    assert regression.fit(E, theory.without_bias(own, -sums.mean_log_p)).r2 == pytest.approx(1.0)
    assert regression.fit(E, theory.without_bias(own, -sums.log_a)).r2 < 1.0 - 1e-4


@pytest.mark.parametrize("bias", [True, False])
def test_one_direction_with_one_intercept(bias):
    E, b, _, _ = head()
    own = Head(E, b if bias else None)
    direction = torch.arange(4.0)
    exact = E @ direction.double() - (b if bias else 0.0) + 7.0
    torch.testing.assert_close(theory.along(own, direction, exact), exact)
    # The intercept is the one that has the least squares, whatever the direction is.
    y = exact + torch.randn(len(E), generator=torch.Generator().manual_seed(1))
    said = theory.along(own, -direction, y)
    squares = [float((y - said - shift).square().sum()) for shift in (-0.1, 0.0, 0.1)]
    assert squares[1] == min(squares)


def test_table_of_orders_judges_each_with_and_without_an_intercept():
    E, b, h, z = head()
    y = -torch.softmax(h @ E.T + b, dim=1).mean(dim=0).log()
    table = theory.order_table(Head(E, b), h, z, y)
    assert table["order"].tolist() == [1, 2, 3, 4]
    for order, predicted in enumerate(theory.cumulant_series(Head(E, b), h, z)):
        error, total = y - predicted, y.var(correction=0)
        row = table.loc[order]
        assert row["r2"] == pytest.approx(float(1 - error.square().mean() / total))
        assert row["r2_one_intercept"] == pytest.approx(float(1 - error.var(correction=0) / total))


def test_second_moments_are_those_of_loops_over_rows_and_positions():
    E, _, h, _ = head()
    along = moments.variances_along(moments.Moments.of(h).cov, E)
    for row, variance in zip(E, along, strict=True):
        assert float(variance) == pytest.approx(float((h @ row).var(correction=0)))
    label = torch.arange(len(h)) % 7
    sums = moments.sums_by_label(h.float(), label, 9)
    assert (sums.dtype, sums.shape) == (torch.float64, (9, 4))
    for k in range(9):
        expected = h.float()[label == k].double().sum(dim=0)
        torch.testing.assert_close(sums[k], expected)
