"""The log-linear fit (paper section 2.1): ordinary least squares of y [V] on the rows of E [V, d].

The model is y_w = A . E_w + B + error, one observation a token. A `Design` keeps the sufficient
statistics of E, so that a further y, a subset of tokens or a bootstrap replicate costs one thin
matrix product in place of a new decomposition.

Arithmetic is float64 on the device that holds E; results are NumPy float64.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, onenormest
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.precision import wide_device
from probenc_support.regression.arrays import Array, Matrix, as_array, as_tensor, rows_at_once
from probenc_support.regression.fits import LinearFit, ManyFits

_CHOLESKY_LIMIT = 1e6
"""Condition number of the scaled Gram matrix above which its own rounding (about the condition
number times 2e-16) would spoil the ninth digit; QR of E loses only the square root of that."""


_CONSTANT = 1e-12
"""Share of a column's sum of squares below which what is left of it after a subtraction is that
subtraction's rounding."""


_RANK_LIMIT = 1e24
"""Above this, columns of E are linearly dependent to float64 rounding."""


@dataclass(frozen=True)
class Design:
    """Sufficient statistics of E [n, d] for regressions with an intercept; make one by `Design.of`.

    Any y that is fitted has one entry for every row of E, also where rows were left out.
    """

    E: Tensor
    """[n_rows, d] the data as given (not copied, not converted)."""
    kept: Tensor | None
    """[n_rows] float64, one for a row that takes part and zero for one left out; None: all do."""
    n: int
    """Rows that take part."""
    mean: Tensor
    """[d] float64, mean of the rows that take part."""
    gram: Tensor
    """[d, d] float64, (E - mean)' (E - mean) over the rows that take part."""
    factor: Tensor
    """[d, d] float64, upper triangular R with R'R = gram."""
    condition: float
    """Condition number of the centred E with columns scaled to length one: the square root of the
    1-norm estimate for the scaled Gram matrix, which as a rule lies above the 2-norm one."""
    method: str
    """`cholesky` (of `gram`) or `qr` (of E itself, where `gram` is badly conditioned)."""

    @classmethod
    def of(cls, E: Matrix) -> "Design":
        """The statistics of E [n, d], by one pass over it: a sum and a symmetric product.

        Raises:
            InputError: E has no more rows than slopes, holds a value that is not finite, or has
                linearly dependent columns.
        """
        E = as_tensor(E)
        E = E.to(wide_device(E.device))
        if E.ndim != 2:
            raise InputError(f"E must be a matrix [n, d]; its shape is {tuple(E.shape)}.")
        origin = E[: rows_at_once(E.device)].double().mean(0)
        total, gram = _sum_and_gram(E, origin)
        if not bool(total.isfinite().all()):
            raise InputError("E holds values that are not finite, so no regression on it exists.")
        whole = gram.diagonal().clone()
        return cls._centred_at_mean(E, None, len(E), origin, total, gram, whole)

    @classmethod
    def _centred_at_mean(
        cls,
        E: Tensor,
        kept: Tensor | None,
        n: int,
        origin: Tensor,
        total: Tensor,
        gram: Tensor,
        whole: Tensor,
    ) -> "Design":
        """From the sum [d] and the Gram matrix [d, d] of n rows about some origin [d].

        whole: [d] the sums of squares in which `gram` was rounded, before rows were subtracted.
        """
        _check_rows(n, E.shape[1])
        mean = origin + total / n
        gram = gram - torch.outer(total, total) / n
        squares = gram.diagonal()
        rounding = torch.maximum(n * (1e-14 * mean).square(), _CONSTANT * whole)
        if bool((squares <= rounding).any()):
            raise InputError("A column of E is constant, so its slope is not determined.")
        factor, condition = _cholesky(gram)
        method = "cholesky"
        if max(condition, float((whole / squares).max())) > _CHOLESKY_LIMIT:
            factor, condition = _qr(E, mean, kept)
            method = "qr"
        if condition > _RANK_LIMIT:
            raise InputError(
                "The columns of E are linearly dependent, so their slopes are not determined; "
                "leave out the redundant columns."
            )
        return cls(E, kept, n, mean, gram, factor, math.sqrt(condition), method)

    @property
    def d(self) -> int:
        """Number of slopes."""
        return self.E.shape[1]

    @property
    def covariance(self) -> Tensor:
        """[d, d] float64 covariance of the rows of E that take part, divided by n."""
        return self.gram / self.n

    @property
    def standard_deviations(self) -> Array:
        """[d] of the columns of E over the rows that take part, by n - 1."""
        return as_array((self.gram.diagonal() / (self.n - 1)).sqrt())

    def without(self, rows: Matrix) -> "Design":
        """The design with some rows left out, by subtraction of their statistics.

        Args:
            rows: [k] int64 distinct row numbers of E, all taking part as yet.

        Raises:
            InputError: what is left is no regression, see `of`: for instance a column that only
                the rows left out tell from a constant.
        """
        index = as_tensor(rows).to(self.E.device)
        left_out = self.E[index]
        kept = self._weights().clone()
        kept[index] = 0.0
        total, gram = _sum_and_gram(left_out, self.mean)
        n = self.n - len(index)
        return self._centred_at_mean(
            self.E, kept, n, self.mean, -total, self.gram - gram, self.gram.diagonal()
        )

    def fit(self, y: Matrix, *, robust: bool = False) -> LinearFit:
        """The fit of y [n_rows], with standard errors.

        Args:
            y: [n_rows] for instance -log a, in nats.
            robust: HC3 standard errors, which hold where the variance differs between tokens, at
                the price of one more product of the size of the Gram matrix.

        Raises:
            InputError: y has another length, is constant, or holds a value that is not finite.
        """
        Y = self._targets(y)
        slopes, mean, total = self._solve(Y)
        unexplained = self._unexplained(Y, slopes, total)
        sigma2 = float(total[0]) * unexplained / (self.n - self.d - 1)
        variances = self._hc3(Y, slopes) if robust else sigma2 * self._unit_variances()
        r2 = 1.0 - unexplained
        return LinearFit(
            slopes=as_array(slopes[:, 0]),
            intercept=float(mean[0] - self.mean @ slopes[:, 0]),
            n=self.n,
            r2=r2,
            r2_adj=float(adjusted(r2, self.n, self.d)),
            residual_sd=math.sqrt(sigma2),
            stderr=as_array(variances[:-1].sqrt()),
            intercept_stderr=math.sqrt(float(variances[-1])),
            robust=robust,
        )

    def fit_many(self, Y: Matrix) -> ManyFits:
        """The fits of m vectors at once, Y [n_rows, m], for one matrix product E'Y.

        Raises:
            InputError: as `fit`.
        """
        targets = self._targets(Y)
        slopes, mean, total = self._solve(targets)
        explained = (self.factor @ slopes).square().sum(0)
        r2 = as_array(explained / total)
        intercepts = mean - self.mean @ slopes
        return ManyFits(as_array(slopes), as_array(intercepts), r2, adjusted(r2, self.n, self.d))

    def left_one_out(self, y: Matrix) -> Array:
        """[n_rows] prediction of each token by the fit to all others (Allen 1974), without n fits.

        The residual of a token that is left out is its residual over one minus its leverage.

        Raises:
            InputError: as `fit`.
        """
        Y = self._targets(y)
        residuals = self._residuals(Y, self._solve(Y)[0])[:, 0]
        inverse = self.inverse()
        predicted = Y[:, 0].clone()
        for part, rows in _centred_rows(self.E, self.mean):
            leverage = 1.0 / self.n + ((rows @ inverse) * rows).sum(1)
            predicted[part] -= residuals[part] / (1.0 - leverage)
        return as_array(predicted)

    def cross_products(self, Y: Matrix) -> tuple[Array, Array]:
        """(E - mean)'(Y - mean) [d, m] and total sums of squares [m], for Y [n_rows, m].

        Raises:
            InputError: as `fit`.
        """
        centred, _ = self._centred(self._targets(Y))
        return as_array(self._cross(centred)), as_array(centred.square().sum(0))

    def inverse(self) -> Tensor:
        """[d, d] inverse of `gram`: the covariance of the slopes per unit of residual variance."""
        return torch.cholesky_inverse(self.factor, upper=True)

    def _weights(self) -> Tensor:
        if self.kept is not None:
            return self.kept
        return torch.ones(len(self.E), dtype=torch.float64, device=self.E.device)

    def _targets(self, y: Matrix) -> Tensor:
        Y = as_tensor(y).to(self.E.device, torch.float64)
        Y = Y[:, None] if Y.ndim == 1 else Y
        if len(Y) != len(self.E):
            raise InputError(f"y has {len(Y)} values for the {len(self.E)} rows of E.")
        if not bool(Y.isfinite().all()):
            raise InputError("y holds values that are not finite, so they cannot be fitted.")
        return Y

    def _centred(self, Y: Tensor) -> tuple[Tensor, Tensor]:
        weights = self._weights()[:, None]
        mean = (weights * Y).sum(0) / self.n
        return weights * (Y - mean), mean

    def _cross(self, Y: Tensor) -> Tensor:
        cross = torch.zeros(self.d, Y.shape[1], dtype=torch.float64, device=Y.device)
        for part, rows in _centred_rows(self.E, self.mean):
            cross.addmm_(rows.T, Y[part])
        return cross

    def _solve(self, Y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes [d, m], means [m] and total sums of squares [m] of Y [n_rows, m]."""
        centred, mean = self._centred(Y)
        total = centred.square().sum(0)
        if not bool((total > 1e-24 * (1.0 + mean.square()) * self.n).all()):
            raise InputError("y is the same for every row, so there is nothing to explain.")
        slopes = torch.cholesky_solve(self._cross(centred), self.factor, upper=True)
        # Semi-normal equations square the condition number; each correction from the residuals
        # takes that back (Björck 1987), so that QR keeps its accuracy without a stored Q.
        for _ in range(2 if self.method == "qr" else 0):
            correction = self._cross(self._residuals(Y, slopes))
            slopes = slopes + torch.cholesky_solve(correction, self.factor, upper=True)
        return slopes, mean, total

    def _residuals(self, Y: Tensor, slopes: Tensor) -> Tensor:
        """[n_rows, m]; zero where a row is left out."""
        residuals = self._centred(Y)[0]
        for part, rows in _centred_rows(self.E, self.mean):
            residuals[part] -= rows @ slopes
        return residuals * self._weights()[:, None]

    def _unexplained(self, Y: Tensor, slopes: Tensor, total: Tensor) -> float:
        """Residual over total sum of squares of one y, from the statistics where they suffice."""
        unexplained = 1.0 - float((self.factor @ slopes).square().sum() / total[0])
        if unexplained > 1e-5 and self.method == "cholesky":
            return unexplained
        return float(self._residuals(Y, slopes).square().sum() / total[0])

    def _unit_variances(self) -> Tensor:
        """[d + 1] variances of slopes and intercept per unit of residual variance."""
        inverse = self.inverse()
        intercept = 1.0 / self.n + self.mean @ inverse @ self.mean
        return torch.cat([inverse.diagonal(), intercept[None]])

    def _hc3(self, Y: Tensor, slopes: Tensor) -> Tensor:
        """[d + 1] HC3 variances: each token's influence times its residual over 1 - leverage."""
        residuals = self._residuals(Y, slopes)[:, 0]
        inverse = self.inverse()
        variances = torch.zeros(self.d + 1, dtype=torch.float64, device=residuals.device)
        for part, rows in _centred_rows(self.E, self.mean):
            influence = rows @ inverse
            leverage = 1.0 / self.n + (influence * rows).sum(1)
            weight = (residuals[part] / (1.0 - leverage)).square()
            intercept = 1.0 / self.n - influence @ self.mean
            variances[:-1] += weight @ influence.square()
            variances[-1] += weight @ intercept.square()
        return variances


def fit(E: Matrix, y: Matrix, *, robust: bool = False) -> LinearFit:
    """Least squares of y [n] on E [n, d] with an intercept (paper section 2.1).

    Raises:
        InputError: see `Design.of` and `Design.fit`.
    """
    return Design.of(E).fit(y, robust=robust)


def r2_of(y: Matrix, predicted: Matrix) -> float:
    """1 - residual over total sum of squares of y [n], for any prediction [n]; at most 1."""
    observed, guess = as_array(as_tensor(y)), as_array(as_tensor(predicted))
    deviation = observed - observed.mean()
    return float(1.0 - ((observed - guess) ** 2).sum() / (deviation @ deviation))


def adjusted(r2: Any, n: int, d: int) -> Any:
    """R^2 adjusted for d slopes fitted to n observations (a number, or an array elementwise)."""
    return 1.0 - (1.0 - r2) * (n - 1) / (n - d - 1)


def _check_rows(n: int, d: int) -> None:
    if n <= d + 1:
        raise InputError(f"{n} rows cannot determine {d} slopes, an intercept and a residual.")


def _centred_rows(E: Tensor, mean: Tensor, step: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of E - mean in float64, with the slice that each comes from.

    Every block overwrites the one before: fresh memory would cost more than the arithmetic.
    """
    step = step or rows_at_once(E.device)
    buffer = mean.new_empty(min(step, len(E)), E.shape[1])
    for start in range(0, len(E), step):
        part = slice(start, min(start + step, len(E)))
        yield part, torch.sub(E[part], mean, out=buffer[: part.stop - start])


def _sum_and_gram(E: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Sum [d] and Gram matrix [d, d] of E - origin; blocks below the diagonal are not computed."""
    d = E.shape[1]
    total = torch.zeros(d, dtype=torch.float64, device=E.device)
    gram = torch.zeros(d, d, dtype=torch.float64, device=E.device)
    edges = [d * k // 8 for k in range(9)]
    for _, rows in _centred_rows(E, origin):
        total += rows.sum(0)
        for low, high in itertools.pairwise(edges):
            gram[low:high, low:].addmm_(rows[:, low:high].T, rows[:, low:])
    return total, gram.triu() + gram.triu(1).T


def _cholesky(gram: Tensor) -> tuple[Tensor, float]:
    """Upper factor of the Gram matrix, and the condition number of its scaled self (inf: none)."""
    scale = gram.diagonal().sqrt()
    scaled = gram / torch.outer(scale, scale)
    factor, info = torch.linalg.cholesky_ex(scaled, upper=True)
    if int(info) != 0 or not bool(factor.isfinite().all()):
        return factor, math.inf
    return factor * scale, _condition(scaled, factor)


def _qr(E: Tensor, mean: Tensor, kept: Tensor | None) -> tuple[Tensor, float]:
    """R of the QR decomposition of the centred E, and the condition number of R'R, scaled."""
    factor = torch.zeros(0, E.shape[1], dtype=torch.float64, device=E.device)
    # Each block carries the factor so far through its decomposition, so that few are cheaper.
    for part, rows in _centred_rows(E, mean, step=max(rows_at_once(E.device), 3 * E.shape[1])):
        rows = rows if kept is None else rows * kept[part, None]
        factor = torch.linalg.qr(torch.cat([factor, rows]), mode="r").R
    factor = factor * factor.diagonal().sign()[:, None]
    if not bool((factor.diagonal() > 0).all()):
        return factor, math.inf
    scaled = factor / factor.norm(dim=0)
    return factor, _condition(scaled.T @ scaled, scaled)


def _condition(gram: Tensor, factor: Tensor) -> float:
    """Estimate of the 1-norm condition number of the Gram matrix R'R, in time d^2.

    The exact one bounds that in the 2-norm from above. The norm of the inverse is estimated from
    below by a few solves (Hager 1984; Higham and Tisseur 2000), as a rule to within a factor of
    three, where the inverse itself would take time d^3.
    """

    def solved(rhs: Array) -> Array:
        columns = as_tensor(rhs).reshape(len(gram), -1).to(factor)
        return torch.cholesky_solve(columns, factor, upper=True).cpu().numpy().reshape(rhs.shape)

    inverse = LinearOperator(
        tuple(gram.shape), solved, rmatvec=solved, matmat=solved, rmatmat=solved, dtype=np.float64
    )
    return float(torch.linalg.norm(gram, 1)) * float(onenormest(inverse, t=1))
