"""What the page on training dynamics says follows its numbers."""

import math

import pandas as pd

from probenc_support.dynamics import Ahead, Estimate, UnigramPhase
from probenc_support.dynamics.early_frequency import AgainstLoss
from probenc_support.notebook import training_words

R2 = pd.Series([0.0, 0.6, 0.9], index=[0, 50, 1000])


def test_what_was_not_measured_is_not_said() -> None:
    whole = training_words.frequency_and_loss(R2, AgainstLoss(50.0, 0.4, 0.3))
    assert "It passes 0.5 at step 50, 5.0% of the run. By then 40%" in whole
    assert whole.endswith("$R^2$ is 0.30.")
    low = training_words.frequency_and_loss(R2, AgainstLoss(math.nan, math.nan, 0.3))
    assert "It does not pass 0.5 in every run." in low
    assert "By then" not in low
    deaf = training_words.frequency_and_loss(R2, AgainstLoss(50.0, math.nan, math.nan))
    assert "loss" not in deaf


def test_the_earliest_rival_is_named() -> None:
    halves = pd.DataFrame({"step": {"frequency": 1.0, "leading space": 9.0, "co-occurrence": 4.0}})
    known, unknown = Estimate(0.25, 0.2, 0.3), Estimate.unknown()
    said = training_words.rivals(halves, known, 0.1, known)
    assert "0.25 (0.20 to 0.30) times the step of the earliest rival" in said
    assert "over the runs co-occurrence." in said
    assert "it is 0.10 times" in said
    nothing = training_words.rivals(halves, unknown, math.nan, unknown)
    assert nothing.startswith("Frequency, or every rival of it, cannot be read")
    assert "random" not in nothing


def test_the_function_is_compared_where_frequency_was_learnt() -> None:
    known = Estimate(0.5, 0.4, 0.6)
    assert "50% (40% to 60%) of the loss" in training_words.function(30, 90, known, known)
    said = training_words.function(30, 90, Estimate.unknown(), known)
    assert said.strip().endswith("reads at step 90.")


def test_runs_ahead_of_their_lines_are_counted() -> None:
    ahead = [Ahead(0.9, 0.8), Ahead(0.7, 0.75)]
    said = training_words.controls(0.012, ahead, pd.Series([200.0, 400.0]))
    assert "is 0.012" in said
    assert "80.0% of its distance left; on the straight line it is so with 77.5% left" in said
    assert "ahead of the line in 1 of 2 run(s)" in said
    assert "at step 200 and the rest at step 400" in said


def test_a_phase_and_a_fit_of_nothing_learnt_are_said_where_they_are() -> None:
    linear, curved = (pd.Series([start, 0.9], index=[0, 8]) for start in (0.99, 0.2))
    phase = UnigramPhase(start=2.0, end=1.5, lowest=0.3, step=4, inside=True)
    said = training_words.unigram(phase, linear)
    assert "at step 4, at 0.30 nats, from 2.00 at the start and 1.50 at the end" in said
    assert "passes through a phase" in said
    assert "proves no learning" in said
    none = training_words.unigram(UnigramPhase(2.0, 0.1, 0.1, 8, False), curved)
    assert "there is no phase" in none
    assert none.endswith("0.200 at step 0.")


def test_errors_are_those_of_the_first_and_last_step() -> None:
    errors = pd.DataFrame([[2.0, 1.0, 0.5], [1.6, 1.0, 0.4]], index=[1, 5], columns=[0, 8, 64])
    said = training_words.tokens(0.98, errors)
    assert said.startswith("98% of the tokens end within one nat. From step 0 to step 64")
    assert "from 2.00 to 0.50 nats in the most frequent" in said
    assert "from 1.60 to 0.40 in the least" in said
