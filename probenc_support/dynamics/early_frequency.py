"""Is frequency in E early? The numbers by which the claim of the paper's section 5 is judged.

Each compares when frequency is half-way to its end with when something else is: other properties
read from the same E, random targets, the predictions, the loss, and a straight line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probenc_support.dynamics import emergence, halfway_steps
from probenc_support.dynamics import frequency as dynamics
from probenc_support.dynamics.emergence import Dynamics
from probenc_support.dynamics.rivals import FREQUENCY, LEAST_FINAL, RANDOM, RIVALS, Lane

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """A ratio of half-way steps, mean over runs, with the 95 % interval of its draws."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float], draws: Sequence[Array]) -> "Ratio":
        """From one value a run, and [B] draws of each."""
        means = np.mean(draws, axis=0)
        means = means[np.isfinite(means)]
        low, high = np.quantile(means, [0.025, 0.975]) if len(means) else (np.nan, np.nan)
        return cls(float(np.mean(values)), float(low), float(high))


def metrics(name: str, ratio: Ratio | None) -> dict[str, float]:
    """A ratio and the ends of its interval by names; empty where it could not be measured."""
    if ratio is None or not np.isfinite(ratio.value):
        return {}
    return {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}


def over_rivals(races: Sequence[Sequence[Lane]]) -> Ratio | None:
    """Half-way step of frequency over the earliest of its rivals' in the same run.

    None where a run learnt no rival.
    """
    values, draws = [], []
    for lanes in races:
        by_name = {lane.name: lane for lane in lanes}
        rivals = [by_name[name] for name in RIVALS if name in by_name and by_name[name].learnt]
        if not rivals:
            return None
        mine = by_name[FREQUENCY]
        values.append(mine.halfway / min(lane.halfway for lane in rivals))
        earliest = np.min([lane.halfway_draws for lane in rivals], axis=0)
        draws.append(mine.halfway_draws / earliest)
    return Ratio.of(values, draws)


def over_rivals_beyond(races: Sequence[Sequence[Lane]]) -> float:
    """The same with frequency taken out of the rivals first, so that none is frequency in another
    guise; NaN where a run learnt no rival beyond it."""
    values = []
    for lanes in races:
        by_name = {lane.name: lane for lane in lanes}
        steps = [by_name[name].halfway_beyond for name in RIVALS if name in by_name]
        steps = [step for step in steps if np.isfinite(step)]
        values.append(by_name[FREQUENCY].halfway / min(steps) if steps else np.nan)
    return float(np.mean(values))


def random_over_frequency(races: Sequence[Sequence[Lane]]) -> Ratio | None:
    """Half-way step of the random targets over that of frequency; None without either.

    Plain R^2 is compared, as a share of no ceiling: the text sets none for a target that no text
    is about.
    """
    values, draws = [], []
    for lanes in races:
        by_name = {lane.name: lane for lane in lanes}
        if not (RANDOM in by_name and by_name[RANDOM].learnt and by_name[FREQUENCY].learnt):
            return None
        target, frequency = by_name[RANDOM], by_name[FREQUENCY]
        values.append(target.halfway_plain / frequency.halfway_plain)
        draws.append(target.halfway_plain_draws / frequency.halfway_plain_draws)
    return Ratio.of(values, draws)


def learnt(found: Dynamics) -> bool:
    """Whether frequency is in the final E, so that there is an end to be half-way to."""
    return bool(found.r2_adj[-1] >= LEAST_FINAL)


def frequency_draws(found: Dynamics, *, n_replicates: int, seed: int) -> Array:
    """[B] half-way steps of frequency over tokens drawn with replacement."""
    options = {"n_replicates": n_replicates, "seed": seed}
    curves = dynamics.bootstrap_r2_adj(found.fits, found.frequencies.y, **options)
    return np.array([halfway_steps.halfway(found.steps, curve) for curve in curves])


def over_function(found: Sequence[Dynamics], *, n_replicates: int, seed: int) -> Ratio | None:
    """Half-way step of frequency over that of the divergence from the final model's predictions.

    Draws are of tokens for the one and, independently, of documents for the other. None where no
    text was read, or a run did not learn frequency.
    """
    if not all(each.function and learnt(each) for each in found):
        return None
    values, draws = [], []
    for each in found:
        mine = halfway_steps.halfway(each.steps, each.r2_adj)
        curves = each.kl_draws(n_replicates=n_replicates, seed=seed + 1)
        others = [halfway_steps.halfway(each.read_steps, curve) for curve in curves]
        values.append(mine / halfway_steps.halfway(each.read_steps, each.kl_to_final))
        own = frequency_draws(each, n_replicates=n_replicates, seed=seed)
        draws.append(own / np.array(others))
    return Ratio.of(values, draws)


def loss_fall_at_halfway(
    found: Sequence[Dynamics], *, n_replicates: int, seed: int
) -> Ratio | None:
    """Share of the loss's whole fall that is done when frequency is half-way; draws as above.

    None where no text was read, or a run did not learn frequency, or its loss did not fall.
    """
    if not all(each.behaviour and learnt(each) and each.loss[-1] < each.loss[0] for each in found):
        return None
    values, draws = [], []
    for each in found:
        values.append(each.loss_share(halfway_steps.halfway(each.steps, each.r2_adj)))
        curves = each.loss_draws(n_replicates=n_replicates, seed=seed + 1)
        own = frequency_draws(each, n_replicates=n_replicates, seed=seed)
        pairs = zip(own, curves, strict=True)
        draws.append(np.array([emergence.share_by(s, each.read_steps, c) for s, c in pairs]))
    return Ratio.of(values, draws)
