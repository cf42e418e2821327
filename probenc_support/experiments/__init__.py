"""Experiments on models that are trained here: arms that differ in one thing, on several seeds."""

from probenc_support.experiments.arms import ARMS, Arm, over_arms, train
from probenc_support.experiments.context_gain import (
    calibrated,
    gain_by_step,
    gain_given_frequency,
    steps_to,
)
from probenc_support.experiments.measures import cosines, halves, log_frequency, measure
from probenc_support.experiments.over_seeds import mean, ratio
from probenc_support.experiments.routes import r2_by_route

__all__ = [
    "ARMS",
    "Arm",
    "calibrated",
    "cosines",
    "gain_by_step",
    "gain_given_frequency",
    "halves",
    "log_frequency",
    "mean",
    "measure",
    "over_arms",
    "r2_by_route",
    "ratio",
    "steps_to",
    "train",
]
