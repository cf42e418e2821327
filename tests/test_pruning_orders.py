"""Orders with every replacement, the contest of orders with and without slopes, slopes' noise."""

import itertools

import numpy as np
import pytest
import torch
from test_pruning import D, problem

from probenc_support import pruning
from probenc_support.moments import Moments
from probenc_support.pruning import orders as pruning_orders
from probenc_support.regression import Design
from probenc_support.sparsity import slope_noise


def test_every_replacement_has_its_basis() -> None:
    _, h, _ = problem()
    order = pruning_orders.random_order(D, seed=0)
    found = pruning_orders.replaced(order, Moments.of(h))
    assert tuple(found) == pruning_orders.REPLACEMENTS
    zero, mean, compensated = (found[r].kept(h, 5)[:, order[:5]] for r in found)
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
        (order, replacement): float(value)
        for value, (replacement, order) in enumerate(
            itertools.product(reversed(pruning_orders.REPLACEMENTS), orders)
        )
    }
    kl["standardised", "mean"] = -1.0
    found = pruning_orders.contests(kl, orders)
    assert found["zero"] == pruning_orders.Contest("zero", "paper", "wanda")
    assert found["mean"].slope == "standardised"
    assert pruning_orders.strongest(kl, found).replacement == "compensated"
    kl["fisher", "zero"] = -5.0
    found = pruning_orders.contests(kl, orders)
    assert found["zero"].without == "fisher"
    assert pruning_orders.strongest(kl, found).replacement == "zero"


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
