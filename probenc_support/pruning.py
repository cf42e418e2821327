"""Pruning: how many dimensions of the output embedding can go (section 4, claim C6).

Every method that needs no training is a change of basis. A `Basis` writes a hidden state as d
coordinates, h = mean + sum_i decode[:, i] (encode[i] . (h - mean)), in the order in which they
go. Removing the first m of them leaves logits of rank d - m, and the next level only subtracts a
few more columns: a sweep over levels costs one product with E, not one a level.

- zero (paper): plain dimensions, mean 0
- mean: plain dimensions that stay at their mean
- compensated: a removed dimension is predicted from the kept ones by least squares
- rotated: the directions that carry least, in the metrics of E and of the hidden states

All divergences are in nats, from the intact model's distribution P to the pruned one's Q.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.inference import logits_of
from probenc_support.moments import RESOLUTION, Moments
from probenc_support.precision import wide

_CHUNK_BYTES = {"cpu": 24e6, "cuda": 1e9}
_CACHE_BYTES = 2e6
_COLUMN_BYTES = 5e8
"""What the columns of bases that are swept together may fill."""
_TIE = 1e-5
"""Share by which two divergences in float32 may differ and be a tie."""


# ----------------------------------------------------------------------------------------- bases


@dataclass(frozen=True, eq=False)
class Basis:
    """A complete set of coordinates of hidden states, in the order in which they are removed."""

    encode: Tensor
    """[d, d] row i reads coordinate i from h - mean."""
    decode: Tensor
    """[d, d] column i writes coordinate i; decode @ encode is the identity."""
    mean: Tensor
    """[d] where removed coordinates stand."""
    axes: Tensor | None
    """[d] int64 plain dimensions in order of removal, if the last k coordinates of the basis are
    functions of the last k of them; None: every coordinate reads all dimensions."""

    @property
    def d(self) -> int:
        """Hidden size."""
        return int(self.encode.shape[0])

    def kept(self, h: Tensor, removed: int) -> Tensor:
        """What is left of h [N, d] when the first `removed` coordinates are gone: [N, d]."""
        encode, decode, mean = (t.to(h) for t in (self.encode, self.decode, self.mean))
        return mean + (h - mean) @ encode[removed:].T @ decode[:, removed:].T


def zero_basis(order: Tensor) -> Basis:
    """The paper's: dimensions are set to zero in `order` [d]."""
    identity = torch.eye(len(order), dtype=torch.float64)
    return Basis(identity[order], identity[:, order], torch.zeros(len(order)).double(), order)


States = Tensor | Moments
"""Hidden states [N, d], or their moments where several bases are made from the same ones."""


def _moments(h: States) -> Moments:
    return h if isinstance(h, Moments) else Moments.of(h.cpu())


def mean_basis(order: Tensor, h: States) -> Basis:
    """Dimensions are set to the mean of h [N, d] in `order` [d]: a constant in the head's bias."""
    identity = torch.eye(len(order), dtype=torch.float64)
    return Basis(identity[order], identity[:, order], _moments(h).mean, order)


def compensated_basis(order: Tensor, h: States, *, ridge: float = 1e-6) -> Basis:
    """Removed dimensions are replaced by their least-squares prediction from the kept ones.

    Coordinate i is what dimension order[i] adds to the dimensions after it: with the covariance of
    h [N, d] in reverse order factored as L D L' (L unit lower triangular), h = L u, and dropping
    the last entries of u leaves E[h | kept]. One factorisation serves all levels, exactly.
    `ridge` is in units of the mean variance.
    """
    moments = _moments(h)
    cov = moments.ridged(ridge)
    back = order.flip(0)
    factor = torch.linalg.cholesky(cov[back][:, back])
    unit = factor / factor.diagonal()
    decode = torch.zeros_like(cov)
    decode[back] = unit
    encode = torch.zeros_like(cov)
    encode[:, back] = torch.linalg.inv(unit)
    return Basis(encode.flip(0), decode.flip(1), moments.mean, order)


