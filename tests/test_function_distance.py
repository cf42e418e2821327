"""Distance of function: divergences and similarities by their definitions and invariances."""

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from probenc_support import corpora, inference, models
from probenc_support.dynamics import function_distance
from probenc_support.dynamics.function_distance import Final, cka, divergence
from probenc_support.dynamics.predictions import Predictions, positions
from probenc_support.head import Head


def some_blocks(n: int = 6, length: int = 12) -> corpora.TokenBlocks:
    ids = torch.randint(1, tiny.VOCABULARY, (n, length), generator=torch.Generator().manual_seed(0))
    return corpora.from_ids(ids, corpus="made up")


def test_divergence_is_that_of_scipy() -> None:
    rng = torch.Generator().manual_seed(0)
    E, E2 = torch.randn(40, 5, generator=rng), torch.randn(40, 3, generator=rng)
    h, h2 = torch.randn(11, 5, generator=rng), torch.randn(11, 3, generator=rng)
    b = torch.randn(40, generator=rng)
    z, z2 = torch.logsumexp(h @ E.T + b, 1).double(), torch.logsumexp(h2 @ E2.T, 1).double()
    one, other = Predictions(Head(E, b), h, z), Predictions(Head(E2), h2, z2)
    found = divergence(one, other)
    P, Q = torch.softmax(h @ E.T + b, 1).double(), torch.softmax(h2 @ E2.T, 1).double()
    direct = [stats.entropy(p, q) for p, q in zip(P.numpy(), Q.numpy(), strict=True)]
    assert found.numpy() == pytest.approx(np.array(direct), rel=1e-5)
    assert divergence(one, one).numpy() == pytest.approx(np.zeros(11), abs=1e-6)


@given(st.integers(0, 20))
def test_similarity_does_not_depend_on_rotation_scale_and_shift(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    X, Y = torch.randn(30, 4, generator=rng), torch.randn(30, 6, generator=rng)
    Q, _ = torch.linalg.qr(torch.randn(4, 4, generator=rng))
    moved = 3 * X @ Q + torch.randn(4, generator=rng)
    assert cka(X, moved) == pytest.approx(1.0, abs=1e-5)
    assert cka(X, Y) == pytest.approx(cka(moved, Y), abs=1e-5)
    assert 0 <= cka(X, Y) < 1
    assert cka(X, torch.ones(30, 2)) == 0.0


@pytest.mark.parametrize("style", ["tied", "untied", "bias", "multiplied"])
def test_a_model_is_at_no_distance_from_itself(style: str) -> None:
    lm, other = tiny.language_model(style), tiny.language_model(style, seed=1)
    blocks = some_blocks()
    here, there = (inference.detect(m, blocks, cache=False, progress=False) for m in (lm, other))
    chosen = positions(here, 40)
    own, theirs = Predictions.of(lm, here, chosen), Predictions.of(other, there, chosen)
    final = Final.of(lm, here, own, blocks, chosen)
    same = final.compare(lm, own, blocks)
    assert same.kl == pytest.approx(0.0, abs=1e-5)
    assert list(same.cka) == ["input embedding", "layer 1", "layer 2"]
    assert list(same.cka.values()) == pytest.approx([1.0, 1.0, 1.0])
    found = final.compare(other, theirs, blocks, step=3)
    assert found.step == 3
    assert found.kl > 0.01
    assert found.kl_sums.sum() / found.sizes.sum() == pytest.approx(found.kl)
    assert found.sizes.sum() == 40
    logits = [
        models.logits(m, blocks.ids).flatten(0, 1)[final.places].double() for m in (lm, other)
    ]
    P, Q = (torch.log_softmax(each, 1) for each in logits)
    assert found.kl == pytest.approx(float((P.exp() * (P - Q)).sum(1).mean()), rel=1e-3)


def test_states_of_the_last_layer_are_those_that_the_head_reads() -> None:
    lm, blocks = tiny.language_model("untied"), some_blocks()
    chosen = inference.evenly(blocks.n_positions, 17)
    states = function_distance.layer_states(lm, blocks, chosen)
    wanted = models.hidden_states(lm, blocks.ids).flatten(0, 1)[chosen]
    assert torch.allclose(states["layer 2"], wanted, atol=1e-5)
    assert states["input embedding"].shape == (17, tiny.WIDTH)


def test_draws_of_documents_have_the_mean_and_spread_of_their_means() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 9, size=200).astype(float)
    means = rng.normal(3, 1, size=(2, 200))
    found = function_distance.draws_of_means(means * sizes, sizes, n_replicates=2000)
    assert found.shape == (2000, 2)
    assert found.mean(0) == pytest.approx((means * sizes).sum(1) / sizes.sum(), abs=0.02)
    assert found.std(0) == pytest.approx(means.std(1) / 200**0.5, rel=0.15)
