"""Pruning: how many dimensions of the output embedding can go (section 4, claim C6).

Every method that needs no training is a change of basis. A `Basis` writes a hidden state as d
coordinates, h = mean + sum_i decode[:, i] (encode[i] . (h - mean)), in the order in which they
go. Removing the first m of them leaves logits of rank d - m, and the next level only subtracts a
few more columns: a sweep over levels costs one product with E, not one a level.

Where the coordinates are plain dimensions, encode and decode would be permutation matrices, of d^2
numbers each. A `PlainBasis` holds the order alone, and picks entries where a `MatrixBasis`
multiplies.

- zero (paper): plain dimensions, mean 0
- mean: plain dimensions that stay at their mean
- compensated: a removed dimension is predicted from the kept ones by least squares
- rotated: the directions that carry least, in the metrics of E and of the hidden states

All divergences are in nats, from the intact model's distribution P to the pruned one's Q. What is
made of E is made where E lies, and a basis lies where the hidden states or their moments do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.moments import Moments, States, moments_of, square_roots
from probenc_support.precision import ROWS_AT_ONCE, wide


@dataclass(frozen=True, eq=False)
class PlainBasis:
    """Plain dimensions, in the order in which they are removed.

    Coordinate i is h - mean at axes[i]. Results are those of a `MatrixBasis` of permutation
    matrices, bit for bit.
    """

    mean: Tensor
    """[d] where removed dimensions stand."""
    axes: Tensor
    """[d] int64 dimensions in order of removal."""

    @property
    def d(self) -> int:
        """Hidden size."""
        return len(self.axes)

    def kept(self, h: Tensor, removed: int) -> Tensor:
        """What is left of h [..., d] when the first `removed` dimensions are gone: [..., d]."""
        mean, gone = self.mean.to(h), self.axes[:removed].to(h.device)
        return mean + (h - mean).index_fill_(-1, gone, 0.0)

    def codes(self, h: Tensor, which: slice) -> Tensor:
        """[..., k] the dimensions axes[which] of h [..., d], less their means."""
        axes = self.axes[which].to(h.device)
        return h[..., axes] - self.mean.to(h)[axes]

    def encoded(self, rows: Tensor, which: slice = slice(None)) -> Tensor:
        """[k, n] the columns axes[which] of rows [n, d]."""
        return rows.T[self.axes[which].to(rows.device)]

    def decoded(self, rows: Tensor, which: slice = slice(None)) -> Tensor:
        """[k, n] the same columns: of rows of E, what the dimensions add to the logits."""
        return self.encoded(rows, which)


@dataclass(frozen=True, eq=False)
class MatrixBasis:
    """A complete set of coordinates of hidden states, in the order in which they are removed."""

    mean: Tensor
    """[d] where removed coordinates stand."""
    encode: Tensor
    """[d, d] row i reads coordinate i from h - mean."""
    decode: Tensor
    """[d, d] column i writes coordinate i; decode @ encode is the identity."""
    axes: Tensor | None = None
    """[d] int64 plain dimensions in order of removal, if the last k coordinates of the basis are
    functions of the last k of them; None: every coordinate reads all dimensions."""

    @property
    def d(self) -> int:
        """Hidden size."""
        return len(self.encode)

    def kept(self, h: Tensor, removed: int) -> Tensor:
        """What is left of h [..., d] when the first `removed` coordinates are gone: [..., d]."""
        left = slice(removed, None)
        return self.mean.to(h) + self.codes(h, left) @ self.decode[:, left].to(h).T

    def codes(self, h: Tensor, which: slice) -> Tensor:
        """[..., k] what the rows encode[which] read from h [..., d] less the mean."""
        return (h - self.mean.to(h)) @ self.encode[which].to(h).T

    def encoded(self, rows: Tensor, which: slice = slice(None)) -> Tensor:
        """[k, n] what the rows encode[which] read from rows [n, d], no mean subtracted."""
        return self.encode[which].to(rows) @ rows.T

    def decoded(self, rows: Tensor, which: slice = slice(None)) -> Tensor:
        """[k, n] products of the columns decode[:, which] with rows [n, d]: of rows of E, what the
        coordinates add to the logits."""
        return self.decode[:, which].to(rows).T @ rows.T


Basis = PlainBasis | MatrixBasis
"""Coordinates of hidden states, in the order in which they are removed."""


def zero_basis(order: Tensor) -> PlainBasis:
    """The paper's: dimensions are set to zero in `order` [d]."""
    return PlainBasis(torch.zeros(len(order), dtype=torch.float64), order)


def mean_basis(order: Tensor, h: States) -> PlainBasis:
    """Dimensions are set to the mean of h [N, d] in `order` [d]: a constant in the head's bias."""
    return PlainBasis(moments_of(h).mean, order)


def compensated_basis(order: Tensor, h: States, *, ridge: float = 1e-6) -> MatrixBasis:
    """Removed dimensions are replaced by their least-squares prediction from the kept ones.

    Coordinate i is what dimension order[i] adds to the dimensions after it: with the covariance of
    h [N, d] in reverse order factored as L D L' (L unit lower triangular), h = L u, and dropping
    the last entries of u leaves E[h | kept]. One factorisation serves all levels, exactly.
    `ridge` is in units of the mean variance.
    """
    moments = moments_of(h)
    cov = moments.ridged(ridge)
    back = order.flip(0)
    factor = torch.linalg.cholesky(cov[back][:, back])
    unit = factor / factor.diagonal()
    decode = torch.zeros_like(cov)
    decode[back] = unit
    encode = torch.zeros_like(cov)
    identity = torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    encode[:, back] = torch.linalg.solve_triangular(unit, identity, upper=False, unitriangular=True)
    return MatrixBasis(moments.mean, encode.flip(0), decode.flip(1), order)


