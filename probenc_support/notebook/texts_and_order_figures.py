"""Figures of the page on changed texts and orders: arms over steps, split tokens, two texts."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from probenc_support.dynamics.halfway_steps import Estimate
from probenc_support.experiments import over_seeds
from probenc_support.experiments.texts_and_order import (
    CONTROL,
    Arm,
    Comparison,
    Parents,
    TwoTexts,
)
from probenc_support.models.recipes import ALIASES
from probenc_support.notebook import figures, training_figures
from probenc_support.regression.arrays import Array

_OTHER_TEXTS = ("shuffled",)
"""Arms whose text is another one, beside those with aliases; the rest change the order."""


def of_arms(comparison: Comparison, *, texts: bool) -> dict[str, training_figures.OverSteps]:
    """R^2 as a share of what is possible by then, for `training_figures.over_steps`.

    Args:
        texts: of the arms that change the text; else of those that change the order. The control
            is among both.
    """
    return _over_steps(comparison, lambda run: run.share, texts=texts)


def plain(comparison: Comparison, *, texts: bool) -> dict[str, training_figures.OverSteps]:
    """The same as it is, not as a share."""
    return _over_steps(comparison, lambda run: run.r2_adj, texts=texts)


def _over_steps(
    comparison: Comparison, of: Callable[[Arm], Array], *, texts: bool
) -> dict[str, training_figures.OverSteps]:
    return {
        arm: (runs[0].steps, [of(run) for run in runs])
        for arm, runs in comparison.arms.items()
        if arm == CONTROL or texts == (arm.startswith(ALIASES) or arm in _OTHER_TEXTS)
    }


def of_parents(parents: Sequence[Parents]) -> Figure:
    """Counts of whole tokens and of aliases, by where they are read from."""
    bars = {
        "whole, from whole": over_seeds.mean([each.whole for each in parents]),
        "whole, from aliases": over_seeds.mean([each.split for each in parents]),
        "whole beyond alias": over_seeds.mean([each.beyond for each in parents]),
        "alias, from aliases": over_seeds.mean([each.own for each in parents]),
    }
    return figures.bars(
        list(bars),
        {"": [each.value for each in bars.values()]},
        errors={"": _reach(list(bars.values()))},
        legend="",
        ylabel="adjusted $R^2$ of a count",
    )


HALVES = {
    "so_far": "both halves",
    "first": "first half",
    "second": "second half",
    "first_beyond": "first beyond second",
    "second_beyond": "second beyond first",
}
"""What `TwoTexts` has, as a figure calls it."""


def of_two_texts(own: Sequence[TwoTexts], unread: Sequence[TwoTexts]) -> Figure:
    """What E holds of the counts of two halves, where both were read and where one was not."""
    series = {
        "read both": [over_seeds.mean([getattr(each, name) for each in own]) for name in HALVES],
        "read the first only": [
            over_seeds.mean([getattr(each, name) for each in unread]) for name in HALVES
        ],
    }
    return figures.bars(
        list(HALVES.values()),
        {label: [each.value for each in values] for label, values in series.items()},
        errors={label: _reach(values) for label, values in series.items()},
        controls=["read the first only"],
        legend="upper right",
        ylim=(min(0.0, *(each.value for values in series.values() for each in values)), 1.3),
        ylabel="adjusted $R^2$ of log counts",
    )


def _reach(values: Sequence[Estimate]) -> Array:
    """[2, n] how far intervals reach below and above; nowhere where there is none."""
    ends = [(each.value - each.low, each.high - each.value) for each in values]
    return np.nan_to_num(np.array(ends, dtype=np.float64).T)
