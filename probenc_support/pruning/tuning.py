"""Tuning a pruned head: direct minimisation of the KL divergence over maps of rank k.

The head stays E (decode (encode h) + shift): only the map from h to what E reads is learned, of
rank k, 2 d k + d numbers in place of V k, so that a modest text is enough and no row of E that the
text does not touch is bent to it. Two things make a step cheap. The loss is estimated on a few
thousand tokens drawn by their mean probability in the batch's own text, weighted by the inverse of
their chance to be drawn. And the factors are written in coordinates in which both the hidden
states and the logits have unit scale, where the problem is well conditioned and Adam needs few
steps.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.inference import Detection
from probenc_support.moments import square_roots
from probenc_support.precision import wide
from probenc_support.pruning.bases import Basis, token_metric
from probenc_support.pruning.divergence import Reference

_GROUPS_A_BATCH = 8
"""Documents of a step."""


_POSITIONS = 256
"""Positions whose probabilities are made at a time, so that they stay in the processor's cache."""


_FLOOR = 1e-6
"""Smallest eigenvalue of a metric, of its largest, when a root of it is inverted."""


@dataclass(frozen=True)
class Check:
    """The held-out divergence at one point of a tuning run."""

    step: int
    """Steps made."""
    kl: float
    """Mean KL on the held-out positions, nats."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """A map of rank k that replaces h before the output embedding: decode (encode h) + shift.

    Its tensors are on the CPU.
    """

    encode: Tensor
    """[k, d]"""
    decode: Tensor
    """[d, k]"""
    shift: Tensor
    """[d]"""
    checks: list[Check]
    """Held-out divergence along the way; the factors are those of the lowest."""
    n_positions: int
    """Positions of the calibration text that are drawn from."""
    n_drawn: int
    """Positions that the steps read, with repetition."""
    seconds: float
    """Wall time of the steps and checks of this rank, the draws of its steps included."""

    def kept(self, h: Tensor) -> Tensor:
        """What stands for h [N, d]: [N, d]."""
        encode, decode, shift = (t.to(h) for t in (self.encode, self.decode, self.shift))
        return h @ encode.T @ decode.T + shift


@dataclass(frozen=True, eq=False)
class _Calibration:
    """Hidden states and mean probabilities of groups of text, out of one or more passes."""

    h: list[Tensor]
    """For each group, [N_g, d]."""
    a: list[Tensor]
    """For each group, [V] mean probability."""

    @classmethod
    def of(cls, detections: Sequence[Detection]) -> "_Calibration":
        h, a = [], []
        for detection in detections:
            # A small group may have no position in a sample.
            for group in detection.group.unique().tolist():
                h.append(detection.h[detection.group == group])
                a.append(detection.log_a_groups_rows[group])
        return cls(h, [log_a.exp() for log_a in a])

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions [n, d] of a few groups, and their mean probabilities [V].

        Groups are documents of any length: they are drawn by it, so that all positions are as
        likely.
        """
        sizes = torch.tensor([float(len(h)) for h in self.h])
        drawn = torch.multinomial(sizes, _GROUPS_A_BATCH, replacement=True, generator=generator)
        groups = drawn.tolist()
        parts = []
        for g in groups:
            rows = torch.randint(len(self.h[g]), (n // len(groups),), generator=generator)
            parts.append(self.h[g][rows])
        return torch.cat(parts), torch.stack([self.a[g] for g in groups]).mean(dim=0)


class _Factors(NamedTuple):
    """A map of rank k: h becomes decode (encode h) + shift."""

    encode: Tensor
    """[k, d]"""
    decode: Tensor
    """[d, k]"""
    shift: Tensor
    """[d]"""

    def kept(self, h: Tensor) -> Tensor:
        """What stands for h [N, d]: [N, d]."""
        return torch.addmm(self.shift, h @ self.encode.T, self.decode.T)


class _Coordinates:
    """Factors of a rank-k map in whitened coordinates: decode = to_E u, encode = v to_h."""

    def __init__(self, E: Tensor, h: Tensor, weights: Tensor) -> None:
        states = wide(h.to(E.device))
        self.mean = states.mean(dim=0)
        root_h, inverse_h = square_roots(torch.cov(states.T), floor=_FLOOR)
        root_E, inverse_E = square_roots(token_metric(E, weights), floor=_FLOOR)
        self.from_E, self.to_E = root_E.to(E), inverse_E.to(E)
        self.from_h, self.to_h = root_h.to(E), inverse_h.to(E)
        self.mean = self.mean.to(E)

    def start(self, basis: Basis, removed: int) -> list[Tensor]:
        """u [d, k], v [k, d] of a basis, in balance, and a shift [d] of zero."""
        left = slice(removed, None)
        u = basis.decoded(self.from_E, left).T.contiguous()
        v = basis.encoded(self.from_h.T, left)
        balance = (v.norm(dim=1) / u.norm(dim=0).clamp(min=1e-12)).sqrt()
        return [u * balance, v / balance[:, None], torch.zeros_like(self.mean)]

    def factors(self, u: Tensor, v: Tensor, c: Tensor) -> _Factors:
        """The map that has these coordinates."""
        encode, decode = v @ self.to_h, self.to_E @ u
        return _Factors(encode, decode, self.mean + c - decode @ (encode @ self.mean))


@dataclass(frozen=True, eq=False)
class Sample:
    """Positions and tokens drawn for one step, with the intact side of its loss.

    Token w takes part with probability min(1, n_tokens a_w) (twice that many at most are drawn on
    average, as a sums to one) and then counts by its inverse, in both softmaxes. With n_tokens so
    large that all take part the loss is the exact KL.
    """

    h: Tensor
    """[n, d] hidden states of the positions."""
    rows: Tensor
    """[T, d] rows of E of the tokens."""
    offset: Tensor
    """[T] their bias, less the log of their chance to be drawn."""
    p: Tensor
    """[n, T] the intact head's probabilities among the tokens drawn."""

    @classmethod
    def draw(
        cls, head: Head, h: Tensor, a: Tensor, *, n_tokens: int, generator: torch.Generator
    ) -> "Sample":
        """Draws tokens for positions h [n, d]; a [V] is the mean probability in their text."""
        chance = (a.double() * n_tokens).clamp(max=1.0)
        lot = torch.rand(len(chance), generator=generator, dtype=torch.float64)
        drawn = lot.to(chance.device) < chance
        drawn[chance.argmax()] = True  # so that there is always one
        tokens = drawn.nonzero()[:, 0]
        E, b = head.E, head.b
        rows = E[tokens.to(E.device)]
        offset = -chance[tokens].log().to(rows)
        if b is not None:
            offset = offset + b[tokens.to(b.device)]
        return cls(h, rows, offset, torch.addmm(offset, h, rows.T).softmax(dim=1))

    def kl(self, kept: Tensor) -> Tensor:
        """An estimate of the mean KL in nats where h becomes `kept` [n, d]: a scalar."""
        log_p, log_q = (
            torch.addmm(self.offset, x, self.rows.T).log_softmax(dim=1) for x in (self.h, kept)
        )
        return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()

    @torch.no_grad()
    def gradient(self, kept: Tensor) -> Tensor:
        """[n, d] gradient of `kl` by `kept`: (q - p) E / n, a few positions at a time."""
        parts = []
        for x, p in zip(kept.split(_POSITIONS), self.p.split(_POSITIONS), strict=True):
            q = torch.addmm(self.offset, x, self.rows.T).softmax(dim=1)
            parts.append(q.sub_(p) @ self.rows)
        return torch.cat(parts).div_(len(kept))


class _Rank:
    """The factors of one rank on their way down: optimiser, schedule, and the best so far."""

    def __init__(
        self, places: _Coordinates, start: list[Tensor], held_out: Reference, n_steps: int,
        *, learning_rate: float, n_checks: int,
    ) -> None:  # fmt: skip
        began = time.perf_counter()
        self.places, self.held_out, self.n_steps = places, held_out, n_steps
        self.parameters = [p.clone().requires_grad_(True) for p in start]
        rate = learning_rate * float(start[0].square().mean().sqrt())
        self.optimiser = torch.optim.Adam(self.parameters, lr=rate, betas=(0.9, 0.98))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: _rate(step, n_steps)
        )
        self.due = {round(n_steps * (i + 1) / n_checks) for i in range(n_checks)}
        self.checks: list[Check] = []
        self._check(0)
        self.seconds = time.perf_counter() - began

    def step(self, sample: Sample, number: int) -> None:
        """One step of Adam on the KL of a sample, and a look at the held-out KL where it is due."""
        kept = self.places.factors(*self.parameters).kept(sample.h)
        self.optimiser.zero_grad()
        kept.backward(sample.gradient(kept))
        self.optimiser.step()
        self.schedule.step()
        if number in self.due:
            self._check(number)

    @torch.no_grad()
    def _check(self, step: int) -> None:
        factors = self.places.factors(*(p.detach() for p in self.parameters))
        head = self.held_out.head
        divergences = self.held_out.evaluate(lambda h: head.logits(factors.kept(h)))
        self.checks.append(Check(step, float(divergences.kl.mean())))
        if self.checks[-1].kl <= min(check.kl for check in self.checks):
            self.best = _Factors(*(factor.cpu() for factor in factors))


def tune(
    held_out: Reference,
    calibration: Sequence[Detection],
    *,
    start: Basis,
    n_steps: Mapping[int, int],
    weights: Tensor,
    batch: int = 1024,
    n_tokens: int = 12288,
    learning_rate: float = 0.004,
    n_checks: int = 4,
    seed: int = 0,
) -> dict[int, Tuned]:
    """Lowers the KL of a rotated basis at one or more levels by Adam on its factors.

    The learning rate rises over the first tenth of the steps and falls to zero along a cosine. The
    factors returned are those with the lowest KL on held-out positions, the start among them, so
    that a text too small to learn from does no harm. All levels see the same positions and tokens
    at the same step, so what does not depend on the level is made once, and none depends on which
    others are tuned beside it.

    Args:
        held_out: positions of other text, to choose the step by, with the intact head.
        calibration: passes over the text to learn from.
        start: a rotated basis.
        n_steps: by the number of coordinates of `start` that go.
        weights: [V] of the tokens, as `start` was made with.
        batch: positions a step.
        n_tokens: see `Sample`.
        learning_rate: of Adam, in units of the root mean square of the factors.
        n_checks: how often the held-out KL is looked at after the start.

    Returns:
        The tuned maps, by the same numbers.

    Raises:
        InputError: no steps, or no positions.
    """
    if min(n_steps.values()) < 1 or batch < _GROUPS_A_BATCH or not len(held_out.h):
        raise InputError(
            "Tuning needs at least one step, eight positions a step and held-out text."
        )
    head = held_out.head
    text = _Calibration.of(calibration)
    places = _Coordinates(head.E, torch.cat([d.h for d in calibration]), weights)
    ranks = {}
    for removed, n in n_steps.items():
        ranks[removed] = _Rank(
            places, places.start(start, removed), held_out, n,
            learning_rate=learning_rate, n_checks=n_checks,
        )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, max(n_steps.values()) + 1):
        began = time.perf_counter()
        h, a = text.draw(batch, generator)
        sample = Sample.draw(head, h.to(head.E), a, n_tokens=n_tokens, generator=generator)
        shared = time.perf_counter() - began
        for rank in (rank for rank in ranks.values() if rank.n_steps >= number):
            began = time.perf_counter()
            rank.step(sample, number)
            rank.seconds += shared + time.perf_counter() - began
    n_positions = sum(d.n_kept for d in calibration)
    return {
        removed: Tuned(*rank.best, rank.checks, n_positions, rank.n_steps * batch, rank.seconds)
        for removed, rank in ranks.items()
    }


def _rate(step: int, n_steps: int) -> float:
    warm = max(1.0, n_steps / 10)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / n_steps))
