"""Readings of a training text: what each keeps, exactly, and what it changes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rules import check_run_of_a_null_model
from stops import stopped_at

from probenc_support import models
from probenc_support.dynamics import cooccurrence
from probenc_support.errors import InputError
from probenc_support.experiments import texts_and_order
from probenc_support.models import checkpoints, readings, training, training_text
from probenc_support.models.recipes import Recipe
from probenc_support.models.training_text import Text
from probenc_support.notebook import texts_and_order_words
from probenc_support.runs import execute

TINY = Recipe("tiny", 2, 16, 2, 320, 32, 4, 24, 12, 1e-2)
OTHER = "python-manual"
SPLITS = ["aliases-flat", "aliases-0.5", "aliases-even"]
ORDERS = ["rare-first", "common-first"]

pytestmark = pytest.mark.usefixtures("module_cache")


@pytest.fixture(scope="module")
def text(text_file: Path) -> Text:
    return training_text.prepare(TINY, str(text_file))


def recipe(reading: str) -> Recipe:
    return replace(
        TINY, reading=f"{reading}:{OTHER}" if reading in ("other-half", "instead") else reading
    )


def read(text: Text, reading: str, seed: int = 0) -> NDArray[np.int64]:
    """[n, T] blocks in the order in which a run reads them."""
    own = recipe(reading)
    changed = readings.of(own, text, seed)
    return changed.train[readings.rows_of(own, changed, seed)]


# ------------------------------------------------------------------------------------- what stays


@pytest.mark.parametrize("reading", readings.READINGS)
def test_a_reading_depends_on_recipe_text_and_seed_alone(text: Text, reading: str) -> None:
    first = read(text, reading)
    assert first.shape == (TINY.steps * TINY.batch_size, TINY.sequence_length)
    assert (read(text, reading) == first).all()
    assert (read(text, reading, seed=1) != first).any()


@pytest.mark.parametrize("reading", [*ORDERS, "shuffled"])
def test_counts_at_the_end_are_those_of_the_control(text: Text, reading: str) -> None:
    own = recipe(reading)
    counts = readings.of(own, text, 3).counts(own, 3)
    assert (counts == text.counts(TINY, 3)).all()


@pytest.mark.parametrize("reading", SPLITS)
def test_aliases_map_back_to_the_text_exactly(text: Text, reading: str) -> None:
    own = recipe(reading)
    split = readings.split_of(own, text)
    blocks = read(text, reading)
    assert blocks.max() < own.ids == own.rows == 2 * TINY.vocabulary
    assert (split.parent[blocks] == read(text, "")).all()
    counts = readings.of(own, text, 0).counts(own, 0)
    assert len(counts) == own.ids
    assert (split.of_parents(counts) == text.counts(TINY, 0)).all()


@pytest.mark.parametrize("reading", ORDERS)
def test_orders_are_permutations_by_frequency(text: Text, reading: str) -> None:
    plan = readings.of(recipe(reading), text, 0).plan
    assert plan is not None
    assert sorted(plan) == sorted(readings.rows_of(TINY, text, 0))
    log_f = np.log(np.bincount(text.train.ravel(), minlength=TINY.vocabulary) + 1.0)
    means = log_f[text.train[plan]].mean(1)
    assert (np.diff(means) * (1 if reading == "rare-first" else -1) >= 0).all()


def test_the_seed_breaks_ties_of_an_order() -> None:
    same = np.zeros((128, 32), dtype=np.int64)
    blocks = Text("made up", "", None, same, frozenset())  # type: ignore[arg-type]
    for seed in (0, 1):
        plan = readings.of(recipe("rare-first"), blocks, seed).plan
        assert plan is not None
        assert (plan == readings.rows_of(TINY, blocks, seed)).all()


def test_halves_are_of_the_text_and_of_the_other(text: Text) -> None:
    blocks, whole = read(text, "other-half"), read(text, "")
    half = len(blocks) // 2
    assert readings.half_of(TINY) * TINY.batch_size == half
    assert (blocks[:half] == whole[:half]).all()
    other, sources = training_text.blocks_of(text, OTHER, half)
    assert sorted(map(bytes, blocks[half:])) == sorted(map(bytes, other))
    changed = readings.of(recipe("other-half"), text, 0)
    assert changed.sources == text.sources | sources
    assert sources - text.sources


def test_planted_tokens_are_never_read_and_nothing_else_changes(text: Text) -> None:
    for seed in (0, 1):
        kept_out = readings.planted(recipe("planted"), text, seed)
        there = np.flatnonzero(np.bincount(text.train.ravel()))
        assert len(kept_out) == len(there) // 10
        assert np.isin(kept_out, there).all()
        changed = readings.of(recipe("planted"), text, seed)
        was_out = np.isin(text.train, kept_out)
        assert not np.isin(changed.train, kept_out).any()
        assert (changed.train == text.train)[~was_out].all()
        assert (read(text, "planted", seed).shape) == read(text, "", seed).shape
    assert (kept_out != readings.planted(recipe("planted"), text, 0)).any()


def test_a_short_text_is_read_again_in_another_order(
    text: Text, text_file: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text(text_file.read_text(encoding="utf-8")[:1500][::-1], encoding="utf-8")
    own = replace(TINY, reading=f"instead:{short}")
    other, _ = training_text.blocks_of(text, str(short), 10**6, fewest=1)
    changed = readings.of(own, text, 0)
    assert changed.plan is not None
    blocks = list(map(bytes, changed.train[changed.plan]))
    assert len(blocks) == TINY.steps * TINY.batch_size > 2 * len(other) > 4
    first, second = blocks[: len(other)], blocks[len(other) : 2 * len(other)]
    assert sorted(first) == sorted(second) == sorted(map(bytes, other))
    assert first != second


def test_no_context_is_left_where_all_tokens_are_dealt_anew(text: Text) -> None:
    """A token and the next one are as often equal as two tokens drawn at random."""
    blocks, whole = read(text, "shuffled"), read(text, "")
    assert (np.sort(blocks.ravel()) == np.sort(whole.ravel())).all()
    shares = np.bincount(blocks.ravel()) / blocks.size
    chance, n = float((shares**2).sum()), blocks[:, 1:].size
    repeated = (blocks[:, 1:] == blocks[:, :-1]).mean()
    assert abs(repeated - chance) < 5 * np.sqrt(chance / n)


# ------------------------------------------------------------------------------------- the splits


counts_of_tokens = st.lists(st.integers(0, 10_000), min_size=2, max_size=60).map(np.array)


@settings(deadline=None, max_examples=60)
@given(counts_of_tokens, st.sampled_from(sorted(readings.POWERS.values())))
def test_the_bound_is_the_smallest_that_at_most_doubles(
    counts: NDArray[np.int64], power: float
) -> None:
    split = readings.split_by(counts, power)
    assert len(counts) <= split.n.sum() <= 2 * len(counts)
    exact = np.maximum(1, np.ceil(np.round((counts / split.up_to) ** (1 - power), 9)))
    assert (split.n == exact).all()
    assert (split.n[counts <= split.up_to] == 1).all()
    if split.up_to > 1:
        assert readings._numbers(counts, split.up_to - 1, power).sum() > 2 * len(counts)
    if power == 0:
        assert (counts <= split.up_to * split.n).all(), "no alias is expected above the bound"


def test_flat_and_half_spread_frequencies_less_and_even_spreads_them_as_before(text: Text) -> None:
    def spread(reading: str) -> float:
        """Over the counts that the lot would give on average, of tokens that occur twice."""
        counts = np.bincount(text.train.ravel(), minlength=TINY.vocabulary)
        n = np.ones_like(counts) if not reading else readings.split_of(recipe(reading), text).n
        kept = counts > 1
        return float(np.repeat(np.log(counts[kept] / n[kept]), n[kept]).std())

    flat, half, even = map(spread, SPLITS)
    assert flat < half < even
    assert even == pytest.approx(spread(""))


def test_every_alias_is_equally_likely() -> None:
    split = readings.Split(np.array([1, 3, 2, 4]), 0)
    assert split.parent.tolist() == [0, 1, 2, 3, 1, 1, 2, 3, 3, 3]
    tokens = np.repeat(np.arange(4), 12_000)
    counts = np.bincount(split.aliases(tokens, 0), minlength=10)
    expected = 12_000 / split.n[split.parent]
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    assert counts[0] == 12_000


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("reading", ["aliases-odd", "shuffle", "other-half", "shuffled:x"])
def test_an_unknown_reading_is_refused(text: Text, reading: str) -> None:
    with pytest.raises(InputError, match="name one of aliases-flat"):
        readings.of(replace(TINY, reading=reading), text, 0)


def test_aliases_beside_a_mask_token_are_refused(text: Text) -> None:
    masked = replace(TINY, architecture="modernbert", objective="masked", reading="aliases-even")
    with pytest.raises(InputError, match="has a mask token"):
        readings.of(masked, text, 0)


def test_another_text_that_is_too_short_is_refused(text: Text, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Too short.\n\n" * 3, encoding="utf-8")
    short = replace(TINY, reading=f"other-half:{tmp_path / 'short.txt'}")
    with pytest.raises(InputError, match=r"short\.txt has .* name a longer one") as refused:
        readings.of(short, text, 0)
    assert str(tmp_path) not in str(refused.value)


def test_earlier_models_keep_their_place() -> None:
    assert "reading" not in TINY.settings
    assert recipe("shuffled").settings["reading"] == "shuffled"


# ---------------------------------------------------------------------------------- trained on them


def test_a_run_that_was_stopped_reads_on_as_if_it_had_not_been(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(recipe("other-half"), early=False, every=6)
    options: dict[str, Any] = {"corpus": str(text_file), "device": "cpu", "progress": False}
    whole = training.train(own, folder=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        stopped_at(patch, 20)
        with pytest.raises(KeyboardInterrupt):
            training.train(own, folder=tmp_path / "stopped", **options)
    again = training.train(own, folder=tmp_path / "stopped", **options)
    losses = [json.loads((path / "training.json").read_text())["losses"] for path in (whole, again)]
    assert losses[0] == losses[1]


def test_what_a_run_records_is_what_it_read(text: Text, text_file: Path, tmp_path: Path) -> None:
    own = replace(recipe("aliases-flat"), steps=8, dense=8)
    folder = training.train(
        own, folder=tmp_path / "run", corpus=str(text_file), device="cpu", progress=False
    )
    run = checkpoints.training_run(str(folder))
    assert run.embedding(8).shape == (own.ids, own.d)
    own_text = training_text.prepare(own, str(text_file))
    blocks = readings.of(own, own_text, 0).train[readings.rows_of(own, own_text, 0)]
    (as_read,) = cooccurrence.texts_read([run])
    assert as_read is not None
    assert (as_read.blocks == blocks).all()
    counts = np.load(folder / "token_counts_by_checkpoint.npy")
    assert (counts[-1] == np.bincount(blocks.ravel(), minlength=own.ids)).all()
    lm = models.load(str(folder), revision="step8", device="cpu", probe=False)
    assert len(lm.tokens) <= TINY.vocabulary, "aliases are no tokens of the tokenizer"


# -------------------------------------------------------------------------------------- measures


@pytest.fixture(scope="module")
def comparison(text_file: Path, module_cache: None) -> texts_and_order.Comparison:
    return texts_and_order.compare(
        replace(TINY, steps=16), [], [0], corpus=str(text_file), other=OTHER, device="cpu"
    )


def test_planted_counts_are_found(
    comparison: texts_and_order.Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E that holds the counts of the whole token, or of one of two texts, and nothing else."""
    flat, control = (comparison.arms[name][0] for name in (texts_and_order.FLAT, "control"))
    split = readings.split_of(flat.recipe, flat.text)
    whole = np.log(split.of_parents(flat.counts[-1]) + 0.5)
    E = torch.randn(flat.recipe.ids, TINY.d, generator=torch.Generator().manual_seed(0))
    planted = E.clone()
    planted[: len(split.parent), 0] = torch.from_numpy(whole[split.parent]).float()
    monkeypatch.setattr(checkpoints.TrainingRun, "embedding", lambda run, step: planted)
    found = texts_and_order.of_parents(flat, control)
    assert found is not None
    assert found.split > 0.99
    assert found.ratio == pytest.approx(1.0, abs=0.01)

    both = comparison.arms["other-half"][0]
    text = readings.of(both.recipe, both.text, 0)
    first = text.counts(both.recipe, 0, readings.half_of(both.recipe))
    planted = E.clone()
    planted[: len(first), 0] = torch.from_numpy(np.log(both.counts[-1] - first + 1e-9)).float()
    monkeypatch.setattr(checkpoints.TrainingRun, "embedding", lambda run, step: planted)
    halves = texts_and_order.of_two_texts(both, both)
    assert halves is not None
    assert halves.second > 0.99
    assert halves.second > halves.so_far > halves.first
    monkeypatch.setattr(checkpoints.TrainingRun, "embedding", lambda run, step: E)
    nothing = texts_and_order.of_two_texts(both, both)
    assert nothing is not None
    assert abs(nothing.second_beyond) < 0.2


