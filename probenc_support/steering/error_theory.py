"""What decides the error of an edit: how unevenly its direction acts, with nothing fitted."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.moments import Moments, covariance
from probenc_support.steering import closed_form, directions
from probenc_support.steering.scores import effect

SIZES = (1, 3, 10, 30, 100)
"""Numbers of dimensions of the paper's edit that are compared."""

RIDGES = (0.0, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges of the minimum-variance direction that are compared."""


def expected_log_scale(
    E: Tensor, moments: Moments, cov_hz: Tensor, vector: Tensor, step: float
) -> Tensor:
    """[K] log scale of an edit of rows E [K, d] to second order, with nothing fitted.

    The token's probability lies where E_w . h - z is large. If h and z were normal, that would
    move the mean of h to m + S E_w - cov(h, z) and leave its covariance S, so
    log scale ~ t v . (m + S E_w - cov(h, z)) + t^2 v' S v / 2: the second term, and the part of the
    first that differs between tokens, vanish with the variance of v . h.

    Args:
        cov_hz: [d] covariance of h and the log-partition.
        step: t, nats.
    """
    tilted = moments.mean + E.double() @ moments.cov - cov_hz
    return step * (tilted @ vector) + step**2 / 2 * (vector @ moments.cov @ vector)


def graded_directions(slopes: Tensor, moments: Moments) -> dict[str, Tensor]:
    """Directions from very uneven to hardly uneven, by what they are.

    The paper's edit on more and more dimensions, the two shortest edits, and the minimum-variance
    direction with several ridges.

    Args:
        slopes: [d] the fitted A.
    """
    sizes = [k for k in SIZES if k <= len(slopes)]
    return {
        **{f"paper, k = {k}": directions.paper_direction(slopes, k) for k in sizes},
        "minimum norm": directions.min_norm(slopes),
        "mean hidden": directions.mean_hidden(moments.mean),
        **{f"ridge {ridge:g}": directions.min_variance(moments, ridge) for ridge in RIDGES},
    }


def spread_and_error(
    lm: LanguageModel,
    text: Detection,
    moments: Moments,
    tokens: Tensor,
    compared: Mapping[str, Tensor | None],
    *,
    scale: float = 2.0,
) -> pd.DataFrame:
    """How unevenly directions act, the error expected for that, and the error: a row a direction.

    Args:
        moments: of the hidden states of `text`.
        tokens: [K] that are edited, one at a time.

    Returns:
        Columns `direction`; `sd of v . h`, over positions; `achieved`, the mean absolute error of
        log scale of tokens [K] in reach by the linear rule, nats; `predicted`, the same of
        `expected_log_scale`, NaN for a plain logit bias.
    """
    log_p, step = lm.head.log_p(text.h, tokens, text.z), math.log(scale)
    usable = closed_form.is_reachable(closed_form.log_mean(log_p), step)
    cov_hz, rows = covariance(text.h, text.z), lm.E[tokens].cpu()
    g = torch.stack([effect(vector, text.h) for vector in compared.values()], dim=1)
    predicted = []
    for vector in compared.values():
        if vector is None:
            predicted.append(math.nan)
            continue
        expected = expected_log_scale(rows, moments, cov_hz, vector, step)
        predicted.append(float((expected - step).abs()[usable].mean()))
    return pd.DataFrame(
        {
            "direction": list(compared),
            "sd of v . h": g.std(dim=0).numpy(),
            "achieved": closed_form.mean_errors(log_p, g, step).numpy(),
            "predicted": predicted,
        }
    )


def log_correlation(table: pd.DataFrame, one: str, other: str) -> float:
    """Pearson's correlation of the logarithms of two columns of positive numbers; -1 to 1."""
    return float(np.corrcoef(np.log(table[one]), np.log(table[other]))[0, 1])
