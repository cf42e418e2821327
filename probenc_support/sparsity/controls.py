"""Controls of sparsity: what the fit would look like if its direction or its order meant nothing.

A rotation of E leaves the fit as it is and takes the meaning from single dimensions. A random
direction in a Gaussian E of the same covariance keeps the spectrum and takes the encoding away. A
shuffle of y takes away every relation of tokens to their rows.
"""

from collections.abc import Iterator

import numpy as np
from scipy import linalg

from probenc_support.regression import Design, Matrix, as_tensor
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Statistics


def random_rotation(d: int, rng: np.random.Generator) -> Array:
    """[d, d] orthogonal matrix, uniform by Haar's measure (Mezzadri 2007)."""
    Q, R = np.linalg.qr(rng.normal(size=(d, d)))
    return np.asarray(Q * np.sign(R.diagonal()))


def rotations(
    statistics: Statistics, n_draws: int, rng: np.random.Generator
) -> Iterator[Statistics]:
    """The same regression after random rotations of E, one after another (d x d numbers each)."""
    for _ in range(n_draws):
        yield statistics.rotated(random_rotation(statistics.d, rng))


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

    Args:
        variances: [d] of the components, in any unit.
    """
    shares = variances * rng.chisquare(1, size=(n_draws, len(variances)))
    return np.asarray(shares / shares.sum(1, keepdims=True))


def gaussian(
    statistics: Statistics, n_draws: int, rng: np.random.Generator
) -> Iterator[Statistics]:
    """Statistics as they would be if E were normal and y lay along a random direction of it.

    E has the covariance of the real one, and y the same R^2; the direction prefers no component
    and no dimension. What is sparse here is sparse for reasons of E's covariance alone. E itself is
    not drawn: its Gram matrix is, by Bartlett's decomposition (1933), and the noise given that.
    """
    n, d, r2 = statistics.n, statistics.d, statistics.r2
    root_of_covariance = linalg.cholesky(statistics.gram / (n - 1), lower=True)
    for _ in range(n_draws):
        bartlett = np.tril(rng.normal(size=(d, d)), -1)
        bartlett += np.diag(np.sqrt(rng.chisquare(n - 1 - np.arange(d))))
        root = root_of_covariance @ bartlett
        signal = root.T @ rng.normal(size=d)
        noise_sd = np.sqrt((signal @ signal) * (1.0 / r2 - 1.0) / (n - 1))
        within_E = signal + noise_sd * rng.normal(size=d)
        outside_E = noise_sd**2 * rng.chisquare(n - 1 - d)
        total = float(within_E @ within_E + outside_E)
        yield Statistics(n, np.zeros(d), root @ root.T, 0.0, root @ within_E, total)


def shuffled(design: Design, y: Matrix, *, n_shuffles: int = 20, seed: int = 0) -> list[Statistics]:
    """Statistics with y [n] in random order, in which every relation to E is chance."""
    rng = np.random.default_rng(seed)
    values = as_tensor(y).double().cpu().numpy()
    return Statistics.of_many(
        design, np.stack([rng.permutation(values) for _ in range(n_shuffles)], axis=1)
    )
