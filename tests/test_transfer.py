"""Transfer of a fit: to the same text, to other text, and to probabilities of another head."""

import numpy as np
import planted
import pytest
import torch

from probenc_support import regression
from probenc_support.regression import Design, Transfer

GROUP = torch.arange(12).repeat_interleave(10)


def problem():
    head, h = planted.head(V=200), planted.states()
    here = planted.detection(head, h, GROUP)
    design = Design.of(head.E)
    return head, h, here, design, design.fit(here.y)


def test_to_the_same_text_nothing_is_lost():
    _, _, here, design, fit = problem()
    transfer = Transfer.of(design, fit, here.y, here, n_replicates=20)
    assert transfer.r2.estimate == pytest.approx(fit.r2)
    assert transfer.r2_adj_there == pytest.approx(fit.r2_adj)
    assert transfer.correlation == pytest.approx(fit.r2**0.5)
    for perfect in (transfer.r2_itself, transfer.cosine, transfer.fitted_correlation):
        assert perfect == pytest.approx(1.0)


def test_to_other_text_every_number_is_what_its_definition_gives():
    head, h, here, design, fit = problem()
    other = planted.detection(head, 1.3 * h.flip(1) - 0.4, GROUP)
    transfer = Transfer.of(design, fit, here.y, other, n_replicates=20)
    E, y, said = head.E.numpy(), other.y.numpy(), fit.predict(head.E)
    own = regression.fit(E, y)
    assert transfer.r2.estimate == pytest.approx(1 - ((y - said) ** 2).mean() / np.var(y))
    assert transfer.r2_itself == pytest.approx(1 - ((y - here.y.numpy()) ** 2).mean() / np.var(y))
    assert transfer.correlation == pytest.approx(np.corrcoef(y, said)[0, 1])
    assert transfer.r2_adj_there == pytest.approx(own.r2_adj)
    assert transfer.fitted_correlation == pytest.approx(
        np.corrcoef(E @ fit.slopes, E @ own.slopes)[0, 1]
    )
    assert transfer.r2.estimate < transfer.correlation**2 < 1.0, (
        "a free slope and intercept do better"
    )


def test_what_does_not_carry_over_is_seen():
    """The control: probabilities of another head have nothing to do with the rows of this one."""
    _, h, here, design, fit = problem()
    other = planted.detection(planted.head(seed=9, V=200), h, GROUP)
    transfer = Transfer.of(design, fit, here.y, other, n_replicates=20)
    assert transfer.correlation**2 < 0.1
    assert transfer.r2.estimate < 0.1


def test_metrics_of_a_further_text_have_its_suffix():
    _, _, here, design, fit = problem()
    transfer = Transfer.of(design, fit, here.y, here, n_replicates=20)
    near = transfer.metrics("_near")
    assert near["r2_transfer_near"] == transfer.r2.estimate
    assert near["r2_transfer_near_low"] == transfer.r2.low
    assert near["cos_direction_corpora_near"] == transfer.cosine
    assert {name.replace("_near", "") for name in near} == set(transfer.metrics())