def rotated_basis(E: Tensor, h: States, weights: Tensor, *, ridge: float = 1e-6) -> Basis:
    """The basis whose last k coordinates minimise the weighted squared error of the logits.

    Minimises mean_n sum_w weights_w ((E_w - E_mean) . (h_n - kept(h_n)))^2 over all maps of rank k,
    for every k at once: the singular vectors of sqrt(weights) (E - E_mean) cov(h)^(1/2).

    E: [V, d]; h: [N, d]; weights: [V], not negative: for instance a power of a.
    """
    moments = _moments(h)
    root, inverse = square_roots(moments.ridged(ridge))
    _, rotation = torch.linalg.eigh(root @ token_metric(E, weights) @ root)
    return Basis(rotation.T @ inverse, root @ rotation, moments.mean, None)


def keeping_basis(
    E: Tensor, h: States, weights: Tensor, direction: Tensor, *, ridge: float = 1e-6
) -> Basis:
    """As `rotated_basis`, but with a given direction among those that are kept to the last.

    Minimises the same error over the maps of rank k whose range holds the direction, for every k
    at once, so that E . direction can still be read from the head. With T the square root of
    weights times (E - E_mean) cov(h)^(1/2) and u the direction's part of the logits, of length one,
    these are u u'T and the leading singular vectors of T - u u'T.

    E: [V, d]; h: [N, d]; weights: [V]; direction: [d], as a row of E, of any length but zero.
    """
    moments = _moments(h)
    root, inverse = square_roots(moments.ridged(ridge))
    root_T, inverse_T = square_roots(root @ token_metric(E, weights) @ root)
    u = root_T @ inverse @ direction.double().cpu()
    u = u / u.norm()
    apart = torch.eye(len(u), dtype=torch.float64) - torch.outer(u, u)
    vectors = torch.linalg.eigh(apart @ root_T @ root_T @ apart).eigenvectors
    vectors = vectors[:, 1:]  # the first is u itself, of which nothing is left
    vectors, _ = torch.linalg.qr(torch.cat([u[:, None], vectors.flip(1)], dim=1))
    vectors = torch.cat([vectors[:, 1:].flip(1), u[:, None]], dim=1)
    return Basis(vectors.T @ root_T @ inverse, root @ inverse_T @ vectors, moments.mean, None)


def square_roots(matrix: Tensor, *, floor: float = RESOLUTION) -> tuple[Tensor, Tensor]:
    """Square root of a positive matrix [d, d] and its inverse, both float64.

    Eigenvalues below `floor` times the largest are raised to it.
    """
    values, vectors = torch.linalg.eigh(matrix.double())
    values = values.clamp(min=float(values.max()) * floor).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def token_metric(E: Tensor, weights: Tensor) -> Tensor:
    """[d, d] float64 weighted covariance of the rows of E [V, d], weights [V] of any sum."""
    share = (weights / weights.sum()).to(E)
    centred = E - share @ E
    return wide(centred.T @ (centred * share[:, None])).cpu()


def lost_variance(basis: Basis, E: Tensor, h: Tensor, weights: Tensor) -> Tensor:
    """[d + 1] float64: share of the logits' weighted variance that is lost at each level.

    Entry m is mean_n sum_w weights_w ((E_w - E_mean) . (h_n - kept(h_n, m)))^2 over its value with
    all h_n replaced by their mean: 0 at m = 0. It needs no softmax, so it explains a ranking, and
    does not judge one. E: [V, d]; h: [N, d]; weights: [V].
    """
    metric = token_metric(E, weights)
    centred = wide(h).cpu() - basis.mean
    codes = basis.encode @ (centred.T @ centred / len(h)) @ basis.encode.T
    parts = (basis.decode.T @ metric @ basis.decode) * codes
    lost = torch.cat([torch.zeros(1).double(), parts.cumsum(0).cumsum(1).diagonal()])
    return lost / (metric * Moments.of(h.cpu()).cov).sum()


