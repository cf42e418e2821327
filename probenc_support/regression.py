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
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.precision import wide_device

Array = NDArray[np.float64]
Matrix = Tensor | NDArray[Any]
"""What is accepted as data: a tensor on any device, or a NumPy array, of any real type."""

_ROWS = {"cpu": 1024, "cuda": 16384}
"""Rows that are held in float64 at a time: E itself stays in its own precision. On a CPU so few
that a product over them finds them in its cache."""
_CHOLESKY_LIMIT = 1e6
"""Condition number of the scaled Gram matrix above which its own rounding (about the condition
number times 2e-16) would spoil the ninth digit; QR of E loses only the square root of that."""
_CONSTANT = 1e-12
"""Share of a column's sum of squares below which what is left of it after a subtraction is that
subtraction's rounding."""
_RANK_LIMIT = 1e24
"""Above this, columns of E are linearly dependent to float64 rounding."""


@dataclass(frozen=True)
class LinearFit:
    """One least-squares fit y ~ E . slopes + intercept, and what can be inferred from it."""

    slopes: Array
    """[d] the common direction A of the paper, in nats per unit of E."""
    intercept: float
    """B of the paper, in nats."""
    n: int
    """Observations (tokens) that were fitted."""
    r2: float
    """Share of the variance of y that the fit explains, at most 1."""
    r2_adj: float
    """The same, adjusted for the d slopes."""
    residual_sd: float
    """Root of the residual sum of squares over its degrees of freedom, in nats."""
    stderr: Array
    """[d] standard errors of the slopes."""
    intercept_stderr: float
    """Standard error of the intercept."""
    robust: bool
    """Whether the standard errors are HC3 (MacKinnon and White 1985) or assume equal variances."""

    @property
    def residual_dof(self) -> int:
        """Degrees of freedom of the residuals, n - d - 1."""
        return self.n - len(self.slopes) - 1

    @property
    def t(self) -> Array:
        """[d] slopes over their standard errors."""
        return self.slopes / self.stderr

    @property
    def p(self) -> Array:
        """[d] two-sided p values of the slopes, by Student's t with `residual_dof`."""
        return np.asarray(2.0 * stats.t.sf(np.abs(self.t), self.residual_dof), dtype=np.float64)

    def confidence_interval(self, level: float = 0.95) -> Array:
        """[d, 2] lower and upper ends of the slopes' confidence intervals."""
        half = stats.t.ppf(0.5 + level / 2.0, self.residual_dof) * self.stderr
        return np.stack([self.slopes - half, self.slopes + half], axis=1)

    def predict(self, E: Matrix) -> Array:
        """[n] fitted values for the rows of E [n, d], in nats."""
        E = as_tensor(E)
        slopes = torch.as_tensor(self.slopes, device=E.device)
        parts = [rows.double() @ slopes for rows in E.split(_rows(E.device))]
        return _numpy(torch.cat(parts)) + self.intercept


@dataclass(frozen=True)
class ManyFits:
    """Least-squares fits of m vectors y on the same E."""

    slopes: Array
    """[d, m]"""
    intercepts: Array
    """[m]"""
    r2: Array
    """[m]"""
    r2_adj: Array
    """[m]"""


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    A replicate holds some texts twice and others not at all, so it knows less text than the sample
    does, and its R^2 is lower on average. That bias is taken out: the interval is the quantiles of
    the replicates, shifted by the difference of the estimate from their mean.
    """

    estimate: float
    """The estimate from all texts."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""
    bias: float
    """Mean of the replicates minus the estimate; taken out of `low` and `high`."""
    replicates: Array
    """[B] the estimate in every replicate, as it came."""

    def metrics(self, name: str) -> dict[str, float]:
        """As three flat metrics: the estimate, and its ends under `_low` and `_high`."""
        return {name: self.estimate, f"{name}_low": self.low, f"{name}_high": self.high}

    @classmethod
    def unknown(cls, estimate: float) -> "Interval":
        """An estimate from one group of text, which tells nothing of other texts: ends of NaN."""
        return cls(estimate, math.nan, math.nan, math.nan, np.empty(0))

    @classmethod
    def of(cls, estimate: float, replicates: Array, level: float = 0.95) -> "Interval":
        """The percentile interval of some replicates [B], less their bias."""
        bias = float(replicates.mean()) - estimate
        low, high = np.quantile(replicates, [0.5 - level / 2.0, 0.5 + level / 2.0]) - bias
        return cls(estimate, float(low), float(high), bias, replicates)


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
    """Upper bound of the condition number of the centred E with columns scaled to length one."""
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
        origin = E[: _rows(E.device)].double().mean(0)
        total, gram = _moments(E, origin)
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
        total, gram = _moments(left_out, self.mean)
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
            slopes=_numpy(slopes[:, 0]),
            intercept=float(mean[0] - self.mean @ slopes[:, 0]),
            n=self.n,
            r2=r2,
            r2_adj=float(adjusted(r2, self.n, self.d)),
            residual_sd=math.sqrt(sigma2),
            stderr=_numpy(variances[:-1].sqrt()),
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
        r2 = _numpy(explained / total)
        intercepts = mean - self.mean @ slopes
        return ManyFits(_numpy(slopes), _numpy(intercepts), r2, adjusted(r2, self.n, self.d))

    def moments(self, Y: Matrix) -> tuple[Array, Array]:
        """(E - mean)'(Y - mean) [d, m] and total sums of squares [m], for Y [n_rows, m].

        Raises:
            InputError: as `fit`.
        """
        centred, _ = self._centred(self._targets(Y))
        return _numpy(self._cross(centred)), _numpy(centred.square().sum(0))

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
    observed, guess = _numpy(as_tensor(y)), _numpy(as_tensor(predicted))
    deviation = observed - observed.mean()
    return float(1.0 - ((observed - guess) ** 2).sum() / (deviation @ deviation))


