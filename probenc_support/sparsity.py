"""How much of the encoding each component and dimension of E carries (paper section 2.2).

Everything here but rank correlation follows from the sufficient statistics of one fit, E'E and E'y,
so that it costs products of d x d matrices and never another pass over the vocabulary. A basis
(principal components, a random rotation, some dimensions in some order) is a change of these
statistics.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg, stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import enet_path

from probenc_support.errors import InputError
from probenc_support.regression import Array, Design, Matrix, as_tensor, bootstrap_log_a, folds

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


# ------------------------------------------------------------------------------------ correlations


@dataclass(frozen=True)
class Correlations:
    """Correlations of k variables with y over n tokens, with what chance allows."""

    r: Array
    """[k] correlation coefficients, -1 to 1."""
    low: Array
    """[k] lower ends of 95 % intervals, by Fisher's z."""
    high: Array
    """[k] upper ends."""
    p: Array
    """[k] two-sided p values, tokens taken as independent."""
    q: Array
    """[k] p values adjusted for k tests (Benjamini and Hochberg 1995)."""

    def significant(self, level: float = 0.05) -> NDArray[np.bool_]:
        """[k] whether each is called non-zero at this false discovery rate."""
        return self.q <= level


def infer(r: Array, n: int, *, ranks: bool = False) -> Correlations:
    """Intervals and p values for correlations r [k] over n tokens.

    Args:
        r: Pearson's coefficients, or Spearman's.
        n: tokens, at least 4.
        ranks: whether they are Spearman's, whose z varies by 1 + r^2 / 2 more (Bonett and Wright
            2000).
    """
    spread = np.sqrt((1.0 + (r**2 / 2.0 if ranks else 0.0)) / (n - 3))
    z = np.arctanh(np.clip(r, -1.0 + 1e-15, 1.0 - 1e-15))
    half = stats.norm.ppf(0.975) * spread
    t = r * np.sqrt((n - 2) / np.clip(1.0 - r**2, 1e-300, None))
    p = np.asarray(2.0 * stats.t.sf(np.abs(t), n - 2))
    q = np.asarray(stats.false_discovery_control(p))
    return Correlations(r, np.tanh(z - half), np.tanh(z + half), p, q)


