"""How few dimensions carry the fit: forward selection, LASSO, R^2 on tokens held out."""

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import enet_path

from probenc_support.regression import Design, Matrix, folds
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Order, Statistics, cumulative_r2, orthogonalised

_BLOCK = 128
"""Dimensions that forward selection takes between two updates of the whole Gram matrix."""


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

    Exact, and without refits: a Cholesky decomposition in the order in which dimensions are taken,
    of d^3/3 multiplications for all of them.

    Args:
        statistics: of the full regression.
        n_steps: dimensions to take; None: all that are linearly independent.
        until: R^2 at which to stop, if it is reached before.
    """
    order, gains, explained = [], [], 0.0
    for dimension, gain in itertools.islice(_taken(statistics), n_steps):
        order.append(dimension)
        gains.append(gain)
        explained += gain
        if explained >= until * statistics.total:
            break
    return Selection(np.array(order, dtype=np.int64), np.cumsum(gains) / statistics.total)


def _taken(statistics: Statistics) -> Iterator[tuple[int, float]]:
    """Dimensions as forward selection takes them, with the sum of squares that each explains.

    `gram` and `cross` are what the dimensions taken leave of the open ones' E'E and E'y. Only the
    diagonal and E'y are needed at every step, so E'E is brought up to date once in `_BLOCK` steps,
    by a product of matrices; until then the block's columns say what is to be subtracted.
    """
    dimensions = np.arange(statistics.d)
    gram, cross = statistics.gram, statistics.cross.copy()
    floor = gram.diagonal() * 1e-12  # below it a dimension depends on those taken
    while len(dimensions):
        left = gram.diagonal().copy()
        columns = np.zeros((len(dimensions), _BLOCK), order="F")
        for step in range(min(_BLOCK, len(dimensions))):
            gain = np.divide(cross**2, left, out=np.full(len(left), -1.0), where=left > floor)
            best = int(gain.argmax())
            if gain[best] < 0.0:
                return
            yield int(dimensions[best]), float(gain[best])
            column = gram[:, best] - columns[:, :step] @ columns[best, :step]
            column /= np.sqrt(left[best])
            cross -= column * (cross[best] / np.sqrt(left[best]))
            left -= column**2
            left[best] = 0.0
            columns[:, step] = column
        open_ = left > floor
        columns = columns[open_]
        gram = gram[np.ix_(open_, open_)] - columns @ columns.T
        dimensions, cross, floor = dimensions[open_], cross[open_], floor[open_]


def forward_order(statistics: Statistics) -> Order:
    """[k] dimensions in order of forward selection; for `heldout_curve`."""
    return forward_selection(statistics).order


def dims_for_share(statistics: Statistics, share: float = 0.9) -> int:
    """How many dimensions forward selection needs for a share of the full R^2.

    It is `count_for_share` of its curve, without the rest of the curve.
    """
    goal = share * statistics.r2 * (1.0 - 1e-12)
    return len(forward_selection(statistics, until=goal).order)


def count_for_share(r2: Array, share: float = 0.9, full: float | None = None) -> int:
    """How many entries of a cumulative curve r2 [k] reach a share of the full R^2 (its last)."""
    goal = share * (r2[-1] if full is None else full)
    return int(np.searchsorted(r2, goal * (1.0 - 1e-12)) + 1)


def component_shares(r: Array) -> tuple[Array, Array]:
    """Cumulative R^2 [d] of uncorrelated components with correlations r [d], in two orders.

    The first is that of their variance, in which they are given. The second is by size of the
    correlation, which for every number of components is the best choice of so many.
    """
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

    The lasso's problem contains E and y only through E'E and E'y. So a square factor of E'E can
    stand for E, and scikit-learn works on d rows in place of n.

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
    choose: Callable[[Statistics], Array | Order],
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
            in their order, or to the numbers [k] of plain dimensions. What it picks by looking at y
            is picked without the held-out tokens.
        n_folds: see `regression.folds`.
        seed: of the random partition.
    """
    whole = Statistics.of(design, y)
    errors, total = [], 0.0
    for fold in folds(design, n_folds, seed=seed):
        train = Statistics.of(design.without(fold), y)
        basis = choose(train)
        test = _rest(whole, train)
        errors.append(_errors_by_prefix(_in_basis(train, basis), _in_basis(test, basis)))
        total += test.total
    return np.asarray(1.0 - np.sum(errors, axis=0) / total)


def _in_basis(statistics: Statistics, basis: Array | Order) -> Statistics:
    if basis.ndim == 1:
        return statistics.ordered(basis.astype(np.int64, copy=False))
    return statistics.rotated(basis.astype(np.float64, copy=False))


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
    factor, slopes = orthogonalised(train, np.arange(train.d))
    half = linalg.solve_triangular(factor, test.gram, lower=True)
    gram = linalg.solve_triangular(factor, half.T, lower=True)
    cross = linalg.solve_triangular(factor, test.cross, lower=True)
    products = gram * np.outer(slopes, slopes)
    prefix = np.cumsum(2.0 * np.tril(products, -1).sum(1) + products.diagonal())
    return np.asarray(test.total - 2.0 * np.cumsum(slopes * cross) + prefix)
