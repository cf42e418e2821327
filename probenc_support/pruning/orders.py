"""In which order dimensions go, and what replaces them: every order with every replacement.

Some orders use the slopes of the log-linear fit, others do not: whether the encoding gives better
pruning is whether the former lose less than the latter, all else being equal.

Scores and orders [d] are on the CPU; what they take of E and h is made where these lie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probenc_support.embedding_rows import standard_deviations
from probenc_support.head import Head
from probenc_support.moments import States, moments_of
from probenc_support.precision import wide, wide_device
from probenc_support.pruning.bases import Basis, compensated_basis, mean_basis, zero_basis
from probenc_support.pruning.divergence import Reference, positions_at_once

REPLACEMENTS = ("zero", "mean", "compensated")
"""What stands in place of a removed dimension: nothing, its mean, its prediction from the rest."""


USES_SLOPES = ("paper", "tstat", "standardised", "fisher_slope")
"""Orders that know the log-linear fit."""


def uses_slopes(order: str) -> bool:
    """Whether an order knows the log-linear fit."""
    return order in USES_SLOPES


def ascending(score: Tensor) -> Tensor:
    """[d] int64: dimensions from the one that goes first (smallest score [d]) to the last."""
    return torch.argsort(torch.as_tensor(score), stable=True).cpu()


def random_order(d: int, *, seed: int) -> Tensor:
    """[d] int64: the dimensions in random order."""
    return torch.randperm(d, generator=torch.Generator().manual_seed(seed))


def slope_scores(slopes: Tensor) -> Tensor:
    """[d] |A_i|, the paper's score."""
    return torch.as_tensor(slopes).abs().cpu()


def standardised_scores(slopes: Tensor, E: Tensor) -> Tensor:
    """[d] |A_i| sd(E_i): nats of -log a that one standard deviation of the dimension carries."""
    return torch.as_tensor(slopes).abs().cpu() * standard_deviations(E).cpu()


def wanda_scores(E: Tensor, h: Tensor) -> Tensor:
    """[d] rms(h_i) sd(E_i): size of a dimension's part of the logits (Sun et al. 2023).

    The standard deviation stands for the norm, since a part that all tokens share moves no
    probability. E: [V, d]; h: [N, d].
    """
    return wide(h).square().mean(dim=0).sqrt().cpu() * standard_deviations(E).cpu()


def variance_scores(h: States) -> Tensor:
    """[d] variance of each dimension of the hidden states h [N, d], or of their moments."""
    return moments_of(h).cov.diagonal().cpu()


@torch.inference_mode()
def fisher_scores(head: Head, h: Tensor) -> Tensor:
    """[d] mean_n h_ni^2 Var_{w ~ P_n}(E_wi): twice the KL of losing dimension i, to second order.

    The softmax's Fisher matrix at position n is diag(p) - p p', so that KL is half the variance
    under P_n of the change of the logits. h: [N, d], a sample of positions.
    """
    E = head.E
    total = torch.zeros(E.shape[1], dtype=torch.float64, device=wide_device(E.device))
    squares = E.square()
    for part in h.split(positions_at_once(E)):
        x = part.to(E)
        p = head.logits(x).softmax(dim=1)
        variance = (p @ squares - (p @ E).square()).clamp(min=0)
        total += wide((x.square() * variance).sum(dim=0))
    return (total / len(h)).cpu()


def combined_scores(first: Tensor, second: Tensor) -> Tensor:
    """[d] product of two scores [d], so that both count alike in the logarithm."""
    return torch.as_tensor(first).double().cpu() * torch.as_tensor(second).double().cpu()


# ----------------------------------------------------------------------- orders by replacements


def name_of(order: str, replacement: str) -> str:
    """What a method is called in metrics: the order alone where removed dimensions are zero."""
    return order if replacement == "zero" else f"{order}_{replacement}"


def costliest(order: Tensor, removed: int, cost: Tensor) -> int:
    """Of the first dimensions of an order [d] the one with the greatest cost; cost: [d]."""
    first = order[:removed]
    return int(first[cost[first].argmax()])


def spared(order: Tensor, dimension: int) -> Tensor:
    """The order [d] with one dimension moved to its end, so that the next one goes in its place."""
    return torch.cat([order[order != dimension], torch.tensor([dimension])])


def mean_kl(reference: Reference, bases: Mapping[str, Basis], removed: int) -> dict[str, float]:
    """Mean KL in nats by name with the first `removed` coordinates of each basis gone."""
    swept = reference.sweeps({name: (basis, [removed]) for name, basis in bases.items()})
    return {name: float(divergences.kl.mean()) for name, divergences in swept.items()}


def replaced(order: Tensor, h: States) -> dict[str, Basis]:
    """The bases of an order [d] by replacement; h: hidden states or their moments."""
    return {
        "zero": zero_basis(order),
        "mean": mean_basis(order, h),
        "compensated": compensated_basis(order, h),
    }


def bases_of(orders: Mapping[str, Tensor], h: States) -> dict[str, Basis]:
    """Every order with every replacement, by `name_of`; h: hidden states or their moments."""
    return {
        name_of(name, replacement): basis
        for name, order in orders.items()
        for replacement, basis in replaced(order, h).items()
    }


def random_bases(
    h: States, *, n_zero: int, n_others: int = 3, seed: int = 0
) -> dict[str, list[Basis]]:
    """Random orders by replacement, named as `random`: the control of every order.

    Args:
        h: hidden states or their moments.
        n_zero: orders that are set to zero; n_others: how many of them are replaced otherwise.
        seed: of the first order; each has its own.
    """
    moments = moments_of(h)
    drawn = [random_order(len(moments.mean), seed=seed + i) for i in range(n_zero)]
    made: dict[str, list[Basis]] = {"random": [zero_basis(order) for order in drawn]}
    for order in drawn[:n_others]:
        for replacement, basis in replaced(order, moments).items():
            if replacement != "zero":
                made.setdefault(name_of("random", replacement), []).append(basis)
    return made


@dataclass(frozen=True)
class Contest:
    """The best order that uses the slopes against the best that does not, at one replacement."""

    replacement: str
    slope: str
    """Order that uses the slopes."""
    without: str
    """Order that does not."""


def contests(kl: Mapping[str, float], orders: Sequence[str]) -> dict[str, Contest]:
    """Who meets whom, by replacement, as chosen by a mean KL on text that judges nothing.

    kl: in nats, by `name_of` order and replacement; orders: those that compete.
    """
    chosen = {}
    for replacement in REPLACEMENTS:
        by_order = {order: kl[name_of(order, replacement)] for order in orders}
        slope, without = (
            min((o for o in orders if uses_slopes(o) == uses), key=by_order.__getitem__)
            for uses in (True, False)
        )
        chosen[replacement] = Contest(replacement, slope, without)
    return chosen


def strongest(kl: Mapping[str, float], held: Mapping[str, Contest]) -> Contest:
    """Of the contests held, that at the replacement where the order without slopes does best."""
    return min(held.values(), key=lambda contest: kl[name_of(contest.without, contest.replacement)])
