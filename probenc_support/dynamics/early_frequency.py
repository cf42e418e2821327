"""Is frequency in E early? The numbers by which the claim of the paper's section 5 is judged.

Each compares when frequency is half-way to its end with when something else is: other properties
read from the same E, random targets, the predictions, the loss, and a straight line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probenc_support.dynamics.frequency_fit import bootstrap_r2_adj
from probenc_support.dynamics.halfway_steps import (
    Estimate,
    crossing,
    halfway,
    halfway_draws,
    share_by,
)
from probenc_support.dynamics.properties import FREQUENCY, RANDOM, RIVALS
from probenc_support.dynamics.rivals import LEAST_FINAL, Probe
from probenc_support.dynamics.run_dynamics import Dynamics
from probenc_support.regression.arrays import Array


def over_rivals(probes: Sequence[Sequence[Probe]]) -> Estimate:
    """Half-way step of frequency over the earliest of its rivals' in the same run, mean over runs.

    Not known where a run learnt no rival.

    Args:
        probes: of each run, see `rivals.probe`.
    """
    values, draws = [], []
    for of_run in probes:
        by_name = {each.name: each for each in of_run}
        rivals = [by_name[name] for name in RIVALS if name in by_name and by_name[name].learnt]
        if not rivals:
            return Estimate.unknown()
        frequency = by_name[FREQUENCY]
        values.append(frequency.halfway / min(rival.halfway for rival in rivals))
        earliest = np.min([rival.halfway_draws for rival in rivals], axis=0)
        draws.append(frequency.halfway_draws / earliest)
    return Estimate.mean_of_runs(values, draws)


def over_rivals_beyond(probes: Sequence[Sequence[Probe]]) -> float:
    """The same with frequency taken out of the rivals first, so that none is frequency in another
    guise; NaN where a run learnt no rival beyond it."""
    values = []
    for of_run in probes:
        by_name = {each.name: each for each in of_run}
        steps = [by_name[name].halfway_beyond for name in RIVALS if name in by_name]
        steps = [step for step in steps if np.isfinite(step)]
        values.append(by_name[FREQUENCY].halfway / min(steps) if steps else np.nan)
    return float(np.mean(values))


def random_over_frequency(probes: Sequence[Sequence[Probe]]) -> Estimate:
    """Half-way step of the random targets over that of frequency; not known without either.

    Plain R^2 is compared, as a share of no ceiling: the text sets none for a target that no text
    is about.
    """
    values, draws = [], []
    for of_run in probes:
        by_name = {each.name: each for each in of_run}
        if not (RANDOM in by_name and by_name[RANDOM].learnt and by_name[FREQUENCY].learnt):
            return Estimate.unknown()
        target, frequency = by_name[RANDOM], by_name[FREQUENCY]
        values.append(target.halfway_plain / frequency.halfway_plain)
        draws.append(target.halfway_plain_draws / frequency.halfway_plain_draws)
    return Estimate.mean_of_runs(values, draws)


def learnt(measured: Dynamics) -> bool:
    """Whether frequency is in the final E, so that there is an end to be half-way to."""
    return bool(measured.r2_adj[-1] >= LEAST_FINAL)


def frequency_draws(measured: Dynamics, *, n_replicates: int, seed: int) -> Array:
    """[B] half-way steps of frequency over tokens drawn with replacement."""
    curves = bootstrap_r2_adj(
        measured.fits, measured.frequencies.y, n_replicates=n_replicates, seed=seed
    )
    return halfway_draws(measured.steps, curves)


def over_function(
    runs: Sequence[Dynamics], draws_of_frequency: Sequence[Array], *, seed: int
) -> Estimate:
    """Half-way step of frequency over that of the divergence from the final model's predictions.

    Draws are of tokens for the one and, independently, of documents for the other. Not known where
    no text was read, or a run did not learn frequency.

    Args:
        draws_of_frequency: [B] of each run, see `frequency_draws`.
        seed: of these; the documents are drawn by the next one.
    """
    if not all(each.function and learnt(each) for each in runs):
        return Estimate.unknown()
    values, draws = [], []
    for each, own in zip(runs, draws_of_frequency, strict=True):
        frequency = halfway(each.steps, each.r2_adj)
        curves = each.kl_draws(n_replicates=len(own), seed=seed + 1)
        values.append(frequency / halfway(each.read_steps, each.kl_to_final))
        draws.append(own / halfway_draws(each.read_steps, curves))
    return Estimate.mean_of_runs(values, draws)


def loss_fall_at_halfway(
    runs: Sequence[Dynamics], draws_of_frequency: Sequence[Array], *, seed: int
) -> Estimate:
    """Share of the loss's whole fall that is done when frequency is half-way; draws as above.

    Not known where no text was read, a run did not learn frequency, or its loss did not fall.
    """
    if not all(each.behaviour and learnt(each) and each.loss[-1] < each.loss[0] for each in runs):
        return Estimate.unknown()
    values, draws = [], []
    for each, own in zip(runs, draws_of_frequency, strict=True):
        values.append(each.loss_share(halfway(each.steps, each.r2_adj)))
        curves = each.loss_draws(n_replicates=len(own), seed=seed + 1)
        shares = [share_by(s, each.read_steps, c) for s, c in zip(own, curves, strict=True)]
        draws.append(np.array(shares))
    return Estimate.mean_of_runs(values, draws)


@dataclass(frozen=True)
class AgainstLoss:
    """How the rise of the frequency fit lies to the fall of the loss, mean over runs."""

    step_r2_half: float
    """Step at which adjusted R^2 passes 0.5; NaN where it does not in every run."""
    loss_share: float
    """Share of the loss's whole fall that has happened by then; NaN without either."""
    r2_at_quarter: float
    """Adjusted R^2 when a quarter of the loss's fall has happened; NaN where no text was read."""


def against_loss(runs: Sequence[Dynamics]) -> AgainstLoss:
    """When frequency can be read from E, as the loss tells time."""
    passed = [crossing(each.steps, each.r2_adj, 0.5) for each in runs]
    in_every_run, read = bool(np.isfinite(passed).all()), all(each.behaviour for each in runs)
    shares = [e.loss_share(s) for e, s in zip(runs, passed, strict=True)] if read else []
    return AgainstLoss(
        step_r2_half=float(np.mean(passed)),
        loss_share=float(np.mean(shares)) if read and in_every_run else math.nan,
        r2_at_quarter=float(np.mean([r2_when_loss_fell(e, 0.25) for e in runs]))
        if read
        else math.nan,
    )


def r2_when_loss_fell(measured: Dynamics, share: float) -> float:
    """Adjusted R^2 of frequency when the loss has fallen by a share (0 to 1) of its way."""
    loss = measured.loss
    step = crossing(measured.read_steps, loss, loss[0] + share * (loss[-1] - loss[0]))
    return float(np.interp(np.log1p(step), np.log1p(measured.steps), measured.r2_adj))
