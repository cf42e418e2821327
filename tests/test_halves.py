"""Halves of a text: what each holds, and averages over it against those of its positions alone."""

import numpy as np
import planted
import pytest
import torch

from probenc_support.errors import InputError
from probenc_support.regression import Halves, halves

GROUP = torch.arange(9).repeat_interleave(torch.tensor([5, 20, 10, 15, 10, 15, 5, 20, 20]))


def problem():
    head, h = planted.head(), planted.states()
    return head, h, planted.detection(head, h, GROUP)


def test_halves_by_lot_share_no_document():
    one, other = halves.by_lot(GROUP, seed=0)
    assert (len(one), len(other)) == (5, 4)
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(9))
    assert not torch.equal(one, halves.by_lot(GROUP, seed=1)[0])


def test_halves_in_order_follow_the_text():
    one, other = halves.in_order(GROUP)
    assert (one.tolist(), other.tolist()) == ([0, 1, 2, 3, 4], [5, 6, 7, 8])


@pytest.mark.parametrize("split", [halves.by_lot, halves.in_order])
def test_one_document_has_no_halves(split):
    with pytest.raises(InputError, match="One document"):
        split(torch.zeros(4, dtype=torch.int64))


def test_each_half_has_the_averages_of_its_own_positions():
    head, h, detection = problem()
    split = Halves.by_lot(detection, seed=3)
    inside = split.in_fitting
    assert inside.sum() == sum(int((g == GROUP).sum()) for g in split.fitting)
    torch.testing.assert_close(split.y_fitting, -planted.mean_p(head, h[inside]).log())
    torch.testing.assert_close(split.y_judging, -planted.mean_p(head, h[~inside]).log())


def test_predictions_are_judged_by_the_other_half_alone():
    _, _, detection = problem()
    split = Halves.in_order(detection)
    assert split.r2(split.y_judging) == pytest.approx(1.0)
    assert split.r2(split.y_fitting) < 1.0 - 1e-6
    predicted = split.y_fitting.numpy()
    error = ((split.y_judging.numpy() - predicted) ** 2).sum()
    total = split.y_judging.var(correction=0) * len(predicted)
    assert split.r2(predicted) == pytest.approx(1.0 - error / float(total))
    interval = split.r2_interval(predicted, n_replicates=50)
    assert interval.estimate == pytest.approx(split.r2(predicted), rel=1e-6)
    assert interval.low < interval.estimate < interval.high
    # Draws of the judging documents, one of them by hand.
    draws = np.random.default_rng(0).multinomial(4, np.full(4, 0.25), size=50)
    drawn = split.judging.repeat_interleave(torch.from_numpy(draws[0]))
    y = detection.y_of_groups(drawn).numpy()
    expected = 1.0 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert interval.replicates[0] == pytest.approx(expected)
