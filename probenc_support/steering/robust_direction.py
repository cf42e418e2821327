"""A direction that is fitted to several corpora at once, meant for text of none of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.moments import Moments
from probenc_support.steering.closed_form import achieved, is_reachable, log_mean
from probenc_support.steering.directions import RIDGES, least_uneven, min_variance


@dataclass(frozen=True, eq=False)
class Calibration:
    """Positions of one corpus, weighed by the share of the tokens' probability that lies there."""

    name: str
    h: Tensor
    """[N, d]"""
    log_p: Tensor
    """[N, K] float64 log-probabilities of K sampled tokens"""
    weight: Tensor
    """[N] float64, mean 1: the average over those tokens of P(w|n) / a_w"""
    moments: Moments
    """Mean and covariance of h under `weight`"""

    @classmethod
    def of(
        cls, lm: LanguageModel, name: str, h: Tensor, z: Tensor, tokens: Tensor
    ) -> "Calibration":
        """Positions h [N, d] with log-partition z [N]; `tokens` [K] are the sample."""
        log_p = lm.head.log_p(h, tokens, z)
        weight = (log_p - torch.logsumexp(log_p, dim=0)).exp().mean(dim=1) * len(h)
        return cls(name, h, log_p, weight, Moments.of(h, weight))


@dataclass(frozen=True)
class Robust:
    """A direction fitted on several corpora at once."""

    vector: Tensor
    """[d] float64"""
    ridge: float
    """Chosen on corpora left out of the fit"""
    stretch: float
    """Factor on the step: what corpora left out of the fit fell short of, on the median"""
    shortfall: dict[str, float]
    """For each corpus, mean error of log scale over log scale when it was left out of the fit"""


def robust(
    home: Calibration,
    others: Sequence[Calibration],
    *,
    ridges: Sequence[float] = RIDGES,
    scale: float = 20.0,
) -> Robust:
    """The minimum-variance direction of several corpora, meant for text of none of them.

    It differs from `min_variance` in three ways. The detecting corpus counts as much as all the
    others together, and these count alike. Positions count by the probability that the tokens have
    there, since a token's mean probability is made where the token is likely, and confident
    positions are where hidden states stray most. The step is stretched by the median shortfall on
    one of the others when it is left out of the fit.

    Args:
        home: the detecting corpus.
        others: at least one more corpus (never the one that it is evaluated on).
        scale: where the shortfall is measured.

    Raises:
        InputError: there are no others.
    """
    if not others:
        raise InputError("A robust direction needs at least one calibration corpus; name some.")
    moments = [c.moments for c in others]
    rests = [_pooled(home.moments, [*moments[:i], *moments[i + 1 :]]) for i in range(len(moments))]
    ridge = least_uneven(rests, moments, ridges)
    shortfall = {
        corpus.name: _shortfall(corpus, min_variance(rest, ridge), math.log(scale))
        for corpus, rest in zip(others, rests, strict=True)
    }
    stretch = 1.0 + float(np.median(list(shortfall.values())))
    vector = stretch * min_variance(_pooled(home.moments, moments), ridge)
    return Robust(vector, ridge, stretch, shortfall)


def _pooled(home: Moments, others: Sequence[Moments]) -> Moments:
    """The detecting corpus has half the weight, the others share the other half."""
    return Moments.pool([home, *others], shares=[max(1.0, len(others)), *(1.0 for _ in others)])


def _shortfall(corpus: Calibration, vector: Tensor, step: float) -> float:
    """Share of the wanted log scale that a direction misses, on average over tokens."""
    reachable = is_reachable(log_mean(corpus.log_p), step)
    if not bool(reachable.any()):
        return 0.0
    u = step * (corpus.h.double() @ vector)
    error = achieved(corpus.log_p[:, reachable], u[:, None]) - step
    return -float(error.mean()) / step


def calibrations(
    lm: LanguageModel, detections: Iterable[tuple[str, Detection]], tokens: Tensor
) -> list[Calibration]:
    """What `robust` needs of some passes with their names, positions weighed by tokens [K]."""
    return [Calibration.of(lm, name, text.h, text.z, tokens) for name, text in detections]
