"""Is the early encoding of frequency a property of training, or of its text and order?

The same model is trained on the same text, changed in one thing at a time (`models.readings`), each
from the same seeds. What a changed run shows is set against the unchanged one of the same seed, and
the seeds, of which each draws weights and order anew, give the interval.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.dynamics import ceilings, properties
from probenc_support.dynamics.frequency import Frequencies, counts_so_far
from probenc_support.dynamics.halfway_steps import Estimate, halfway
from probenc_support.dynamics.rivals import LEAST_CEILING, LEAST_FINAL
from probenc_support.errors import InputError
from probenc_support.experiments import over_seeds
from probenc_support.models import checkpoints, readings, training, training_text
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.recipes import ALIASES, Recipe
from probenc_support.models.training_text import Text
from probenc_support.regression import Design
from probenc_support.regression.arrays import Array

CONTROL = "control"
"""The arm that reads the text as it is."""

FLAT = f"{ALIASES}flat"
"""The arm in which frequent ids end about equally frequent."""

_ELSEWHERE = (readings.INSTEAD, readings.PLANTED)
"""Readings that other experiments ask about."""

ARMS = (CONTROL, *(name for name in readings.READINGS if name not in _ELSEWHERE))
"""All arms: the control, and every reading of the same text, by name."""

DENSE = 32
"""Every second step up to this one is kept, where most of the encoding appears."""

_LOSS_OVER = 16
"""Last steps whose mean is the loss at the end."""

_T = TypeVar("_T")


def recipe_of(base: Recipe, arm: str, *, steps: int = 0, other: str = "bible") -> Recipe:
    """The recipe of an arm.

    Args:
        steps: of the run; 0: the base's.
        other: corpus of the second half of `other-half`.

    Raises:
        InputError: there is no such arm.
    """
    if arm not in ARMS:
        raise InputError(f"There is no arm {arm!r}; name one of {', '.join(ARMS)}.")
    reading = "" if arm == CONTROL else arm
    if arm == readings.OTHER_HALF:
        reading = f"{arm}:{other}"
    named = replace(base, name=f"{base.name}-{arm}", steps=steps or base.steps)
    return replace(named, reading=reading, early=True, dense=DENSE)


@dataclass(frozen=True, eq=False)
class Arm:
    """What one run of one arm shows over its checkpoints."""

    name: str
    seed: int
    recipe: Recipe
    run: TrainingRun
    text: Text
    """Before the reading changes it."""
    counts: NDArray[np.int64]
    """[n_steps, ids] how often each id had been read at each checkpoint."""
    known: Frequencies
    """Of all that was read."""
    r2_adj: Array
    """[n_steps] adjusted R^2 of -log frequency on E, over the ids that occur."""
    ceiling: Array
    """[n_steps] R^2 that the counts so far allow, see `ceilings.of_counts`."""
    loss: float
    """Mean training loss of the last steps, in nats."""

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints, ascending."""
        return self.run.steps

    @property
    def share(self) -> Array:
        """[n_steps] R^2 as a share of what is possible by then."""
        return self.r2_adj / np.maximum(self.ceiling, LEAST_CEILING)

    @property
    def halfway(self) -> float:
        """The step at which that share is half-way to its end; NaN where nothing was learnt."""
        return halfway(self.steps, self.share) if self.r2_adj[-1] >= LEAST_FINAL else math.nan

    @property
    def entropy(self) -> float:
        """Of the frequencies, in nats."""
        y = self.known.y
        return float((np.exp(-y) * y).sum())

    @property
    def spread(self) -> float:
        """Standard deviation of log frequency over the ids that occur, in nats."""
        return float(self.known.y.std())

    def rows(self, tokens: NDArray[np.int64], step: int | None = None) -> Tensor:
        """E [n, d] of some ids at a step (the last)."""
        E = self.run.embedding(self.steps[-1] if step is None else step)
        return E[torch.from_numpy(tokens)]


