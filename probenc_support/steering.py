"""Steering: an edit of one token's row of E that multiplies its mean probability (section 3).

An edit along a direction v [d] with the step t is E_w' = E_w + t v. At position n it moves the
logit of w by u_n = t g_n with g_n = v . h_n, and everything else follows in closed form from u_n
and p_n = P(w | n), without a second pass of the model. The linear rule for a wanted scale r is
t = log r, which is exact where g_n = 1 at every position and p_n is small; `solve_steps` finds the
t that is exact on given positions.

Arithmetic is float64; logarithms are natural (nats).
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probenc_support import cache, corpora, inference, loading, models
from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.moments import Moments
from probenc_support.precision import wide, wide_device

_BLOCK = 2**16
"""Entries of a [positions, tokens] block: half a megabyte in float64, so that it stays in cache."""

_FAR = 600.0
"""Nats beyond which a logit is not moved: e^600 is near the end of float64."""

RIDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges that `choose_ridge` tries, in units of the mean variance of the hidden states."""

_TIE = 1e-6
"""Share by which two losses may differ and be a tie: float32 hidden states say no more."""
_NEGLIGIBLE = 1e-10
"""Mean square of v . h - 1 that passes for none: errors of 1e-5 of the log scale."""


# -------------------------------------------------------------------------------------- directions


def paper_direction(slopes: Tensor, k: int = 10, *, power: int = 0) -> Tensor:
    """[d] the paper's edit: -Omega / A, with Omega on the k dimensions of steepest slope.

    Args:
        slopes: [d] the fitted A, in nats per unit of E.
        k: dimensions that are moved; d moves all of them.
        power: Omega is in proportion to |A|^power and sums to one. 0: 1/k on each. With 2 and all
            dimensions the edit is `min_norm`.

    Raises:
        InputError: k is not between 1 and d, or power is below zero.
    """
    A = torch.as_tensor(slopes, dtype=torch.float64)
    if not 1 <= k <= len(A):
        raise InputError(f"k is {k}; it counts dimensions, so give 1 to {len(A)}.")
    if power < 0:
        raise InputError(f"power is {power}; weights that grow with the slopes need 0 or more.")
    steepest = A.abs().topk(k).indices
    size = A[steepest].abs() / A.abs().max()
    vector = torch.zeros_like(A)
    vector[steepest] = -(size**power) / (size**power).sum() / A[steepest]
    return vector


def min_norm(slopes: Tensor) -> Tensor:
    """[d] the shortest edit with A . D = -log r: v = -A / (A . A)."""
    A = torch.as_tensor(slopes, dtype=torch.float64)
    return -A / (A @ A)


def mean_hidden(mean: Tensor) -> Tensor:
    """[d] the shortest edit that moves the mean log-probability by log r: v = m / (m . m)."""
    m = torch.as_tensor(mean, dtype=torch.float64)
    return m / (m @ m)


def min_variance(moments: Moments, ridge: float = 0.0) -> Tensor:
    """[d] the edit whose effect varies least between positions while it is log r on average.

    v = (S + ridge s I)^-1 m over m' (S + ridge s I)^-1 m, with m and S the mean and covariance of
    the hidden states and s the mean variance. A large ridge leads to `mean_hidden`.

    S is taken with its smallest eigenvalues raised (see `Moments.axes`). Where positions are fewer
    than dimensions, v without a ridge is thus the shortest direction with v . h = 1 at all of them;
    behind a LayerNorm with a bias it is the one with v . h = 1 at every position of any text.
    """
    vector = moments.solved(ridge)
    return vector / (vector @ moments.mean)