def adjusted(r2: Any, n: int, d: int) -> Any:
    """R^2 adjusted for d slopes fitted to n observations (a number, or an array elementwise)."""
    return 1.0 - (1.0 - r2) * (n - 1) / (n - d - 1)


def r2_heldout(design: Design, y: Matrix, *, n_folds: int = 10, seed: int = 0) -> float:
    """R^2 of predictions for tokens that took no part in their fit; see `out_of_fold`."""
    return r2_of(y, out_of_fold(design, y, n_folds=n_folds, seed=seed))


def out_of_fold(design: Design, y: Matrix, *, n_folds: int, seed: int = 0) -> Array:
    """[n] prediction of each token by a fit to the other folds: free of the optimism of d slopes.

    The folds' statistics are subtracted from those of all tokens, so that all folds together
    cost one more Gram matrix.

    Args:
        design: statistics over all tokens.
        y: [n] values of all tokens.
        n_folds: see `folds`; seed: of the random partition.
    """
    predicted = np.empty(len(design.E))
    for fold in folds(design, n_folds, seed=seed):
        rest = design.without(fold).fit_many(y)
        rows = design.E[torch.from_numpy(fold).to(design.E.device)]
        predicted[fold] = _numpy(rows) @ rest.slopes[:, 0] + rest.intercepts[0]
    return predicted


def folds(design: Design, n_folds: int, *, seed: int = 0) -> list[NDArray[np.int64]]:
    """Row numbers of the tokens in a random partition.

    Raises:
        InputError: there are fewer than two folds, or more than tokens.
    """
    if not 2 <= n_folds <= design.n:
        raise InputError(f"n_folds is {n_folds}; it must lie between 2 and the number of tokens.")
    return np.array_split(np.random.default_rng(seed).permutation(len(design.E)), n_folds)


def r2_shuffled(design: Design, y: Matrix, *, n_shuffles: int = 20, seed: int = 0) -> Array:
    """[n_shuffles] R^2 of fits to y in random order: the control that must be about d / n."""
    rng = np.random.default_rng(seed)
    values = _numpy(as_tensor(y))
    shuffled = np.stack([rng.permutation(values) for _ in range(n_shuffles)], axis=1)
    return design.fit_many(shuffled).r2


def log_mean_exp(values: Matrix, weights: Matrix) -> Array:
    """Logarithm of weighted means of exp(values), over groups of text, without underflow.

    Args:
        values: [G, V] for instance log average probabilities by group, in nats.
        weights: [G] or [G, B], not negative, for instance positions in each group.

    Returns:
        [V] or [V, B] log of sum over g of weights[g] exp(values[g]) / sum of weights.
    """
    groups = as_tensor(values).double()
    shares = as_tensor(weights).to(groups.device, torch.float64)
    shares = (shares / shares.sum(0)).reshape(len(shares), -1)
    top = groups.amax(0)
    means = (groups - top).exp().T @ shares
    result = means.log() + top[:, None]
    # A token whose largest group has no weight, all others being 700 nats below: the long way.
    for token in (means == 0.0).any(1).nonzero()[:, 0]:
        result[token] = torch.logsumexp(groups[:, token, None] + shares.log(), 0)
    return _numpy(result.reshape(-1, *as_tensor(weights).shape[1:]))


def bootstrap_log_a(
    log_a_groups: Matrix, group_sizes: Matrix, *, n_replicates: int = 200, seed: int = 0
) -> Array:
    """log a as it would be for other texts: groups of text drawn with replacement, and averaged.

    Args:
        log_a_groups: [G, V] log average probability within each group, in nats.
        group_sizes: [G] positions in each group.
        n_replicates: how many draws.
        seed: of the draws.

    Returns:
        [V, n_replicates] log average probability in each draw, in nats.

    Raises:
        InputError: there are fewer than two groups.
    """
    sizes = _numpy(as_tensor(group_sizes))
    draws = draws_of_groups(len(sizes), n_replicates, seed=seed)
    return log_mean_exp(log_a_groups, (draws * sizes).T)


