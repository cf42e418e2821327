"""Draws with replacement, which stand for other samples of tokens, rows or documents."""

from collections.abc import Iterator

import numpy as np

from probenc_support.regression.arrays import Array


def draws(n: int, n_replicates: int, *, seed: int = 0) -> Iterator[Array]:
    """`n_replicates` vectors [n]: how often each of n things comes in n draws with replacement.

    One at a time, since the rows of all layers are too many to hold every draw of them. Two calls
    with the same n and seed give the same draws.
    """
    rng = np.random.default_rng(seed)
    for _ in range(n_replicates):
        yield np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)


def with_the_sample(n: int, n_replicates: int, *, seed: int = 0) -> Array:
    """[1 + n_replicates, n] as `draws`, after a first row of ones, which is the sample itself."""
    return np.stack([np.ones(n), *draws(n, n_replicates, seed=seed)])