def choose_ridge(folds: Sequence[Moments], *, ridges: Sequence[float] = RIDGES) -> float:
    """The ridge whose direction is the least uneven on blocks that it was not fitted on.

    Ridges of which none is the better by more than rounding are a tie (a relative difference of
    1e-6, or errors of 1e-5 of the log scale), and the largest of them is taken.

    Args:
        folds: moments of runs of blocks of one corpus, at least two.

    Raises:
        InputError: fewer than two folds.
    """
    if len(folds) < 2:
        raise InputError("A ridge is chosen on held-out blocks, which takes at least two of them.")
    rests = [Moments.pool([*folds[:i], *folds[i + 1 :]]) for i in range(len(folds))]
    return _least_uneven(rests, folds, ridges)


def _least_uneven(
    fitted: Sequence[Moments], held: Sequence[Moments], ridges: Sequence[float]
) -> float:
    """The ridge with which directions of `fitted` are the least uneven on `held`, pair by pair."""
    losses = [
        sum(h.n * h.unevenness(min_variance(f, ridge)) for f, h in zip(fitted, held, strict=True))
        for ridge in ridges
    ]
    tie = min(losses) * (1 + _TIE) + _NEGLIGIBLE * sum(h.n for h in held)
    return max(ridge for ridge, loss in zip(ridges, losses, strict=True) if loss <= tie)


def scaled_to(vector: Tensor, like: Tensor) -> Tensor:
    """[d] `vector` with the length of `like`: a control moves E_w as far as what it controls."""
    return vector * float(like.norm() / vector.norm())


def random_direction(like: Tensor, *, seed: int) -> Tensor:
    """[d] a direction drawn evenly from the sphere, with the length of `like`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(like), generator=generator, dtype=torch.float64)
    return scaled_to(drawn, like)


# ------------------------------------------------------------- a direction that holds out of domain


@dataclass(frozen=True, eq=False)
class Calibration:
    """Positions of one corpus, weighed by the share of the tokens' probability that lies there."""

    name: str
    h: Tensor
    """[N, d]"""
    log_p: Tensor
    """[N, K] float64 log-probabilities of K sampled tokens"""
    weight: Tensor
    """[N] float64, mean 1: the average over those tokens of P(w|n) / a_w"""
    moments: Moments
    """Mean and covariance of h under `weight`"""

    @classmethod
    def of(
        cls, lm: LanguageModel, name: str, h: Tensor, z: Tensor, tokens: Tensor
    ) -> "Calibration":
        """Positions h [N, d] with log-partition z [N]; `tokens` [K] are the sample."""
        log_p = log_probabilities(lm, tokens, h, z)
        weight = (log_p - torch.logsumexp(log_p, dim=0)).exp().mean(dim=1) * len(h)
        return cls(name, h, log_p, weight, Moments.of(h, weight))


@dataclass(frozen=True)
class Robust:
    """A direction fitted on several corpora at once."""

    vector: Tensor
    """[d] float64"""
    ridge: float
    """Chosen on corpora left out of the fit"""
    stretch: float
    """Factor on the step: what corpora left out of the fit fell short of, on the median"""
    shortfall: dict[str, float]
    """For each corpus, mean error of log scale over log scale when it was left out of the fit"""


def robust(
    home: Calibration,
    others: Sequence[Calibration],
    *,
    ridges: Sequence[float] = RIDGES,
    scale: float = 20.0,
) -> Robust:
    """The minimum-variance direction of several corpora, meant for text of none of them.

    It differs from `min_variance` in three ways. The detecting corpus counts as much as all the
    others together, and these count alike. Positions count by the probability that the tokens have
    there, since a token's mean probability is made where the token is likely, and confident
    positions are where hidden states stray most. The step is stretched by the median shortfall on
    one of the others when it is left out of the fit.

    Args:
        home: the detecting corpus.
        others: at least one more corpus (never the one that it is evaluated on).
        scale: where the shortfall is measured.

    Raises:
        InputError: there are no others.
    """
    if not others:
        raise InputError("A robust direction needs at least one calibration corpus; name some.")
    moments = [c.moments for c in others]
    rests = [_pooled(home.moments, [*moments[:i], *moments[i + 1 :]]) for i in range(len(moments))]
    ridge = _least_uneven(rests, moments, ridges)
    shortfall = {
        corpus.name: _shortfall(corpus, min_variance(rest, ridge), math.log(scale))
        for corpus, rest in zip(others, rests, strict=True)
    }
    stretch = 1.0 + float(np.median(list(shortfall.values())))
    vector = stretch * min_variance(_pooled(home.moments, moments), ridge)
    return Robust(vector, ridge, stretch, shortfall)


