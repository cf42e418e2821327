"""How much of the encoding each component and dimension of E carries (paper section 2.2).

Everything here follows from the sufficient statistics of one fit, E'E and E'y,
so that it costs products of d x d matrices and never another pass over the vocabulary. A basis
(principal components, a random rotation, some dimensions in some order) is a change of these
statistics.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import enet_path

from probenc_support.errors import InputError
from probenc_support.regression import Array, Design, Matrix, as_tensor, folds

Order = NDArray[np.int64]

_CONDITION_LIMIT = 1e7
"""Of E: that of E'E is the square, and float64 holds sixteen digits."""


@dataclass(frozen=True)
class Statistics:
    """All that a regression of y [n] on E [n, d] with an intercept needs to know."""

    n: int
    """Tokens."""
    mean: Array
    """[d] mean of E."""
    gram: Array
    """[d, d] (E - mean)'(E - mean)."""
    y_mean: float
    """Mean of y, in nats."""
    cross: Array
    """[d] (E - mean)'(y - y_mean)."""
    total: float
    """Sum of squares of y - y_mean."""

    @classmethod
    def of(cls, design: Design, y: Matrix) -> "Statistics":
        """From a design and one y [n_rows]."""
        return cls.of_many(design, as_tensor(y)[:, None])[0]

    @classmethod
    def of_many(cls, design: Design, Y: Matrix) -> list["Statistics"]:
        """From a design and every column of Y [n_rows, m], by one matrix product.

        Raises:
            InputError: the dimensions of E are so nearly dependent that E'E does not hold them.
        """
        if design.condition > _CONDITION_LIMIT:
            raise InputError(
                f"The dimensions of E are nearly linearly dependent (condition number about "
                f"{design.condition:.0e}), so no share of y can be told from another."
            )
        cross, total = design.moments(Y)
        values = as_tensor(Y).double().cpu().numpy()
        weights = None if design.kept is None else design.kept.cpu().numpy()
        y_mean = np.average(values, axis=0, weights=weights)
        mean, gram = design.mean.cpu().numpy(), design.gram.cpu().numpy()
        return [
            cls(design.n, mean, gram, float(y_mean[k]), cross[:, k].copy(), float(total[k]))
            for k in range(cross.shape[1])
        ]

    @property
    def d(self) -> int:
        """Number of dimensions."""
        return len(self.cross)

    @property
    def slopes(self) -> Array:
        """[d] least-squares slopes A."""
        return np.asarray(linalg.solve(self.gram, self.cross, assume_a="pos"))

    @property
    def r2(self) -> float:
        """Share of the variance of y that all dimensions explain."""
        return float(self.cross @ self.slopes) / self.total

    @property
    def correlation(self) -> Array:
        """[d] Pearson correlation of every dimension with y."""
        return np.asarray(self.cross / np.sqrt(self.gram.diagonal() * self.total))

    @property
    def sd(self) -> Array:
        """[d] standard deviation of every dimension of E."""
        return np.asarray(np.sqrt(self.gram.diagonal() / (self.n - 1)))

    @property
    def standardised_slopes(self) -> Array:
        """[d] slopes in standard deviations of y per standard deviation of the dimension."""
        return np.asarray(self.slopes * self.sd / np.sqrt(self.total / (self.n - 1)))

    def agreement(self, first: Array, second: Array) -> tuple[float, float]:
        """How far two directions [d] agree: their cosine, and the correlation over the tokens of
        the values that they give, which a few dimensions of large slope do not decide."""
        cosine = first @ second / np.sqrt((first @ first) * (second @ second))
        product = first @ self.gram @ second
        lengths = (first @ self.gram @ first) * (second @ self.gram @ second)
        return float(cosine), float(product / np.sqrt(lengths))

    def rotated(self, directions: Array) -> "Statistics":
        """The same regression on E @ directions, for directions [d, k]."""
        gram = directions.T @ self.gram @ directions
        return self._in_basis(directions, (gram + gram.T) / 2.0)

    def _in_basis(self, directions: Array, gram: Array) -> "Statistics":
        mean, cross = directions.T @ self.mean, directions.T @ self.cross
        return Statistics(self.n, mean, gram, self.y_mean, cross, self.total)


# ---------------------------------------------------------------------------- principal components


