"""The encoding without a fitted parameter: first and second order of log mean_n P(w|n).

With log P(w|n) = E_w . h_n + b_w - z_n, a cumulant expansion of y_w = -log mean_n exp(log P(w|n))
starts with the mean of -log P, which is exactly linear in E_w, and goes on with half its variance.
"""

import torch
from torch import Tensor

from probenc_support.moments import Moments, covariance


def first_order(E: Tensor, b: Tensor | None, h: Tensor, z: Tensor) -> Tensor:
    """mean_n[-log P(w|n)] = -E_w . mean(h) - b_w + mean(z), exactly.

    Args:
        E: [V, d]; b: [V] or None; h: [N, d]; z: [N].

    Returns:
        [V] float64, nats; never below y (Jensen).
    """
    mean = h.double().mean(dim=0)
    linear = _rows_times(E, mean[:, None])[:, 0]
    return z.double().mean() - linear - (0.0 if b is None else b.double())


def log_probability_variance(E: Tensor, h: Tensor, z: Tensor) -> Tensor:
    """Var_n(E_w . h_n - z_n) = E_w' S E_w - 2 E_w . cov(h, z) + var(z), with S = cov(h).

    Returns:
        [V] float64, nats squared.
    """
    S, cross = Moments.of(h).cov, covariance(h, z)
    quadratic = torch.cat(
        [((part := rows.double()) @ S * part).sum(dim=1) for rows in E.split(8192)]
    )
    return quadratic - 2 * _rows_times(E, cross[:, None])[:, 0] + z.double().var(correction=0)


def second_order(E: Tensor, b: Tensor | None, h: Tensor, z: Tensor) -> Tensor:
    """y to second order: the mean of -log P less half the variance of log P.

    Returns:
        [V] float64, nats.
    """
    return first_order(E, b, h, z) - log_probability_variance(E, h, z) / 2


def _rows_times(E: Tensor, columns: Tensor) -> Tensor:
    return torch.cat([rows.double() @ columns for rows in E.split(8192)])
