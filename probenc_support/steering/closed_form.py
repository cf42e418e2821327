"""Steering: an edit of one token's row of E that multiplies its mean probability (section 3).

An edit along a direction v [d] with the step t is E_w' = E_w + t v. At position n it moves the
logit of w by u_n = t g_n with g_n = v . h_n, and everything else follows in closed form from u_n
and p_n = P(w | n), without a second pass of the model. The linear rule for a wanted scale r is
t = log r, which is exact where g_n = 1 at every position and p_n is small; `solve_steps` finds the
t that is exact on given positions.

Arithmetic is float64; logarithms are natural (nats).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from probenc_support.models import LanguageModel
from probenc_support.precision import wide

_BLOCK = {"cpu": 2**16, "cuda": 2**24}
"""Entries of a [positions, tokens] block: half a megabyte in float64 on a CPU, so that it stays in
its cache; on a GPU so many that a block takes longer than its start."""

FAR = 600.0
"""Nats beyond which a logit is not moved: e^600 is near the end of float64."""


def log_mean(log_p: Tensor) -> Tensor:
    """[K] log of the mean probability over positions, from log_p [N, K]."""
    return torch.logsumexp(log_p, dim=0) - math.log(len(log_p))


def is_reachable(log_a: Tensor, log_scale: float | Tensor, *, limit: float = 0.5) -> Tensor:
    """Whether the wanted mean probability, exp(log_a + log_scale), stays at or below `limit`."""
    return log_a + log_scale <= math.log(limit)


def new_probability(log_p: Tensor, u: Tensor) -> Tensor:
    """p e^u / (1 - p + p e^u), the edited token's new probability, at most 1.

    1 - p comes from log p, so that it keeps its digits where p is near one, and a sum of positive
    terms keeps them too. Underflows only below exp(-700).
    """
    raised = (log_p + u.clamp(-FAR, FAR)).exp()
    return raised / (raised - torch.expm1(log_p))


def achieved(log_p: Tensor, u: Tensor) -> Tensor:
    """[K] log of new over old mean probability when logits move by u [N, K] or [N, 1]."""
    return new_probability(log_p, u).mean(dim=0).log() - log_mean(log_p)


def mean_errors(log_p: Tensor, g: Tensor, step: float) -> Tensor:
    """Mean absolute errors of log scale of edits along M directions, by the linear rule.

    Args:
        log_p: [N, K] float64; g: [N, M] float64, v . h_n of each direction.
        step: the wanted log scale, nats.

    Returns:
        [M] float64, nats, each over the tokens in reach; NaN if there are none.
    """
    log_a = log_mean(log_p)
    reachable = is_reachable(log_a, step)
    log_p, goal = log_p[:, reachable], log_a[reachable] + step
    factors = (step * g).clamp(-FAR, FAR).exp().T.contiguous()
    totals = log_p.new_zeros(len(factors))
    with one_thread():
        for columns in columns_of(log_p):
            p, q = log_p[:, columns].exp(), -torch.expm1(log_p[:, columns])
            for i, factor in enumerate(factors):
                new = p * factor[:, None]
                new /= new + q
                totals[i] += (new.mean(dim=0).log() - goal[columns]).abs().sum()
    return totals / len(goal)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside the context: small blocks are done before a second thread wakes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, eq=False)
class TopTwo:
    """The most probable token of each position and how probable the first two are."""

    ids: Tensor
    """[N] int64"""
    first: Tensor
    """[N] float64 log-probability of the top token"""
    second: Tensor
    """[N] float64 log-probability of the runner-up"""


@torch.inference_mode()
def top_two(lm: LanguageModel, h: Tensor, z: Tensor, *, chunk: int = 256) -> TopTwo:
    """The two most probable tokens at hidden states h [N, d] with log-partition z [N].

    They tell whether an edit changes the top token; see `effects`. Logits are made where E lies,
    and what is found of them is where z is.
    """
    largest = [torch.topk(lm.head.logits(part.to(lm.E)), 2) for part in h.split(chunk)]
    values = wide(torch.cat([two.values for two in largest])).to(z.device) - z[:, None]
    ids = torch.cat([two.indices[:, 0] for two in largest]).to(z.device)
    return TopTwo(ids, values[:, 0], values[:, 1])


@dataclass(frozen=True, eq=False)
class Effects:
    """What edits do, for K tokens (rows) and S scales (columns); means over positions."""

    log_scale: Tensor
    """[K, S] log of new over old mean probability, nats"""
    kl: Tensor
    """[K, S] KL(old || new), nats"""
    js: Tensor
    """[K, S] Jensen-Shannon divergence, nats, at most log 2"""
    top_changed: Tensor
    """[K, S] share of positions whose most probable token changes; NaN without `top`"""
    sums: Tensor
    """[K, S, G] sum of the token's new probability over the positions of each group of text"""


