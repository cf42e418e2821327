"""How concentrated the encoding is, in one number each, and how far that goes beyond a control.

A rotation of E turns the slopes into a vector of the same length in a random direction, so that the
Gini coefficient after a rotation is a constant of d. The first components lead in variance, so that
a random direction, too, shows in them first. A measure of sparsity therefore counts only as far as
it goes beyond its control (`excess`, `ratio`); the controls are drawn in `controls`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probenc_support.regression import Interval
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Order

NAMES = {
    "gini": "Gini coefficient",
    "participation_ratio": "participation ratio",
    "top_1_percent": "share of top 1 %",
    "top_10_percent": "share of top 10 %",
}
"""What the measures of `Concentration` are called in a table."""


@dataclass(frozen=True)
class Concentration:
    """How unequal the sizes of d slopes are, in one number each."""

    gini: float
    """Gini coefficient of the sizes: 0 if all are equal, 1 - 1/d if one holds all; 0.414 for
    normally distributed slopes."""
    participation_ratio: float
    """(sum s^2)^2 / sum s^4: how many dimensions take part, 1 to d; about d / 3 if normal."""
    top_1_percent: float
    """Share of the sum of squares that the largest 1 % of dimensions hold (at least one)."""
    top_10_percent: float
    """The same for the largest 10 %."""

    @classmethod
    def of(cls, slopes: Array) -> "Concentration":
        """Of slopes [d], of any sign."""
        return cls(
            gini(slopes),
            participation_ratio(slopes),
            top_share(slopes, 0.01),
            top_share(slopes, 0.10),
        )


def of_each(slopes: Array) -> pd.DataFrame:
    """The measures of `Concentration` of many fits: a row for each row of slopes [B, d]."""
    return pd.DataFrame([vars(Concentration.of(row)) for row in slopes])


def intervals(slopes: Array, draws: pd.DataFrame) -> dict[str, Interval]:
    """The measures of slopes [d] by their name, with intervals over draws (see `of_each`)."""
    measures = vars(Concentration.of(slopes))
    return {name: Interval.of(at, draws[name].to_numpy()) for name, at in measures.items()}


def table(
    measured: dict[str, Interval], standardised: Concentration, rotated: pd.DataFrame
) -> pd.DataFrame:
    """The measures side by side, one row each.

    Args:
        measured: of the slopes, see `intervals`.
        standardised: of the slopes times the standard deviations of their dimensions.
        rotated: of the slopes after random rotations, see `of_each`.

    Returns:
        Columns `slopes`, `low`, `high`, `standardised`, `rotated` (mean) and `rotated, 97.5 %`.
    """
    columns = {
        "slopes": {name: one.estimate for name, one in measured.items()},
        "low": {name: one.low for name, one in measured.items()},
        "high": {name: one.high for name, one in measured.items()},
        "standardised": vars(standardised),
        "rotated": rotated.mean(),
        "rotated, 97.5 %": rotated.quantile(0.975),
    }
    return pd.DataFrame(columns).rename(index=NAMES)


def gini(values: Array) -> float:
    """Gini coefficient of the sizes of values [d], 0 to 1 - 1/d."""
    sizes = np.sort(np.abs(values))
    d = len(sizes)
    return float((2.0 * np.arange(1, d + 1) - d - 1) @ sizes / (d * sizes.sum()))


def participation_ratio(values: Array) -> float:
    """(sum v^2)^2 / sum v^4 of values [d], 1 to d."""
    squares = (values / np.abs(values).max()) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum())


def top_share(values: Array, fraction: float) -> float:
    """Share of the sum of squares that the largest fraction of values [d] holds, 0 to 1."""
    squares = np.sort((values / np.abs(values).max()) ** 2)[::-1]
    return float(squares[: max(1, round(fraction * len(squares)))].sum() / squares.sum())


def share_of_first(r: Array, k: int) -> Array:
    """[...] share of R^2 that the first k of uncorrelated components hold, 0 to 1.

    Args:
        r: [..., d] correlations of the components with y.
    """
    squares = np.square(r)
    return np.asarray(squares[..., :k].sum(-1) / squares.sum(-1))


def overlap(first: Array, second: Array, k: int = 10) -> float:
    """Share of the k largest entries (by size) of one vector that are also among the other's."""
    k = min(k, len(first))
    return len(set(top(first, k)) & set(top(second, k))) / k


def sorted_sizes(values: Array) -> Array:
    """[d] sizes of values [d], largest first."""
    return np.sort(np.abs(values))[::-1]


def top(values: Array, k: int) -> Order:
    """[k] indices of the k largest entries by size, largest first."""
    return np.argsort(-np.abs(values), kind="stable")[:k]


def excess(estimate: float, draws: Array, control: Array, rng: np.random.Generator) -> Interval:
    """How far a measure lies above the mean of its control, with its interval over both.

    A replicate is the measure in one draw of the documents minus that of one draw of the control
    (one rotation, one random direction). So the interval holds zero where a rotation or direction
    out of twenty does as well, however many of them were drawn.

    Args:
        estimate: the measure on all text.
        draws: [B] the measure in draws of documents.
        control: [C] the measure under draws of the control.
        rng: pairs draws with controls, each control 1 + B // C times.
    """
    measured, matched = _paired(draws, control, rng)
    return Interval.of(estimate - float(control.mean()), measured - matched)


def ratio(estimate: float, draws: Array, control: Array, rng: np.random.Generator) -> Interval:
    """The same as a ratio: the measure over the mean of its control, all of them positive."""
    measured, matched = _paired(draws, control, rng)
    return Interval.of(estimate / float(control.mean()), measured / matched)


def _paired(draws: Array, control: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    matched = np.tile(control, 1 + len(draws) // len(control))
    return rng.choice(draws, len(matched)), matched


def table_beyond(
    rows: Iterable[tuple[str, float, float, Interval, Interval | None]],
) -> pd.DataFrame:
    """Measures beside their controls.

    Args:
        rows: of each the measure's name, its value here, the mean of its control, how far it goes
            beyond that, and the same for tokens in random order (None: not measured).
    """
    columns = ["measure", "here", "control", "difference (last row: ratio)"]
    shown = [
        (*row, _with_ends(beyond), _with_ends(of_shuffled) if of_shuffled else "")
        for *row, beyond, of_shuffled in rows
    ]
    return pd.DataFrame(shown, columns=[*columns, "the same, tokens shuffled"])


def _with_ends(interval: Interval) -> str:
    return f"{interval.estimate:.3f} ({interval.low:.3f} to {interval.high:.3f})"
