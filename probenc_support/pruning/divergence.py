"""What a pruned output embedding changes: KL, Jensen-Shannon and the top token, over a sweep.

A `Reference` holds the intact head at some positions, and every pruned head is compared with it
(section 4, claim C6).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.moments import States, moments_of
from probenc_support.pruning.bases import (
    Basis,
    levels,
    power_weights,
    rotated_basis,
)

_CHUNK_BYTES = {"cpu": 24e6, "cuda": 1e9}


_CACHE_BYTES = 2e6


_KEPT_BYTES = {"cpu": 5e8, "cuda": 4e9}
"""What the intact logits that are kept may fill."""


_COLUMN_BYTES = 5e8
"""What the columns of bases that are swept together may fill."""


_TIE = 1e-5
"""Share by which two divergences in float32 may differ and be a tie."""


@dataclass(frozen=True, eq=False)
class Divergences:
    """How far pruned heads are from the intact one, at every level [L] and position [N]."""

    kl: Tensor
    """[L, N] KL(P || Q) in nats, at least 0 up to rounding."""
    js: Tensor
    """[L, N] Jensen-Shannon divergence in nats, 0 to log 2, symmetric."""
    same_top: Tensor
    """[L, N] bool: whether the most probable token is still the same."""
    nll: Tensor
    """[L, N] loss of the next token in nats, NaN where there is none."""
    nll_intact: Tensor
    """[N] loss of the next token of the intact head, NaN where there is none."""
    top: Tensor
    """[N] int64 the intact head's most probable token."""

    @property
    def nll_increase(self) -> Tensor:
        """[L, N] loss of the next token above the intact head's, in nats; may be negative."""
        return self.nll - self.nll_intact

    def at(self, level: int) -> "Divergences":
        """One level, as a sweep of its own."""
        return self.levels(slice(level, level + 1) if level != -1 else slice(-1, None))

    def levels(self, rows: slice) -> "Divergences":
        """Some consecutive levels, as a sweep of their own."""
        return Divergences(
            self.kl[rows], self.js[rows], self.same_top[rows], self.nll[rows],
            self.nll_intact, self.top,
        )  # fmt: skip


