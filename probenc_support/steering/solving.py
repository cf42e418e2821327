"""Steps that reach a wanted scale of one token exactly; `joint` has those of several at once."""

import torch
from torch import Tensor

from probenc_support.steering.closed_form import FAR, columns_of, one_thread

_TOLERANCE = 1e-10
"""Nats of log scale up to which a wanted scale counts as reached."""

_MOST_STEPS = 60


@one_thread()
def solve_steps(log_p: Tensor, g: Tensor, log_scales: Tensor) -> Tensor:
    """Steps along a direction that give exactly the wanted scales on these positions.

    Newton's method on log mean p' - log (r a), whose slope is the average of (1 - p') g weighted by
    p'. Steps are at most 2 nats long.

    Args:
        log_p: [N, K] float64; g: [N] float64, v . h_n; log_scales: [S], or [K, S], nats.

    Returns:
        [K, S] float64; NaN where no step was found, as where the direction cannot reach the scale.
    """
    wanted = log_scales.to(log_p).expand(log_p.shape[1], -1)
    parts = []
    for own in columns_of(log_p):
        block = log_p[:, own].contiguous()
        p, q = block.exp(), -torch.expm1(block)
        parts.append(torch.stack([_newton(p, q, g, goal) for goal in wanted[own].T], dim=1))
    return torch.cat(parts)


def _newton(p: Tensor, q: Tensor, g: Tensor, log_scale: Tensor) -> Tensor:
    """[K] steps for one wanted log scale a token."""
    goal = p.mean(dim=0).log() + log_scale
    step = torch.where(goal < 0, log_scale, torch.nan)
    left = torch.nonzero(goal < 0).flatten()
    p, q = p[:, left], q[:, left]
    for _ in range(_MOST_STEPS):
        miss, slope = _miss(p, q, g, step[left], goal[left])
        still = miss.abs() > _TOLERANCE
        if not bool(still.all()):
            left, miss, slope = left[still], miss[still], slope[still]
            p, q = p[:, still], q[:, still]
        if not len(left):
            return step
        step[left] -= (miss / slope).clamp(-2.0, 2.0)
    step[left] = torch.nan
    return step


def _miss(p: Tensor, q: Tensor, g: Tensor, step: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """[K] log mean p' less its goal, and its derivative with respect to the step."""
    raised = p * (g[:, None] * step).clamp(-FAR, FAR).exp()
    new = raised / (q + raised)
    slope = (g @ (new - new * new)) / new.sum(dim=0)
    return new.mean(dim=0).log() - goal, slope
