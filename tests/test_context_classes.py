"""The class theory: an upper bound of y, exact for single positions, monotone under refinement."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probenc_support import theory
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.theory import context_classes
from probenc_support.theory.context_classes import ContextClasses

seeds = st.integers(0, 2**31 - 1)


def problem(seed=0, V=40, d=5, N=60, *, bias=True, spread=2.0):
    """A random head and random hidden states: E, b, h, z, and y by brute force."""
    generator = torch.Generator().manual_seed(seed)
    E = torch.randn(V, d, generator=generator, dtype=torch.float64)
    b = torch.randn(V, generator=generator, dtype=torch.float64) if bias else None
    h = spread * torch.randn(N, d, generator=generator, dtype=torch.float64) + 0.5
    logits = h @ E.T + (0.0 if b is None else b)
    z = torch.logsumexp(logits, dim=1)
    return E, b, h, z, -torch.softmax(logits, dim=1).mean(dim=0).log()


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 60), st.booleans())
def test_any_classes_bound_y_from_above(seed, k, bias):
    E, b, h, z, y = problem(seed, bias=bias)
    label = torch.randint(k, (len(h),), generator=torch.Generator().manual_seed(seed))
    classes = ContextClasses.of(h, z, label)
    assert (classes.y_bound(Head(E, b)) >= y - 1e-10).all()
    assert classes.shares.sum() == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(seeds, st.booleans())
def test_exact_at_one_class_a_position_and_first_order_at_one_class(seed, bias):
    E, b, h, z, y = problem(seed, bias=bias)
    single = ContextClasses.of(h, z, torch.arange(len(h)))
    torch.testing.assert_close(single.y_bound(Head(E, b)), y)
    together = ContextClasses.of(h, z, torch.zeros(len(h), dtype=torch.int64))
    torch.testing.assert_close(together.y_bound(Head(E, b)), theory.first_order(Head(E, b), h, z))


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 8))
def test_splitting_a_class_never_moves_the_bound_away(seed, k):
    E, b, h, z, y = problem(seed)
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(k, (len(h),), generator=generator)
    finer = 2 * label + torch.randint(2, (len(h),), generator=generator)
    coarse, fine = (ContextClasses.of(h, z, part).y_bound(Head(E, b)) for part in (label, finer))
    assert (fine <= coarse + 1e-10).all()
    assert (fine >= y - 1e-10).all()


def test_what_classes_carry_adds_up_to_the_bound():
    E, b, h, z, _ = problem()
    classes = ContextClasses.of(h, z, torch.arange(len(h)) % 4)
    carried = classes.carried(Head(E, b))
    torch.testing.assert_close(carried.sum(dim=1), torch.ones(len(E), dtype=torch.float64))
    alone = classes.shares * torch.exp(E @ classes.mean_h.T + b[:, None] - classes.mean_z)
    torch.testing.assert_close(carried, alone / alone.sum(dim=1, keepdim=True))


def planted(n=3, each=50):
    """Hidden states around n centres that are far apart for the logits, and noise that no token
    reads: along it E is all but constant."""
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(200, 4, generator=generator)
    E[:, 3] *= 1e-6
    label = torch.arange(n).repeat_interleave(each)
    h = 5.0 * torch.eye(4)[label] + 0.1 * torch.randn(n * each, 4, generator=generator)
    h[:, 3] += 300.0 * torch.randn(n * each, generator=generator)
    return E, h, label


def test_distances_are_those_of_the_logits():
    E, _, h, _, _ = problem()
    points = context_classes.logit_coordinates(torch.cov(E.T, correction=0), h).double()
    logits = h @ E.T
    expected = (logits[3] - logits[17]).var(correction=0)
    torch.testing.assert_close(
        (points[3] - points[17]).square().sum(), expected, rtol=1e-5, atol=0.0
    )


def test_planted_kinds_of_context_are_found_whatever_no_token_reads():
    E, h, label = planted()
    points = context_classes.logit_coordinates(torch.cov(E.T), h)
    found = context_classes.k_means(points, 3, seed=0)
    table = pd.crosstab(found.numpy(), label.numpy()).to_numpy()
    assert sorted(table.max(axis=1)) == [50, 50, 50]
    np.testing.assert_array_equal(found, context_classes.k_means(points, 3, seed=0))
    # The control: plain distances see the noise alone.
    plain = context_classes.k_means(h, 3, seed=0)
    assert pd.crosstab(plain.numpy(), label.numpy()).to_numpy().max() < 45


def test_planted_mixture_is_explained_by_its_classes_and_not_by_others():
    """Contexts that are the same within a class: K classes are exact, one class is not."""
    E, _, h, _, _ = problem(N=3, spread=3.0)
    label = torch.arange(3).repeat_interleave(20)
    h = h[label]
    z = torch.logsumexp(h @ E.T, dim=1)
    y = -torch.softmax(h @ E.T, dim=1).mean(dim=0).log()
    exact = ContextClasses.of(h, z, label).y_bound(Head(E))
    torch.testing.assert_close(exact, y)
    lot = ContextClasses.of(h, z, context_classes.shuffled(label, seed=1)).y_bound(Head(E))
    assert (lot - y).abs().max() > 0.1


def test_shuffled_labels_keep_the_sizes_of_the_classes():
    label = torch.arange(100) % 7
    dealt = context_classes.shuffled(label, seed=3)
    assert not torch.equal(dealt, label)
    assert torch.equal(dealt.bincount(), label.bincount())


@pytest.mark.parametrize("k", [0, 61])
def test_impossible_numbers_of_classes_are_refused(k):
    _, _, h, z, _ = problem()
    with pytest.raises(InputError, match="classes cannot be made"):
        context_classes.k_means(h, k)
    with pytest.raises(InputError, match="labels do not fit"):
        ContextClasses.of(h, z, torch.zeros(3))
