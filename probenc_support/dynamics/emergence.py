"""When each quantity of a run is half-way to its end, and whether frequency is so first."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from probenc_support.dynamics import convergence
from probenc_support.dynamics.convergence import BODY, EMBEDDING
from probenc_support.dynamics.evaluation_text import thinned
from probenc_support.dynamics.frequency_fit import bootstrap_r2_adj
from probenc_support.dynamics.frequency_part import (
    FREQUENCY_PART,
    REST,
    split_distances,
    split_to_earlier_ends,
)
from probenc_support.dynamics.halfway_steps import Estimate, halfway, halfway_draws
from probenc_support.dynamics.run_dynamics import Dynamics
from probenc_support.errors import InputError
from probenc_support.regression.arrays import Array

Quantity = tuple[Sequence[int], Array, Callable[..., Array]]
"""Steps, a curve over them, and what draws it anew [B, n_steps]."""


FREQUENCY = "frequency in E"
"""The curve of how well E tells the frequency of tokens."""


LOSS = "loss"
"""The curve of the loss of the next token."""


KL = "KL to the final model"
"""The curve of the divergence from the model at the end of training."""


METRIC_NAMES = {
    FREQUENCY: "frequency",
    LOSS: "loss",
    KL: "kl_to_final",
    EMBEDDING: "embedding",
    BODY: "body",
    FREQUENCY_PART: "frequency_part",
    REST: "rest_of_embedding",
}
"""What is collected of `over_runs`, as `halfway_step_<name>`."""


HEADINGS = {
    "step": "half-way step (mean)",
    "low": "interval from",
    "high": "to",
    "earliest": "earliest run",
    "latest": "latest run",
    "frequency_first": "frequency comes before it",
}
"""Columns of `over_runs` as a reader sees them."""


HEADINGS_BY_LENGTH = {
    "stopped_at": "stopped at",
    **{what: what for what in METRIC_NAMES},
    "frequency_first": "frequency before parameters",
}
"""Columns of `by_length` that a reader sees, and what they are called there."""


LEAST_END = 8
"""Steps before this are no end of a run: what changed until then is the optimiser's warm-up."""


