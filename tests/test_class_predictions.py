"""Predictions by classes of context, on documents that took no part in them."""

import planted
import pytest
import torch
from test_context_classes import problem

from probenc_support.head import Head
from probenc_support.regression import Halves, r2_of
from probenc_support.theory import class_predictions, context_classes
from probenc_support.theory.class_predictions import Prediction, Refinement


def test_prediction_takes_its_intercept_from_the_fitting_text():
    E, b, h, z, y = problem()
    prediction = Prediction.of(Head(E, b), h, z, y, torch.arange(len(h)) % 5)
    assert prediction.intercept <= 0.0
    torch.testing.assert_close(prediction.y.mean(), y.mean())
    torch.testing.assert_close(prediction.bound, prediction.classes.y_bound(Head(E, b)))


@pytest.mark.parametrize(
    ("n_positions", "expected"),
    [(1, [1]), (8, [1]), (40, [1, 4, 5]), (200, [1, 4, 16, 25]), (8192, [1, 4, 16, 64, 256])],
)
def test_numbers_of_classes_rise_to_one_in_eight_positions(n_positions, expected):
    assert class_predictions.numbers_of_classes(n_positions) == expected


def planted_text():
    """Forty documents of ten positions; every position has one of three kinds of context."""
    head = planted.head(V=80, d=6)
    generator = torch.Generator().manual_seed(5)
    kind = torch.randint(3, (400,), generator=generator)
    centres = 3.0 * torch.randn(3, 6, generator=generator, dtype=torch.float64)
    h = centres[kind] + 0.05 * torch.randn(400, 6, generator=generator, dtype=torch.float64)
    return head, h, planted.detection(head, h, torch.arange(40).repeat_interleave(10))


def test_planted_contexts_are_explained_by_as_many_classes_and_not_by_classes_at_random():
    head, _, detection = planted_text()
    halves = Halves.by_lot(detection, seed=0)
    cov = torch.cov(head.E.T, correction=0)
    refinement = Refinement.of(head, cov, halves, seed=0)
    table = refinement.judged(halves.y_judging).set_index("classes")
    assert list(table.index) == [1, 4, 16, 25]
    assert table["r2"][4] > 0.98, "three kinds of context fit into four classes"
    assert table["r2"][1] < 0.9
    assert table["r2_random"][4] < 0.9
    # One class is the same however its positions are drawn.
    assert table["r2_random"][1] == pytest.approx(table["r2"][1])
    for k, prediction in refinement.by_similarity.items():
        sizes = [c.classes.label.bincount() for c in (prediction, refinement.by_lot[k])]
        assert torch.equal(*sizes)


def test_the_table_judges_each_prediction_by_the_text_that_is_given():
    head, h, detection = planted_text()
    halves = Halves.by_lot(detection, seed=0)
    refinement = Refinement.of(head, torch.cov(head.E.T), halves, seed=0)
    inside = halves.in_fitting
    z = torch.logsumexp(head.logits(h), dim=1)
    points = context_classes.logit_coordinates(torch.cov(head.E.T), h[inside])
    label = context_classes.k_means(points, 16, seed=0)
    alone = Prediction.of(head, h[inside], z[inside], -planted.mean_p(head, h[inside]).log(), label)
    y = -planted.mean_p(head, h[~inside]).log()
    row = refinement.judged(y).set_index("classes").loc[16]
    assert row["r2"] == pytest.approx(r2_of(y, alone.y))
    assert row["r2_nothing_fitted"] == pytest.approx(r2_of(y, alone.y - alone.intercept))
    assert row["intercept"] == pytest.approx(alone.intercept)
    assert refinement.readable is refinement.by_similarity[16]
    assert refinement.finest is refinement.by_similarity[25]
