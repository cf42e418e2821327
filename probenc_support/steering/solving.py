"""Steps that reach a wanted scale exactly: for one token, and for several at once."""

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.steering.closed_form import FAR, columns_of, log_mean, one_thread

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
    wanted = log_scales.double().expand(log_p.shape[1], -1)
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


def joint_log_p(log_p: Tensor, u: Tensor) -> Tensor:
    """[N, K] new log-probabilities when all K tokens are edited at once.

    Args:
        log_p: [N, K] of distinct tokens; u: [N, K], how far each logit moves.
    """
    rest = torch.log1p(-log_p.exp().sum(dim=1).clamp(max=1.0))
    log_z = torch.logsumexp(torch.cat([log_p + u, rest[:, None]], dim=1), dim=1)
    return log_p + u - log_z[:, None]


def solve_jointly(log_p: Tensor, g: Tensor, log_scales: Tensor) -> Tensor:
    """Steps [K] that give K tokens their scales at once, each edit aware of the others.

    Damped Newton on the K equations log mean p'_k = log (r_k a_k).

    Raises:
        InputError: no such steps along this direction.
    """
    goal = log_mean(log_p) + log_scales
    step = log_scales.double().clone()
    miss, slopes = _joint_miss(log_p, g, step, goal)
    for _ in range(_MOST_STEPS):
        if float(miss.abs().max()) < _TOLERANCE:
            return step
        full = torch.linalg.lstsq(slopes, miss[:, None]).solution[:, 0].clamp(-2.0, 2.0)
        step, miss, slopes = _damped(log_p, g, step, full, miss, goal)
    raise InputError(
        "These scales cannot be reached together along this direction: ask for scales nearer to 1, "
        "for fewer tokens, or use the minimum-variance direction."
    )


def _damped(
    log_p: Tensor, g: Tensor, step: Tensor, full: Tensor, miss: Tensor, goal: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The longest of the steps 1, 1/2, 1/4, ... that comes nearer to the goal."""
    for halvings in range(12):
        tried = step - full / 2**halvings
        left, slopes = _joint_miss(log_p, g, tried, goal)
        if float(left.norm()) < float(miss.norm()):
            break
    return tried, left, slopes


def _joint_miss(log_p: Tensor, g: Tensor, step: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """[K] log mean p' less its goal, and its Jacobian [K, K] with respect to the steps."""
    new = joint_log_p(log_p, g[:, None] * step)
    p = new.exp()
    weighted = g[:, None] * p
    crossed = torch.diag(weighted.sum(dim=0)) - p.T @ weighted
    return log_mean(new) - goal, crossed / p.sum(dim=0)[:, None]
