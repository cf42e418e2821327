"""What classes of context say of -log a in text that they were not made from."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from probenc_support.head import Head
from probenc_support.precision import wide
from probenc_support.regression import r2_of
from probenc_support.regression.arrays import Matrix
from probenc_support.regression.halves import Halves
from probenc_support.theory import context_classes
from probenc_support.theory.context_classes import ContextClasses

NUMBERS = (1, 4, 16, 64)
"""Numbers of classes that are tried besides the largest."""

MOST = 256
"""The largest number of classes, where the text has `POSITIONS_A_CLASS` times as many positions."""

POSITIONS_A_CLASS = 8
"""Positions a class has on average, at least."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What K classes of context say of -log a in text that they were not made from."""

    classes: ContextClasses
    """Of the fitting text."""
    y: Tensor
    """[n] float64 the bound of the classes plus the intercept, nats."""
    intercept: float
    """The one number that is fitted, nats: mean over the tokens of y less the bound, in the fitting
    text."""

    @classmethod
    def of(cls, head: Head, h: Tensor, z: Tensor, y: Tensor, label: Tensor) -> "Prediction":
        """From the fitting text alone.

        Args:
            head: of n tokens; h: [N, d], z: [N], label: [N] of the fitting text.
            y: [n] -log a over the fitting text, nats.
        """
        classes = ContextClasses.of(h, z, label)
        bound = classes.y_bound(head)
        intercept = float((wide(y).to(bound.device) - bound).mean())
        return cls(classes, bound + intercept, intercept)

    @property
    def bound(self) -> Tensor:
        """[n] the same with nothing fitted, nats."""
        return self.y - self.intercept


def numbers_of_classes(n_positions: int) -> list[int]:
    """Numbers of classes to try for a fitting text, rising: of `NUMBERS`, and the largest."""
    most = max(1, min(MOST, n_positions // POSITIONS_A_CLASS))
    return [*(k for k in NUMBERS if k < most), most]


@dataclass(frozen=True, eq=False)
class Refinement:
    """Predictions from the fitting half of a text, by ever more classes, and their control."""

    by_similarity: Mapping[int, Prediction]
    """By number of classes; positions of one class have similar logits."""
    by_lot: Mapping[int, Prediction]
    """The control: classes of the same sizes, whose positions are drawn at random."""

    @classmethod
    def of(cls, head: Head, cov: Tensor, halves: Halves, *, seed: int = 0) -> "Refinement":
        """Classes of the positions of the fitting half, by k-means, for `numbers_of_classes`.

        Args:
            head: of n tokens; cov: [d, d] covariance of its rows.
            seed: of k-means and of the control.
        """
        inside = halves.in_fitting
        h, z = halves.detection.h[inside], halves.detection.z[inside]
        points = context_classes.logit_coordinates(cov, h)
        alike, by_lot = {}, {}
        for k in numbers_of_classes(len(h)):
            label = context_classes.k_means(points, k, seed=seed)
            random_label = context_classes.shuffled(label, seed=seed)
            alike[k] = Prediction.of(head, h, z, halves.y_fitting, label)
            by_lot[k] = Prediction.of(head, h, z, halves.y_fitting, random_label)
        return cls(alike, by_lot)

    @property
    def finest(self) -> Prediction:
        """By the largest number of classes."""
        return self.by_similarity[max(self.by_similarity)]

    @property
    def readable(self) -> Prediction:
        """By 16 classes, few enough to look at, or by the largest number where that is less."""
        return self.by_similarity.get(16, self.finest)

    def judged(self, y: Matrix) -> pd.DataFrame:
        """R^2 of every prediction for -log a [n] over the judging half.

        Returns:
            classes, r2, r2_nothing_fitted (without the intercept), r2_random (of the control, with
            an intercept of its own), intercept.
        """
        rows = [
            {
                "classes": k,
                "r2": r2_of(y, prediction.y),
                "r2_nothing_fitted": r2_of(y, prediction.bound),
                "r2_random": r2_of(y, self.by_lot[k].y),
                "intercept": prediction.intercept,
            }
            for k, prediction in self.by_similarity.items()
        ]
        return pd.DataFrame(rows)