def power_weights(log_a: Tensor, power: float) -> Tensor:
    """[V] float64 a^power, up to a factor: 0 counts all tokens alike, 1 counts occurrences."""
    return torch.softmax(power * log_a.double(), dim=0)


def levels(shares: Sequence[float], d: int) -> list[int]:
    """How many of d dimensions each share removes, rounded.

    Raises:
        InputError: a share lies outside 0 to 1, or removes all dimensions, or they do not ascend.
    """
    for share in shares:
        if not 0 <= share <= 1:
            raise InputError(f"A share of {share} cannot be removed; give shares from 0 up to 1.")
        if round(share * d) >= d:
            raise InputError(
                f"A share of {share} removes all {d} dimensions, which leaves no model; give a "
                f"share of {(d - 1) / d:.3f} or less."
            )
    if list(shares) != sorted(shares):
        raise InputError("The shares to remove must ascend; sort them.")
    return [round(share * d) for share in shares]


# ----------------------------------------------------------------------------------- divergences


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
    E: Tensor, b: Tensor | None, h: Tensor, targets: Tensor | None, levels_of: Levels, chunk: int
) -> Divergences:
    """Streams positions: memory is bounded by chunk x V, whatever the number of positions.

    Matrix products take a chunk of positions; what follows them takes a few rows at a time, which
    stay in the processor's cache from step to step.
    """
    parts = []
    step = chunk or positions_at_once(E)
    few = step if E.device.type != "cpu" else max(1, int(_CACHE_BYTES / E[:, 0].nbytes))
    for start in range(0, len(h), step):
        x = h[start : start + step].to(E)
        goal = None if targets is None else targets[start : start + step].to(E.device)
        logits = _centred(logits_of(E, b, x))
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
    E: Tensor,
    b: Tensor | None,
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
        E: [V, d]; b: [V] or None; h: [N, d] positions to evaluate on.
        removed: ascending numbers of coordinates to remove, each from 0 to d - 1.
        targets: [N] int64 next tokens, -1 where there is none.
        chunk: positions at a time; 0: as many as fit a small buffer.

    Raises:
        InputError: a level removes all coordinates, or levels do not ascend.
    """
    return sweeps(E, b, {"": (basis, removed)}, h, targets=targets, chunk=chunk)[""]


def sweeps(
    E: Tensor,
    b: Tensor | None,
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
    for names in _batches(E, wanted):
        columns = {name: _columns(E, *wanted[name]) for name in names}
        swept = _compare(E, b, h, targets, partial(_levels, wanted, columns), chunk)
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
    E: Tensor,
    b: Tensor | None,
    head: Callable[[Tensor], Tensor],
    h: Tensor,
    *,
    targets: Tensor | None = None,
    chunk: int = 0,
) -> Divergences:
    """Divergences of any other head, a function from h [n, d] to logits [n, V]; one level.

    Arguments as for `sweep`.
    """
    return _compare(E, b, h, targets, lambda x, _: iter([_centred(head(x))]), chunk)


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
    E: Tensor,
    b: Tensor | None,
    log_a: Tensor,
    h: States,
    held_out: Tensor,
    *,
    removed: int,
    powers: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
) -> Choice:
    """Chooses the weights of `rotated_basis` by the KL at one level, on positions not fitted.

    Of powers whose KL differs by rounding only the smallest is taken.

    E: [V, d]; log_a: [V]; h: [N, d] to fit on; held_out: [M, d].
    """
    states = _moments(h)
    bases = {p: rotated_basis(E, states, power_weights(log_a, p)) for p in powers}
    swept = sweeps(E, b, {str(p): (s, [removed]) for p, s in bases.items()}, held_out)
    kl = {p: float(swept[str(p)].kl.mean()) for p in powers}
    finite = {p: value if math.isfinite(value) else math.inf for p, value in kl.items()}
    tie = min(finite.values()) * (1 + _TIE)
    best = min(p for p, value in finite.items() if value <= tie)
    return Choice(best, bases[best], kl)
