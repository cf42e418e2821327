"""Scaled hidden states and small vocabularies against brute force."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from probenc_support import regression
from probenc_support.head import Head
from probenc_support.theory import logit_spread


def head(seed=0, V=60, d=4, N=200, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    E = torch.randn(V, d, generator=generator, dtype=dtype)
    b = torch.randn(V, generator=generator, dtype=dtype)
    return E, b, torch.randn(N, d, generator=generator, dtype=dtype) + 0.7


def test_spread_is_the_standard_deviation_of_the_logits_over_the_tokens():
    E, _, h = head()
    cov = torch.cov(E.T, correction=0)
    expected = (h @ E.T).var(dim=1, correction=0).mean().sqrt()
    assert logit_spread.spread_over_tokens(cov, h) == pytest.approx(float(expected), rel=1e-12)
    assert logit_spread.spread_over_tokens(cov, 3.0 * h) == pytest.approx(3.0 * float(expected))


@pytest.mark.parametrize("bias", [True, False])
def test_every_scale_is_a_pass_of_its_own(bias):
    E, b, h = head()
    b = b if bias else None
    scales = [0.125, 1.0, 4.0]
    found = logit_spread.log_a_at_scales(Head(E, b), h, scales)
    for k, scale in enumerate(scales):
        alone = Head(E, b).log_mean_p(scale * h)
        torch.testing.assert_close(found[k], alone)


def test_no_probability_is_lost_in_single_precision():
    E, b, h = head(dtype=torch.float32)
    found = logit_spread.log_a_at_scales(Head(E, b), h, [200.0])[0]
    log_p = torch.log_softmax(200.0 * h.double() @ E.double().T + b.double(), dim=1)
    exact = torch.logsumexp(log_p, dim=0) - math.log(len(h))
    assert exact.min() < -150.0
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-2)


def test_small_vocabulary_against_brute_force():
    E, b, h = head(V=80)
    z = torch.logsumexp(h @ E.T + b, dim=1)
    found = logit_spread.r2_small_vocabulary(Head(E, b), h, z, size=30, n_draws=2, seed=4)
    generator = torch.Generator().manual_seed(4)
    for draw in range(2):
        rows = torch.randperm(80, generator=generator)[:30]
        logits = h @ E[rows].T + b[rows]
        whole = (logits - z[:, None]).exp().mean(dim=0)
        small = torch.softmax(logits, dim=1).mean(dim=0)
        for k, a in enumerate((whole, small)):
            expected = regression.r2_heldout(
                regression.Design.of(E[rows]), -a.log(), n_folds=5, seed=4
            )
            assert found[draw, k] == pytest.approx(expected, rel=1e-9)


def test_a_softmax_over_all_tokens_is_no_small_one():
    E, b, h = head()
    z = torch.logsumexp(h @ E.T + b, dim=1)
    found = logit_spread.r2_small_vocabulary(Head(E, b), h, z, size=len(E), n_draws=1)
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-9)


def test_small_vocabularies_hold_enough_tokens_for_the_slopes():
    assert logit_spread.n_small(49152, 576) == 3072
    assert logit_spread.n_small(8192, 128) == 520
    assert logit_spread.n_small(320, 16) == 72
    assert logit_spread.n_small(100, 16) == 0


def test_interval_of_a_mean_is_that_of_the_t_test():
    values = np.array([0.1, 0.3, 0.2, 0.6])
    found = logit_spread.mean_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_fits_at_scales_are_fits_to_passes_of_their_own():
    E, b, h = head()
    found = logit_spread.ScaledFits.of(Head(E, b), regression.Design.of(E), h, [0.5, 1.0, 3.0])
    for scale in found.scales:
        y = -torch.softmax(scale * h @ E.T + b, dim=1).mean(dim=0).log()
        assert found.r2_at(scale) == pytest.approx(regression.fit(E, y).r2_adj)


def test_small_vocabulary_in_summary():
    E, b, h = head(V=120)
    z = torch.logsumexp(h @ E.T + b, dim=1)
    found = logit_spread.SmallVocabulary.of(Head(E, b), h, z, seed=4)
    assert found is not None
    assert found.size == logit_spread.n_small(120, 4)
    r2 = logit_spread.r2_small_vocabulary(Head(E, b), h, z, size=found.size, seed=4)
    assert (found.whole, found.small) == tuple(pytest.approx(mean) for mean in r2.mean(axis=0))
    assert found.loss.estimate == pytest.approx(found.whole - found.small)
    assert found.loss.low < found.loss.estimate < found.loss.high
    assert found.metrics()["r2_loss_small_vocab_low"] == found.loss.low
    few = Head(E[:20], b[:20])
    assert logit_spread.SmallVocabulary.of(few, h, z) is None, "20 tokens, 4 slopes"
