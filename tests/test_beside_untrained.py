"""A model beside its untrained twin: equal spreads, brute-force fits, and a model beside itself."""

import numpy as np
import pytest
import tiny
import torch

from probenc_support import corpora, inference, regression
from probenc_support.models import untrained
from probenc_support.regression import Design
from probenc_support.theory import beside_untrained
from probenc_support.theory.beside_untrained import BesideUntrained

SCALES = (0.5, 1.0, 2.0)


@pytest.fixture(params=["padded", "bias"])
def read(request):
    """A model, a text, the pass over it, and the design of its tokens."""
    lm = tiny.language_model(request.param)
    generator = torch.Generator().manual_seed(0)
    ids = lm.tokens[torch.randint(len(lm.tokens), (40, 32), generator=generator)]
    blocks = corpora.from_ids(ids, corpus="random")
    detection = inference.detect(lm, blocks, cache=False, progress=False)
    return lm, blocks, detection, Design.of(lm.head.rows)


def spread(lm, h):
    """By its definition: logits, less the bias, of tokens, their variance at each position."""
    return float((h.double() @ lm.head.rows.double().T).var(dim=1, correction=0).mean().sqrt())


def test_a_model_beside_itself_gains_nothing(read):
    lm, blocks, detection, design = read
    beside = BesideUntrained.of(lm, lm, blocks, detection, design, scales=SCALES)
    assert beside.spread_untrained == pytest.approx(beside.spread)
    np.testing.assert_allclose(beside.r2_matched, beside.trained.r2_adj, rtol=1e-6)
    assert beside.metrics()["r2_above_untrained"] == pytest.approx(0.0, abs=1e-6)
    assert beside.r2_of_trained_rows(design) == pytest.approx(beside.trained.r2_at(1.0), rel=1e-6)


def test_twins_logits_are_made_to_spread_as_the_models_do(read):
    lm, blocks, detection, design = read
    twin = untrained.twin(lm, seed=1)
    beside = BesideUntrained.of(lm, twin, blocks, detection, design, scales=SCALES)
    chosen = beside_untrained.blocks_to_compare(40, 32)
    assert len(chosen) == 512 // 32
    h, own = (inference.read(one, blocks.ids[chosen]) for one in (lm, twin))
    assert beside.n_positions == len(h) == 512
    assert beside.spread == pytest.approx(spread(lm, h), rel=1e-5)
    assert beside.spread_untrained == pytest.approx(spread(twin, own), rel=1e-5)
    np.testing.assert_allclose(beside.spreads, [beside.spread * s for s in SCALES])
    stretch = beside.spread / beside.spread_untrained
    for k, scale in enumerate(SCALES):
        assert spread(twin, stretch * scale * own) == pytest.approx(beside.spreads[k], rel=1e-5)
        for one, states, r2 in (
            (lm, scale * h, beside.trained.r2_adj[k]),
            (twin, stretch * scale * own, beside.r2_matched[k]),
        ):
            fit = regression.fit(one.head.rows, -one.head.log_mean_p(states))
            assert r2 == pytest.approx(fit.r2_adj, rel=1e-4)
    as_it_comes = regression.fit(twin.head.rows, -twin.head.log_mean_p(own))
    assert beside.r2_as_it_comes == pytest.approx(as_it_comes.r2_adj, rel=1e-4)
    assert beside.r2_matched_at(1.0) == beside.r2_matched[1]
    y = beside.y_matched
    assert regression.r2_of(y, beside.fitted_matched()) == pytest.approx(
        regression.fit(twin.head.rows, y).r2
    )


def test_rows_of_one_network_say_little_of_the_probabilities_of_another(read):
    lm, blocks, detection, design = read
    twin = untrained.twin(lm, seed=1)
    beside = BesideUntrained.of(lm, twin, blocks, detection, design, scales=SCALES)
    larger = max(
        regression.fit(lm.head.rows, y).r2_adj for y in (beside.untrained.y[0], beside.y_matched)
    )
    assert beside.r2_of_trained_rows(design) == pytest.approx(larger)
    assert larger < 0.5 * beside.r2_matched_at(1.0)


@pytest.mark.parametrize(
    ("n_blocks", "length", "expected"), [(64, 256, 2), (1, 256, 1), (3, 16, 3), (64, 1024, 1)]
)
def test_blocks_to_compare_are_few_and_never_none(n_blocks, length, expected):
    chosen = beside_untrained.blocks_to_compare(n_blocks, length)
    assert len(chosen) == len(chosen.unique()) == expected
    assert 0 <= int(chosen.min()) <= int(chosen.max()) < n_blocks
