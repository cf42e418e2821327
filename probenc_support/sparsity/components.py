"""How much of the encoding each component and dimension of E carries (paper section 2.2).

Everything here follows from the sufficient statistics of one fit, E'E and E'y, so that it costs
products of d x d matrices and never another pass over the vocabulary. To change the basis (to
principal components, by a random rotation, to some dimensions in some order) is to change these
statistics.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from probenc_support.errors import InputError
from probenc_support.regression import Design, Matrix, as_tensor
from probenc_support.regression.arrays import Array

Order = NDArray[np.int64]
"""[k] numbers of dimensions or components, the first to be taken in front."""


_CONDITION_LIMIT = 1e7
"""Largest condition number of E: that of E'E is its square, and float64 holds sixteen digits."""


@dataclass(frozen=True)
class Statistics:
    """All that a regression of y [n] on E [n, d] with an intercept needs."""

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
        cross, total = design.cross_products(Y)
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

    def ordered(self, order: Order) -> "Statistics":
        """The same regression on the dimensions order [k], in this order."""
        gram = self.gram[np.ix_(order, order)]
        cross, mean = self.cross[order], self.mean[order]
        return Statistics(self.n, mean, gram, self.y_mean, cross, self.total)

    def _in_basis(self, directions: Array, gram: Array) -> "Statistics":
        mean, cross = directions.T @ self.mean, directions.T @ self.cross
        return Statistics(self.n, mean, gram, self.y_mean, cross, self.total)


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
        """[n, k] coordinates of the centred rows of E [n, d] on the first k components (None: all).

        In float32, which is enough for ranks and figures.
        """
        return self._scores(E, self.directions[:, :k])

    def score(self, E: Matrix, k: int) -> Array:
        """[n] coordinate of the centred rows of E [n, d] on component k, counted from 0."""
        return self._scores(E, self.directions[:, k : k + 1])[:, 0]

    @staticmethod
    def _scores(E: Matrix, directions: Array) -> Array:
        rows = as_tensor(E).float()
        mean = rows.mean(0)
        turn = as_tensor(directions).float().to(rows.device)
        scores = rows.new_empty(len(rows), turn.shape[1])
        for part, out in zip(rows.split(4096), scores.split(4096), strict=True):
            torch.mm(part - mean, turn, out=out)
        return scores.cpu().numpy()


def correlations_of_components(statistics: Statistics) -> Array:
    """[d] correlation of every principal component of E with y."""
    return Components.of(statistics).express(statistics).correlation


def among(design: Design, y: Matrix, chosen: NDArray[np.bool_]) -> Statistics | None:
    """Statistics of the chosen tokens [n] alone, whose components are their own.

    None where they are all tokens, or fewer than two a dimension.
    """
    if not 2 * design.d < chosen.sum() < len(chosen):
        return None
    return Statistics.of(design.without(np.flatnonzero(~chosen)), y)


def cumulative_r2(statistics: Statistics, order: Order | None = None) -> Array:
    """[k] R^2 of the regressions on the first 1, 2, ... k dimensions of an order.

    One Cholesky decomposition gives them all, exactly. A dimension that depends linearly on the
    ones before it adds nothing.
    """
    order = np.arange(statistics.d) if order is None else order
    _, gains = orthogonalised(statistics, order)
    return np.cumsum(gains**2) / statistics.total


def orthogonalised(statistics: Statistics, order: Order) -> tuple[Array, Array]:
    """Lower Cholesky factor L [k, k] of the ordered Gram matrix, and L^-1 E'y [k]."""
    gram = statistics.gram[np.ix_(order, order)]
    factor = linalg.cholesky(gram, lower=True)
    return factor, linalg.solve_triangular(factor, statistics.cross[order], lower=True)
