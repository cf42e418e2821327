"""Sentences of the page on training dynamics, in words that depend on the numbers."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from probenc_support import corpora
from probenc_support.corpora import TokenBlocks
from probenc_support.dynamics import Ahead, Dynamics, Estimate, UnigramPhase
from probenc_support.dynamics.early_frequency import AgainstLoss
from probenc_support.dynamics.properties import RIVALS
from probenc_support.models import checkpoints


def runs(measured: Sequence[Dynamics], blocks: TokenBlocks | None) -> str:
    """What was measured: runs, checkpoints, counts, training, and the text of the loss."""
    first, steps = measured[0], measured[0].steps
    known = first.frequencies
    said = (
        f"{len(measured)} run(s), {len(steps)} checkpoints each, steps {steps[0]} to "
        f"{steps[-1]:,}. Counts are of {known.source}: {known.counts.sum():,} tokens, of which "
        f"{len(known.tokens):,} different ones are fitted; {known.n_unseen:,} never occur and are "
        "left out."
    )
    said += "".join(_training(each) for each in measured)
    if blocks:
        said += (
            f" The loss is taken on {blocks.n_positions:,} positions of `{blocks.corpus}`, of "
            f"which {blocks.n_left_out:,} documents were passed over, since they share text with "
            "what was trained on."
        )
    return said + "".join(_left_out(each) for each in measured)


def _training(measured: Dynamics) -> str:
    record = checkpoints.record(measured.run)
    if not record:
        return ""
    return (
        f" `{measured.run.name}` was trained here on {record['tokens']:,} tokens of "
        f"`{corpora.label(record['corpus'])}` ({record['epochs']:.2f} epochs) in "
        f"{record['seconds']:.0f} s, {record['tokens'] / record['seconds']:,.0f} tokens a second."
    )


def _left_out(measured: Dynamics) -> str:
    if not measured.repeats:
        return ""
    steps = ", ".join(f"{step} (as {kept})" for step, kept in measured.repeats.items())
    return (
        f" **Checkpoints left out of `{measured.run.name}`, since their weights repeat those of "
        f"another step:** {steps}."
    )


def frequency_and_loss(r2: pd.Series, against: AgainstLoss) -> str:
    """When R^2 rises, and how far the loss has fallen by then.

    Args:
        r2: adjusted R^2 of frequency, indexed by step, mean over runs.
    """
    start, end = r2.index[0], r2.index[-1]
    said = (
        f"Adjusted $R^2$ is {r2.iloc[0]:.3f} at step {start} and {r2.iloc[-1]:.3f} at step "
        f"{end:,}. "
    )
    step = against.step_r2_half
    said += (
        f"It passes 0.5 at step {step:.0f}, {step / end:.1%} of the run. "
        if np.isfinite(step)
        else "It does not pass 0.5 in every run. "
    )
    if np.isfinite(against.loss_share):
        said += f"By then {against.loss_share:.0%} of the loss's whole fall has happened. "
    if np.isfinite(against.r2_at_quarter):
        said += (
            f"When a quarter of the loss's fall has happened, $R^2$ is {against.r2_at_quarter:.2f}."
        )
    return said


def rivals(halves: pd.DataFrame, over: Estimate, beyond: float, random: Estimate) -> str:
    """When frequency is half-way, beside its rivals and the random target.

    Args:
        halves: see `rivals.halfway_table`.
        over, beyond, random: see `early_frequency.over_rivals`, `over_rivals_beyond` and
            `random_over_frequency`.
    """
    said = (
        "Frequency, or every rival of it, cannot be read from the final $E$, so nothing is "
        "compared. "
    )
    if over.known:
        earliest = halves["step"].reindex(list(RIVALS)).idxmin()
        said = (
            f"Frequency is half-way at {over} times the step of the earliest rival, on average "
            f"over the runs {earliest}. "
        )
    if np.isfinite(beyond):
        said += f"With frequency taken out of the rivals first, it is {beyond:.2f} times. "
    if random.known:
        said += f"The random target is half-way at {random} times the step of frequency."
    return said


def function(kl_step: float, cka_step: float, over: Estimate, fall: Estimate) -> str:
    """When what the model does is half-way to what the final one does, and frequency beside it.

    Args:
        kl_step, cka_step: half-way steps of the divergence of predictions, and of the similarity
            of the states that the head reads.
        over, fall: see `early_frequency.over_function` and `loss_fall_at_halfway`.
    """
    said = (
        f"The divergence from the final predictions is half-way at step {kl_step:.0f}, the "
        f"similarity of what the head reads at step {cka_step:.0f}. "
    )
    if over.known and fall.known:
        said += (
            f"Frequency is half-way at {over} times the step of the divergence, and "
            f"{fall.value:.0%} ({fall.low:.0%} to {fall.high:.0%}) of the loss's fall is done by "
            "then."
        )
    return said


def controls(shuffled: float, ahead: Sequence[Ahead], parts: pd.Series) -> str:
    """What the controls show.

    Args:
        shuffled: the largest adjusted R^2 with shuffled counts.
        ahead: of each run.
        parts: half-way steps of the frequency part of E and of the rest.
    """
    training, straight = (np.mean([getattr(a, way) for a in ahead]) for way in WAYS)
    part, rest = parts
    return (
        f"With shuffled counts the largest adjusted $R^2$ at any checkpoint is {shuffled:.3f}. "
        f"The fit is half-way when $E$ has {training:.1%} of its distance left; on the straight "
        f"line it is so with {straight:.1%} left. Training is ahead of the line in "
        f"{sum(a.lead > 0 for a in ahead)} of {len(ahead)} run(s). Like with like, the frequency "
        f"part of $E$ is half-way at step {part:.0f} and the rest at step {rest:.0f}."
    )


WAYS = ("training", "straight")
"""The two ways to the end that `Ahead` compares."""


def unigram(phase: UnigramPhase, r2_log_a: pd.Series) -> str:
    """Whether there is a unigram phase, and what the fit of -log a at the start is worth.

    Args:
        r2_log_a: adjusted R^2 of -log a on E, indexed by step.
    """
    at_start = r2_log_a.iloc[0]
    said = (
        f"The predictions are nearest to the frequencies at step {phase.step}, at "
        f"{phase.lowest:.2f} nats, from {phase.start:.2f} at the start and {phase.end:.2f} at the "
        "end: "
    )
    said += (
        "the model passes through a phase in which it mostly predicts frequencies. "
        if phase.exists
        else "there is no phase that is clearly nearer to the frequencies than start and end. "
    )
    said += f"Adjusted $R^2$ of $-\\log a$ on $E$ is {at_start:.3f} at step {r2_log_a.index[0]}"
    if at_start <= 0.5:
        return said + "."
    return said + (
        ", before anything is learnt: linearity of $-\\log a$ alone proves no learning, that of "
        "$-\\log f$ does."
    )


def tokens(share_learnt: float, errors: pd.DataFrame) -> str:
    """How many tokens end near the truth, and how errors fall from the first step to the last.

    Args:
        errors: rms errors in nats, one row a class from the most to the least frequent, one column
            a step.
    """
    most, least = errors.iloc[0], errors.iloc[-1]
    return (
        f"{share_learnt:.0%} of the tokens end within one nat. From step {errors.columns[0]} to "
        f"step {errors.columns[-1]:,} the rms error falls from {most.iloc[0]:.2f} to "
        f"{most.iloc[-1]:.2f} nats in the most frequent fifth and from {least.iloc[0]:.2f} to "
        f"{least.iloc[-1]:.2f} in the least frequent."
    )