def test_the_table_of_arms_shows_intervals_where_there_are_any(
    comparison: texts_and_order.Comparison,
) -> None:
    by_arm = comparison.by_arm()
    shown = texts_and_order_words.table(by_arm)
    assert list(shown["arm"]) == list(texts_and_order.ARMS)
    assert shown["R² at the end"].iloc[0] == f"{by_arm['r2'].iloc[0]:.3f}"
    by_arm[["r2_low", "r2_high"]] = [0.1, 0.9]
    shown = texts_and_order_words.table(by_arm)
    assert shown["R² at the end"].iloc[0].endswith("(0.100 to 0.900)")
    assert "the claim is not judged" in texts_and_order_words.runs(comparison)


def test_an_unknown_arm_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(InputError, match="There is no arm 'sorted'; name one of control"):
        texts_and_order.compare(TINY, ["shuffled", "sorted"], [0], corpus="no such corpus")


def test_notebook_end_to_end(text_file: Path, tmp_path: Path, warm_kernels: None) -> None:
    page = execute.run(
        "08",
        model="pythia-nano-64",
        results_dir=tmp_path / "out",
        parameters={
            "training_corpus": str(text_file),
            "eval_corpus": OTHER,
            "steps": 12,
            "n_seeds": 1,
        },
    )
    metrics = json.loads(page.with_name("08_texts_and_order.metrics.json").read_text())
    check_run_of_a_null_model("08_texts_and_order", metrics)
    assert metrics["n_seeds"] == 1
    assert metrics["r2_final_control"] > 0.3 > metrics["r2_step0_largest"]
    assert "r2_final_control_low" not in metrics, "one seed gives no interval"
    for name in ("by_arm", "by_step"):
        assert page.with_name(f"08_texts_and_order.{name}.parquet").is_file()
    assert str(tmp_path) not in page.read_text(encoding="utf-8")
