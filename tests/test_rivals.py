"""Rivals of frequency: ceilings and targets are identities, and a planted order is found."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from probenc_support.dynamics import Frequencies, ceilings, early_frequency, properties, rivals
from probenc_support.dynamics.properties import FREQUENCY, RANDOM, SPACE, Property
from probenc_support.dynamics.rivals import Probe
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.regression import Design

STEPS = [0, 1, 2, 4, 8, 16, 32, 64]


# ----------------------------------------------------------------------------------------- ceilings


@given(st.integers(0, 20))
def test_ceiling_of_what_a_token_shows_is_that_of_the_best_such_guess(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, seen = rng.normal(size=(40, 2)), rng.random((3, 40)) < 0.5
    seen[0], seen[2] = False, True
    found = ceilings.of_seen_tokens(values, seen)
    assert found[0] == pytest.approx(0.0)
    assert found[2] == pytest.approx(1.0)
    guess = np.where(seen[1][:, None], values, values[~seen[1]].mean(0))
    residual = ((values - guess) ** 2).sum(0) / ((values - values.mean(0)) ** 2).sum(0)
    assert found[1] == pytest.approx(np.mean(1 - residual))
    worse = guess + 0.3 * ~seen[1][:, None]
    assert ((values - worse) ** 2).sum() > ((values - guess) ** 2).sum()


@pytest.mark.parametrize("seed", range(50))
def test_before_anything_was_read_nothing_is_known_to_the_last_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = 8.0 + 3.0 * rng.normal(size=int(rng.integers(50, 400)))
    assert ceilings.of_counts(y, np.zeros((1, len(y)), dtype=np.int64))[0] == 0.0
    assert ceilings.of_seen_tokens(y[:, None], np.zeros((1, len(y)), dtype=np.bool_))[0] == 0.0


def test_ceiling_of_counts_is_that_of_the_counts_noise() -> None:
    """Planted: many tokens with counts by Poisson's law; the best guess is the mean by count."""
    rng = np.random.default_rng(0)
    y = rng.normal(8, 1.5, size=20_000)
    n_read = [0, 3_000, 300_000, 300_000_000]
    counts = rng.poisson(np.exp(-y) * np.array(n_read)[:, None])
    found = ceilings.of_counts(y, counts)
    assert found[0] == pytest.approx(0.0)
    assert (np.diff(found) > 0).all()
    assert found[-1] > 0.999
    for row, ceiling in zip(counts[1:3], found[1:3], strict=True):
        sums, sizes = np.bincount(row, y), np.bincount(row)
        by_count = (sums / np.maximum(sizes, 1))[row]
        free = 1 - ((y - by_count) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        linear = np.corrcoef(np.log(row + 0.5), y)[0, 1] ** 2
        assert linear < ceiling <= free + 1e-9
        assert ceiling == pytest.approx(free, abs=0.01)


def test_counts_that_y_is_made_of_tell_it_wholly() -> None:
    counts = np.random.default_rng(0).integers(1, 50, size=300)
    assert ceilings.of_counts(-np.log(counts), counts[None])[0] == pytest.approx(1.0)


# --------------------------------------------------------------------------------------- properties


@given(st.floats(0.05, 1.0), st.integers(0, 5))
def test_random_targets_have_the_wanted_r2(r2: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    E = rng.normal(size=(200, 6)) * np.arange(1, 7) + 3
    Y = properties.random_targets(E, r2, n=4, seed=seed)
    assert Design.of(torch.from_numpy(E)).fit_many(Y).r2 == pytest.approx(np.full(4, r2), abs=1e-9)
    if r2 < 0.9:
        others = np.abs(np.corrcoef(Y.T) - np.eye(4))
        assert others.max() < 0.999, "no two are the same"


def test_what_the_text_of_a_token_shows() -> None:
    texts = [" a", "a", "\n\n", "é", "", "<0x41>"]
    assert properties.leading_space(texts).tolist() == [1, 0, 1, 0, 0, 0]
    assert properties.length_in_bytes(texts).tolist() == [2, 1, 2, 2, 0, 6]


def test_without_frequency_nothing_of_it_is_left() -> None:
    rng = np.random.default_rng(0)
    y, noise = rng.normal(size=100), rng.normal(size=(100, 2))
    left = properties.without(noise + np.outer(y, [3.0, -1.0]), y)
    assert y @ left == pytest.approx(np.zeros(2), abs=1e-9)
    assert left == pytest.approx(properties.without(noise, y))


# --------------------------------------------------------------------------------------------- race


def planted_run(n: int = 600, d: int = 6) -> tuple[Any, Frequencies, list[Property]]:
    """E in which frequency comes at step 8, a rival at step 32, and random noise fades evenly."""
    rng = np.random.default_rng(1)
    counts = np.round(np.exp(rng.normal(6, 1, size=n))).astype(np.int64) + 1
    known = Frequencies(counts, "planted", np.arange(n), 0)
    y = stats.zscore(known.y)
    rival = properties.without(rng.normal(size=(n, 1)), known.y)[:, 0]
    noise = rng.normal(size=(n, d))
    E = {}
    for step in STEPS:
        table = noise.copy()
        table[:, 0] += 30 * y * (step >= 8)
        table[:, 1] += 30 * rival * (step >= 32)
        E[step] = torch.from_numpy(table)
    run: Any = type("Run", (), {"steps": STEPS, "embedding": lambda _, s: E[s]})()
    flat = np.ones(len(STEPS))
    entered = [Property(FREQUENCY, known.y[:, None], flat), Property(SPACE, rival[:, None], flat)]
    return run, known, entered


def test_a_planted_order_is_found() -> None:
    run, known, entered = planted_run()
    probes = rivals.probe(run, known, entered, n_replicates=30)
    frequency, rival = probes
    assert 4 < frequency.halfway < 8 < 16 < rival.halfway < 32
    assert frequency.r2_adj[STEPS.index(4)] < 0.05 < 0.95 < frequency.r2_adj[-1]
    direct = Design.of(run.embedding(8)).fit_many(known.y).r2_adj[0]
    assert frequency.r2_adj[STEPS.index(8)] == pytest.approx(direct)
    assert np.isnan(frequency.beyond).all()
    assert rival.beyond == pytest.approx(rival.r2_adj, abs=1e-6)
    low, high = np.quantile(frequency.halfway_draws, [0.025, 0.975])
    assert low <= frequency.halfway <= high
    ratio = early_frequency.over_rivals([probes, probes])
    assert ratio.value == pytest.approx(frequency.halfway / rival.halfway)
    assert ratio.low <= ratio.value <= ratio.high < 0.5
    beyond = early_frequency.over_rivals_beyond([probes])
    assert beyond == pytest.approx(ratio.value, rel=1e-4)


def test_a_rival_that_comes_first_is_found_first() -> None:
    run, known, entered = planted_run()
    probes = rivals.probe(run, known, entered, n_replicates=5)
    swapped = [
        Probe(name, each.steps, each.r2_adj, each.beyond, each.ceiling, each.draws)
        for name, each in zip((SPACE, FREQUENCY), probes, strict=True)
    ]
    ratio = early_frequency.over_rivals([swapped])
    assert ratio.low > 2


def test_a_share_of_the_ceiling_moves_the_halfway_step() -> None:
    run, known, (frequency, rival) = planted_run()
    ceiling = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 1.0])
    probes = rivals.probe(
        run, known, [frequency, Property(SPACE, rival.values, ceiling)], n_replicates=2
    )
    assert probes[1].share[-1] == pytest.approx(probes[1].r2_adj[-1])
    assert probes[1].share[-2] == pytest.approx(2 * probes[1].r2_adj[-2])
    assert probes[1].share[0] == pytest.approx(probes[1].r2_adj[0] / rivals.LEAST_CEILING)
    assert probes[1].halfway < probes[1].halfway_plain


