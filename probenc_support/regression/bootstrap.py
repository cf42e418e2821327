"""The log-linear fit under other text: documents drawn with replacement."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.regression.arrays import Array, Matrix, as_array, as_tensor
from probenc_support.regression.fits import Interval, ManyFits
from probenc_support.regression.linear_fit import Design, r2_of


def log_mean_exp(values: Matrix, weights: Matrix) -> Array:
    """Logarithm of weighted means of exp(values), over groups of text, without underflow.

    Args:
        values: [G, V] for instance log average probabilities by group, in nats.
        weights: [G] or [G, B], not negative, for instance positions in each group.

    Returns:
        [V] or [V, B] log of sum over g of weights[g] exp(values[g]) / sum of weights.
    """
    return as_array(_log_mean_exp(values, weights))


def _log_mean_exp(values: Matrix, weights: Matrix) -> Tensor:
    """The same, where the values lie."""
    groups = as_tensor(values).double()
    shares = as_tensor(weights).to(groups.device, torch.float64)
    shares = (shares / shares.sum(0)).reshape(len(shares), -1)
    top = groups.amax(0)
    means = (groups - top).exp().T @ shares
    result = means.log() + top[:, None]
    # Where the group with the largest value has no weight and all others lie 700 nats below it,
    # the exponentials underflow: such a token is done again in log space.
    for token in (means == 0.0).any(1).nonzero()[:, 0]:
        result[token] = torch.logsumexp(groups[:, token, None] + shares.log(), 0)
    return result.reshape(-1, *as_tensor(weights).shape[1:])


def bootstrap_log_a(
    log_a_groups: Matrix, group_sizes: Matrix, *, n_replicates: int = 200, seed: int = 0
) -> Array:
    """log a over texts drawn again: groups of text are drawn with replacement, then averaged.

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
    drawn = drawn_log_a(log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    return as_array(drawn)


def drawn_log_a(
    log_a_groups: Matrix, group_sizes: Matrix, *, n_replicates: int, seed: int = 0
) -> Tensor:
    """`bootstrap_log_a` [V, n_replicates] as a tensor, where the averages by group lie."""
    sizes = as_array(as_tensor(group_sizes))
    draws = draws_of_groups(len(sizes), n_replicates, seed=seed)
    return _log_mean_exp(log_a_groups, (draws * sizes).T)


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
    log_a = drawn_log_a(log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    whole = _log_mean_exp(log_a_groups, group_sizes)[:, None]
    return design.fit_many(-torch.cat([whole, log_a], dim=1))


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

    Args: see `bootstrap_fits`. Of a single group, the ends of the interval are NaN.
    """
    whole = log_mean_exp(log_a_groups, group_sizes)
    guess = as_array(as_tensor(predicted))
    if len(as_tensor(group_sizes)) < 2:
        return Interval.unknown(r2_of(-whole, guess))
    log_a = drawn_log_a(log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    missed = (log_a + torch.from_numpy(guess).to(log_a.device)[:, None]).square().sum(dim=0)
    total = log_a.var(dim=0, correction=0) * len(log_a)
    return Interval.of(r2_of(-whole, guess), as_array(1.0 - missed / total))