def _pooled(home: Moments, others: Sequence[Moments]) -> Moments:
    """The detecting corpus has half the weight, the others share the other half."""
    return Moments.pool([home, *others], shares=[max(1.0, len(others)), *(1.0 for _ in others)])


def _shortfall(corpus: Calibration, vector: Tensor, step: float) -> float:
    """Share of the wanted log scale that a direction misses, on average over tokens."""
    reachable = is_reachable(log_mean(corpus.log_p), step)
    if not bool(reachable.any()):
        return 0.0
    u = step * (corpus.h.double() @ vector)
    error = achieved(corpus.log_p[:, reachable], u[:, None]) - step
    return -float(error.mean()) / step


# ------------------------------------------------------------------------------------- closed form


def log_probabilities(lm: LanguageModel, tokens: Tensor, h: Tensor, z: Tensor) -> Tensor:
    """[N, K] float64 log P(w|n) of some tokens [K], from h [N, d] and the log-partition z [N]."""
    return log_probabilities_of_rows(lm.E[tokens], None if lm.b is None else lm.b[tokens], h, z)


def log_probabilities_of_rows(E: Tensor, b: Tensor | None, h: Tensor, z: Tensor) -> Tensor:
    """[N, K] float64 log P for rows E [K, d] of the output embedding and their bias b [K]."""
    logits = h.double() @ E.to(h.device).double().T
    if b is not None:
        logits = logits + b.to(h.device).double()
    return (logits - z[:, None]).clamp(max=0.0)


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
    raised = (log_p + u.clamp(-_FAR, _FAR)).exp()
    return raised / (raised - torch.expm1(log_p))


def achieved(log_p: Tensor, u: Tensor) -> Tensor:
    """[K] log of new over old mean probability when logits move by u [N, K] or [N, 1]."""
    return new_probability(log_p, u).mean(dim=0).log() - log_mean(log_p)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Blocks that fit the cache are done sooner than a second thread is woken on a busy machine."""
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
    """One head pass over h [N, d]: what tells whether an edit changes the top token."""
    parts = h.split(chunk)
    found = [torch.topk(inference.logits_of(lm.E, lm.b, part.to(lm.E)), 2) for part in parts]
    values = wide(torch.cat([f.values for f in found])).cpu() - z[:, None]
    ids = torch.cat([f.indices[:, 0] for f in found]).cpu()
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


@_one_thread()
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
    group = torch.zeros(len(log_p), dtype=torch.int64) if group is None else group
    parts = []
    for own in _columns(log_p):
        block = log_p[:, own].contiguous()
        log_scale, kl, js, sums = _effects(block, g, steps[own], group)
        names = None if tokens is None else tokens[own]
        changed = _top_changed(top, names, block, g, steps[own])
        parts.append((log_scale, kl, js, changed, sums))
    return Effects(*(torch.cat(values) for values in zip(*parts, strict=True)))


def sums_by_group(values: Tensor, group: Tensor) -> Tensor:
    """[G, ...] sums of values [N, ...] over runs of equal `group` [N], which never decreases."""
    sizes = group.unique_consecutive(return_counts=True)[1]
    return torch.segment_reduce(values, "sum", lengths=sizes, axis=0)


def _columns(log_p: Tensor) -> Iterator[slice]:
    """Runs of tokens whose [N, k] block is small."""
    width = max(1, _BLOCK // len(log_p))
    return (slice(start, start + width) for start in range(0, log_p.shape[1], width))


def _effects(
    log_p: Tensor, g: Tensor, steps: Tensor, group: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log scale, KL and JS, each [K, S], and the sums of new probabilities [K, S, G]."""
    p, q = log_p.exp(), -torch.expm1(log_p)
    found = [_effect(p, q, g[:, None] * step, group) for step in steps.T]
    sums, kl, js = (torch.stack(values, dim=1) for values in zip(*found, strict=True))
    kl = kl - (g @ p)[:, None] * steps / len(p)
    log_scale = (sums.sum(dim=2) / p.sum(dim=0)[:, None]).log()
    return log_scale, kl.clamp(min=0.0), js.clamp(0.0, math.log(2)), sums