class _Distribution:
    """The intact head's distribution P over a few positions, to compare others with."""

    def __init__(self, logits: Tensor, targets: Tensor | None) -> None:
        self.logits, self.targets = logits, targets
        self.top = logits.argmax(dim=1)
        self.p, self.z, _, _ = self._softmax(logits, torch.empty_like(logits))
        self.p /= self.p.sum(dim=1)[:, None]
        self.mean_logit = torch.linalg.vecdot(self.p, logits)
        self.nll = self._nll(logits, self.z)

    def _softmax(self, logits: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights as the softmax (in `out`), log-partition, mean logit, largest logit [n].

        By `exp`: with `torch.softmax`, which is faster, Jensen-Shannon divergences over 49,152 rows
        came out 6e-6 nats too large.
        """
        highest = logits.amax(dim=1)
        weights = torch.sub(logits, highest[:, None], out=out).exp_()
        mass = weights.sum(dim=1)
        mean_logit = torch.linalg.vecdot(weights, logits) / mass
        return weights, highest + mass.log(), mean_logit, highest

    def _nll(self, logits: Tensor, z: Tensor) -> Tensor:
        if self.targets is None:
            return torch.full_like(z, torch.nan)
        known = self.targets.clamp(min=0)[:, None]
        loss = z - logits.gather(1, known)[:, 0]
        return torch.where(self.targets >= 0, loss, torch.nan)

    def against(self, logits: Tensor, work: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """KL, JS, same top token, next token's loss of other logits [n, V]; `work` [2, n, V] is
        scratch.

        JS is H((P + Q) / 2) - H(P) / 2 - H(Q) / 2, with H(P) = z - mean logit under P.
        """
        q, z, mean_logit, highest = self._softmax(logits, work[0])
        kl = self.mean_logit - torch.linalg.vecdot(self.p, logits) + z - self.z
        same = logits.gather(1, self.top[:, None])[:, 0] >= highest
        mixed = q.mul_((0.5 * (highest - z).exp())[:, None]).add_(self.p, alpha=0.5)
        logs = torch.clamp(mixed, min=1e-30, out=work[1]).log_()
        mixed_entropy = -torch.linalg.vecdot(mixed, logs)
        js = mixed_entropy - 0.5 * (z - mean_logit + self.z - self.mean_logit)
        return kl, js, same, self._nll(logits, z)


def _centred(logits: Tensor) -> Tensor:
    """Less the mean over tokens: it moves no probability, and costs float32 its digits."""
    return logits - logits.mean(dim=1, keepdim=True)


def positions_at_once(E: Tensor) -> int:
    """Positions whose logits fill a buffer of the wanted size."""
    size = _CHUNK_BYTES.get(E.device.type, 24e6)
    return max(8, int(size / (E.shape[0] * E.element_size())))


Levels = Callable[[Tensor, Tensor], Iterator[Tensor]]
"""From a chunk's h [n, d] and intact logits [n, V] to the logits of each level in turn."""


class Reference:
    """The intact head at some positions, with which pruned heads are compared there.

    Its logits are made once for all comparisons, of as many positions as a fixed memory holds; at
    further positions they are made again each time.
    """

    def __init__(
        self, head: Head, h: Tensor, targets: Tensor | None = None, *, chunk: int = 0
    ) -> None:
        """
        Args:
            head: the intact head.
            h: [N, d] positions to evaluate on.
            targets: [N] int64 next tokens, -1 where there is none; None: none is known.
            chunk: positions at a time; 0: as many as fit a small buffer.
        """
        self.head, self.h, self.targets = head, h, targets
        self._chunk = chunk or positions_at_once(head.E)
        self._kept: dict[int, Tensor] = {}

    def sweep(self, basis: Basis, removed: Sequence[int]) -> Divergences:
        """Divergences of a basis at rising levels of removal, all in one pass over the positions.

        Args:
            removed: ascending numbers of coordinates to remove, each from 0 to d - 1.

        Raises:
            InputError: a level removes all coordinates, or levels do not ascend.
        """
        return self.sweeps({"": (basis, removed)})[""]

    def sweeps(self, wanted: Mapping[str, tuple[Basis, Sequence[int]]]) -> dict[str, Divergences]:
        """`sweep` of several bases, each at levels of its own, by name.

        As many bases go together as a fixed memory allows. Errors as for `sweep`.
        """
        for basis, removed in wanted.values():
            levels([m / basis.d for m in removed], basis.d)
        E = self.head.E
        by_name: dict[str, Divergences] = {}
        for names in _batches(E, wanted):
            columns = {name: _columns(E, *wanted[name]) for name in names}
            together = self._compare(partial(_levels, wanted, columns))
            start = 0
            for name in names:
                stop = start + len(wanted[name][1])
                by_name[name] = together.levels(slice(start, stop))
                start = stop
        return by_name

    def evaluate(self, logits_of: Callable[[Tensor], Tensor]) -> Divergences:
        """Divergences of any other head, a function from h [n, d] to logits [n, V]; one level."""
        return self._compare(lambda x, _: iter([_centred(logits_of(x))]))

    @torch.inference_mode()
    def _compare(self, levels_of: Levels) -> Divergences:
        """Streams positions: what it needs of memory does not grow with their number.

        Matrix products take a chunk of positions; what follows them takes a few rows at a time,
        which stay in the processor's cache from step to step.
        """
        E, parts = self.head.E, []
        few = self._chunk
        if E.device.type == "cpu":
            few = max(1, int(_CACHE_BYTES / E[:, 0].nbytes))
        for start in range(0, len(self.h), self._chunk):
            stop = start + self._chunk
            x = self.h[start:stop].to(E)
            goal = None if self.targets is None else self.targets[start:stop].to(E.device)
            logits = self._logits(start, x)
            rows = [slice(i, i + few) for i in range(0, len(x), few)]
            intact = [_Distribution(logits[r], None if goal is None else goal[r]) for r in rows]
            work = torch.empty_like(logits[None, :few].expand(2, -1, -1))
            by_level = []
            for other in levels_of(x, logits):
                pieces = [
                    i.against(other[r], work[:, : len(i.z)])
                    for i, r in zip(intact, rows, strict=True)
                ]
                by_level.append([torch.cat(piece) for piece in zip(*pieces, strict=True)])
            measures = [torch.stack(measure).cpu() for measure in zip(*by_level, strict=True)]
            nll, top = (torch.cat([getattr(i, name) for i in intact]) for name in ("nll", "top"))
            parts.append([*measures, nll.cpu(), top.cpu()])
        kl, js, same, nll, nll_intact, top = (
            torch.cat(measure, dim=-1) for measure in zip(*parts, strict=True)
        )
        return Divergences(kl, js, same, nll, nll_intact, top)

    def _logits(self, start: int, x: Tensor) -> Tensor:
        """[n, V] centred intact logits of the chunk x [n, d] that starts at a position."""
        if start in self._kept:
            return self._kept[start]
        logits = _centred(self.head.logits(x))
        size = _KEPT_BYTES.get(logits.device.type, 5e8)
        if sum(kept.nbytes for kept in self._kept.values()) + logits.nbytes <= size:
            self._kept[start] = logits
        return logits


def sweep(
    head: Head,
    basis: Basis,
    h: Tensor,
    removed: Sequence[int],
    *,
    targets: Tensor | None = None,
    chunk: int = 0,
) -> Divergences:
    """`Reference.sweep` where nothing else is compared at these positions."""
    return Reference(head, h, targets, chunk=chunk).sweep(basis, removed)


def evaluate(
    head: Head,
    logits_of: Callable[[Tensor], Tensor],
    h: Tensor,
    *,
    targets: Tensor | None = None,
    chunk: int = 0,
) -> Divergences:
    """`Reference.evaluate` where nothing else is compared at these positions."""
    return Reference(head, h, targets, chunk=chunk).evaluate(logits_of)


def swept_logits(
    head: Head, h: Tensor, wanted: Mapping[str, tuple[Basis, Sequence[int]]], *, chunk: int = 0
) -> Iterator[tuple[int, str, int, Tensor]]:
    """The logits of several bases, each at levels of its own, a chunk of positions at a time.

    For what is no divergence from the intact head. As in `Reference.sweeps` a level subtracts a few
    columns from the one before. Errors as for `Reference.sweep`.

    Args:
        head: the intact head.
        h: [N, d] hidden states.
        wanted: bases by name, with ascending numbers of coordinates to remove.
        chunk: positions at a time; 0: as many as fit a small buffer.

    Yields:
        The first position of the chunk, name, number of the level, and logits [n, V] less their
        mean over the rows; they are overwritten when the next ones are asked for.
    """
    for basis, removed in wanted.values():
        levels([m / basis.d for m in removed], basis.d)
    n = chunk or positions_at_once(head.E)
    for names in _batches(head.E, wanted):
        columns = {name: _columns(head.E, *wanted[name]) for name in names}
        for start in range(0, len(h), n):
            x = h[start : start + n].to(head.E)
            made = _levels(wanted, columns, x, _centred(head.logits(x)))
            for name in names:
                for level in range(len(wanted[name][1])):
                    yield start, name, level, next(made)


def _batches(E: Tensor, wanted: Mapping[str, tuple[Basis, Sequence[int]]]) -> Iterator[list[str]]:
    """Names whose columns fill no more than `_COLUMN_BYTES` together, one at least."""
    names: list[str] = []
    size = 0
    for name, (_, removed) in wanted.items():
        own = max(removed, default=0) * E[:, 0].nbytes
        if names and size + own > _COLUMN_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += own
    if names:
        yield names


def _columns(E: Tensor, basis: Basis, removed: Sequence[int]) -> Tensor:
    """[m, V] what the coordinates that go add to the logits."""
    return _centred(basis.decoded(E, slice(max(removed, default=0))))


def _levels(
    wanted: Mapping[str, tuple[Basis, Sequence[int]]],
    columns: Mapping[str, Tensor],
    x: Tensor,
    intact: Tensor,
) -> Iterator[Tensor]:
    """The logits of each basis at each of its levels in turn, of hidden states x [n, d]."""
    for name, parts in columns.items():
        basis, removed = wanted[name]
        codes = basis.codes(x, slice(len(parts)))
        logits, before = intact.clone(), 0
        for count in removed:
            if count > before:
                logits.addmm_(codes[:, before:count], parts[before:count], alpha=-1)
            before = count
            yield logits


@dataclass(frozen=True)
class Choice:
    """The power of a that weighs tokens best in `rotated_basis`, judged on held-out positions."""

    power: float
    """The power chosen."""
    basis: Basis
    """Its basis."""
    kl: dict[float, float]
    """Mean KL on the held-out positions by power, nats."""


def choose_power(
    held_out: Reference,
    log_a: Tensor,
    h: States,
    *,
    removed: int,
    powers: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> Choice:
    """Chooses the weights of `rotated_basis` by the KL at one level, on positions not fitted.

    Of powers whose KL differs by rounding only the smallest is taken.

    held_out: positions to choose on; log_a: [V]; h: [N, d] to fit on.
    """
    states = moments_of(h)
    E = held_out.head.E
    bases = {p: rotated_basis(E, states, power_weights(log_a, p)) for p in powers}
    swept = held_out.sweeps({str(p): (basis, [removed]) for p, basis in bases.items()})
    kl = {p: float(swept[str(p)].kl.mean()) for p in powers}
    finite = {p: value if math.isfinite(value) else math.inf for p, value in kl.items()}
    tie = min(finite.values()) * (1 + _TIE)
    best = min(p for p, value in finite.items() if value <= tie)
    return Choice(best, bases[best], kl)
