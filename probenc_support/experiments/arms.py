"""The arms of the experiment on early frequency, and their training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from probenc_support.models import checkpoints, training
from probenc_support.models.checkpoints import TrainingRun


@dataclass(frozen=True)
class Arm:
    """Training runs that differ from those of the other arms in one intervention."""

    name: str
    """Short, for tables, legends and names of metrics."""
    intervention: str
    """See `models.interventions`."""
    words: str
    """What is done."""


ARMS = {
    arm.name: arm
    for arm in (
        Arm("control", "bias-zero", "head bias fixed at zero: frequency has to be learnt by E"),
        Arm("bias", "bias-frequency", "head bias fixed at log f: frequency is there at once"),
        Arm("placebo", "bias-shuffled", "head bias fixed at log f of other tokens, by lot"),
        Arm("blocked", "blocked", "head bias zero, and frequency kept out of E in every step"),
        Arm("rescued", "blocked-bias-frequency", "as blocked, but head bias fixed at log f"),
    )
}
"""By name, in the order of tables."""


def train(
    model: str,
    *,
    seeds: Iterable[int],
    arms: Sequence[Arm] = tuple(ARMS.values()),
    steps: int = 0,
    corpus: str = "docstrings",
    device: str = "auto",
) -> dict[str, list[TrainingRun]]:
    """The runs of each arm by its name, one a seed; those that are not there yet are trained.

    All arms of a seed start from the same weights and read the same text in the same order.

    Args:
        model: a recipe whose head has a bias, such as `nano-gptj`.
        steps: length of each run, with about 24 checkpoints; 0: the recipe's.
        corpus: what they are trained on, see `corpora.text`.

    Raises:
        InputError: no such recipe, its head has no bias, or see `training.train`.
    """
    recipe = training.named(model)
    if steps:
        recipe = replace(recipe, steps=steps, early=False, every=max(1, steps // 24))
    runs: dict[str, list[TrainingRun]] = {}
    for seed in seeds:
        for arm in arms:
            own = replace(recipe, intervention=arm.intervention)
            folder = training.trained(own, seed=seed, corpus=corpus, device=device)
            runs.setdefault(arm.name, []).append(checkpoints.training_run(str(folder)))
    return runs


def over_arms(
    runs: Mapping[str, Sequence[TrainingRun]], of_run: Callable[[TrainingRun], pd.DataFrame]
) -> pd.DataFrame:
    """One table of all runs: columns `arm` and `seed` (0, 1, ...), then those of `of_run`."""
    tables = [
        of_run(run).assign(arm=name, seed=number)
        for name, several in runs.items()
        for number, run in enumerate(several)
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["arm", "seed", *table.columns.drop(["arm", "seed"])]]