def _effect(p: Tensor, q: Tensor, u: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of p' [K, G], and means over positions of log Z' / Z and of JS, each [K], where logits
    of probability p move by u.

    With z = Z' / Z = 1 + p (e^u - 1) and s = p' / p = e^u / z, the Jensen-Shannon divergence of the
    two coins is log 2 + [p' log s + q log z - (p + p') log(1 + s) - (q + q') log(1 + z)] / 2.
    """
    w = torch.expm1(u.clamp(-_FAR, _FAR))
    log_z = torch.log1p((p * w).clamp(min=-1 + 1e-16))
    raised = p * (1 + w)
    z = q + raised
    new = raised / z
    s = (1 + w) / z
    js = new * (u - log_z) + q * log_z
    js -= (p + new) * torch.log1p(s) + (1 + q - new) * torch.log1p(z)
    return sums_by_group(new, group).T, log_z.mean(dim=0), math.log(2) + js.mean(dim=0) / 2


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


# ------------------------------------------------------------------------------------------ solver

_TOLERANCE = 1e-10
_MOST_STEPS = 60


@_one_thread()
def solve_steps(log_p: Tensor, g: Tensor, log_scales: Tensor) -> Tensor:
    """Steps along a direction that give exactly the wanted scales on these positions.

    Newton's method on log mean p' - log (r a), whose slope is the average of (1 - p') g weighted by
    p'. Steps are at most 2 nats long.

    Args:
        log_p: [N, K] float64; g: [N] float64, v . h_n; log_scales: [S], or [K, S], nats.

    Returns:
        [K, S] float64; NaN where no step was found, so where the direction cannot do it.
    """
    wanted = log_scales.double().expand(log_p.shape[1], -1)
    parts = []
    for own in _columns(log_p):
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
    raised = p * (g[:, None] * step).clamp(-_FAR, _FAR).exp()
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
        found, slopes = _joint_miss(log_p, g, tried, goal)
        if float(found.norm()) < float(miss.norm()):
            break
    return tried, found, slopes


def _joint_miss(log_p: Tensor, g: Tensor, step: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """[K] log mean p' less its goal, and its Jacobian [K, K] with respect to the steps."""
    new = joint_log_p(log_p, g[:, None] * step)
    p = new.exp()
    weighted = g[:, None] * p
    crossed = torch.diag(weighted.sum(dim=0)) - p.T @ weighted
    return log_mean(new) - goal, crossed / p.sum(dim=0)[:, None]


# ------------------------------------------------------------------------------------ side effects


@torch.inference_mode()
def moved_besides(
    lm: LanguageModel,
    h: Tensor,
    z: Tensor,
    log_a: Tensor,
    token: int,
    u: Tensor,
    *,
    most: int = 512,
) -> Tensor:
    """[V] change of log a of all tokens, from the `most` positions that the edit disturbs most.

    Args:
        h: [N, d]; z: [N]; log_a: [V] over these positions; u: [N], how far the token's logit moves.

    Returns:
        [V] float64, nats; the edited token's own entry is its full change. Other positions move
        the other tokens by less than these, and are left out.
    """
    log_p = log_probabilities(lm, torch.tensor([token]), h, z)[:, 0]
    factor = torch.expm1(-torch.log1p(log_p.exp() * torch.expm1(u)))
    worst = factor.abs().topk(min(most, len(h))).indices
    logits = inference.logits_of(lm.E, lm.b, h[worst].to(lm.E))
    p = torch.exp(wide(logits).cpu() - z[worst, None])
    change = torch.log1p((factor[worst] @ p / len(h) / log_a.exp()).clamp(min=-1 + 1e-12))
    change[token] = achieved(log_p[:, None], u[:, None])[0]
    return change


def nearest(E: Tensor, rows: Tensor, among: Tensor, n: int = 5) -> Tensor:
    """[m, n] ids out of `among` [k] whose centred rows of E [V, d] have the largest cosine.

    Args:
        rows: [m, d] what they are compared with, centred alike.
    """
    known = E[among]
    centre = known.mean(dim=0)
    known = torch.nn.functional.normalize(known - centre, dim=1)
    cosine = (rows.to(known) - centre) @ known.T
    return among[cosine.topk(n, dim=1).indices]


def over_the_ranking(log_a: Tensor, tokens: Tensor, n: int) -> Tensor:
    """[n] tokens spread evenly over the ranking of `tokens` [m] by log_a [V], likeliest first.

    The ranking is cut into n classes of equal size, and each gives the token that a fixed lot by id
    names. So rounding, or a slightly different text, moves few of them, though neighbours in the
    ranking differ by little.
    """
    ranked = tokens[torch.argsort(log_a[tokens], descending=True, stable=True)]
    classes = ranked.tensor_split(min(n, len(ranked)))
    return torch.stack([members[_lots(members).argmin()] for members in classes])


def _lots(ids: Tensor) -> Tensor:
    """[n] int64 without order for ids in order (Knuth's multiplicative hash), all different."""
    return ids * 2_654_435_761 % 2**32


# ------------------------------------------------------------------------------ theory, and a check


def expected_log_scale(
    E: Tensor, moments: Moments, cov_hz: Tensor, vector: Tensor, step: float
) -> Tensor:
    """[K] log scale of an edit of rows E [K, d] to second order, with nothing fitted.

    The token's probability lies where E_w . h - z is large. If h and z were normal, that would
    move the mean of h to m + S E_w - cov(h, z) and leave its covariance S, so
    log scale ~ t v . (m + S E_w - cov(h, z)) + t^2 v' S v / 2: the second term, and the part of the
    first that differs between tokens, vanish with the variance of v . h.

    Args:
        cov_hz: [d] covariance of h and the log-partition.
        step: t, nats.
    """
    tilted = moments.mean + E.double() @ moments.cov - cov_hz
    return step * (tilted @ vector) + step**2 / 2 * (vector @ moments.cov @ vector)


def closed_form_error(
    lm: LanguageModel, ids: Tensor, tokens: Tensor, scales: Sequence[float], vector: Tensor
) -> float:
    """Largest relative difference of a new mean probability between closed form and real edits.

    For each token [K] and scale the model is edited, run over the text `ids` [B, T] with its own
    forward pass, and restored.
    """
    states = models.hidden_states(lm, ids).flatten(0, 1)
    h, z = wide(states), inference.HeadSums(lm.E, lm.b).add(states)
    log_p = log_probabilities(lm, tokens, h, z)
    worst = 0.0
    for scale in scales:
        step = math.log(scale)
        u = step * (h @ vector.to(h.device))
        expected = new_probability(log_p, u[:, None]).mean(dim=0)
        for token, goal in zip(tokens, expected, strict=True):
            with edited_rows(lm, token[None], step * vector[None]):
                found = _mean_probability(lm, ids, int(token))
            worst = max(worst, abs(found / float(goal) - 1.0))
    return worst


@torch.inference_mode()
def _mean_probability(lm: LanguageModel, ids: Tensor, token: int) -> float:
    """By the model's own forward pass, as it stands."""
    logits = wide(models.logits(lm, ids))
    return float((logits[..., token] - torch.logsumexp(logits, dim=-1)).exp().mean())


# ---------------------------------------------------------------------------------- the real thing


@dataclass(frozen=True, eq=False)
class Steered:
    """A model while it is steered."""

    lm: LanguageModel
    """The model with the edited output embedding: its own E, untied"""
    tokens: Tensor
    """[K] int64 the edited tokens"""
    scales: Tensor
    """[K] float64 wanted factors on their mean probabilities"""
    steps: Tensor
    """[K] float64 how far each went along the direction"""
    before: Tensor
    """[K] float64 mean probabilities on the detecting corpus before the edit"""
    expected: Tensor
    """[K] float64 the same afterwards, in closed form"""

    def save_steered(self, path: str | Path) -> Path:
        """Writes the steered model as a folder that transformers loads, all of it or nothing.

        Raises:
            InputError: something is at `path` already, or it cannot be written.
        """
        path = Path(path).expanduser()
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists already; name a new folder for the steered model.")
        with cache.atomic_path(path) as temporary, loading.quiet():
            self.lm.model.save_pretrained(temporary)
            self.lm.tokenizer.save_pretrained(temporary)
        return path


@contextmanager
def steer(
    lm: LanguageModel,
    scales: Mapping[str | int, float],
    *,
    detection: Detection | None = None,
    direction: Tensor | None = None,
    exact: bool = True,
) -> Iterator[Steered]:
    """Inside the context the model gives some tokens `scales` times their mean probability.

    The rows of these tokens in the output embedding are replaced; a tied head is untied first, so
    that the input embedding stays. On leaving, also by an exception, everything is as it was. In a
    model of half precision the new row is rounded to it, and the factors with it.

    Args:
        scales: token (a text that is one token, or an id) to factor, for instance
            `{" Paris": 5.0, " London": 0.2}`.
        detection: the corpus on which the factors hold; by default the built-in docstrings.
        direction: [d] along which rows move; by default the minimum-variance direction.
        exact: solve for the steps, all tokens together; else the linear rule, step = log r.

    Raises:
        InputError: a name that is not one token, an id without a token, a factor that is not
            positive, or mean probabilities that would pass 1.
    """
    tokens, factors = _wanted(lm, scales)
    if detection is None:
        detection = default_detection(lm)
    vector = default_direction(detection) if direction is None else direction.double()
    log_p = log_probabilities(lm, tokens, detection.h, detection.z)
    _check_reachable(lm, tokens, factors, log_mean(log_p))
    g = detection.h.double() @ vector
    steps = solve_jointly(log_p, g, factors.log()) if exact else factors.log()
    after = log_mean(joint_log_p(log_p, g[:, None] * steps)).exp()
    with edited_rows(lm, tokens, torch.outer(steps, vector)) as edited:
        yield Steered(edited, tokens, factors, steps, log_mean(log_p).exp(), after)


def default_detection(lm: LanguageModel) -> Detection:
    """The pass over 16,384 positions of the built-in docstrings, from the cache if there."""
    length = min(256, lm.context_length)
    return inference.detect(lm, corpora.blocks("docstrings", lm.tokenizer, sequence_length=length))


def default_direction(detection: Detection) -> Tensor:
    """[d] minimum variance, its ridge chosen on held-out groups of blocks."""
    return min_variance(Moments.of(detection.h), choose_ridge(folds(detection)))


def folds(detection: Detection, n: int = 4) -> list[Moments]:
    """Moments of n runs of consecutive positions of the pass (of fewer, if it has not so many)."""
    return [Moments.of(part) for part in detection.h.tensor_split(min(n, len(detection.h) // 2))]


def _wanted(lm: LanguageModel, scales: Mapping[str | int, float]) -> tuple[Tensor, Tensor]:
    """Ids and factors, checked."""
    if not scales:
        raise InputError("No token is named; give a mapping such as {' Paris': 5.0}.")
    ids = [_token(lm, name) for name in scales]
    for name, other in zip(scales, ids, strict=True):
        if ids.count(other) > 1:
            raise InputError(f"The token {name!r} is named twice; give it one scale.")
    for name, scale in scales.items():
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not 0 < scale < math.inf:
            raise InputError(f"The scale of {name!r} is {scale!r}; it must be a positive number.")
    return torch.tensor(ids), torch.tensor([float(s) for s in scales.values()], dtype=torch.float64)


def _token(lm: LanguageModel, name: str | int) -> int:
    if isinstance(name, str):
        return lm.token_id(name)
    if isinstance(name, bool) or not isinstance(name, int) or name not in set(lm.tokens.tolist()):
        raise InputError(
            f"{name!r} is no token of {lm.name}; name a text that is one token, or an id that its "
            "tokenizer knows."
        )
    return name


def _check_reachable(lm: LanguageModel, tokens: Tensor, factors: Tensor, log_a: Tensor) -> None:
    wanted = factors * log_a.exp()
    for token, factor, a, goal in zip(tokens, factors, log_a.exp(), wanted, strict=True):
        if goal >= 1:
            raise InputError(
                f"{lm.token_text(int(token))!r} has mean probability {float(a):.3g}, so "
                f"{float(factor):g} times that is no probability; ask for less than {1 / a:.3g}."
            )
    if float(wanted.sum()) >= 1:
        raise InputError(
            f"Together these tokens would need a mean probability of {float(wanted.sum()):.3g}, "
            "which is above 1; ask for smaller scales or fewer tokens."
        )


@contextmanager
def edited_rows(lm: LanguageModel, tokens: Tensor, change: Tensor) -> Iterator[LanguageModel]:
    """Adds `change` [K, d] to rows of the output embedding, in a matrix of the head's own.

    The head's weight is replaced by an edited copy, never written to: the input embedding that may
    share it, and lm.E, stay. On leaving, the old weight is put back.
    """
    models.check_editable(lm)
    head: Any = lm.model.get_output_embeddings()
    old = head.weight
    new = old.detach().clone()
    scale = models.logit_scale(lm.model.config)
    change = change.to(device=wide_device(new.device), dtype=torch.float64) / scale
    new[tokens] = (wide(new[tokens]) + change).to(new)
    configs = _tying_configs(lm.model)
    was_tied = [config.__dict__.get("tie_word_embeddings") for config in configs]
    try:
        head.weight = torch.nn.Parameter(new, requires_grad=False)
        for config in configs:
            config.tie_word_embeddings = False
        yield _as_edited(lm, new, scale, tokens, change)
    finally:
        head.weight = old
        for config, tied in zip(configs, was_tied, strict=True):
            _restore(config, tied)


def _tying_configs(model: Any) -> list[Any]:
    """The configuration and, of models with several parts, that of the text model."""
    text = model.config.get_text_config()
    return [model.config] if text is model.config else [model.config, text]


def _restore(config: Any, tied: bool | None) -> None:
    if tied is None:
        config.__dict__.pop("tie_word_embeddings", None)
    else:
        config.tie_word_embeddings = tied


def _as_edited(
    lm: LanguageModel, weight: Tensor, scale: float, tokens: Tensor, change: Tensor
) -> LanguageModel:
    """The model with its new E, and a hash of its own so that no cached pass is taken for its."""
    digest = hashlib.sha256(lm.weights_hash.encode())
    for array in (tokens, change.cpu()):
        digest.update(array.contiguous().numpy().tobytes())
    E = (weight if weight.dtype == torch.float64 else weight.float()) * scale
    return replace(lm, E=E, tied=False, weights_hash=digest.hexdigest())


def calibrations(
    lm: LanguageModel, detections: Iterable[tuple[str, Detection]], tokens: Tensor
) -> list[Calibration]:
    """What `robust` needs of some passes; `tokens` [K] is the sample that weighs the positions."""
    return [Calibration.of(lm, name, found.h, found.z, tokens) for name, found in detections]
