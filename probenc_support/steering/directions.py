"""Directions of an edit of E: the paper's, the shortest, the one of least variance; random ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.moments import Moments

RIDGES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridges that `choose_ridge` tries, in units of the mean variance of the hidden states."""

_TIE = 1e-6
"""Relative difference up to which two losses count as equal: hidden states in float32 do not
resolve a smaller one."""

_NEGLIGIBLE = 1e-10
"""Mean square of v . h - 1 that counts as zero: it makes errors of 1e-5 of the log scale."""


def paper_direction(slopes: Tensor, k: int = 10, *, power: int = 0) -> Tensor:
    """[d] the paper's edit: -Omega / A, with Omega on the k dimensions of steepest slope.

    Args:
        slopes: [d] the fitted A, in nats per unit of E.
        k: dimensions that are moved; d moves all of them.
        power: Omega is in proportion to |A|^power and sums to one. 0: 1/k on each. With 2 and all
            dimensions the edit is `min_norm`.

    Raises:
        InputError: k is not between 1 and d, or power is below zero.
    """
    A = torch.as_tensor(slopes, dtype=torch.float64)
    if not 1 <= k <= len(A):
        raise InputError(f"k is {k}; it counts dimensions, so give 1 to {len(A)}.")
    if power < 0:
        raise InputError(f"power is {power}; weights that grow with the slopes need 0 or more.")
    steepest = A.abs().topk(k).indices
    size = A[steepest].abs() / A.abs().max()
    vector = torch.zeros_like(A)
    vector[steepest] = -(size**power) / (size**power).sum() / A[steepest]
    return vector


def min_norm(slopes: Tensor) -> Tensor:
    """[d] the shortest edit with A . D = -log r: v = -A / (A . A)."""
    A = torch.as_tensor(slopes, dtype=torch.float64)
    return -A / (A @ A)


def mean_hidden(mean: Tensor) -> Tensor:
    """[d] the shortest edit that moves the mean log-probability by log r: v = m / (m . m)."""
    m = torch.as_tensor(mean, dtype=torch.float64)
    return m / (m @ m)


def min_variance(moments: Moments, ridge: float = 0.0) -> Tensor:
    """[d] the edit whose effect varies least between positions while it is log r on average.

    v = (S + ridge s I)^-1 m over m' (S + ridge s I)^-1 m, with m and S the mean and covariance of
    the hidden states and s the mean variance. A large ridge leads to `mean_hidden`.

    S is taken with its smallest eigenvalues raised (see `Moments.axes`). Where positions are fewer
    than dimensions, v without a ridge is thus the shortest direction with v . h = 1 at all of them;
    behind a LayerNorm with a bias it is the one with v . h = 1 at every position of any text.
    """
    vector = moments.solved(ridge)
    return vector / (vector @ moments.mean)


def choose_ridge(runs: Sequence[Moments], *, ridges: Sequence[float] = RIDGES) -> float:
    """The ridge whose direction is the least uneven on blocks that it was not fitted on.

    Ridges of which none is the better by more than rounding are a tie (a relative difference of
    1e-6, or errors of 1e-5 of the log scale), and the largest of them is taken.

    Args:
        runs: moments of runs of positions of one corpus, at least two; see `moments_of_runs`.

    Raises:
        InputError: fewer than two runs.
    """
    if len(runs) < 2:
        raise InputError("A ridge is chosen on held-out blocks, which takes at least two of them.")
    rests = [Moments.pool([*runs[:i], *runs[i + 1 :]]) for i in range(len(runs))]
    return least_uneven(rests, runs, ridges)


def least_uneven(
    fitted: Sequence[Moments], held: Sequence[Moments], ridges: Sequence[float]
) -> float:
    """The ridge with which directions of `fitted` are the least uneven on `held`, pair by pair."""
    losses = [
        sum(h.n * h.unevenness(min_variance(f, ridge)) for f, h in zip(fitted, held, strict=True))
        for ridge in ridges
    ]
    tie = min(losses) * (1 + _TIE) + _NEGLIGIBLE * sum(h.n for h in held)
    return max(ridge for ridge, loss in zip(ridges, losses, strict=True) if loss <= tie)


def scaled_to(vector: Tensor, like: Tensor) -> Tensor:
    """[d] `vector` with the length of `like`: so a control moves E_w as far as an edit does."""
    return vector * float(like.norm() / vector.norm())


def random_direction(like: Tensor, *, seed: int) -> Tensor:
    """[d] a direction drawn evenly from the sphere, with the length of `like`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(like), generator=generator, dtype=torch.float64)
    return scaled_to(drawn.to(like.device), like)


def moments_of_runs(h: Tensor, n: int = 4) -> list[Moments]:
    """Moments of n runs of consecutive hidden states h [N, d], of which `choose_ridge` leaves one
    out at a time; of fewer runs where there are not two positions for each."""
    return [Moments.of(part) for part in h.tensor_split(min(n, len(h) // 2))]


def random_unit(moments: Moments, *, seed: int, n_draws: int = 9) -> Tensor:
    """[d] a random direction with v . mean(h) = 1: the control that moves the logit as much.

    Of `n_draws` directions drawn evenly from the sphere, each scaled so, it is the one of median
    variance v' S v, so that it is neither luckily even nor luckily uneven.

    Args:
        moments: mean and covariance S of the detecting hidden states.
        n_draws: an odd number.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n_draws, len(moments.mean), generator=generator, dtype=torch.float64)
    drawn = drawn.to(moments.mean.device)
    drawn = drawn / (drawn @ moments.mean)[:, None]
    variances = ((drawn @ moments.cov) * drawn).sum(dim=1)
    return drawn[variances.argsort()[n_draws // 2]]
