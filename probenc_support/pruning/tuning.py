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
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.inference import Detection
from probenc_support.precision import wide
from probenc_support.pruning.bases import Basis, square_roots, token_metric
from probenc_support.pruning.divergence import evaluate

_GROUPS_A_BATCH = 8
"""Documents of a step."""


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
    """A map of rank k that replaces h before the output embedding: decode (encode h) + shift."""

    encode: Tensor
    """[k, d]"""
    decode: Tensor
    """[d, k]"""
    shift: Tensor
    """[d]"""
    checks: list[Check]
    """Held-out divergence along the way; the factors are those of the lowest."""
    n_positions: int
    """Positions of the calibration text."""
    n_drawn: int
    """Positions that the steps read, with repetition."""
    seconds: float
    """Wall time."""

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
            for group in range(detection.n_groups):
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


class _Coordinates:
    """Factors of a rank-k map in whitened coordinates: decode = to_E u, encode = v to_h."""

    def __init__(self, E: Tensor, h: Tensor, weights: Tensor) -> None:
        states = wide(h).cpu()
        self.mean = states.mean(dim=0)
        root_h, inverse_h = square_roots(torch.cov(states.T), floor=_FLOOR)
        root_E, inverse_E = square_roots(token_metric(E, weights), floor=_FLOOR)
        self.from_E, self.to_E = root_E.to(E), inverse_E.to(E)
        self.from_h, self.to_h = root_h.to(E), inverse_h.to(E)
        self.mean = self.mean.to(E)

    def start(self, basis: Basis, removed: int) -> list[Tensor]:
        """u [d, k], v [k, d] of a basis, in balance, and a shift [d] of zero."""
        u = self.from_E @ basis.decode[:, removed:].to(self.to_E)
        v = basis.encode[removed:].to(self.to_h) @ self.from_h
        balance = (v.norm(dim=1) / u.norm(dim=0).clamp(min=1e-12)).sqrt()
        return [u * balance, v / balance[:, None], torch.zeros_like(self.mean)]

    def factors(self, u: Tensor, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """encode [k, d], decode [d, k], shift [d], so that h becomes decode (encode h) + shift."""
        encode, decode = v @ self.to_h, self.to_E @ u
        return encode, decode, self.mean + c - decode @ (encode @ self.mean)


def sampled_kl(
    head: Head,
    h: Tensor,
    change: Tensor,
    a: Tensor,
    *,
    n_tokens: int,
    generator: torch.Generator,
) -> Tensor:
    """An estimate of the mean KL at positions h [n, d] when h becomes h + change: a scalar.

    Token w takes part with probability min(1, n_tokens a_w) (twice that many at most are drawn on
    average, as a sums to one) and then counts by its inverse, in both softmaxes. With n_tokens so
    large that all take part it is the exact KL.

    Args:
        a: [V] mean probability in the text of h.
        change: [n, d], with gradient.
    """
    chance = (a.double() * n_tokens).clamp(max=1.0)
    drawn = torch.rand(len(chance), generator=generator, dtype=torch.float64) < chance
    drawn[chance.argmax()] = True  # so that there is always one
    tokens = drawn.nonzero()[:, 0]
    E, b = head.E, head.b
    rows = E[tokens.to(E.device)]
    weight = -chance[tokens].log().to(rows)
    logits = h @ rows.T + (weight if b is None else weight + b[tokens.to(b.device)])
    moved = change @ rows.T
    p = logits.softmax(dim=1)
    gap = torch.logsumexp(logits + moved, dim=1) - torch.logsumexp(logits, dim=1)
    return (gap - (p * moved).sum(dim=1)).mean()


def tune(
    head: Head,
    calibration: Sequence[Detection],
    held_out: Tensor,
    *,
    start: Basis,
    removed: int,
    weights: Tensor,
    n_steps: int = 200,
    batch: int = 1024,
    n_tokens: int = 12288,
    learning_rate: float = 0.004,
    n_checks: int = 4,
    seed: int = 0,
    progress: Callable[[Check], None] | None = None,
) -> Tuned:
    """Lowers the KL of a rotated basis at one level by Adam on its factors.

    The learning rate rises over the first tenth of the steps and falls to zero along a cosine. The
    factors returned are those with the lowest KL on held-out positions, the start among them, so
    that a text too small to learn from does no harm.

    Args:
        calibration: passes over the text to learn from.
        held_out: [M, d] hidden states of other text, to choose the step by.
        start: a rotated basis, with `removed` coordinates gone.
        weights: [V] of the tokens, as `start` was made with.
        batch: positions a step; n_tokens: see `sampled_kl`.
        learning_rate: of Adam, in units of the root mean square of the factors.
        n_checks: how often the held-out KL is looked at after the start.

    Raises:
        InputError: no steps, or no positions.
    """
    if n_steps < 1 or batch < _GROUPS_A_BATCH or not len(held_out):
        raise InputError(
            "Tuning needs at least one step, eight positions a step and held-out text."
        )
    began = time.perf_counter()
    text = _Calibration.of(calibration)
    places = _Coordinates(head.E, torch.cat([d.h for d in calibration]), weights)
    parameters = [p.clone().requires_grad_(True) for p in places.start(start, removed)]
    generator = torch.Generator().manual_seed(seed)
    rate = learning_rate * float(parameters[0].detach().square().mean().sqrt())
    optimiser = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _rate(s, n_steps))
    best, checks = _copies(parameters), [_check(head, places, parameters, held_out, 0)]
    due = {round(n_steps * (i + 1) / n_checks) for i in range(n_checks)}
    for step in range(1, n_steps + 1):
        h, a = text.draw(batch, generator)
        h = h.to(head.E)
        change = _change(places, parameters, h)
        loss = sampled_kl(head, h, change, a, n_tokens=n_tokens, generator=generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step in due:
            checks.append(_check(head, places, parameters, held_out, step))
            if checks[-1].kl <= min(c.kl for c in checks):
                best = _copies(parameters)
            if progress:
                progress(checks[-1])
    encode, decode, shift = (t.cpu() for t in places.factors(*best))
    return Tuned(
        encode, decode, shift, checks,
        n_positions=sum(d.n_positions for d in calibration),
        n_drawn=n_steps * batch,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _rate(step: int, n_steps: int) -> float:
    warm = max(1.0, n_steps / 10)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def _change(places: _Coordinates, parameters: Sequence[Tensor], h: Tensor) -> Tensor:
    encode, decode, shift = places.factors(*parameters)
    return h @ encode.T @ decode.T + shift - h


def _copies(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def _check(
    head: Head,
    places: _Coordinates,
    parameters: Sequence[Tensor],
    held_out: Tensor,
    step: int,
) -> Check:
    encode, decode, shift = places.factors(*(p.detach() for p in parameters))
    rows, bias = head.E @ decode, head.E @ shift
    bias = bias if head.b is None else bias + head.b
    found = evaluate(head, lambda h: torch.addmm(bias, h @ encode.T, rows.T), held_out)
    return Check(step, float(found.kl.mean()))
