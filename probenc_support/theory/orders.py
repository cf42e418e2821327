"""The encoding without a fitted parameter: cumulants of log P(w|n), and the Jensen gap.

With log P(w|n) = E_w . h_n + b_w - z_n, the cumulant expansion of y_w = -log mean_n exp(log P(w|n))
starts with the mean of -log P, which is exactly linear in E_w, and goes on with minus half the
variance. The series need not converge, and for real models it does not; see `cumulant_series`. The
theory of `context_classes` does lead to y.

What is made of E is made where E lies; results are on the CPU.
"""

import pandas as pd
import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.moments import Moments, covariance, variances_along
from probenc_support.precision import ROWS_AT_ONCE, wide
from probenc_support.regression import r2_of

ORDERS = 4
"""How many cumulants `cumulants` gives."""


_CHUNK_BYTES = 64e6


def first_order(head: Head, h: Tensor, z: Tensor) -> Tensor:
    """mean_n[-log P(w|n)] = -E_w . mean(h) - b_w + mean(z), exactly.

    Args:
        head: of n tokens; h: [N, d]; z: [N].

    Returns:
        [n] float64, nats; never below y (Jensen).
    """
    linear = _rows_times(head.rows, wide(h).mean(dim=0)[:, None])[:, 0]
    return wide(z).mean().cpu() - linear - _bias(head)


def without_bias(head: Head, values: Tensor) -> Tensor:
    """[n] float64 values of -log P less the part of the head's bias, -b_w: what E_w should give."""
    return wide(values).cpu() + _bias(head)


def along(head: Head, direction: Tensor, y: Tensor) -> Tensor:
    """Prediction of y [n] by one direction [d], E_w . direction - b_w, and one fitted intercept.

    Returns:
        [n] float64, nats; its mean is that of y.
    """
    linear = _rows_times(head.rows, direction[:, None])[:, 0] - _bias(head)
    return linear + (wide(y).cpu() - linear).mean()


def _bias(head: Head) -> Tensor | float:
    """[n] float64 biases b_w; 0 where the head has none."""
    return 0.0 if head.bias is None else wide(head.bias).cpu()


def jensen_gap(log_a: Tensor, mean_log_p: Tensor) -> Tensor:
    """How far the mean of -log P(w|n) lies above y_w = -log mean_n P(w|n).

    Args:
        log_a: [n] log of the average probability, nats; mean_log_p: [n] average log-probability.

    Returns:
        [n] nats; by Jensen's inequality negative only by rounding.
    """
    return log_a - mean_log_p


def log_probability_variance(E: Tensor, h: Tensor, z: Tensor) -> Tensor:
    """Variance of log P(w|n) over the positions, from the second moments of h and z.

    Var_n(E_w . h_n - z_n) = E_w' S E_w - 2 E_w . cov(h, z) + var(z), with S = cov(h).

    Args:
        E: [n, d] rows of some tokens; h: [N, d]; z: [N].

    Returns:
        [n] float64, nats squared.
    """
    S, cross = Moments.of(h).cov, covariance(h, z)
    quadratic = variances_along(S, E).cpu()
    spread = wide(z).var(correction=0).cpu()
    return quadratic - 2 * _rows_times(E, cross[:, None])[:, 0] + spread


def second_order(head: Head, h: Tensor, z: Tensor) -> Tensor:
    """y to second order: the mean of -log P less half the variance of log P.

    Args: see `first_order`.

    Returns:
        [n] float64, nats.
    """
    return first_order(head, h, z) - log_probability_variance(head.rows, h, z) / 2


@torch.inference_mode()
def cumulants(head: Head, h: Tensor, z: Tensor) -> Tensor:
    """The first four cumulants of log P(w|n) over the positions.

    The logits of every token at every position are computed, in E's precision: give a head of some
    tokens (`Head.chosen`) where that would take too long.

    Args:
        head: of n tokens, some or all; h: [N, d]; z: [N] log-partition of the whole head.

    Returns:
        [4, n] float64: mean, variance, third cumulant, fourth cumulant, in powers of a nat.
    """
    E = head.rows
    mean_h, mean_z = wide(h).mean(dim=0), wide(z).mean()
    centred, levels = (wide(h) - mean_h).to(E), (wide(z) - mean_z).to(E)
    powers = torch.zeros(3, len(E), dtype=torch.float64, device=wide(E[:1]).device)
    chunk = max(16, int(_CHUNK_BYTES / (len(E) * E.element_size())))
    for part, level in zip(centred.split(chunk), levels.split(chunk), strict=True):
        deviation = part @ E.T - level[:, None]
        power = deviation
        for k in range(3):
            power = power * deviation
            powers[k] += wide(power.sum(dim=0))
    second, third, fourth = powers.cpu() / len(h)
    first = -first_order(head, h, z)
    return torch.stack([first, second, third, fourth - 3.0 * second.square()])


def cumulant_series(head: Head, h: Tensor, z: Tensor) -> Tensor:
    """y to the orders 1 to 4 of its cumulant expansion; nothing is fitted.

    Returns:
        [4, n] float64, nats: row k is minus the sum over j of the j-th cumulant over j factorial,
        up to j = k + 1.
    """
    factorial = torch.tensor([1.0, 2.0, 6.0, 24.0], dtype=torch.float64)
    return -torch.cumsum(cumulants(head, h, z) / factorial[:, None], dim=0)


def order_table(head: Head, h: Tensor, z: Tensor, y: Tensor) -> pd.DataFrame:
    """What each order of the cumulant expansion explains of y [n], for the n tokens of a head.

    Returns:
        order (1 to 4), r2 (nothing fitted), r2_one_intercept (one intercept fitted).
    """
    rows = [
        {
            "order": order,
            "r2": r2_of(y, predicted),
            "r2_one_intercept": r2_of(y, predicted + (y - predicted).mean()),
        }
        for order, predicted in enumerate(cumulant_series(head, h, z), start=1)
    ]
    return pd.DataFrame(rows)


def _rows_times(E: Tensor, columns: Tensor) -> Tensor:
    """E [n, d] times columns [d, m], float64 [n, m], a few rows of E at a time."""
    parts = (wide(rows) for rows in E.split(ROWS_AT_ONCE))
    return torch.cat([(rows @ columns.to(rows)).cpu() for rows in parts])