def measure(
    base: Recipe,
    arm: str,
    seed: int,
    *,
    steps: int = 0,
    corpus: str = "docstrings",
    other: str = "bible",
    device: str = "auto",
) -> Arm:
    """Trains a run of an arm, where it is not there yet, and measures it.

    Args:
        steps, other: see `recipe_of`.
        corpus: that the model is trained on.

    Raises:
        InputError: see `recipe_of` and `training.train`.
    """
    recipe = recipe_of(base, arm, steps=steps, other=other)
    folder = training.trained(recipe, seed=seed, corpus=corpus, device=device)
    run = checkpoints.training_run(str(folder))
    counts = cast(NDArray[np.int64], counts_so_far(run))
    seen = np.flatnonzero(counts[-1])
    known = Frequencies(counts[-1], "the text as it was read", seen, counts.shape[1] - len(seen))
    index = torch.from_numpy(seen)
    fits = [Design.of(run.embedding(step)[index]).fit(known.y).r2_adj for step in run.steps]
    return Arm(
        name=arm,
        seed=seed,
        recipe=recipe,
        run=run,
        text=training_text.prepare(recipe, corpus),
        counts=counts,
        known=known,
        r2_adj=np.array(fits),
        ceiling=ceilings.of_counts(known.y, counts[:, seen]),
        loss=float(np.mean(training.record(folder)["losses"][-_LOSS_OVER:])),
    )


# -------------------------------------------------------------------- counts that nobody needs


@dataclass(frozen=True, eq=False)
class Parents:
    """Counts of whole tokens, read from E where tokens are split and where they are whole.

    The tokens are those that are split, one row of each: its first alias, or itself.
    """

    n: int
    """Tokens."""
    split: float
    """Adjusted R^2 of -log count of the whole token on the rows of the aliases, at the end."""
    whole: float
    """The same on the rows of the tokens in the control of the same seed."""
    own: float
    """Adjusted R^2 of -log count of the alias itself, on the same rows as `split`."""
    beyond: float
    """As `split`, of what the alias's own count does not tell (linearly): larger counts divide more
    evenly, so that both go together a little."""

    @property
    def ratio(self) -> float:
        """`split` over `whole`: 0 where E holds nothing of a count that no id has."""
        return self.split / self.whole


def of_parents(arm: Arm, control: Arm) -> Parents | None:
    """Whether E of split tokens holds the whole tokens' counts; None where few tokens are split."""
    split = readings.split_of(arm.recipe, arm.text)
    whole = split.of_parents(arm.counts[-1])
    tokens = np.flatnonzero((split.n > 1) & (arm.counts[-1, : len(whole)] > 0))
    if len(tokens) < 2 * arm.recipe.d:
        return None
    y, own = (-np.log(counts[tokens]) for counts in (whole, arm.counts[-1]))
    design = Design.of(arm.rows(tokens))
    in_control = Design.of(control.rows(tokens)).fit(y).r2_adj
    beyond = properties.without(y[:, None], own)[:, 0]
    found = design.fit_many(np.stack([y, own, beyond], axis=1)).r2_adj
    return Parents(len(tokens), float(found[0]), in_control, float(found[1]), float(found[2]))


# ------------------------------------------------------------------------------------ two texts


@dataclass(frozen=True, eq=False)
class TwoTexts:
    """What E at the end holds of two texts, over the tokens that occur in both halves."""

    n: int
    """Tokens."""
    so_far: float
    """Adjusted R^2 of -log count in both halves together."""
    first: float
    """In the first half alone."""
    second: float
    """In the second half alone."""
    second_beyond: float
    """Of what the first half's counts do not tell (linearly) about the second half's."""
    first_beyond: float
    """Of what the second half's counts do not tell about the first half's."""


