"""Which classes of context a token's average probability comes from, and what that says of A.

At the row of token w, the bound of `context_classes` has the slope -sum_k q_k(w) m_k, where q_k(w)
is the share of w's average probability that comes from class k. The encoding is as linear as these
shares are the same for all tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.theory.context_classes import ContextClasses


def effective_number(carried: Tensor) -> Tensor:
    """[n] from how many classes, if all gave the same share, a token's probability would come.

    It is exp of the entropy of the shares [n, K], 1 to K.
    """
    entropy: Tensor = torch.special.entr(carried).sum(dim=1)
    return entropy.exp()


def slopes(classes: ContextClasses, carried: Tensor) -> Tensor:
    """[n, d] slope of the bound of y at the row of each token, -sum_k carried_k m_k.

    Where it is the same for all tokens, the encoding is linear with that slope.

    Args:
        carried: [n, K] see `ContextClasses.carried`; or [K], shares of a mean over tokens, for a
            result [d].
    """
    return -(carried @ classes.mean_h.to(carried.device))


def carriers(classes: ContextClasses, carried: Tensor, *, part: float = 0.9) -> tuple[int, float]:
    """The fewest classes from which a part of the probability of the average token comes.

    Args:
        carried: [n, K] see `ContextClasses.carried`.

    Returns:
        Their number, 1 to K, and the share of the positions that lie in them.
    """
    mean = carried.mean(dim=0).to(classes.shares.device)
    order = mean.argsort(descending=True)
    n = int((mean[order].cumsum(dim=0) < part * (1.0 - 1e-9)).sum()) + 1
    return n, float(classes.shares[order[:n]].sum())


@dataclass(frozen=True, eq=False)
class Carrying:
    """How the tokens' probabilities are spread over the classes, in summary."""

    effective: float
    """Median over the tokens of `effective_number`."""
    n_for_90: int
    """The fewest classes from which 90 % of the average token's probability comes."""
    positions_for_90: float
    """Share of the positions that lie in them."""
    mean_slope: Tensor
    """[d] float64 mean over the tokens of the slopes of the bound at their rows."""

    @classmethod
    def of(cls, head: Head, classes: ContextClasses) -> "Carrying":
        """Of the n tokens of a head."""
        carried = classes.carried(head)
        n, positions = carriers(classes, carried)
        return cls(
            effective=float(effective_number(carried).median()),
            n_for_90=n,
            positions_for_90=positions,
            mean_slope=slopes(classes, carried.mean(dim=0)),
        )