@dataclass(frozen=True)
class Components:
    """Principal components of E, the rows being centred; largest variance first."""

    variances: Array
    """[d] variance along each component, not increasing."""
    directions: Array
    """[d, d] orthonormal columns; the entry of largest size of each (the first, if several are
    equally large to rounding) is positive."""

    @classmethod
    def of(cls, statistics: Statistics) -> "Components":
        """By the eigenvectors of the Gram matrix: E itself is not decomposed."""
        variances, directions = np.linalg.eigh(statistics.gram)
        sizes = np.abs(directions)
        largest = (sizes > (1.0 - 1e-9) * sizes.max(0)).argmax(0)
        directions = directions * np.sign(directions[largest, np.arange(len(largest))])
        scaled = variances[::-1].clip(0.0) / (statistics.n - 1)
        return cls(scaled, np.ascontiguousarray(directions[:, ::-1]))

    def express(self, statistics: Statistics) -> Statistics:
        """The same regression on the components' scores, which are uncorrelated."""
        gram = np.diag(self.variances * (statistics.n - 1))
        return statistics._in_basis(self.directions, gram)

    def scores(self, E: Matrix, k: int | None = None) -> Array:
        """[n, k] coordinates of the centred rows of E [n, d] on the first k components, float32
        arithmetic being enough for ranks and figures."""
        rows = as_tensor(E).float()
        mean = rows.mean(0)
        turn = as_tensor(self.directions[:, :k]).float().to(rows.device)
        scores = rows.new_empty(len(rows), turn.shape[1])
        for part, out in zip(rows.split(4096), scores.split(4096), strict=True):
            torch.mm(part - mean, turn, out=out)
        return scores.cpu().numpy()


# ------------------------------------------------------------------------ explained share, by order


def cumulative_r2(statistics: Statistics, order: Order | None = None) -> Array:
    """[k] R^2 of the regressions on the first 1, 2, ... k dimensions of an order.

    One Cholesky decomposition gives them all, exactly. A dimension that depends linearly on the
    ones before it adds nothing.
    """
    order = np.arange(statistics.d) if order is None else order
    _, gains = _orthogonalised(statistics, order)
    return np.cumsum(gains**2) / statistics.total


def _orthogonalised(statistics: Statistics, order: Order) -> tuple[Array, Array]:
    """Lower Cholesky factor L [k, k] of the ordered Gram matrix, and L^-1 E'y [k]."""
    gram = statistics.gram[np.ix_(order, order)]
    factor = linalg.cholesky(gram, lower=True)
    return factor, linalg.solve_triangular(factor, statistics.cross[order], lower=True)


@dataclass(frozen=True)
class Selection:
    """Dimensions in the order in which they were chosen."""

    order: Order
    """[k] dimension chosen at each step."""
    r2: Array
    """[k] R^2 of the regression on the dimensions chosen so far."""


def forward_selection(
    statistics: Statistics, n_steps: int | None = None, *, until: float = 2.0
) -> Selection:
    """At every step takes the dimension that raises R^2 most, given those taken before.

    Exact, and without refits: what is left of every dimension and of E'y after the ones taken is
    kept up to date by the columns of a Cholesky decomposition, O(d^2) a step at most.

    Args:
        statistics: of the full regression.
        n_steps: dimensions to take; None: all that are linearly independent.
        until: R^2 at which to stop, if it is reached before.
    """
    d = statistics.d
    steps = d if n_steps is None else min(n_steps, d)
    left = statistics.gram.diagonal().copy()
    cross = statistics.cross.copy()
    floor = left * 1e-12
    columns = np.zeros((d, steps), order="F")
    order, gains = np.empty(steps, dtype=np.int64), np.empty(steps)
    open_ = np.ones(d, dtype=bool)
    for step in range(steps):
        possible = open_ & (left > floor)
        if not possible.any():
            return Selection(order[:step], np.cumsum(gains[:step]) / statistics.total)
        gain = np.divide(cross**2, left, out=np.full(d, -1.0), where=possible)
        best = int(gain.argmax())
        column = statistics.gram[best] - columns[:, :step] @ columns[best, :step]
        column /= np.sqrt(left[best])
        order[step], gains[step] = best, gain[best]
        cross -= column * (cross[best] / np.sqrt(left[best]))
        left -= column**2
        columns[:, step] = column
        open_[best] = False
        if gains[: step + 1].sum() >= until * statistics.total:
            return Selection(order[: step + 1], np.cumsum(gains[: step + 1]) / statistics.total)
    return Selection(order, np.cumsum(gains) / statistics.total)


def dims_for_share(statistics: Statistics, share: float = 0.9) -> int:
    """How many dimensions, chosen one by one, reach a share of the full R^2 (`count_for_share` of
    their curve, without the rest of it)."""
    goal = share * statistics.r2 * (1.0 - 1e-12)
    return len(forward_selection(statistics, until=goal).order)


def count_for_share(r2: Array, share: float = 0.9, full: float | None = None) -> int:
    """How many entries of a cumulative curve r2 [k] reach a share of the full R^2 (its last)."""
    goal = share * (r2[-1] if full is None else full)
    return int(np.searchsorted(r2, goal * (1.0 - 1e-12)) + 1)