def halfway_estimates(
    measured: Dynamics,
    *,
    intervals: Collection[str] | None = None,
    parts: Mapping[str, Array] | None = None,
    n_replicates: int = 400,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Half-way steps of the frequency fit, the loss, the divergence from the final model, every
    group of parameters, and the two parts of E, by what they are of.

    Args:
        intervals: what needs an interval; None: everything. The ends of others are NaN.
        parts: see `split_distances`; None: they are measured.
    """
    y, distances = measured.frequencies.y, measured.convergence
    curves: dict[str, Quantity] = {
        FREQUENCY: (measured.steps, measured.r2_adj, partial(bootstrap_r2_adj, measured.fits, y))
    }
    if measured.behaviour:
        curves[LOSS] = (measured.read_steps, measured.loss, measured.loss_draws)
    if measured.function:
        curves[KL] = (measured.read_steps, measured.kl_to_final, measured.kl_draws)
    for group in distances.groups:
        draw = partial(distances.bootstrap, group)
        curves[group] = (measured.steps, distances.distance(group), draw)

    estimates = {
        what: _estimate(
            steps, curve, draw(n_replicates=_draws(what, intervals, n_replicates), seed=seed)
        )
        for what, (steps, curve, draw) in curves.items()
    }
    parts = parts or split_distances(
        measured.run,
        measured.frequencies,
        n_replicates=_draws(FREQUENCY_PART, intervals, n_replicates),
        seed=seed,
    )
    of_parts = {part: _estimate(measured.steps, d[0], d[1:]) for part, d in parts.items()}
    return estimates | of_parts


def _draws(what: str, intervals: Collection[str] | None, n_replicates: int) -> int:
    """How many draws something needs: none where no interval is asked of it."""
    return n_replicates if intervals is None or what in intervals else 0


def _estimate(steps: Sequence[int], curve: Array, draws: Array) -> Estimate:
    return Estimate.of(halfway(steps, curve), halfway_draws(steps, draws))


def emergence_table(
    runs: Sequence[Dynamics],
    *,
    intervals: Collection[str] | None = None,
    parts: Sequence[Mapping[str, Array] | None] = (),
    n_replicates: int,
    seed: int,
) -> pd.DataFrame:
    """Half-way steps of every run: columns run, what, step, low, high.

    Args:
        intervals, parts: see `halfway_estimates`; parts of each run.
    """
    options: dict[str, Any] = {"intervals": intervals, "n_replicates": n_replicates, "seed": seed}
    rows = [
        (each.run.name, what, estimate.value, estimate.low, estimate.high)
        for each, own in zip(runs, parts or [None] * len(runs), strict=True)
        for what, estimate in halfway_estimates(each, parts=own, **options).items()
    ]
    return pd.DataFrame(rows, columns=["run", "what", "step", "low", "high"])


def over_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Half-way steps by what they are of: the mean over runs, the widest interval of any run, the
    earliest and the latest run, and whether frequency comes before it in every run.

    Args:
        table: see `emergence_table`.

    Returns:
        Columns step, low, high, earliest, latest, frequency_first (`yes`, `no`, empty for
        frequency itself); indexed by `what`.
    """
    halves = table.groupby("what", sort=False).agg(
        step=("step", "mean"),
        low=("low", "min"),
        high=("high", "max"),
        earliest=("step", "min"),
        latest=("step", "max"),
    )
    others = halves.index.drop(FREQUENCY)
    first = {what: "yes" if is_earliest(table, before=[what]) else "no" for what in others}
    return halves.assign(frequency_first=halves.index.map({FREQUENCY: "", **first}))


def metrics(halves: pd.DataFrame) -> dict[str, float]:
    """Half-way steps to collect from `over_runs`: `halfway_step_<name>` with its interval."""
    collected: dict[str, float] = {}
    for what in halves.index.intersection(list(METRIC_NAMES)):
        step = Estimate(*(float(halves.loc[what, end]) for end in ("step", "low", "high")))
        collected |= step.metrics(f"halfway_step_{METRIC_NAMES[what]}")
    return collected


def is_earliest(table: pd.DataFrame, *, before: Iterable[str], what: str = FREQUENCY) -> bool:
    """Whether in every run one thing is half-way before all of the others, the intervals apart.

    Args:
        table: see `emergence_table`.
        what: the one thing.
        before: names in its column `what`.

    Raises:
        InputError: one of them was not measured.
    """
    earliest = table[table["what"] == what].set_index("run")
    for name in before:
        other = table[table["what"] == name].set_index("run")
        if other.empty:
            raise InputError(f"The half-way step of {name} was not measured.")
        if not (earliest["high"] < other["low"].reindex(earliest.index)).all():
            return False
    return True


def by_length(
    runs: Sequence[Dynamics], *, before: Sequence[str], n_replicates: int, seed: int
) -> pd.DataFrame:
    """Half-way steps and verdict as if the runs had stopped at every second earlier checkpoint.

    Columns: stopped_at, one for everything in `emergence_table` (mean over runs), frequency_first.

    Args:
        before: what frequency is held against, see `is_earliest`; only these have intervals.
    """
    ends = [step for step in thinned(runs[0].steps, 2.5)[:-1] if step >= LEAST_END]
    if not ends:
        return pd.DataFrame(columns=["stopped_at", "frequency_first"])
    options: dict[str, Any] = {"n_replicates": n_replicates, "seed": seed}
    intervals = {FREQUENCY, *before}
    cut_runs = [_cut_at(each, ends, intervals, **options) for each in runs]
    rows = []
    for end, at_end in zip(ends, zip(*cut_runs, strict=True), strict=True):
        shorter, parts = zip(*at_end, strict=True)
        table = emergence_table(shorter, intervals=intervals, parts=parts, **options)
        halves = table.groupby("what", sort=False)["step"].mean().to_dict()
        first = is_earliest(table, before=before)
        rows.append({"stopped_at": end, **halves, "frequency_first": first})
    return pd.DataFrame(rows)


def _cut_at(
    measured: Dynamics,
    ends: Sequence[int],
    intervals: Collection[str],
    *,
    n_replicates: int,
    seed: int,
) -> list[tuple[Dynamics, dict[str, Array]]]:
    """The run as if it had ended at each of some steps, or at its last checkpoint before, with the
    two parts of E.

    All files are read once for the distances and E once more for its parts, however many the ends.
    """
    own = [max(step for step in measured.steps if step <= end) for end in ends]
    alone = len(measured.convergence.groups) == 1
    distances = convergence.to_earlier_ends(measured.run, own, embedding_only=alone)
    parts = split_to_earlier_ends(
        measured.run,
        measured.frequencies,
        own,
        n_replicates=_draws(FREQUENCY_PART, intervals, n_replicates),
        seed=seed,
    )
    return [(measured.truncated_at(distances[end]), parts[end]) for end in own]
