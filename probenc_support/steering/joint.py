"""Several tokens edited at once: steps that reach all wanted scales together.

Token j of K moves by t_j along its direction, so that its logit moves by t_j g_jn at position n,
with g_jn = v_j . h_n. All K share one partition function,

    p'_jn = p_jn exp(t_j g_jn) / (1 + sum_k p_kn (exp(t_k g_kn) - 1)),

so that a token that is raised lowers the others, and the K equations mean_n p'_jn = r_j a_j are
solved together. Their Jacobian in closed form, by the steps, is mean_n p'_jn (delta_jk - p'_kn)
g_kn: O(N K) memory and O(N K^2) time a step of Newton.

What is guaranteed. Where every g_kn is positive, the Jacobian has a positive diagonal, nothing
positive beside it, and positive column sums: it is an M-matrix. So there are steps if and only if
the wanted mean probabilities sum to less than one; they are the only ones; and they grow with
every wanted scale (Ortega and Rheinboldt 1970, section 13.5). Where g_kn is one everywhere (behind
a LayerNorm with a bias, or for a plain bias on the logits) the equations are the gradient of a
convex function of the steps. Where some g_kn is negative neither holds: what is found is exact, and
there may be nothing to find.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.steering.closed_form import FAR, log_mean
from probenc_support.steering.solving import solve_steps

_TOLERANCE = 1e-11
"""Nats of log scale up to which all wanted scales count as reached."""

_ENOUGH = 1e-10
"""Nats that are enough where rounding lets no step come nearer."""

_MOST_STEPS = 100

_FEW_SWEEPS = 5
"""Sweeps token by token that are tried where nothing says that they converge."""

_LONGEST = 2.0
"""Nats by which a step of Newton changes any token's step at most."""


def joint_log_p(log_p: Tensor, u: Tensor) -> Tensor:
    """[N, K] new log-probabilities when all K tokens are edited at once.

    Args:
        log_p: [N, K] of distinct tokens; u: [N, K], how far each logit moves.
    """
    return log_p + u - _log_growth(log_p, u)[:, None]


def joint_kl(log_p: Tensor, u: Tensor) -> Tensor:
    """[N] KL(old || new) in nats of the whole distribution when K tokens are edited at once.

    It is log Z' / Z - sum_k p_k u_k: all other tokens keep their logits. Arguments as above.
    """
    return (_log_growth(log_p, u) - (log_p.exp() * u).sum(dim=1)).clamp(min=0.0)


def _log_growth(log_p: Tensor, u: Tensor) -> Tensor:
    """[N] log of the new partition function over the old: log(1 - sum p + sum p e^u).

    1 - sum p comes from the logarithm of the sum, so that it keeps its digits for a single token.
    """
    rest = torch.log(-torch.expm1(torch.logsumexp(log_p, dim=1).clamp(max=0.0)))
    return torch.logsumexp(torch.cat([log_p + u, rest[:, None]], dim=1), dim=1)


def check_feasible(log_a: Tensor, log_scales: Tensor, names: Sequence[str] | None = None) -> None:
    """Refuses scales that no edit can reach, whatever its direction.

    Args:
        log_a: [K] log of mean probabilities; log_scales: [K] nats.
        names: of the tokens, for the message.

    Raises:
        InputError: a wanted mean probability is 1 or more, or all of them together are; the message
            names the token that asks for most.
    """
    a, wanted = log_a.exp(), (log_a + log_scales).exp()
    worst = int(wanted.argmax())
    name = _named(names, worst)
    if float(wanted[worst]) >= 1:
        raise InputError(
            f"{name} has mean probability {float(a[worst]):.3g}, so "
            f"{float(log_scales[worst].exp()):g} times that is no probability; ask for less than "
            f"{1 / float(a[worst]):.3g}."
        )
    if float(wanted.sum()) >= 1:
        raise InputError(
            f"Together these tokens would need a mean probability of {float(wanted.sum()):.3g}, "
            f"which is not below 1, {float(wanted[worst]):.3g} of it for {name}; ask for smaller "
            "scales or fewer tokens."
        )


def _named(names: Sequence[str] | None, i: int) -> str:
    return f"Token {i + 1} of the list" if names is None else repr(names[i])