@one_thread()
def effects(
    log_p: Tensor,
    g: Tensor,
    steps: Tensor,
    *,
    tokens: Tensor | None = None,
    top: TopTwo | None = None,
    group: Tensor | None = None,
) -> Effects:
    """Exact effects of edits of single tokens, in closed form: O(N) an edit once log_p is there.

    One factor scales all other tokens, so both divergences are those between two coins that show
    the token with its old and its new probability.

    Args:
        log_p: [N, K] float64 log-probabilities of the K tokens.
        g: [N] float64, v . h_n.
        steps: [K, S] how far each token goes along v; the linear rule has log r in every row.
        tokens: [K] int64 and
        top: of the same N positions: count changes of the top token.
        group: [N] int64 group of each position, never decreasing, such as `Detection.group`; by
            default all are one.
    """
    lengths = torch.tensor([len(log_p)]) if group is None else _lengths(group)
    lengths, g, steps = lengths.to(log_p.device), g.to(log_p), steps.to(log_p)
    parts = []
    for own in columns_of(log_p):
        block = log_p[:, own].contiguous()
        log_scale, kl, js, sums = _effects(block, g, steps[own], lengths)
        names = None if tokens is None else tokens[own]
        changed = _top_changed(top, names, block, g, steps[own])
        parts.append((log_scale, kl, js, changed, sums))
    return Effects(*(torch.cat(values) for values in zip(*parts, strict=True)))


def sums_by_group(values: Tensor, group: Tensor) -> Tensor:
    """[G, ...] sums of values [N, ...] over runs of equal `group` [N], which never decreases."""
    return _sums(values, _lengths(group).to(values.device))


def _lengths(group: Tensor) -> Tensor:
    """[G] int64 positions of each run of equal entries."""
    lengths: Tensor = group.unique_consecutive(return_counts=True)[1]
    return lengths


def _sums(values: Tensor, lengths: Tensor) -> Tensor:
    sums: Tensor = torch.segment_reduce(values, "sum", lengths=lengths, axis=0)
    return sums


def columns_of(log_p: Tensor) -> Iterator[slice]:
    """Runs of tokens whose [N, k] block is small."""
    width = max(1, _BLOCK.get(log_p.device.type, 2**16) // len(log_p))
    return (slice(start, start + width) for start in range(0, log_p.shape[1], width))


def _effects(
    log_p: Tensor, g: Tensor, steps: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log scale, KL and JS, each [K, S], and the sums of new probabilities [K, S, G]."""
    p, q = log_p.exp(), -torch.expm1(log_p)
    by_scale = [_effect(p, q, _moves(g, step), lengths) for step in steps.T]
    sums, kl, js = (torch.stack(values, dim=1) for values in zip(*by_scale, strict=True))
    kl = kl - (g @ p)[:, None] * steps / len(p)
    log_scale = (sums.sum(dim=2) / p.sum(dim=0)[:, None]).log()
    return log_scale, kl.clamp(min=0.0), js.clamp(0.0, math.log(2)), sums


def _moves(g: Tensor, step: Tensor) -> Tensor:
    """How far logits move, for steps [K]: [N, K], or [N, 1] where all tokens go equally far."""
    return g[:, None] * (step[:1] if bool((step == step[0]).all()) else step)


def _effect(p: Tensor, q: Tensor, u: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of p' [K, G], and means over positions of log Z' / Z and of JS, each [K], where logits
    of probability p = 1 - q [N, K] move by u.

    With z = Z' / Z = 1 + p (e^u - 1) and s = p' / p = e^u / z, the Jensen-Shannon divergence of the
    two coins is log 2 + [p' log s + q log z - (p + p') log(1 + s) - (q + q') log(1 + z)] / 2.
    Blocks are overwritten where they are not needed again, which saves a fifth of the time.
    """
    if not bool(u.any()):  # nothing moves, as at a wanted scale of one
        return _sums(p, lengths).T, torch.zeros_like(p[0]), torch.zeros_like(p[0])
    w = torch.expm1(u.clamp(-FAR, FAR))
    log_z = torch.log1p((p * w).clamp_(min=-1 + 1e-16))
    new = p * (1 + w)
    z = q + new
    new /= z
    s = (1 + w) / z
    js = new * (u - log_z)
    js.addcmul_(q, log_z)
    js.addcmul_(p + new, s.log1p_(), value=-1)
    js.addcmul_(1 + q - new, z.log1p_(), value=-1)
    return _sums(new, lengths).T, log_z.mean(dim=0), math.log(2) + js.mean(dim=0) / 2


def _top_changed(
    top: TopTwo | None, tokens: Tensor | None, log_p: Tensor, g: Tensor, steps: Tensor
) -> Tensor:
    """[K, S] share of positions whose top token changes: w rises to the top, or falls from it."""
    if top is None or tokens is None:
        return torch.full_like(steps, torch.nan)
    is_top = top.ids[:, None] == tokens
    rival = torch.where(is_top, top.second[:, None], top.first[:, None])
    needed = rival - log_p
    changed = [is_top != (g[:, None] * step > needed) for step in steps.T]
    return torch.stack([c.double().mean(dim=0) for c in changed], dim=1)
