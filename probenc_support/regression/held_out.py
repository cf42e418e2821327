"""The log-linear fit on tokens that it did not see."""

import numpy as np
import torch
from numpy.typing import NDArray

from probenc_support.errors import InputError
from probenc_support.precision import wide
from probenc_support.regression.arrays import Array, Matrix, as_array, as_tensor
from probenc_support.regression.linear_fit import Design, r2_of


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
        rows = wide(design.E[torch.from_numpy(fold).to(design.E.device)])
        slopes = torch.from_numpy(rest.slopes[:, 0]).to(rows.device)
        predicted[fold] = as_array(rows @ slopes) + rest.intercepts[0]
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
    values = as_array(as_tensor(y))
    shuffled = np.stack([rng.permutation(values) for _ in range(n_shuffles)], axis=1)
    return design.fit_many(shuffled).r2