def solve_jointly(
    log_p: Tensor, g: Tensor, log_scales: Tensor, *, names: Sequence[str] | None = None
) -> Tensor:
    """Steps [K] that give K tokens their scales at once, each edit aware of the others.

    Newton's method on log mean p'_k = log (r_k a_k), shortened until it comes nearer. Where it
    cannot, each token is solved by itself with the others held, which converges from anywhere
    where all of g is positive (see above).

    Args:
        log_p: [N, K] float64 of distinct tokens.
        g: [N] v . h_n, or [N, K] where each token has a direction of its own.
        log_scales: [K] nats.
        names: of the tokens, for messages.

    Raises:
        InputError: the scales are out of reach (see `check_feasible`), or no such steps were found
            along this direction.
    """
    g = g.double()[:, None].expand(-1, log_p.shape[1]) if g.ndim == 1 else g.double()
    log_a, log_scales = log_mean(log_p), log_scales.to(log_p)
    check_feasible(log_a, log_scales, names)
    goal = log_a + log_scales
    step = log_scales.clone()
    new, miss = _at(log_p, g, step, goal)
    sweeps = _MOST_STEPS if bool((g > 0).all()) else _FEW_SWEEPS
    for _ in range(_MOST_STEPS):
        if float(miss.abs().max()) < _TOLERANCE:
            return step
        tried = _newton(log_p, g, step, new, miss, goal)
        if tried is None and float(miss.abs().max()) < _ENOUGH:
            return step
        if tried is None:
            sweeps -= 1
            change = _one_by_one(new, g, miss) if sweeps >= 0 else None
            if change is None:
                break
            tried = step + change
        step = tried
        new, miss = _at(log_p, g, step, goal)
    if float(miss.abs().max()) < _ENOUGH:
        return step
    raise InputError(_without_steps(g, miss, log_scales, names))


def _at(log_p: Tensor, g: Tensor, step: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] new log-probabilities with these steps, and [K] log mean p' less its goal."""
    new = joint_log_p(log_p, (g * step).clamp(-FAR, FAR))
    return new, log_mean(new) - goal


def slopes(new: Tensor, g: Tensor) -> Tensor:
    """[K, K] derivative of mean_n p'_j by step k.

    Args:
        new: [N, K] log-probabilities with the present steps; g: [N, K].
    """
    p = new.exp()
    weighted = p * g
    return (torch.diag(weighted.sum(dim=0)) - p.T @ weighted) / len(p)


def _newton(
    log_p: Tensor, g: Tensor, step: Tensor, new: Tensor, miss: Tensor, goal: Tensor
) -> Tensor | None:
    """[K] the longest of the steps 1, 1/2, 1/4, ... that comes nearer to the goal, if one does."""
    of_logs = slopes(new, g) / log_mean(new).exp()[:, None]
    full: Tensor = torch.linalg.lstsq(of_logs, miss[:, None]).solution[:, 0]
    full = full.clamp(-_LONGEST, _LONGEST)
    if not bool(full.isfinite().all()):
        return None
    for halvings in range(12):
        tried: Tensor = step - full / 2**halvings
        _, left = _at(log_p, g, tried, goal)
        if float(left.norm()) < float(miss.norm()):
            return tried
    return None


def _one_by_one(new: Tensor, g: Tensor, miss: Tensor) -> Tensor | None:
    """[K] change of each step that brings its token to the goal while the others stay."""
    alone = [solve_steps(new[:, [k]], g[:, k], -miss[[k], None])[0, 0] for k in range(new.shape[1])]
    change = torch.stack(alone)
    return change if bool(change.isfinite().all()) else None


def _without_steps(g: Tensor, miss: Tensor, log_scales: Tensor, names: Sequence[str] | None) -> str:
    worst = int(miss.abs().argmax())
    against = float((g[:, worst] <= 0).double().mean())
    why = f", which moves it the other way at {against:.1%} of the positions" if against else ""
    return (
        "These scales cannot be reached together along this direction: "
        f"{_named(names, worst)} does not come to {float(log_scales[worst].exp()):g} times its "
        f"mean probability{why}; ask for scales nearer to 1, for fewer tokens, or use the "
        "minimum-variance direction."
    )
