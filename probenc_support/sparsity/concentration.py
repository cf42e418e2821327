"""How concentrated the encoding is, in one number each, and how concentrated chance alone makes it.

A rotation of E turns the slopes into a vector of the same length in a random direction, so that the
Gini coefficient after a rotation is a constant of d; the first components lead in variance, so that
a random direction, too, shows in them first. A measure of sparsity therefore counts only as far as
it goes beyond its control (`excess`, `ratio`).
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from probenc_support.regression import Design, Interval, Matrix, as_tensor
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Order, Statistics


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


# ------------------------------------------------------------------------- beyond the control


def excess(estimate: float, draws: Array, control: Array, rng: np.random.Generator) -> Interval:
    """How far a measure lies above the mean of its control, with its interval over both.

    A replicate is the measure in one draw of the documents minus that of one draw of the control
    (one rotation, one random direction). So the interval holds zero where a rotation or direction
    out of twenty does as well, however many of them were drawn.

    Args:
        estimate: the measure on all text.
        draws: [B] the measure in draws of documents.
        control: [C] the measure under draws of the control.
        rng: pairs draws with controls, each control 1 + B // C times.
    """
    measured, matched = _paired(draws, control, rng)
    return Interval.of(estimate - float(control.mean()), measured - matched)


def ratio(estimate: float, draws: Array, control: Array, rng: np.random.Generator) -> Interval:
    """The same as a ratio: the measure over the mean of its control, all of them positive."""
    measured, matched = _paired(draws, control, rng)
    return Interval.of(estimate / float(control.mean()), measured / matched)


def _paired(draws: Array, control: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    matched = np.tile(control, 1 + len(draws) // len(control))
    return rng.choice(draws, len(matched)), matched
