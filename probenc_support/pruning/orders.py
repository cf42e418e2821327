"""In which order dimensions go, and what replaces them: every order with every replacement.

Some orders use the slopes of the log-linear fit, others do not: whether the encoding gives better
pruning is whether the former lose less than the latter, all else being equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.moments import States
from probenc_support.precision import wide
from probenc_support.pruning.bases import Basis, compensated_basis, mean_basis, zero_basis
from probenc_support.pruning.divergence import positions_at_once

REPLACEMENTS = ("zero", "mean", "compensated")
"""What stands in place of a removed dimension: nothing, its mean, its prediction from the rest."""


USES_SLOPES = ("paper", "tstat", "standardised", "fisher_slope")
"""Orders that know the log-linear fit."""


def ascending(score: Tensor) -> Tensor:
    """[d] int64: dimensions from the one that goes first (smallest score [d]) to the last."""
    return torch.argsort(torch.as_tensor(score), stable=True).cpu()


def random_order(d: int, *, seed: int) -> Tensor:
    """[d] int64: the dimensions in random order."""
    return torch.randperm(d, generator=torch.Generator().manual_seed(seed))


def slope_scores(slopes: Tensor) -> Tensor:
    """[d] |A_i|, the paper's score."""
    return torch.as_tensor(slopes).abs()


def standardised_scores(slopes: Tensor, E: Tensor) -> Tensor:
    """[d] |A_i| sd(E_i): nats of -log a that one standard deviation of the dimension carries."""
    return torch.as_tensor(slopes).abs() * wide(E).std(dim=0).cpu()


def wanda_scores(E: Tensor, h: Tensor) -> Tensor:
    """[d] rms(h_i) sd(E_i): size of a dimension's part of the logits (Sun et al. 2023).

    The standard deviation stands for the norm, since a part that all tokens share moves no
    probability. E: [V, d]; h: [N, d].
    """
    return wide(h).square().mean(dim=0).sqrt().cpu() * wide(E).std(dim=0).cpu()


@torch.inference_mode()
def fisher_scores(head: Head, h: Tensor) -> Tensor:
    """[d] mean_n h_ni^2 Var_{w ~ P_n}(E_wi): twice the KL of losing dimension i, to second order.

    The softmax's Fisher matrix at position n is diag(p) - p p', so that KL is half the variance
    under P_n of the change of the logits. h: [N, d], a sample of positions.
    """
    E = head.E
    total = torch.zeros(E.shape[1], dtype=torch.float64)
    squares = E.square()
    for part in h.split(positions_at_once(E)):
        x = part.to(E)
        p = head.logits(x).softmax(dim=1)
        variance = (p @ squares - (p @ E).square()).clamp(min=0)
        total += wide((x.square() * variance).sum(dim=0)).cpu()
    return total / len(h)


def combined_scores(first: Tensor, second: Tensor) -> Tensor:
    """[d] product of two scores [d], so that both count alike in the logarithm."""
    return torch.as_tensor(first).double() * torch.as_tensor(second).double()


# ----------------------------------------------------------------------- orders by replacements


def name_of(order: str, replacement: str) -> str:
    """What a method is called in metrics: the order alone where removed dimensions are zero."""
    return order if replacement == "zero" else f"{order}_{replacement}"


def replaced(order: Tensor, h: States) -> dict[str, Basis]:
    """The bases of an order [d] by replacement; h: hidden states or their moments."""
    return {
        "zero": zero_basis(order),
        "mean": mean_basis(order, h),
        "compensated": compensated_basis(order, h),
    }


@dataclass(frozen=True)
class Contest:
    """The best order that uses the slopes against the best that does not, at one replacement."""

    replacement: str
    slope: str
    """Order that uses the slopes."""
    without: str
    """Order that does not."""


def contests(kl: Mapping[tuple[str, str], float], orders: Sequence[str]) -> dict[str, Contest]:
    """Who meets whom, by replacement, as chosen by a mean KL on text that judges nothing.

    kl: by (order, replacement), in nats; orders: those that compete.
    """
    found = {}
    for replacement in REPLACEMENTS:
        by_order = {order: kl[order, replacement] for order in orders}
        slope, without = (
            min((o for o in orders if (o in USES_SLOPES) == uses), key=by_order.__getitem__)
            for uses in (True, False)
        )
        found[replacement] = Contest(replacement, slope, without)
    return found


def strongest(kl: Mapping[tuple[str, str], float], found: Mapping[str, Contest]) -> Contest:
    """The contest at the replacement where the order without slopes does best."""
    return min(found.values(), key=lambda one: kl[one.without, one.replacement])