def component_shares(r: Array) -> tuple[Array, Array]:
    """Cumulative R^2 [d] of uncorrelated components with correlations r [d]: by variance, and by
    size of the correlation (which is the best choice of every number of components)."""
    return np.cumsum(r**2), np.cumsum(np.sort(r**2)[::-1])


@dataclass(frozen=True)
class LassoPath:
    """Elastic-net regressions on standardised dimensions, from strong to weak penalties."""

    penalties: Array
    """[k] weight of the penalty, relative to the one at which the first dimension enters."""
    n_dims: Order
    """[k] dimensions with a non-zero slope."""
    r2: Array
    """[k] R^2 of the penalised (shrunken) slopes."""
    r2_refitted: Array
    """[k] R^2 of least squares on the dimensions with a non-zero slope."""


def lasso_path(
    statistics: Statistics, *, n_penalties: int = 30, smallest: float = 1e-3, l1_ratio: float = 1.0
) -> LassoPath:
    """The lasso (or elastic net) beside forward selection.

    A lasso knows E and y by E'E and E'y only. So a square factor of E'E stands in for E, and
    scikit-learn works on d rows in place of n.

    Args:
        statistics: of the full regression.
        n_penalties: points on the path.
        smallest: last penalty, relative to the first.
        l1_ratio: 1 for the lasso, less for the elastic net.
    """
    scale = np.sqrt(statistics.gram.diagonal())
    factor = linalg.cholesky(statistics.gram / np.outer(scale, scale), lower=False)
    target = linalg.solve_triangular(factor, statistics.cross / scale, trans="T")
    largest = np.abs(factor.T @ target).max() / (statistics.d * l1_ratio)
    penalties = largest * np.geomspace(1.0, smallest, n_penalties)
    with warnings.catch_warnings():
        # The weakest penalties, where nearly every dimension is in, may need more iterations than
        # they get; what a reader takes from the path is its beginning.
        warnings.simplefilter("ignore", ConvergenceWarning)
        _, slopes, _ = enet_path(factor, target, l1_ratio=l1_ratio, alphas=penalties, tol=1e-5)
    fitted = factor @ slopes
    r2 = (2.0 * target @ fitted - (fitted**2).sum(0)) / statistics.total
    supports = [np.flatnonzero(column) for column in slopes.T]
    refitted = [cumulative_r2(statistics, s)[-1] if len(s) else 0.0 for s in supports]
    counts = np.array([len(support) for support in supports])
    return LassoPath(penalties / largest, counts, r2, np.array(refitted))


def heldout_curve(
    design: Design,
    y: Matrix,
    choose: Callable[[Statistics], Array],
    *,
    n_folds: int = 5,
    seed: int = 0,
) -> Array:
    """[k] R^2 on held-out tokens as the dimensions of a basis enter one by one.

    Training and test statistics of a fold add up to those of all tokens, so that no prediction is
    ever made token by token.

    Args:
        design: statistics of all tokens.
        y: [n] values of all tokens.
        choose: from the statistics of the training tokens to a basis [d, k], whose columns enter
            in their order. What it picks by looking at y is picked without the held-out tokens.
        n_folds: see `regression.folds`.
        seed: of the random partition.
    """
    whole = Statistics.of(design, y)
    errors, total = [], 0.0
    for fold in folds(design, n_folds, seed=seed):
        train = Statistics.of(design.without(fold), y)
        basis = choose(train)
        test = _rest(whole, train)
        errors.append(_errors_by_prefix(train.rotated(basis), test.rotated(basis)))
        total += test.total
    return np.asarray(1.0 - np.sum(errors, axis=0) / total)


def _rest(whole: Statistics, part: Statistics) -> Statistics:
    """Statistics of the tokens of the whole that are not in the part, about the part's means."""
    drift, y_drift = whole.mean - part.mean, whole.y_mean - part.y_mean
    n = whole.n
    return Statistics(
        n=n - part.n,
        mean=part.mean,
        gram=whole.gram + n * np.outer(drift, drift) - part.gram,
        y_mean=part.y_mean,
        cross=whole.cross + n * drift * y_drift - part.cross,
        total=whole.total + n * y_drift**2 - part.total,
    )


def _errors_by_prefix(train: Statistics, test: Statistics) -> Array:
    """[k] test sums of squares of the regressions on the first 1, 2, ... k dimensions."""
    factor, slopes = _orthogonalised(train, np.arange(train.d))
    half = linalg.solve_triangular(factor, test.gram, lower=True)
    gram = linalg.solve_triangular(factor, half.T, lower=True)
    cross = linalg.solve_triangular(factor, test.cross, lower=True)
    products = gram * np.outer(slopes, slopes)
    prefix = np.cumsum(2.0 * np.tril(products, -1).sum(1) + products.diagonal())
    return np.asarray(test.total - 2.0 * np.cumsum(slopes * cross) + prefix)