def draws_of_groups(n_groups: int, n_replicates: int, *, seed: int = 0) -> NDArray[np.int64]:
    """[n_replicates, n_groups] how often each group of text is drawn, with replacement.

    Raises:
        InputError: there are fewer than two groups.
    """
    if n_groups < 2:
        raise InputError("A bootstrap over texts needs at least two groups of text.")
    return draws_with_replacement(n_groups, n_replicates, seed=seed)


def draws_with_replacement(n: int, n_replicates: int, *, seed: int = 0) -> NDArray[np.int64]:
    """[n_replicates, n] how often each of n things comes in n draws with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1.0 / n), size=n_replicates)


def bootstrap_fits(
    design: Design,
    log_a_groups: Matrix,
    group_sizes: Matrix,
    *,
    n_replicates: int = 200,
    seed: int = 0,
) -> ManyFits:
    """Fits of -log a on E for all text (column 0) and for draws of groups (the other columns).

    Args:
        design: statistics of the V tokens' rows of E.
        log_a_groups: [G, V] of the same tokens; see `bootstrap_log_a`.
        group_sizes: [G] positions in each group.
        n_replicates: how many draws; all are fitted by one matrix product.
        seed: of the draws.
    """
    log_a = bootstrap_log_a(log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    whole = log_mean_exp(log_a_groups, group_sizes)[:, None]
    return design.fit_many(-np.concatenate([whole, log_a], axis=1))


def bootstrap_r2_adj(
    design: Design,
    log_a_groups: Matrix,
    group_sizes: Matrix,
    *,
    n_replicates: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Adjusted R^2 of -log a on E, with its interval over draws of groups of text.

    Args: see `bootstrap_fits`; level: coverage.
    """
    fits = bootstrap_fits(design, log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    return Interval.of(float(fits.r2_adj[0]), fits.r2_adj[1:], level)


def bootstrap_r2_of(
    predicted: Matrix,
    log_a_groups: Matrix,
    group_sizes: Matrix,
    *,
    n_replicates: int = 200,
    seed: int = 0,
) -> Interval:
    """R^2 of a given prediction [V] of -log a, with its interval over draws of groups of text.

    The interval of a single group is not known.
    """
    whole = log_mean_exp(log_a_groups, group_sizes)
    guess = _numpy(as_tensor(predicted))
    if len(as_tensor(group_sizes)) < 2:
        return Interval.unknown(r2_of(-whole, guess))
    log_a = bootstrap_log_a(log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    missed = np.square(log_a + guess[:, None]).sum(axis=0)
    total = log_a.var(axis=0) * len(log_a)
    return Interval.of(r2_of(-whole, guess), 1.0 - missed / total)


def as_tensor(data: Matrix) -> Tensor:
    """A tensor that shares memory with the data where it can."""
    return data.detach() if isinstance(data, Tensor) else torch.as_tensor(data)


def _numpy(data: Tensor) -> Array:
    return data.double().cpu().numpy()


def _check_rows(n: int, d: int) -> None:
    if n <= d + 1:
        raise InputError(f"{n} rows cannot determine {d} slopes, an intercept and a residual.")


def _rows(device: torch.device) -> int:
    return _ROWS.get(device.type, 1024)


def _centred_rows(E: Tensor, mean: Tensor, step: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of E - mean in float64, with the slice that each comes from.

    Every block overwrites the one before: fresh memory would cost more than the arithmetic.
    """
    step = step or _rows(E.device)
    buffer = mean.new_empty(min(step, len(E)), E.shape[1])
    for start in range(0, len(E), step):
        part = slice(start, min(start + step, len(E)))
        yield part, torch.sub(E[part], mean, out=buffer[: part.stop - start])


def _moments(E: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
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
    for part, rows in _centred_rows(E, mean, step=max(_rows(E.device), 3 * E.shape[1])):
        rows = rows if kept is None else rows * kept[part, None]
        factor = torch.linalg.qr(torch.cat([factor, rows]), mode="r").R
    factor = factor * factor.diagonal().sign()[:, None]
    if not bool((factor.diagonal() > 0).all()):
        return factor, math.inf
    scaled = factor / factor.norm(dim=0)
    return factor, _condition(scaled.T @ scaled, scaled)


def _condition(gram: Tensor, factor: Tensor) -> float:
    """1-norm condition number of the Gram matrix R'R: an upper bound of the 2-norm one."""
    inverse = torch.cholesky_inverse(factor, upper=True)
    return float(torch.linalg.norm(gram, 1) * torch.linalg.norm(inverse, 1))