def spearman(X: Matrix, y: Matrix) -> Array:
    """[k] rank correlation of every column of X [n, k] with y [n]; ties share their mean rank."""
    columns = as_tensor(X).cpu().numpy()
    y_ranks = stats.rankdata(as_tensor(y).cpu().numpy())

    def correlations(own: slice) -> list[float]:
        ranking = _Ranking(y_ranks)
        return [ranking.correlation(column) for column in _contiguous(columns[:, own])]

    threads = torch.get_num_threads()
    edges = [columns.shape[1] * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:  # NumPy sorts outside the GIL
        parts = pool.map(correlations, itertools.starmap(slice, itertools.pairwise(edges)))
    return np.array([r for part in parts for r in part])


def _contiguous(columns: NDArray[Any], *, at_once: int = 16) -> Iterator[NDArray[Any]]:
    """Every column in turn, in memory that the later ones overwrite: reading across the rows of a
    matrix costs a cache line an entry, whether one column is taken or sixteen."""
    buffer = np.empty((at_once, len(columns)), columns.dtype)
    for start in range(0, columns.shape[1], at_once):
        block = columns[:, start : start + at_once]
        np.copyto(buffer[: block.shape[1]], block.T)
        yield from buffer[: block.shape[1]]


class _Ranking:
    """Rank correlations of variables with one y, by one sort each of 64-bit integers.

    The upper half of an integer is the variable's value, as an integer of the same order; the lower
    half is twice the rank of y (an integer also where y is tied). Sorting brings the ranks of y
    into the order of the variable. All arrays are used again for every variable, since fresh memory
    would cost more than the sort.
    """

    def __init__(self, y_ranks: Array) -> None:
        n = len(y_ranks)
        self.twice = (2.0 * y_ranks).astype(np.int64)
        self.y_length = float(np.linalg.norm(y_ranks - (n + 1) / 2.0))
        self.ranks = np.arange(n, dtype=np.float64) - (n - 1) / 2.0
        self.keys, self.values = np.empty(n, np.int64), np.empty(n, np.int64)
        self.y_sorted = np.empty(n)
        self.same = np.empty(n - 1, np.bool_)

    def correlation(self, variable: NDArray[Any]) -> float:
        """With one variable [n]."""
        n, keys, values = len(self.ranks), self.keys, self.values
        np.left_shift(_ordered_integers(variable), 32, out=keys, dtype=np.int64, casting="unsafe")
        np.bitwise_or(keys, self.twice, out=keys)
        keys.sort()
        np.right_shift(keys, 32, out=values)
        np.bitwise_and(keys, 2**32 - 1, out=keys)
        np.multiply(keys, 0.5, out=self.y_sorted)
        np.subtract(self.y_sorted, (n + 1) / 2.0, out=self.y_sorted)
        np.equal(values[1:], values[:-1], out=self.same)
        where, shift = _shared_ranks(np.flatnonzero(self.same), self.ranks)
        product = self.ranks @ self.y_sorted + shift @ self.y_sorted[where]
        # Sharing a mean rank takes the variance within the ties away.
        length = np.sqrt(self.ranks @ self.ranks - shift @ shift)
        return float(product / (length * self.y_length))


def _ordered_integers(values: NDArray[Any]) -> NDArray[np.int32]:
    """[n] 32-bit integers in the order of the values, equal where they are equal."""
    if values.dtype != np.float32:
        return np.unique(values, return_inverse=True)[1].astype(np.int32)
    bits = (values + np.float32(0.0)).view(np.int32)  # no negative zero
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _shared_ranks(equal: Order, ranks: Array) -> tuple[Order, Array]:
    """Where the ranks of sorted values change because of ties, and by how much.

    Args:
        equal: [m] positions k, ascending, where values k and k + 1 are the same.
        ranks: [n] of values without ties.
    """
    if not len(equal):
        return equal, np.empty(0)
    gaps = np.flatnonzero(np.diff(equal) > 1)
    first, last = equal[np.r_[0, gaps + 1]], equal[np.r_[gaps, -1]] + 1
    where = np.union1d(equal, equal + 1)
    return where, np.repeat((ranks[first] + ranks[last]) / 2.0, last - first + 1) - ranks[where]


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


def forward_selection(statistics: Statistics, n_steps: int | None = None) -> Selection:
    """At every step takes the dimension that raises R^2 most, given those taken before.

    Exact, and without refits: what is left of every dimension and of E'y after the ones taken is
    kept up to date by the columns of a Cholesky decomposition, O(d^2) a step at most.

    Args:
        statistics: of the full regression.
        n_steps: dimensions to take; None: all that are linearly independent.
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
    return Selection(order, np.cumsum(gains) / statistics.total)


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


# ----------------------------------------------------------------------------------- concentration


@dataclass(frozen=True)
class Concentration:
    """How unequal the sizes of d slopes are, in one number each."""

    gini: float
    """Gini coefficient of the sizes: 0 if all are equal, 1 - 1/d if one holds all; 0.414 for
    normally distributed slopes."""
    participation_ratio: float
    """(sum s^2)^2 / sum s^4: how many dimensions take part, 1 to d; about d / 3 if normal."""
    top_1_percent: float
    """Share of the sum of squares that the largest 1 % of dimensions hold (at least one)."""
    top_10_percent: float
    """The same for the largest 10 %."""

    @classmethod
    def of(cls, slopes: Array) -> "Concentration":
        """Of slopes [d], of any sign."""
        return cls(
            gini(slopes),
            participation_ratio(slopes),
            top_share(slopes, 0.01),
            top_share(slopes, 0.10),
        )


def gini(values: Array) -> float:
    """Gini coefficient of the sizes of values [d], 0 to 1 - 1/d."""
    sizes = np.sort(np.abs(values))
    d = len(sizes)
    return float((2.0 * np.arange(1, d + 1) - d - 1) @ sizes / (d * sizes.sum()))


def participation_ratio(values: Array) -> float:
    """(sum v^2)^2 / sum v^4 of values [d], 1 to d."""
    squares = (values / np.abs(values).max()) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def top_share(values: Array, fraction: float) -> float:
    """Share of the sum of squares that the largest fraction of values [d] holds, 0 to 1."""
    squares = np.sort((values / np.abs(values).max()) ** 2)[::-1]
    return float(squares[: max(1, round(fraction * len(squares)))].sum() / squares.sum())


def overlap(first: Array, second: Array, k: int = 10) -> float:
    """Share of the k largest entries (by size) of one vector that are also among the other's."""
    k = min(k, len(first))
    return len(set(top(first, k)) & set(top(second, k))) / k


def top(values: Array, k: int) -> Order:
    """[k] indices of the k largest entries by size, largest first."""
    return np.argsort(-np.abs(values), kind="stable")[:k]


# ---------------------------------------------------------------------------------------- controls


def random_rotation(d: int, rng: np.random.Generator) -> Array:
    """[d, d] orthogonal matrix, uniform by Haar's measure (Mezzadri 2007)."""
    Q, R = np.linalg.qr(rng.normal(size=(d, d)))
    return np.asarray(Q * np.sign(R.diagonal()))


def rotated_slopes(slopes: Array, n_draws: int, rng: np.random.Generator) -> Array:
    """[n_draws, d] slopes as they come out after random rotations of E.

    A rotation of E turns the slopes with it, so that they become a vector of the same length in a
    uniformly random direction.
    """
    draws = rng.normal(size=(n_draws, len(slopes)))
    lengths = np.linalg.norm(draws, axis=1, keepdims=True)
    return np.asarray(draws / lengths * np.linalg.norm(slopes))


def random_direction_shares(variances: Array, n_draws: int, rng: np.random.Generator) -> Array:
    """[n_draws, d] shares of R^2 that components hold when y lies along a random direction of E.

    A slope that prefers no component gives each a share in proportion to its variance times a
    chi-squared number, so that the first components lead whatever the direction. Every row sums
    to one.
    """
    shares = variances * rng.chisquare(1, size=(n_draws, len(variances)))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def gaussian_control(statistics: Statistics, rng: np.random.Generator) -> Statistics:
    """Statistics as they would be if E were normal and y lay along a random direction of it.

    E has the covariance of the real one, and y the same R^2; the direction prefers no component
    and no dimension. What is sparse here is sparse for reasons of E's covariance alone. Drawn
    without drawing E: its Gram matrix by Bartlett's decomposition (1933), the noise given that.
    """
    n, d, r2 = statistics.n, statistics.d, statistics.r2
    bartlett = np.tril(rng.normal(size=(d, d)), -1)
    bartlett += np.diag(np.sqrt(rng.chisquare(n - 1 - np.arange(d))))
    root = linalg.cholesky(statistics.gram / (n - 1), lower=True) @ bartlett
    signal = root.T @ rng.normal(size=d)
    sd = np.sqrt((signal @ signal) * (1.0 / r2 - 1.0) / (n - 1))
    seen = signal + sd * rng.normal(size=d)
    unseen = sd**2 * rng.chisquare(n - 1 - d)
    total = float(seen @ seen + unseen)
    return Statistics(n, np.zeros(d), root @ root.T, 0.0, root @ seen, total)


def shuffled_control(
    design: Design, y: Matrix, *, n_shuffles: int = 20, seed: int = 0
) -> list[Statistics]:
    """Statistics with y in random order, which must show nothing."""
    rng = np.random.default_rng(seed)
    values = as_tensor(y).double().cpu().numpy()
    return Statistics.of_many(
        design, np.stack([rng.permutation(values) for _ in range(n_shuffles)], axis=1)
    )


# ------------------------------------------------------------------------------ draws of other text


@dataclass(frozen=True)
class Replicates:
    """What draws of groups of text with replacement do to the fit."""

    slopes: Array
    """[B, d] slopes of every draw."""
    r2: Array
    """[B] R^2 of every draw."""
    component_r: Array
    """[B, d] correlation of every principal component with y in every draw."""


def resample(
    design: Design,
    components: Components,
    log_a_groups: Matrix,
    group_sizes: Matrix,
    *,
    n_replicates: int = 200,
    seed: int = 0,
) -> Replicates:
    """Fits -log a of every draw (see `regression.bootstrap_log_a`); E and its components stay."""
    y = -bootstrap_log_a(log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    fits = design.fit_many(y)
    cross, total = design.moments(y)
    lengths = np.sqrt(np.outer(components.variances * (design.n - 1), total))
    return Replicates(fits.slopes.T, fits.r2, (components.directions.T @ cross / lengths).T)
