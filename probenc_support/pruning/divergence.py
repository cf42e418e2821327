"""What a pruned output embedding changes: KL, Jensen-Shannon and the top token, over a sweep.

The intact side of every position is made once, and every number of removed dimensions is compared
with it (section 4, claim C6).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.pruning.bases import (
    Basis,
    States,
    levels,
    moments_of,
    power_weights,
    rotated_basis,
)

_CHUNK_BYTES = {"cpu": 24e6, "cuda": 1e9}


_CACHE_BYTES = 2e6


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


class _Intact:
    """The intact head's distribution P over a few positions, to compare others with."""

    def __init__(self, logits: Tensor, targets: Tensor | None) -> None:
        self.logits, self.targets = logits, targets
        self.top = logits.argmax(dim=1)
        self.p, self.z, _ = self._softmax(logits, torch.empty_like(logits))
        self.p /= self.p.sum(dim=1)[:, None]
        self.mean_logit = torch.linalg.vecdot(self.p, logits)
        self.nll = self._nll(logits, self.z)

    def _softmax(self, logits: Tensor, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights in proportion to the softmax (in `out`), log-partition [n], mean logit [n]."""
        top = logits.amax(dim=1)
        weights = torch.sub(logits, top[:, None], out=out).exp_()
        mass = weights.sum(dim=1)
        return weights, top + mass.log(), torch.linalg.vecdot(weights, logits) / mass

    def _nll(self, logits: Tensor, z: Tensor) -> Tensor:
        if self.targets is None:
            return torch.full_like(z, torch.nan)
        known = self.targets.clamp(min=0)[:, None]
        loss = z - logits.gather(1, known)[:, 0]
        return torch.where(self.targets >= 0, loss, torch.nan)

    def against(self, logits: Tensor, work: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """KL, JS, same top token, next token's loss of other logits [n, V]; `work` is scratch.

        JS is H((P + Q) / 2) - H(P) / 2 - H(Q) / 2, with H(P) = z - mean logit under P.
        """
        q, z, mean_logit = self._softmax(logits, work)
        kl = self.mean_logit - torch.linalg.vecdot(self.p, logits) + z - self.z
        top = logits.amax(dim=1)
        same = logits.gather(1, self.top[:, None])[:, 0] >= top
        mixed = q.mul_((0.5 * (top - z).exp())[:, None]).add_(self.p, alpha=0.5)
        mixed_entropy = -torch.linalg.vecdot(mixed, mixed.clamp(min=1e-30).log_())
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


@torch.inference_mode()
def _compare(
    head: Head, h: Tensor, targets: Tensor | None, levels_of: Levels, chunk: int
) -> Divergences:
    """Streams positions: memory is bounded by chunk x V, whatever the number of positions.

    Matrix products take a chunk of positions; what follows them takes a few rows at a time, which
    stay in the processor's cache from step to step.
    """
    parts, E = [], head.E
    step = chunk or positions_at_once(E)
    few = step if E.device.type != "cpu" else max(1, int(_CACHE_BYTES / E[:, 0].nbytes))
    for start in range(0, len(h), step):
        x = h[start : start + step].to(E)
        goal = None if targets is None else targets[start : start + step].to(E.device)
        logits = _centred(head.logits(x))
        rows = [slice(i, i + few) for i in range(0, len(x), few)]
        intact = [_Intact(logits[r], None if goal is None else goal[r]) for r in rows]
        work = torch.empty_like(logits[:few])
        found = []
        for other in levels_of(x, logits):
            pieces = [
                i.against(other[r], work[: len(i.z)]) for i, r in zip(intact, rows, strict=True)
            ]
            found.append([torch.cat(column) for column in zip(*pieces, strict=True)])
        columns = [torch.stack(column) for column in zip(*found, strict=True)]
        columns += [torch.cat([i.nll for i in intact]), torch.cat([i.top for i in intact])]
        parts.append([column.cpu() for column in columns])
    return Divergences(*(torch.cat(column, dim=-1) for column in zip(*parts, strict=True)))


def sweep(
    head: Head,
    basis: Basis,
    h: Tensor,
    removed: Sequence[int],
    *,
    targets: Tensor | None = None,
    chunk: int = 0,
) -> Divergences:
    """Divergences at every level of removal, each level's logits made from the level before.

    logits_{k+1} = logits_k - coordinates[:, S] (E decode[:, S])', S the coordinates that go.

    Args:
        head: the intact one; h: [N, d] positions to evaluate on.
        removed: ascending numbers of coordinates to remove, each from 0 to d - 1.
        targets: [N] int64 next tokens, -1 where there is none.
        chunk: positions at a time; 0: as many as fit a small buffer.

    Raises:
        InputError: a level removes all coordinates, or levels do not ascend.
    """
    return sweeps(head, {"": (basis, removed)}, h, targets=targets, chunk=chunk)[""]


def sweeps(
    head: Head,
    wanted: Mapping[str, tuple[Basis, Sequence[int]]],
    h: Tensor,
    *,
    targets: Tensor | None = None,
    chunk: int = 0,
) -> dict[str, Divergences]:
    """`sweep` of several bases, each at levels of its own, which share the intact logits.

    Arguments and errors as for `sweep`; as many bases go together as a fixed memory allows.
    """
    for basis, removed in wanted.values():
        levels([m / basis.d for m in removed], basis.d)
    found: dict[str, Divergences] = {}
    for names in _batches(head.E, wanted):
        columns = {name: _columns(head.E, *wanted[name]) for name in names}
        swept = _compare(head, h, targets, partial(_levels, wanted, columns), chunk)
        start = 0
        for name in names:
            stop = start + len(wanted[name][1])
            found[name] = swept.levels(slice(start, stop))
            start = stop
    return found


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
    return _centred(_decoded(E, basis, max(removed, default=0)))


def _levels(
    wanted: Mapping[str, tuple[Basis, Sequence[int]]],
    columns: Mapping[str, Tensor],
    x: Tensor,
    intact: Tensor,
) -> Iterator[Tensor]:
    """The logits of each basis at each of its levels in turn, of hidden states x [n, d]."""
    for name, parts in columns.items():
        basis, removed = wanted[name]
        codes = (x - basis.mean.to(x)) @ basis.encode[: len(parts)].to(x).T
        logits, before = intact.clone(), 0
        for count in removed:
            if count > before:
                logits.addmm_(codes[:, before:count], parts[before:count], alpha=-1)
            before = count
            yield logits


def _decoded(E: Tensor, basis: Basis, count: int) -> Tensor:
    """[count, V]: what the first coordinates add to the logits."""
    plain = basis.axes is not None and torch.equal(
        basis.decode, torch.eye(basis.d, dtype=basis.decode.dtype)[:, basis.axes]
    )
    if plain and basis.axes is not None:
        return E.T[basis.axes[:count].to(E.device)]
    return basis.decode[:, :count].to(E).T @ E.T


def evaluate(
    head: Head,
    logits_of: Callable[[Tensor], Tensor],
    h: Tensor,
    *,
    targets: Tensor | None = None,
    chunk: int = 0,
) -> Divergences:
    """Divergences of any other head, given as a function from h [n, d] to logits [n, V]; one level.

    Arguments as for `sweep`.
    """
    return _compare(head, h, targets, lambda x, _: iter([_centred(logits_of(x))]), chunk)


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
    head: Head,
    log_a: Tensor,
    h: States,
    held_out: Tensor,
    *,
    removed: int,
    powers: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> Choice:
    """Chooses the weights of `rotated_basis` by the KL at one level, on positions not fitted.

    Of powers whose KL differs by rounding only the smallest is taken.

    log_a: [V]; h: [N, d] to fit on; held_out: [M, d].
    """
    states = moments_of(h)
    bases = {p: rotated_basis(head.E, states, power_weights(log_a, p)) for p in powers}
    swept = sweeps(head, {str(p): (s, [removed]) for p, s in bases.items()}, held_out)
    kl = {p: float(swept[str(p)].kl.mean()) for p in powers}
    finite = {p: value if math.isfinite(value) else math.inf for p, value in kl.items()}
    tie = min(finite.values()) * (1 + _TIE)
    best = min(p for p, value in finite.items() if value <= tie)
    return Choice(best, bases[best], kl)
