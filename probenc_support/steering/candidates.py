"""The directions that section 3 compares: the paper's, others, controls, a ceiling."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from probenc_support import embedding_rows
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.regression import Design
from probenc_support.steering import directions
from probenc_support.steering.omegas import Omega

Candidates = dict[str, Tensor | None]
"""Directions [d] float64 by name; None is a plain bias on the logit, for which no row is edited."""


def from_fit(slopes: Tensor, paper_best: Omega, k: int) -> Candidates:
    """Directions that the slopes A [d] of the log-linear fit give.

    `paper_best`, the weighting given; `paper`, uniform on the `k` steepest dimensions; `paper_k1`
    and `paper_all`, on one and on all; `min_norm`, the shortest that the fit allows.
    """
    return {
        "paper_best": paper_best.direction(slopes),
        "paper": directions.paper_direction(slopes, k),
        "paper_k1": directions.paper_direction(slopes, 1),
        "paper_all": directions.paper_direction(slopes, len(slopes)),
        "min_norm": directions.min_norm(slopes),
    }


def from_hidden_states(moments: Moments, ridge: float) -> Candidates:
    """Directions that no fit is needed for: `mean_hidden` and `min_variance`."""
    return {
        "mean_hidden": directions.mean_hidden(moments.mean),
        "min_variance": directions.min_variance(moments, ridge),
    }


def controls(design: Design, y: Tensor, slopes: Tensor, moments: Moments, seed: int) -> Candidates:
    """Directions that must fail, and the ceiling.

    `random_unit` is a random direction that moves the logit by one on average. `random`, a random
    direction, and `shuffled`, from a fit in which the tokens' y are shuffled, are as long as
    `min_norm`. `logit_bias` moves the logit alike at every position.

    Args:
        design: of the m rows of E that tokens own; y: [m] -log a; slopes: [d] of the fit.
        moments: of the detecting hidden states.
    """
    shortest = directions.min_norm(slopes)
    shuffled_y = np.random.default_rng(seed).permutation(y.numpy())
    shuffled = directions.min_norm(torch.from_numpy(design.fit(shuffled_y).slopes))
    return {
        "random_unit": directions.random_unit(moments, seed=seed),
        "random": directions.random_direction(shortest, seed=seed),
        "shuffled": directions.scaled_to(shuffled, shortest),
        "logit_bias": None,
    }


def row_length(head: Head) -> float:
    """Mean length of a row of E that a token owns, rows centred."""
    return embedding_rows.mean_length(head.rows)


def relative_lengths(
    candidates: Mapping[str, Tensor | None], head: Head, *, scale: float = 20.0
) -> dict[str, float]:
    """Length of each edit to `scale` by the linear rule over the mean length of a centred row of E.

    An edit that moves no row has no length, and is left out.
    """
    length = row_length(head)
    return {
        name: abs(math.log(scale)) * float(vector.norm()) / length
        for name, vector in candidates.items()
        if vector is not None
    }
