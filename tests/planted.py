"""Passes of which every number is known: random heads and hidden states, softmax by brute force."""

import math

import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.inference import Detection


def head(seed: int = 0, V: int = 60, d: int = 4, *, bias: bool = True) -> Head:
    """A head in float64, all rows of which are tokens."""
    generator = torch.Generator().manual_seed(seed)
    E = torch.randn(V, d, generator=generator, dtype=torch.float64)
    b = torch.randn(V, generator=generator, dtype=torch.float64)
    return Head(E, b if bias else None)


def states(seed: int = 0, N: int = 120, d: int = 4) -> Tensor:
    """[N, d] hidden states in float64 whose mean is not zero."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(N, d, generator=generator, dtype=torch.float64) + 0.7


def mean_p(of: Head, h: Tensor) -> Tensor:
    """[V] average probability of each token, by softmax position by position."""
    return torch.softmax(of.logits(h), dim=1).mean(dim=0)


def detection(of: Head, h: Tensor, group: Tensor) -> Detection:
    """The pass that leaves hidden states h [N, d], in groups [N] of text numbered from 0."""
    log_p = torch.log_softmax(of.logits(h), dim=1)
    groups = [mean_p(of, h[group == g]).log() for g in range(int(group.max()) + 1)]
    none = torch.full((len(h),), -1)
    return Detection(
        h=h,
        z=torch.logsumexp(of.logits(h), dim=1),
        tokens=of.tokens,
        log_a_rows=mean_p(of, h).log(),
        mean_log_p_rows=log_p.mean(dim=0),
        log_a_groups_rows=torch.stack(groups),
        group_sizes=torch.bincount(group),
        mean_target_log_p=math.nan,
        places=torch.arange(len(h)),
        group=group,
        block=torch.arange(len(h)) // 10,
        targets=none,
        target_log_p=none.double(),
        seconds=0.0,
        peak_memory_mb=0.0,
        from_cache=False,
    )
