"""Whether fast ways agree with slow ones: a sweep with direct computation, a head with its map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probenc_support import models
from probenc_support.head import Head
from probenc_support.models import LanguageModel
from probenc_support.pruning.bases import Basis
from probenc_support.pruning.divergence import Reference
from probenc_support.pruning.pruned_head import swapped


@dataclass(frozen=True)
class SweepErrors:
    """How far KL divergences of a sweep are from those that are computed level by level."""

    exact: float
    """Largest difference at any level and position, all in double precision, nats."""
    level: float
    """Largest difference of a level's mean, the sweep in the head's own precision, nats."""
    position: float
    """The same at a single position, nats."""


def sweep_errors(
    head: Head, bases: Sequence[Basis], h: Tensor, removed: Sequence[int]
) -> SweepErrors:
    """Sweeps bases over levels, and computes each level from scratch in double precision.

    Args:
        h: [N, d] a few positions.
        removed: ascending numbers of coordinates that go.
    """
    double = Head(head.E.double(), None if head.b is None else head.b.double())
    exact, own = Reference(double, h.double()), Reference(head, h)
    by_algebra, by_rounding = [], []
    for basis in bases:
        direct = torch.cat(
            [
                exact.evaluate(lambda x, m=m, s=basis: double.logits(s.kept(x, m))).kl  # type: ignore[misc]
                for m in removed
            ]
        )
        by_algebra.append(exact.sweep(basis, removed).kl - direct)
        by_rounding.append(own.sweep(basis, removed).kl - direct)
    rounding = torch.cat(by_rounding)
    return SweepErrors(
        exact=float(torch.cat(by_algebra).abs().max()),
        level=float(rounding.mean(dim=1).abs().max()),
        position=float(rounding.abs().max()),
    )


@torch.no_grad()
def swapped_head_error(
    lm: LanguageModel, head: nn.Module, kept: Callable[[Tensor], Tensor], ids: Tensor
) -> float:
    """Largest difference between log-probabilities of a model with `head` swapped in, which reads
    texts ids [n, T], and those of E kept(h) + b at the model's own hidden states; nats.

    Args:
        kept: what `head` makes of h [N, d], [N, d].
    """
    with swapped(lm, head):
        inside = models.logits(lm, ids).float().flatten(0, 1)
    closed = lm.head.logits(kept(models.hidden_states(lm, ids).flatten(0, 1)))
    return float((closed.log_softmax(1) - inside.to(closed).log_softmax(1)).abs().max())