def test_what_was_not_learnt_is_no_rival() -> None:
    run, known, (frequency, _) = planted_run()
    nothing = np.random.default_rng(9).normal(size=(600, 1))
    probes = rivals.probe(
        run, known, [frequency, Property(SPACE, nothing, np.ones(len(STEPS)))], n_replicates=5
    )
    assert not probes[1].learnt
    assert not early_frequency.over_rivals([probes]).known
    assert np.isnan(early_frequency.over_rivals_beyond([probes]))
    table = rivals.halfway_table([probes])
    assert np.isnan(table.loc[SPACE, "step"])
    found = rivals.metrics(table)
    assert "halfway_share_leading_space" not in found
    assert found["halfway_share_frequency_low"] <= found["halfway_share_frequency"]


def test_drift_alone_does_not_let_frequency_win_over_random_targets() -> None:
    """A null run: E goes straight to its end, so a random target is read as early as frequency."""
    rng = np.random.default_rng(3)
    n, d = 800, 8
    counts = np.round(np.exp(rng.normal(6, 1, size=n))).astype(np.int64) + 1
    known = Frequencies(counts, "planted", np.arange(n), 0)
    first, last = rng.normal(size=(n, d)), rng.normal(size=(n, d))
    last[:, 0] = 2 * stats.zscore(known.y)
    E = {s: torch.from_numpy(first + s / 64 * (last - first)) for s in STEPS}
    run: Any = type("Run", (), {"steps": STEPS, "embedding": lambda _, s: E[s]})()
    flat = np.ones(len(STEPS))
    targets = properties.random_targets(last, 0.99)
    entered = [Property(FREQUENCY, known.y[:, None], flat), Property(RANDOM, targets, flat)]
    ratio = early_frequency.random_over_frequency(
        [rivals.probe(run, known, entered, n_replicates=20)]
    )
    assert 0.6 < ratio.value < 1.5


def test_properties_of_a_run_whose_text_is_not_known(tmp_path: Any) -> None:
    import tiny

    for step in (0, 1, 2):
        tiny.save(tmp_path / f"step{step}", seed=step)
    run = TrainingRun("lab", str(tmp_path), {s: f"step{s}" for s in (0, 1, 2)}, True)
    counts = np.arange(1, 321)
    known = Frequencies(counts, "made up", np.arange(5, 320), 0)
    found = properties.token_properties(run, known)
    names = [each.name for each in found]
    assert names == [FREQUENCY, SPACE, properties.BYTES, RANDOM]
    assert all((each.ceiling == 1).all() and len(each.values) == 315 for each in found)


def test_where_frequency_was_not_learnt_nothing_is_compared() -> None:
    def made_up(r2: list[float], loss: list[float]) -> Any:
        fields = {
            "r2_adj": np.array(r2), "steps": [0, 1, 2], "read_steps": [0, 1, 2],
            "behaviour": [1], "function": [1], "loss": np.array(loss), "fits": [],
        }  # fmt: skip
        return type("Found", (), fields)()

    draws = [np.ones(2)]
    nothing = made_up([0.0, 0.03, 0.05], [9.0, 8.0, 7.0])
    assert not early_frequency.over_function([nothing], draws, seed=0).known
    assert not early_frequency.loss_fall_at_halfway([nothing], draws, seed=0).known
    rising = made_up([0.0, 0.3, 0.9], [7.0, 8.0, 9.0])
    assert not early_frequency.loss_fall_at_halfway([rising], draws, seed=0).known
