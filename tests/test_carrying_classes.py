"""Classes that a token's probability comes from: planted shares, and slopes by differentiation."""

import pytest
import torch
from test_context_classes import problem

from probenc_support import theory
from probenc_support.head import Head
from probenc_support.theory import carrying_classes
from probenc_support.theory.carrying_classes import Carrying
from probenc_support.theory.context_classes import ContextClasses


def test_fewest_classes_that_carry_a_part_of_planted_shares():
    classes = ContextClasses.of(
        torch.zeros(10, 2), torch.zeros(10), torch.tensor([0] * 6 + [1] * 3 + [2])
    )
    carried = torch.tensor([[0.0, 0.05, 0.95], [0.0, 0.05, 0.95]], dtype=torch.float64)
    assert carrying_classes.carriers(classes, carried) == (1, pytest.approx(0.1))
    even = torch.full((4, 3), 1 / 3, dtype=torch.float64)
    assert carrying_classes.carriers(classes, even) == (3, pytest.approx(1.0))
    torch.testing.assert_close(
        carrying_classes.effective_number(even), torch.full((4,), 3.0, dtype=torch.float64)
    )
    assert float(carrying_classes.effective_number(torch.eye(3))[0]) == 1.0


def test_slope_of_the_bound_is_what_differentiation_gives():
    E, b, h, z, _ = problem()
    classes = ContextClasses.of(h, z, torch.arange(len(h)) % 6)
    E.requires_grad_(True)
    (slope,) = torch.autograd.grad(classes.y_bound(Head(E, b)).sum(), E)
    carried = classes.carried(Head(E.detach(), b))
    torch.testing.assert_close(carrying_classes.slopes(classes, carried), slope)
    carrying = Carrying.of(Head(E.detach(), b), classes)
    torch.testing.assert_close(carrying.mean_slope, slope.mean(dim=0))


def test_one_class_carries_everything_and_its_slope_is_minus_the_mean_hidden_state():
    E, b, h, z, y = problem()
    head = Head(E, b)
    one = ContextClasses.of(h, z, torch.zeros(len(h), dtype=torch.int64))
    carrying = Carrying.of(head, one)
    assert (carrying.effective, carrying.n_for_90, carrying.positions_for_90) == (1.0, 1, 1.0)
    torch.testing.assert_close(carrying.mean_slope, -h.mean(dim=0))
    # So its direction with one intercept is the bound of one class with one intercept.
    bound = one.y_bound(head)
    torch.testing.assert_close(
        theory.along(head, carrying.mean_slope, y), bound + (y - bound).mean()
    )