def of_two_texts(arm: Arm, read_by: Arm) -> TwoTexts | None:
    """What E of a run holds of the halves of the text that `read_by` read; None where few tokens
    occur in both halves.

    Args:
        arm: whose E is read, such as the control, which never read the second text.
        read_by: a run of `other-half`.
    """
    recipe = read_by.recipe
    text = readings.of(recipe, read_by.text, read_by.seed)
    first = text.counts(recipe, read_by.seed, readings.half_of(recipe))
    second = read_by.counts[-1] - first
    tokens = np.flatnonzero((first > 0) & (second > 0))
    if len(tokens) < 2 * recipe.d:
        return None
    y1, y2 = (-np.log(counts[tokens]) for counts in (first, second))
    beyond = [properties.without(b[:, None], a)[:, 0] for a, b in ((y1, y2), (y2, y1))]
    both = -np.log((first + second)[tokens])
    targets = np.stack([both, y1, y2, *beyond], axis=1)
    r2 = Design.of(arm.rows(tokens)).fit_many(targets).r2_adj
    return TwoTexts(len(tokens), *map(float, r2))


# -------------------------------------------------------------------------------------- together


def compare(
    base: Recipe, arms: Sequence[str], seeds: Sequence[int], **options: Any
) -> "Comparison":
    """Trains and measures every arm from every seed; what is trained already is read.

    Args:
        arms: readings by name, empty: all; the control is always among them.
        options: see `measure`.

    Raises:
        InputError: see `measure`; an unknown arm is refused before anything is trained.
    """
    wanted = list(dict.fromkeys([CONTROL, *(arms or ARMS)]))
    for arm in wanted:
        recipe_of(base, arm)
    by_seed = [{arm: measure(base, arm, seed, **options) for arm in wanted} for seed in seeds]
    return Comparison({arm: [runs[arm] for runs in by_seed] for arm in wanted})


