"""Experiments: outcomes of arms, by planted curves and heads, and the notebook on a short run."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probenc_support import experiments
from probenc_support.claims.rule_book import CLAIMS
from probenc_support.dynamics import Estimate
from probenc_support.head import Head
from probenc_support.models import checkpoints, interventions, training, training_text
from probenc_support.models.recipes import Recipe
from probenc_support.notebook import experiment_figures, results
from probenc_support.runs import execute

TINY = Recipe("tiny", 2, 16, 2, 320, 32, 4, 12, 3, 1e-2, architecture="gptj", early=False)

pytestmark = pytest.mark.usefixtures("module_cache")


@pytest.fixture(scope="module")
def run(text_file: Path) -> checkpoints.TrainingRun:
    folder = training.trained(TINY, corpus=str(text_file), device="cpu")
    return checkpoints.training_run(str(folder))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------- context gain


def test_gain_by_step_is_the_unigram_loss_less_the_loss(
    run: checkpoints.TrainingRun, text_file: Path
) -> None:
    """Against a loop over the blocks that each step reads."""
    text = training_text.prepare(TINY, str(text_file))
    log_f = interventions.log_frequency(text.counts(TINY, 0)).numpy()
    losses = training.record(Path(run.source))["losses"]
    gains = experiments.gain_by_step(run)
    for step in (0, 5, 11):
        blocks = [text.train[row] for row in text.order(TINY, 0, step)]
        each = [-log_f[token] for block in blocks for token in block[1:]]
        assert gains[step] == pytest.approx(np.mean(each) - losses[step], abs=1e-9)


def test_frequencies_of_a_run_are_those_of_its_interventions(
    run: checkpoints.TrainingRun, text_file: Path
) -> None:
    text = training_text.prepare(TINY, str(text_file))
    wanted = interventions.log_frequency(text.counts(TINY, 0))
    torch.testing.assert_close(experiments.log_frequency(run), wanted)


@given(st.floats(0.5, 30.0), st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_steps_to_a_level_of_a_straight_line(slope: float, window: int) -> None:
    """The mean of a line's last values is its value half a window before."""
    gain = slope * np.arange(1, 101)
    found = experiments.steps_to(gain, 50 * slope, window=window)
    assert found == pytest.approx(50 + (window - 1) / 2)


def test_what_is_never_reached_has_no_step() -> None:
    assert math.isnan(experiments.steps_to(np.zeros(40), 1.0))
    assert experiments.steps_to(np.full(5, 2.0), 1.0, window=16) == 5


def test_calibration_gives_the_frequencies() -> None:
    head = Head(random(50, 8), random(50, seed=1))
    h = 2.0 * random(400, 8, seed=2)
    log_f = torch.log_softmax(2.0 * random(50, seed=3).double(), dim=0)
    given_f = experiments.calibrated(head, h, log_f, rounds=300)
    torch.testing.assert_close(given_f.log_mean_p(h), log_f, rtol=0, atol=1e-5)


def test_calibration_comes_nearer_in_every_round() -> None:
    head, h = Head(random(50, 8)), 2.0 * random(400, 8, seed=2)
    log_f = torch.log_softmax(2.0 * random(50, seed=3).double(), dim=0)

    def divergence(rounds: int) -> float:
        log_a = experiments.calibrated(head, h, log_f, rounds=rounds).log_mean_p(h)
        return float((log_f.exp() * (log_f - log_a)).sum())

    found = [divergence(rounds) for rounds in range(13)]
    assert all(after < before for before, after in itertools.pairwise(found))
    assert found[0] > 1
    assert found[-1] < 1e-3


def test_a_head_bias_changes_nothing_once_frequencies_are_given() -> None:
    """The gain with the frequencies given does not depend on how much a head knew of them."""
    E, h = random(50, 8), random(300, 8, seed=2)
    log_f = torch.log_softmax(random(50, seed=3).double(), dim=0)
    targets = torch.randint(50, (300,), generator=torch.Generator().manual_seed(4))
    heads = (Head(E), Head(E, log_f.float()), Head(E, 2.0 * random(50, seed=5)))
    gains = []
    for head in heads:
        given_f = experiments.calibrated(head, h, log_f, rounds=400)
        gains.append(experiments.gain_given_frequency(given_f, h, targets, log_f))
    for other in gains[1:]:
        torch.testing.assert_close(other, gains[0], rtol=0, atol=1e-4)


