"""Text that a model writes itself: as it is drawn, and as the robust direction uses it."""

from typing import Any

import pytest
import tiny
import tiny_kinds
import torch

from probenc_support import models, steering
from probenc_support.steering.own_text import NAME, own_text
from probenc_support.steering.robust_direction import Calibration


def test_texts_begin_with_tokens_drawn_evenly_and_go_on_as_the_model_does(tiny_lm: Any) -> None:
    ids = own_text(tiny_lm, n_texts=40, length=12)
    assert ids is not None
    assert ids.shape == (40, 12)
    assert len(ids[:, 0].unique()) > 20
    assert set(ids[:, 0].tolist()) <= set(tiny_lm.tokens.tolist())
    torch.testing.assert_close(ids, own_text(tiny_lm, n_texts=40, length=12), rtol=0, atol=0)
    other = own_text(tiny_lm, n_texts=40, length=12, seed=1)
    assert other is not None
    assert not torch.equal(ids[:, 0], other[:, 0])


def test_a_text_is_likelier_than_the_same_tokens_in_another_order() -> None:
    """What is written is drawn from the model, and not by lot."""
    lm = tiny.language_model("untied")
    ids = own_text(lm, n_texts=64, length=24)
    assert ids is not None
    mixed = ids[:, torch.randperm(24, generator=torch.Generator().manual_seed(0))]

    def loss(block: torch.Tensor) -> float:
        log_p = torch.log_softmax(models.logits(lm, block)[:, :-1], dim=2)
        return -float(log_p.gather(2, block[:, 1:, None]).mean())

    assert loss(ids) < loss(mixed) - 0.05


def test_a_text_is_no_longer_than_the_context() -> None:
    ids = own_text(tiny.language_model("untied"), n_texts=2)
    assert ids is not None
    assert ids.shape[1] == tiny.CONTEXT < 128


@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_models_that_complete_a_text_have_none_of_their_own(architecture: str) -> None:
    lm = tiny_kinds.language_model(architecture)
    assert own_text(lm) is None
    assert steering.calibration_of_own_text(lm, torch.arange(10)) == []


def test_the_robust_direction_holds_better_on_other_own_text_for_it() -> None:
    """On texts of another seed, against the fit to two corpora of one kind alone."""
    lm = tiny.language_model("untied")
    tokens = torch.arange(10, 300, 10)

    def states(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = models.hidden_states(lm, ids).flatten(0, 1)
        return h, lm.head.log_partition(h)

    one_kind = torch.arange(20, 52).repeat(12, 1)
    corpora = [
        Calibration.of(lm, str(i), *states(one_kind.roll(i, dims=1)), tokens) for i in range(3)
    ]
    (own,) = steering.calibration_of_own_text(lm, tokens)
    assert own.name == NAME
    assert own.h.shape == (16 * tiny.CONTEXT, lm.d)
    without = steering.robust(corpora[0], corpora[1:])
    with_own = steering.robust(corpora[0], [*corpora[1:], own])
    assert NAME in with_own.shortfall
    (other,) = steering.calibration_of_own_text(lm, tokens, seed=1)
    better = other.moments.unevenness(with_own.vector)
    assert better < 0.9 * other.moments.unevenness(without.vector)
