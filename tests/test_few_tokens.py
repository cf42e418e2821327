"""Few tokens for many slopes: leaving out by hand, noise and unseen rows drawn."""

import numpy as np
import planted
import pytest
import torch

from probenc_support import regression
from probenc_support.head import Head
from probenc_support.regression.few_tokens import FEW, FewTokens
from probenc_support.regression.head_bias import BesideBias

RNG = np.random.default_rng(0)


def test_leaving_each_token_out_is_n_fits() -> None:
    E = RNG.standard_normal((40, 6)) + 3
    y = RNG.standard_normal(40)
    design = regression.Design.of(E)
    by_hand = np.empty(40)
    for i in range(40):
        rest = np.arange(40) != i
        columns = np.column_stack([np.ones(39), E[rest]])
        solved = np.linalg.lstsq(columns, y[rest], rcond=None)[0]
        by_hand[i] = solved[0] + E[i] @ solved[1:]
    np.testing.assert_allclose(design.left_one_out(y), by_hand, rtol=1e-9)
    few = FewTokens.of(design, y)
    assert few.r2_left_one_out == pytest.approx(regression.r2_of(y, by_hand), rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 20), (300, 30)])
def test_r2_of_noise_has_its_mean_and_its_quantile(n: int, d: int) -> None:
    design = regression.Design.of(RNG.standard_normal((n, d)) ** 3)
    found = design.fit_many(RNG.standard_normal((n, 4000)))
    few = FewTokens(n, d, 0.0, 0.0)
    assert found.r2.mean() == pytest.approx(few.r2_of_noise, abs=4 * found.r2.std() / 4000**0.5)
    assert found.r2_adj.mean() == pytest.approx(0, abs=4 * found.r2_adj.std() / 4000**0.5)
    above = float((found.r2_adj > few.r2_adj_of_noise(0.9)).mean())
    assert above == pytest.approx(0.1, abs=0.02)
    assert few.r2_adj_of_noise(0.9) > 0.02, "far from zero, though the mean is zero"


def test_unseen_tokens_are_explained_as_far_as_the_noise_in_the_slopes_says() -> None:
    n, d, there = 80, 30, []
    expected = []
    for _ in range(60):
        E, new = RNG.standard_normal((n, d)), RNG.standard_normal((2000, d))
        slopes = RNG.standard_normal(d) / d**0.5
        y = E @ slopes + RNG.standard_normal(n)
        fit = regression.fit(E, y)
        beyond = new @ slopes + RNG.standard_normal(2000)
        there.append(1 - ((beyond - fit.predict(new)) ** 2).mean() / 2)
        # The residual variance as it is in truth, a half of y's.
        expected.append(FewTokens(n, d, 0.5, 0.0).r2_expected_left_out)
    spread = float(np.std(there)) / len(there) ** 0.5
    assert np.mean(there) == pytest.approx(expected[0], abs=4 * spread)
    assert np.mean(there) < 0.5 - 4 * spread, "adjusted R^2 promises more"


def test_with_many_tokens_nothing_is_lost() -> None:
    few = FewTokens(49_152, 576, 0.86, 0.857)
    assert not few.are_few
    assert few.r2_expected_left_out == pytest.approx(0.86, abs=0.002)
    assert few.r2_adj_of_noise() < 0.002
    assert FewTokens(591, 128, 0.5, 0.0).are_few
    assert FewTokens(int(FEW * 10), 10, 0.5, 0.0).are_few is False


def test_a_bias_that_carries_probability_is_found() -> None:
    """To first order y = -E . m - b: known it explains all, unknown it is noise to E."""
    head = planted.head(V=200, d=5)
    assert head.bias is not None
    slopes = torch.arange(5, dtype=torch.float64)
    beside = BesideBias.of(head, head.rows @ slopes - head.bias)
    assert beside is not None
    assert beside.embedding_less_bias == pytest.approx(1, abs=1e-9)
    assert beside.both == pytest.approx(1, abs=1e-9)
    assert beside.bias_slope == pytest.approx(-1, abs=1e-9)
    assert beside.embedding < 0.99
    assert beside.bias < 0.5


def test_a_bias_that_says_nothing_adds_nothing() -> None:
    """The control: where y is not made of it, taking it out of y makes the fit worse."""
    head = planted.head(V=200, d=5)
    slopes = torch.arange(5, dtype=torch.float64)
    beside = BesideBias.of(head, head.rows @ slopes)
    assert beside is not None
    assert beside.embedding == pytest.approx(1, abs=1e-9)
    assert beside.embedding_less_bias < 0.99
    assert beside.bias_slope == pytest.approx(0, abs=1e-9)


def test_a_large_bias_that_the_embedding_knows_does_not_pass_for_a_fit_of_y() -> None:
    """The trap: E explains nearly all of y + b where b is linear in E and large, and none of y."""
    generator = torch.Generator().manual_seed(3)
    E = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(300, generator=generator, dtype=torch.float64)
    b = 100 * E[:, 0]
    assert regression.fit(E, y + b).r2_adj > 0.99
    beside = BesideBias.of(Head(E, b + 1e-6 * torch.randn(300, generator=generator)), y)
    assert beside is not None
    assert abs(beside.embedding_less_bias) < 0.1
    assert beside.embedding_less_bias == pytest.approx(beside.embedding, abs=1e-3)


def test_without_a_bias_there_is_nothing_to_compare() -> None:
    y = torch.randn(60, generator=torch.Generator().manual_seed(0))
    head = planted.head(bias=False)
    assert BesideBias.of(head, y) is None
    same = Head(head.E, torch.full((60,), 2.0, dtype=torch.float64))
    assert BesideBias.of(same, y) is None
