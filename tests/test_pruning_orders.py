"""Orders with every replacement, the contest of orders with and without slopes, slopes' noise."""

import itertools

import numpy as np
import pytest
import torch
from test_pruning import D, problem

from probenc_support import pruning
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.pruning import orders as pruning_orders
from probenc_support.regression import Design
from probenc_support.sparsity import slope_noise


def test_every_replacement_has_its_basis() -> None:
    _, h, _ = problem()
    order = pruning_orders.random_order(D, seed=0)
    by_replacement = pruning_orders.replaced(order, Moments.of(h))
    assert tuple(by_replacement) == pruning_orders.REPLACEMENTS
    zero, mean, compensated = (basis.kept(h, 5)[:, order[:5]] for basis in by_replacement.values())
    assert (zero == 0).all()
    torch.testing.assert_close(mean, h.mean(0)[order[:5]].expand_as(mean))
    torch.testing.assert_close(compensated.mean(0), h.mean(0)[order[:5]])
    errors = [float((kept - h[:, order[:5]]).square().mean()) for kept in (zero, mean, compensated)]
    assert errors == sorted(errors, reverse=True)
    names = [pruning_orders.name_of("wanda", r) for r in pruning_orders.REPLACEMENTS]
    assert names == ["wanda", "wanda_mean", "wanda_compensated"]


def test_a_product_of_scores_follows_each_where_the_other_is_flat() -> None:
    first, flat = torch.rand(20).double(), torch.ones(20).double()
    assert torch.equal(pruning_orders.combined_scores(first, flat), first)
    assert torch.equal(pruning_orders.combined_scores(flat, first), first)


def test_a_contest_takes_the_best_of_each_side() -> None:
    orders = ("paper", "standardised", "wanda", "fisher")
    kl = {
        pruning_orders.name_of(order, replacement): float(value)
        for value, (replacement, order) in enumerate(
            itertools.product(reversed(pruning_orders.REPLACEMENTS), orders)
        )
    }
    kl["standardised_mean"] = -1.0
    held = pruning_orders.contests(kl, orders)
    assert held["zero"] == pruning_orders.Contest("zero", "paper", "wanda")
    assert held["mean"].slope == "standardised"
    assert pruning_orders.strongest(kl, held).replacement == "compensated"
    kl["fisher"] = -5.0
    held = pruning_orders.contests(kl, orders)
    assert held["zero"].without == "fisher"
    assert pruning_orders.strongest(kl, held).replacement == "zero"


def test_the_costliest_dimension_is_sought_among_those_that_go() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    cost = torch.tensor([1.0, 9.0, 0.0, 2.0, 5.0])
    assert pruning_orders.costliest(order, 2, cost) == 3
    assert pruning_orders.costliest(order, 3, cost) == 4
    assert pruning_orders.costliest(order, 5, cost) == 1
    assert pruning_orders.spared(order, 0).tolist() == [3, 4, 1, 2, 0]


def test_all_orders_have_all_replacements_and_their_mean_kl_is_that_of_a_sweep() -> None:
    E, h, _ = problem()
    orders = {"paper": torch.arange(D), "wanda": torch.arange(D).flip(0)}
    bases = pruning_orders.bases_of(orders, Moments.of(h))
    assert set(bases) == {f"{o}{r}" for o in orders for r in ("", "_mean", "_compensated")}
    kl = pruning_orders.mean_kl(pruning.Reference(Head(E), h), bases, 4)
    for name in ("paper", "wanda_compensated"):
        alone = pruning.sweep(Head(E), bases[name], h, [4]).kl.mean()
        assert kl[name] == pytest.approx(float(alone))
    assert len(set(kl.values())) == len(kl)


def test_random_orders_are_replaced_as_the_others_are() -> None:
    _, h, _ = problem()
    drawn = pruning_orders.random_bases(h, n_zero=4, n_others=2, seed=5)
    assert {name: len(several) for name, several in drawn.items()} == {
        "random": 4, "random_mean": 2, "random_compensated": 2
    }  # fmt: skip
    for i, basis in enumerate(drawn["random"]):
        assert torch.equal(
            basis.kept(h, 3),
            pruning.zero_basis(pruning_orders.random_order(D, seed=5 + i)).kept(h, 3),
        )
    order = pruning_orders.random_order(D, seed=6)
    expected = pruning.compensated_basis(order, h).kept(h, 3)
    torch.testing.assert_close(drawn["random_compensated"][1].kept(h, 3), expected)


# ---------------------------------------------------------------------------- noise of the slopes


def drawn(noise: float, *, n_groups: int = 40) -> slope_noise.Redrawn:
    """Slopes 1 to 8 planted in -log a, and documents that differ in their slopes by `noise`."""
    rng = np.random.default_rng(0)
    E = rng.normal(size=(400, 8))
    slopes = np.arange(1.0, 9.0) / 20
    own = slopes + noise * rng.normal(size=(n_groups, 8))
    y = own @ E.T
    design = Design.of(torch.tensor(E))
    return slope_noise.redraw(
        design, design.fit(y.mean(axis=0)).slopes, -y, torch.full((n_groups,), 10), n_replicates=150
    )


def test_noise_between_documents_shows_in_the_slopes() -> None:
    quiet, loud = drawn(0.01), drawn(0.5)
    assert quiet.ranks.tolist() == list(range(1, 9))
    assert quiet.t.min() > 10
    assert np.median(np.abs(loud.t)) < 5
    assert quiet.overlap(4) > 0.95
    assert loud.overlap(4) < 0.9
    low, high = quiet.rank_interval(0)
    assert low == high == 1.0
    low, high = loud.rank_interval(3)
    assert high - low >= 3
    assert all(sorted(order.tolist()) == list(range(8)) for order in loud.orders(5))
    assert torch.equal(quiet.orders(1)[0], torch.arange(8))


def test_the_standard_deviation_of_slopes_is_that_of_a_mean_over_documents() -> None:
    found = drawn(0.05, n_groups=100)
    # -log of a mean of probabilities is the mean of -log to first order in the noise.
    assert found.replicates.std(axis=1).mean() == pytest.approx(0.05 / 10, rel=0.25)


def test_a_random_order_overlaps_by_chance() -> None:
    rng = np.random.default_rng(0)
    chance = slope_noise.Redrawn(np.ones(300), rng.normal(size=(300, 40)))
    assert chance.overlap(90) == pytest.approx(0.3, abs=0.03)
    assert pruning.levels([0.3], 300) == [90]