@dataclass(frozen=True, eq=False)
class Comparison:
    """All arms, each from the same seeds."""

    arms: Mapping[str, Sequence[Arm]]
    """Runs by arm, in the order of the seeds."""

    @property
    def n_seeds(self) -> int:
        """Of each arm."""
        return min(len(runs) for runs in self.arms.values())

    def over(self, arm: str, of: Callable[[Arm], float]) -> Estimate:
        """A value of each run of an arm over that of the control from the same seed."""
        pairs = zip(self.arms[arm], self.arms[CONTROL], strict=True)
        return over_seeds.mean([of(run) / of(control) for run, control in pairs])

    def parents(self, arm: str = FLAT) -> list[Parents] | None:
        """Of each seed; None where the arm is not there, or few tokens are split."""
        pairs = zip(self.arms.get(arm, ()), self.arms[CONTROL], strict=False)
        return _all([of_parents(run, control) for run, control in pairs])

    def two_texts(self) -> tuple[list[TwoTexts], list[TwoTexts]] | None:
        """Of each seed: what E of `other-half` holds, and what E of the control does."""
        runs = self.arms.get(readings.OTHER_HALF, ())
        own = _all([of_two_texts(run, run) for run in runs])
        pairs = zip(self.arms[CONTROL], runs, strict=False)
        unread = _all([of_two_texts(control, run) for control, run in pairs])
        return None if own is None or unread is None else (own, unread)

    def metrics(self) -> dict[str, float]:
        """What the claim is judged by, and what stands beside it; `-` and `.` in names of arms
        become `_` and nothing. What could not be measured is left out."""
        found: dict[str, float] = {"n_seeds": self.n_seeds}
        for arm, runs in self.arms.items():
            name = metric_name(arm)
            found |= over_seeds.mean([run.r2_adj[-1] for run in runs]).metrics(f"r2_final_{name}")
            found |= over_seeds.mean([run.halfway for run in runs]).metrics(f"halfway_step_{name}")
            if arm != CONTROL:
                of_r2 = self.over(arm, lambda run: float(run.r2_adj[-1]))
                found |= of_r2.metrics(f"r2_{name}_over_control")
                of_step = self.over(arm, lambda run: run.halfway)
                found |= of_step.metrics(f"halfway_{name}_over_control")
        every = [run for runs in self.arms.values() for run in runs]
        found["r2_step0_largest"] = max(float(run.r2_adj[0]) for run in every)
        return {**found, **self._metrics_of_parents(), **self._metrics_of_two_texts()}

    def _metrics_of_parents(self) -> dict[str, float]:
        if (parents := self.parents()) is None:
            return {}
        return {
            "n_parents": float(np.mean([each.n for each in parents])),
            **over_seeds.mean([each.split for each in parents]).metrics("r2_parent_split"),
            **over_seeds.mean([each.whole for each in parents]).metrics("r2_parent_whole"),
            **over_seeds.mean([each.own for each in parents]).metrics("r2_own_of_split"),
            **over_seeds.mean([each.beyond for each in parents]).metrics("r2_parent_beyond_own"),
            **over_seeds.mean([each.ratio for each in parents]).metrics("r2_parent_over_whole"),
        }

    def _metrics_of_two_texts(self) -> dict[str, float]:
        if (both := self.two_texts()) is None:
            return {}
        own, unread = both
        gain = [a.second_beyond - b.second_beyond for a, b in zip(own, unread, strict=True)]
        values = {
            "r2_two_texts_so_far": [each.so_far for each in own],
            "r2_two_texts_first": [each.first for each in own],
            "r2_two_texts_second": [each.second for each in own],
            "r2_second_beyond_first": [each.second_beyond for each in own],
            "r2_first_beyond_second": [each.first_beyond for each in own],
            "r2_second_beyond_first_unread": [each.second_beyond for each in unread],
            "r2_first_beyond_second_unread": [each.first_beyond for each in unread],
            "r2_second_beyond_first_gain": gain,
        }
        found = {"n_tokens_of_both": float(np.mean([each.n for each in own]))}
        for name, of_seeds in values.items():
            found |= over_seeds.mean(of_seeds).metrics(name)
        return found

    def by_step(self) -> pd.DataFrame:
        """One row a run and checkpoint: arm, seed, step, r2_adj, ceiling, share."""
        tables = [
            pd.DataFrame(
                {
                    "arm": run.name,
                    "seed": run.seed,
                    "step": run.steps,
                    "r2_adj": run.r2_adj,
                    "ceiling": run.ceiling,
                    "share": run.share,
                }
            )
            for runs in self.arms.values()
            for run in runs
        ]
        return pd.concat(tables, ignore_index=True)

    def by_arm(self) -> pd.DataFrame:
        """One row an arm, means over seeds: ids that occur, entropy and spread of the frequencies,
        loss, R^2 at the end and half-way step with their intervals."""
        return pd.DataFrame([self._row(arm, runs) for arm, runs in self.arms.items()])

    def _row(self, arm: str, runs: Sequence[Arm]) -> dict[str, float | str]:
        r2 = over_seeds.mean([run.r2_adj[-1] for run in runs])
        step = over_seeds.mean([run.halfway for run in runs])
        return {
            "arm": arm,
            "ids": float(np.mean([len(run.known.tokens) for run in runs])),
            "entropy": float(np.mean([run.entropy for run in runs])),
            "spread": float(np.mean([run.spread for run in runs])),
            "loss": float(np.mean([run.loss for run in runs])),
            "r2": r2.value,
            "r2_low": r2.low,
            "r2_high": r2.high,
            "halfway": step.value,
            "halfway_low": step.low,
            "halfway_high": step.high,
        }


HEADINGS = {
    "arm": "arm",
    "ids": "ids",
    "entropy": "entropy (nats)",
    "spread": "spread of log f (nats)",
    "loss": "loss (nats)",
    "r2": "R² at the end",
    "halfway": "half-way step",
}
"""Of the columns of `Comparison.by_arm` that a page shows."""


def metric_name(arm: str) -> str:
    """An arm as names of metrics have it."""
    return arm.replace("-", "_").replace(".", "")


def _all(values: "Sequence[_T | None]") -> "list[_T] | None":
    known = [value for value in values if value is not None]
    return known if known and len(known) == len(values) else None