def test_who_makes_nothing_of_the_context_gains_nothing() -> None:
    log_f = torch.log_softmax(random(50, seed=3).double(), dim=0)
    h, targets = random(1, 8).expand(100, 8), torch.arange(100) % 50
    gain = experiments.gain_given_frequency(Head(random(50, 8)), h, targets, log_f)
    torch.testing.assert_close(gain, torch.zeros(100).double(), rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------- routes


def test_each_route_is_found_where_it_was_planted() -> None:
    V, d, n = 400, 8, 600
    log_f = torch.log_softmax(random(V, seed=3).double(), dim=0)
    y = ((log_f - log_f.mean()) / log_f.std()).float()
    noise, h = random(V, d), random(n, d, seed=1)
    h[:, 0] += 3.0
    plain = experiments.r2_by_route(Head(noise), h, log_f)
    assert max(plain.values()) < 0.05
    assert plain["bias"] == 0.0

    by_bias = experiments.r2_by_route(Head(0.1 * noise, log_f.float()), h, log_f)
    assert by_bias["bias"] == pytest.approx(1.0)
    assert by_bias["average"] > 0.9 > by_bias["E"]

    along = torch.cat([2 * y[:, None], noise[:, 1:]], dim=1)
    by_mean = experiments.r2_by_route(Head(along), h, log_f)
    assert by_mean["E"] > 0.99
    assert by_mean["mean h"] > 0.9

    longer = noise / noise.norm(dim=1, keepdim=True) * (1.0 + 0.2 * y)[:, None].clamp(min=0.1)
    by_length = experiments.r2_by_route(Head(longer), h, log_f)
    assert by_length["length"] > 0.9 > 0.1 > by_length["E"]


# -------------------------------------------------------------------------------------- seeds


def test_interval_over_seeds_is_students() -> None:
    values = [3.0, 4.0, 8.0]
    found = experiments.mean(values)
    low, high = stats.t.interval(0.95, 2, loc=5.0, scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((5.0, low, high))


def test_one_seed_has_no_interval_and_says_so() -> None:
    found = experiments.mean([3.0])
    assert found.known
    assert math.isnan(found.low)
    assert str(found) == "3.00"
    assert str(experiments.mean([3.0, math.nan])) == "–"
    assert not experiments.mean([]).known
    assert str(Estimate(1.0, 0.5, 2.0)) == "1.00 (0.50 to 2.00)"


def test_ratio_turns_over() -> None:
    one, other = [3.0, 4.0, 8.0], [1.0, 5.0, 6.0]
    found, turned = experiments.ratio(one, other), experiments.ratio(other, one)
    assert found.value == pytest.approx(np.exp(np.mean(np.log(np.divide(one, other)))))
    assert (1 / turned.value, 1 / turned.high) == pytest.approx((found.value, found.low))
    assert not experiments.ratio([1.0, math.nan], [1.0, 1.0]).known
    assert not experiments.ratio([1.0, -1.0], [1.0, 1.0]).known


# ----------------------------------------------------------------------------------- measures


def test_cosines_end_at_one(run: checkpoints.TrainingRun) -> None:
    found = experiments.cosines(run)
    assert found["step"].tolist() == run.steps
    assert {"output embedding", "input embedding", "layer 1", "layer 2"} <= set(found)
    rest = found.drop(columns="step").iloc[-1]
    assert rest.to_numpy() == pytest.approx(1.0)


def test_halves_are_of_each_arm_and_seed() -> None:
    steps = np.arange(5)
    tables = [
        pd.DataFrame({"arm": arm, "seed": 0, "step": steps, "x": np.expm1(steps * 0) + curve})
        for arm, curve in {"early": np.minimum(steps, 1), "late": steps == 4}.items()
    ]
    found = experiments.halves(pd.concat(tables), ["x"])["x"]
    assert found["early", 0] < 1 < 3 < found["late", 0] < 4


def test_smoothed_curves_are_means() -> None:
    curve = np.arange(10.0)
    table = experiment_figures.smoothed({"arm": [curve]}, window=4)
    assert table["step"].tolist() == [4, 6, 8, 10]
    assert table["gain"].tolist() == [curve[step - 4 : step].mean() for step in table["step"]]


# ----------------------------------------------------------------------------------- notebook


def test_notebook_on_a_short_run(text_file: Path, tmp_path: Path, warm_kernels: None) -> None:
    page = execute.run(
        "07",
        model="nano-gptj",
        results_dir=tmp_path / "out",
        parameters={"corpus": str(text_file), "n_positions": 512, "steps": 6, "n_seeds": 1},
    )
    found: dict[str, Any] = dict(results.load_metrics(page.parent, "07_early_frequency"))
    assert found["n_seeds"] == 1
    assert found["last_step"] == 6
    assert found["r2_blocked_most"] < 1e-6
    assert found["r2_blocked_length_most"] < 1e-3
    assert found["r2_control_final"] > 0.1
    assert found["loss_final_blocked_less_control"] > 0
    for name in ("by_step", "cosines", "halfway", "steps_to_one_nat"):
        assert len(pd.read_parquet(page.with_name(f"07_early_frequency.{name}.parquet")))


def test_metrics_of_the_rule_are_left_by_the_notebook() -> None:
    """A short run never gains a nat, so that its ratios are left out."""
    root = Path(__file__).resolve().parents[1]
    text = (root / "notebooks" / "07_early_frequency.ipynb").read_text(encoding="utf-8")
    made = {
        f"{stem}_{one}_over_{other}"
        for stem in ("steps_gain", "steps_given", "halfway_states")
        for one, other in (("blocked", "control"), ("blocked", "rescued"), ("placebo", "bias"))
        if f'(\\"{one}\\", \\"{other}\\")' in text
    }
    for claim in CLAIMS:
        for one in claim.measured:
            if one.notebook == "07_early_frequency":
                assert one.metric in made or f"{one.metric}=" in text, one.metric