def rotated_basis(E: Tensor, h: States, weights: Tensor, *, ridge: float = 1e-6) -> MatrixBasis:
    """The basis whose last k coordinates minimise the weighted squared error of the logits.

    Minimises mean_n sum_w weights_w ((E_w - E_mean) . (h_n - kept(h_n)))^2 over all maps of rank k,
    for every k at once: the singular vectors of sqrt(weights) (E - E_mean) cov(h)^(1/2).

    E: [V, d]; h: [N, d]; weights: [V], not negative: for instance a power of a.
    """
    moments = moments_of(h)
    root, inverse = square_roots(moments.ridged(ridge))
    _, rotation = torch.linalg.eigh(root @ token_metric(E, weights).to(root) @ root)
    return MatrixBasis(moments.mean, rotation.T @ inverse, root @ rotation)


def keeping_basis(
    E: Tensor, h: States, weights: Tensor, direction: Tensor, *, ridge: float = 1e-6
) -> MatrixBasis:
    """As `rotated_basis`, but with a given direction among those that are kept to the last.

    Minimises the same error over the maps of rank k whose range holds the direction, for every k
    at once, so that E . direction can still be read from the head. With T the square root of
    weights times (E - E_mean) cov(h)^(1/2) and u the direction's part of the logits, of length one,
    these are u u'T and the leading singular vectors of T - u u'T.

    E: [V, d]; h: [N, d]; weights: [V]; direction: [d], as a row of E, of any length but zero.
    """
    moments = moments_of(h)
    root, inverse = square_roots(moments.ridged(ridge))
    root_T, inverse_T = square_roots(root @ token_metric(E, weights).to(root) @ root)
    u = root_T @ inverse @ direction.to(root)
    u = u / u.norm()
    apart = torch.eye(len(u)).to(u) - torch.outer(u, u)
    vectors = torch.linalg.eigh(apart @ root_T @ root_T @ apart).eigenvectors
    vectors = vectors[:, 1:]  # the first is u itself, of which nothing is left
    vectors, _ = torch.linalg.qr(torch.cat([u[:, None], vectors.flip(1)], dim=1))
    vectors = torch.cat([vectors[:, 1:].flip(1), u[:, None]], dim=1)
    return MatrixBasis(moments.mean, vectors.T @ root_T @ inverse, root @ inverse_T @ vectors)


def at_zero(basis: Basis) -> Basis:
    """The same coordinates, but those that go become zero and not their mean.

    What the mean hidden state adds to the logits is then lost with them.
    """
    return replace(basis, mean=torch.zeros_like(basis.mean))


def shift(basis: Basis, removed: int) -> Tensor:
    """[d] what is left of h = 0; what is left of any other h is this and a linear map of h."""
    return basis.kept(torch.zeros_like(basis.mean), removed)


def token_metric(E: Tensor, weights: Tensor) -> Tensor:
    """[d, d] float64 weighted covariance of the rows of E [V, d], weights [V] of any sum; where E
    lies. Products of some thousand rows are made in E's precision, and added up in float64."""
    share = (weights / weights.sum()).to(E)
    mean = share @ E
    total = wide(E.new_zeros(E.shape[1], E.shape[1]))
    for rows, part in zip(E.split(ROWS_AT_ONCE), share.split(ROWS_AT_ONCE), strict=True):
        centred = rows - mean
        total += wide(centred.T @ (centred * part[:, None]))
    return total


def lost_variance(basis: Basis, E: Tensor, h: Tensor, weights: Tensor) -> Tensor:
    """[d + 1] float64, on the CPU: share of the logits' weighted variance lost at each level.

    Entry m is mean_n sum_w weights_w ((E_w - E_mean) . (h_n - kept(h_n, m)))^2 over its value with
    all h_n replaced by their mean: 0 at m = 0. It needs no softmax, so it explains a ranking, and
    does not judge one. E: [V, d]; h: [N, d]; weights: [V].
    """
    moments = Moments.of(h)
    metric = token_metric(E, weights).to(moments.cov)
    drift = moments.mean - basis.mean.to(metric)
    second = moments.cov + torch.outer(drift, drift)
    # Twice, for both sides of a matrix: encode @ second @ encode.T and decode.T @ metric @ decode.
    parts = basis.decoded(basis.decoded(metric)) * basis.encoded(basis.encoded(second))
    lost = parts.cumsum(0).cumsum(1).diagonal() / (metric * moments.cov).sum()
    return torch.cat([torch.zeros(1, dtype=torch.float64), lost.cpu()])


def participation(basis: Basis, removed: int) -> float:
    """Over how many plain dimensions the directions that go are spread, from 1 to d.

    The mean over directions u of length one of the participation ratio 1 / sum_i u_i^4.
    """
    if isinstance(basis, PlainBasis):
        return 1.0
    directions = basis.decode[:, :removed] / basis.decode[:, :removed].norm(dim=0)
    return float((1 / directions.pow(4).sum(dim=0)).mean())


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
