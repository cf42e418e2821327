"""Dynamics over checkpoints: identities, planted solutions, and controls that must fail."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats
from test_training import TINY

from probenc_support import corpora, dynamics, inference
from probenc_support.dynamics import (
    BODY,
    EMBEDDING,
    FREQUENCY,
    KL,
    LOSS,
    WHOLE,
    Frequencies,
    behaviour,
    convergence,
    early_frequency,
    tables,
)
from probenc_support.dynamics.predictions import Predictions, positions
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models import (
    checkpoints,
    loading,
    runtime,
    training,
    training_text,
    weights,
)
from probenc_support.models import hub as hub_files
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.notebook import results
from probenc_support.regression import Design
from probenc_support.runs import execute

RECIPE = replace(TINY, vocabulary=1024, steps=60, dropout=0.0)
"""So many tokens that chance explains little: adjusted R^2 at step 0 is off zero by a hundredth."""
STEPS = [0, 1, 2, 4, 8]
SHARES = [0.0, 0.1, 0.25, 0.7, 1.0]
"""How far along the straight line the made-up run is at each of its steps."""


pytestmark = pytest.mark.usefixtures("module_cache")


@pytest.fixture(scope="module")
def trained(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that really was trained, for 60 steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny-run"
    return training.train(
        RECIPE, folder=folder, corpus=str(text_file), device="cpu", progress=False
    )


def straight(folder: Path, style: str = "untied") -> TrainingRun:
    """A run laid out by revisions whose weights go straight from one random model to another."""
    model, first, last = (tiny.model(style, seed=seed) for seed in (0, 0, 1))
    ends = list(zip(first.state_dict().items(), last.state_dict().values(), strict=True))
    for step, share in zip(STEPS, SHARES, strict=True):
        model.load_state_dict({name: a + share * (b - a) for (name, a), b in ends})
        with runtime.quiet():
            model.save_pretrained(folder / f"step{step}")
        tiny.tokenizer().save_pretrained(folder / f"step{step}")
    return checkpoints.training_run(str(folder))


def planted(n: int = 400, d: int = 8, *, noise: float = 0.0, unseen: int = 25) -> Any:
    """E [n, d] and counts that are log-linear in it, with some tokens that never occur."""
    rng = np.random.default_rng(0)
    E = rng.normal(size=(n, d))
    y = 12 + E @ rng.normal(size=d) + noise * rng.normal(size=n)
    counts = np.round(np.exp(25 - y)).astype(np.int64)
    counts[rng.choice(n, unseen, replace=False)] = 0
    seen = np.flatnonzero(counts)
    return torch.from_numpy(E), Frequencies(counts, "planted", seen, n - len(seen))


# ------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("style", tiny.STYLES)
def test_embedding_is_the_models(style: str, tmp_path: Path) -> None:
    model = tiny.model(style)
    model.save_pretrained(tmp_path)
    names = weights.head_names(tmp_path)
    with (tmp_path / "model.safetensors").open("rb") as stream:
        E = checkpoints.read_tensor(stream, names.known)
    assert E is not None
    assert torch.equal(E, model.get_output_embeddings().weight)
    if not model.config.tie_word_embeddings:
        assert not torch.equal(E, model.get_input_embeddings().weight)


def test_embedding_costs_its_own_bytes(tmp_path: Path) -> None:
    E = torch.randn(40, 4, dtype=torch.float64).to(torch.bfloat16)
    body = {f"layers.{i}.weight": torch.zeros(10_000) for i in range(8)}
    save_file({"lm_head.weight": E, "wte.weight": E + 1, **body}, tmp_path / "m.safetensors")

    class Counting:
        read_bytes = 0

        def __init__(self) -> None:
            self.stream = (tmp_path / "m.safetensors").open("rb")
            self.seek = self.stream.seek

        def read(self, n: int) -> bytes:
            self.read_bytes += n
            return self.stream.read(n)

    stream: Any = Counting()
    found = checkpoints.read_tensor(stream, ["lm_head.weight"])
    stream.stream.close()
    assert found is not None
    assert torch.equal(found, E)
    assert stream.read_bytes < 2000 < 320_000 < (tmp_path / "m.safetensors").stat().st_size


def test_a_shard_without_embedding_holds_none(tmp_path: Path) -> None:
    save_file({"layers.0.weight": torch.zeros(3)}, tmp_path / "m.safetensors")
    with (tmp_path / "m.safetensors").open("rb") as stream:
        assert checkpoints.read_tensor(stream, ["lm_head.weight"]) is None


def test_pickles_are_read_where_there_is_nothing_else(tmp_path: Path) -> None:
    run = straight(tmp_path / "run")
    E, folder = run.embedding(4), tmp_path / "run" / "step4"
    state = tiny.model("untied").state_dict() | {"embed_out.weight": E}
    state.pop("lm_head.weight", None)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert torch.equal(run.embedding(4), E)
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    with pytest.raises(InputError, match="damaged or incomplete"):
        run.embedding(4)


def test_steps_are_chosen(tmp_path: Path) -> None:
    run = TrainingRun("long", "x", {n: f"step{n}" for n in range(0, 143_001, 1000)}, True)
    chosen = checkpoints.choose_steps(run, "auto")
    assert 10 < len(chosen.steps) <= 24
    assert (chosen.steps[0], chosen.steps[-1]) == (0, 143_000)
    assert np.diff(np.diff(chosen.steps)).min() >= 0
    assert checkpoints.choose_steps(run, "all").steps == run.steps
    either_side = {2**k + side for k in range(1, 23) for side in (-2, 0)}  # as near to 2^k - 1
    steps = [*sorted(either_side), 2**23 - 1]
    run_of_ties = TrainingRun("ties", "x", {n: f"step{n}" for n in steps}, True)
    chosen = checkpoints.choose_steps(run_of_ties, "auto")
    assert chosen.steps == [*(2**k - 2 for k in range(1, 23)), 2**23 - 1]
    assert checkpoints.choose_steps(run, "0, 5000,143000").steps == [0, 5000, 143_000]
    for wanted, message in (("0,1", "no checkpoint at step 1"), ("few", "give auto, all")):
        with pytest.raises(InputError, match=message):
            checkpoints.choose_steps(run, wanted)
    with pytest.raises(InputError, match="three checkpoints"):
        checkpoints.choose_steps(run, "0,1000")


def test_models_without_checkpoints_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(InputError, match="0 checkpoints named step<n>"):
        checkpoints.training_run(str(tiny_folder))
    with pytest.raises(InputError, match="smollm2-135m-instruct has 0 checkpoints"):
        checkpoints.training_run("smollm2-135m-instruct")
    with pytest.raises(InputError, match="The hub cannot be reached, so the checkpoints"):
        checkpoints.training_run("pythia-70m")
    with pytest.raises(InputError, match="leave it empty"):
        checkpoints.training_run(str(tiny_folder), revision="step4")
    with pytest.raises(InputError, match="Unknown model"):
        checkpoints.training_run("pythia-giga")


def test_seeds_are_those_that_there_are(tiny_folder: Path) -> None:
    assert checkpoints.seeds("pythia-nano", 3, 2) == [3, 4]
    assert checkpoints.seeds("pythia-70m", 0, 3) == [0]
    assert checkpoints.seeds(str(tiny_folder), 0, 3) == [0]


def test_runs_of_several_seeds_with_the_checkpoints_that_are_wanted(trained: Path) -> None:
    runs = checkpoints.training_runs(str(trained), "0,4,60", n_seeds=3)
    assert [run.steps for run in runs] == [[0, 4, 60]], "one run, whatever number is asked for"
    record = checkpoints.record(runs[0])
    speed = checkpoints.training_speed(runs)
    assert speed["training_seconds"] == pytest.approx(record["seconds"])
    product = speed["training_tokens_per_second"] * record["seconds"]
    assert product == pytest.approx(record["tokens"])
    elsewhere = replace(runs[0], source="elsewhere")
    assert checkpoints.training_speed([*runs, elsewhere]) == {}


def test_the_first_token_is_tried_out_at_no_checkpoint_unless_asked(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(loading, "probe_first_token", tried.append)
    run = checkpoints.training_run(str(trained))
    lm = run.load(60, device="cpu", probe=False)
    assert not tried
    assert torch.equal(run.load(60, device="cpu").E, lm.E)
    assert len(tried) == 1


# ------------------------------------------------------------------------------------- frequencies


def test_planted_frequencies_are_found() -> None:
    E, known = planted()
    fit = dynamics.fit_frequency(E, known)
    assert fit.fit.r2_adj > 0.999
    assert fit.spearman > 0.999
    assert abs(fit.r2_adj_shuffled.mean()) < 0.02
    assert fit.r2_adj_shuffled.max() < 0.1
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=E.shape))
    control = dynamics.fit_frequency(noise, known)
    assert abs(control.fit.r2_adj) < 0.05
    assert abs(control.spearman) < 0.15


def test_tokens_never_seen_take_no_part() -> None:
    E, known = planted(noise=0.5)
    fit = dynamics.fit_frequency(E, known)
    assert known.n_unseen == 25
    assert np.isfinite(known.y).all()
    E[known.counts == 0] = 1e6
    assert np.array_equal(dynamics.fit_frequency(E, known).fit.slopes, fit.fit.slopes)
    E[known.tokens[0]] = 1e6
    assert not np.allclose(dynamics.fit_frequency(E, known).fit.slopes, fit.fit.slopes)


def test_smoothed_unigram_is_a_distribution() -> None:
    _, known = planted()
    assert np.exp(known.log_unigram).sum() == pytest.approx(1.0)
    ids = torch.arange(10).reshape(2, 5)
    direct = -np.mean([known.log_unigram[i] for i in (1, 2, 3, 4, 6, 7, 8, 9)])
    assert dynamics.unigram_loss(ids, known.log_unigram) == pytest.approx(direct)


def test_bootstrap_of_r2_is_centred_and_as_wide_as_a_full_one() -> None:
    E, known = planted(noise=1.0)
    fit = dynamics.fit_frequency(E, known)
    draws = dynamics.bootstrap_r2_adj([fit, fit], known.y, n_replicates=300)
    assert np.array_equal(draws[:, 0], draws[:, 1])
    rng = np.random.default_rng(5)
    n = len(known.tokens)
    refitted = []
    for _ in range(300):
        rows = rng.integers(n, size=n)
        x, y = E[known.tokens][rows].numpy(), known.y[rows]
        refitted.append(Design.of(x).fit(y).r2_adj)
    assert draws[:, 0].mean() == pytest.approx(fit.fit.r2_adj, abs=0.01)
    assert draws[:, 0].std() == pytest.approx(np.std(refitted), rel=0.25)


def test_counts_are_read_and_padded(tmp_path: Path) -> None:
    path = tmp_path / "counts.npy"
    np.save(path, np.array([3.0, 0.0, 5.0]))
    assert dynamics.read_counts(path, 5).tolist() == [3, 0, 5, 0, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.ones((2, 2)), "one count for each token id"),
        (np.array([1.0, -2.0]), "no counts"),
        (np.array([1.0, np.nan]), "no counts"),
        (np.array([1.5]), "no counts"),
        (np.array(["a"]), "one count for each token id"),
        (np.arange(400), "another tokenizer"),
    ],
)
def test_tables_that_are_no_counts_are_refused(tmp_path: Path, table: Any, message: str) -> None:
    np.save(tmp_path / "counts.npy", table)
    with pytest.raises(InputError, match=message):
        dynamics.read_counts(tmp_path / "counts.npy", 320)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "counts.npy").write_text("no table")
    with pytest.raises(InputError, match="no table of counts that NumPy can read"):
        dynamics.read_counts(tmp_path / "counts.npy", 320)
    with pytest.raises(InputError, match="There is no table of counts"):
        dynamics.read_counts(tmp_path / "missing.npy", 320)


def test_text_so_far_is_a_ceiling_that_reaches_one(trained: Path) -> None:
    run = checkpoints.training_run(str(trained))
    known = dynamics.frequencies(run, n_rows=RECIPE.vocabulary, tokens=range(RECIPE.vocabulary))
    ceiling = dynamics.r2_of_text_so_far(run, known)
    assert ceiling is not None
    assert ceiling[0] == 0.0
    assert (np.diff(ceiling) > 0).all()
    assert ceiling[-1] == pytest.approx(1.0)
    assert dynamics.r2_of_text_so_far(replace(run, source="elsewhere"), known) is None


# -------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("style", tiny.STYLES)
def test_every_parameter_has_a_group(style: str, tmp_path: Path) -> None:
    model = tiny.model(style)
    tied = bool(model.config.tie_word_embeddings)
    names = [name for name, _ in model.named_parameters()]
    model.save_pretrained(tmp_path)
    known = weights.head_names(tmp_path)
    groups = {name: dynamics.group_of(name, known) for name in names}
    assert "other" not in groups.values()
    heads = [name for name, group in groups.items() if group == EMBEDDING]
    weight = model.get_output_embeddings().weight
    owners = [name for name, parameter in model.named_parameters() if parameter is weight]
    assert owners[0] in heads
    assert {"layer 1", "layer 2", "final norm"} <= set(groups.values())
    assert ("input embedding" in groups.values()) is not tied


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    return straight(tmp_path_factory.mktemp("straight") / "run")


def test_straight_run_converges_as_it_was_made(line: TrainingRun) -> None:
    found = convergence.of_parameters(line)
    layers = ["input embedding", "layer 1", "layer 2", "final norm", EMBEDDING]
    assert found.groups == [*layers, BODY, WHOLE]
    for group in (g for g in found.groups if g != "final norm"):
        assert found.distance(group) == pytest.approx(1 - np.array(SHARES), abs=1e-5)
        assert found.cosine[group][1:] == pytest.approx(np.ones(4), abs=1e-5)
        assert np.isnan(found.cosine[group][0])


def test_distances_of_the_parts_add_up(trained: Path) -> None:
    run = checkpoints.training_run(str(trained))
    found = convergence.of_parameters(run)
    squares = {group: rows.sum(1) for group, rows in found.to_final.items()}
    parts = [g for g in found.groups if g not in (BODY, WHOLE)]
    np.testing.assert_allclose(sum(squares[g] for g in parts), squares[WHOLE])
    np.testing.assert_allclose(squares[BODY] + squares[EMBEDDING], squares[WHOLE])
    first, last = run.weights(0), run.weights(60)
    direct = sum(float((first[n].double() - last[n].double()).square().sum()) for n in first)
    assert squares[WHOLE][0] == pytest.approx(direct)
    assert squares[WHOLE][-1] == 0.0
    step, before = run.weights(8), run.weights(4)
    moved = sum(float((step[n].double() - before[n].double()).square().sum()) for n in step)
    size = sum(float(step[n].double().square().sum()) for n in step)
    assert found.change[WHOLE][found.steps.index(8)] == pytest.approx((moved / size) ** 0.5 / 4)


def test_embedding_alone_gives_the_same_as_with_the_rest(trained: Path) -> None:
    run = checkpoints.training_run(str(trained))
    alone, whole = (
        convergence.of_parameters(run, embedding_only=True),
        convergence.of_parameters(run),
    )
    assert alone.groups == [EMBEDDING]
    assert np.array_equal(alone.distance(EMBEDDING), whole.distance(EMBEDDING))


@given(st.integers(0, 5))
def test_parts_of_the_embedding_arrive_as_planted(seed: int) -> None:
    """Frequency goes to its end along `early`, all else along `SHARES`; a common shift is free."""
    early = [0.0, 0.5, 0.9, 1.0, 1.0]
    rng = np.random.default_rng(seed)
    _, known = planted()
    V, y = len(known.counts), np.zeros(len(known.counts))
    y[known.tokens] = known.y - known.y.mean()
    rest = rng.normal(size=(V, 8))
    rest[known.counts == 0] = 0
    rest[known.tokens] -= rest[known.tokens].mean(0)
    rest -= np.outer(y, y @ rest) / (y @ y)
    ways = zip(early, SHARES, strict=True)
    E = [torch.from_numpy(a * np.outer(y, np.ones(8)) + b * rest + b * 7) for a, b in ways]
    run: Any = type("Run", (), {"steps": STEPS, "embedding": lambda _, s: E[STEPS.index(s)]})()
    found = dynamics.split_distances(run, known, n_replicates=20)
    assert found[dynamics.FREQUENCY_PART][0] == pytest.approx(1 - np.array(early), abs=1e-7)
    assert found[dynamics.REST][0] == pytest.approx(1 - np.array(SHARES), abs=1e-7)
    assert found[dynamics.REST].shape == (21, 5)


# -------------------------------------------------------------------------------------- behaviour


def test_divergence_from_the_unigram() -> None:
    rng = torch.Generator().manual_seed(0)
    E, h = torch.randn(50, 6, generator=rng), torch.randn(9, 6, generator=rng)
    log_u = torch.log_softmax(torch.randn(50, generator=rng).double(), 0)
    P = torch.softmax(h @ E.T, 1).double().numpy()
    direct = np.mean([stats.entropy(row, log_u.exp().numpy()) for row in P])
    predictions = Predictions(Head(E), h, torch.logsumexp(h @ E.T, 1))
    assert dynamics.unigram_divergence(predictions, log_u) == pytest.approx(direct, rel=1e-5)
    # A model that ignores its context and predicts the frequencies is at zero.
    ignorant = Predictions(Head(0 * E, log_u.float()), h, torch.zeros(9))
    assert dynamics.unigram_divergence(ignorant, log_u) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kept", [0, 2**26])
def test_predictions_are_those_of_a_softmax_at_every_use(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from probenc_support.dynamics import predictions as module

    monkeypatch.setattr(module, "_KEPT", kept)
    monkeypatch.setattr(module, "_AT_ONCE", 200)  # four positions at a time
    rng = torch.Generator().manual_seed(0)
    E, h = torch.randn(50, 6, generator=rng), torch.randn(9, 6, generator=rng)
    predictions = Predictions(Head(E), h, torch.logsumexp(h @ E.T, 1))
    for _ in range(2):
        pieces = list(predictions.log_p())
        assert [len(piece) for piece in pieces] == [4, 4, 1]
        assert torch.cat(pieces) == pytest.approx(torch.log_softmax(h @ E.T, 1), abs=1e-5)


def test_behaviour_agrees_with_transformers(trained: Path, text_file: Path) -> None:
    run = checkpoints.training_run(str(trained))
    lm = run.load(60, device="cpu")
    blocks = dynamics.text_for(run, str(text_file))
    detection = inference.detect(lm, blocks, progress=False)
    _, known = planted(RECIPE.vocabulary)
    predictions = Predictions.of(lm, detection, positions(detection))
    found = behaviour.on_text(lm, detection, predictions, known.log_unigram, step=60)
    with torch.no_grad():
        losses = [float(lm.model(input_ids=b[None], labels=b[None]).loss) for b in blocks.ids]
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert found.loss_sums.sum() / found.loss_sizes.sum() == pytest.approx(found.loss)
    assert found.loss_sizes.sum() == sum(len(b) - 1 for b in blocks.ids)
    sums = np.bincount(detection.group[detection.targets >= 0], minlength=len(found.loss_sums))
    assert np.array_equal(sums, found.loss_sizes), "by documents, not by blocks"
    assert 0 <= found.kl_average_unigram <= found.kl_unigram


@pytest.mark.parametrize("way", ["the same file", "a copy", "a part of it", "a larger text"])
def test_text_is_of_documents_that_were_not_trained_on(
    trained: Path, text_file: Path, tmp_path: Path, way: str
) -> None:
    run = checkpoints.training_run(str(trained))
    whole = text_file.read_text()
    corpus = text_file if way == "the same file" else tmp_path / "other.txt"
    if way != "the same file":
        texts = {"a copy": whole, "a part of it": whole[20_000:], "a larger text": whole + whole}
        corpus.write_text(texts[way])
    found = dynamics.text_for(run, str(corpus))
    assert found.ids.shape[1] == RECIPE.sequence_length, "no longer than the model's context"
    assert found.n_left_out > 20
    text = training_text.prepare(RECIPE, str(text_file))
    read = text.tokenizer.decode(text.train.ravel(), clean_up_tokenization_spaces=False)
    judged = text.tokenizer.decode(found.ids.ravel(), clean_up_tokenization_spaces=False)
    paragraphs = [p.strip() for p in judged.split("\n\n") if len(p.strip()) >= 40]
    assert len(paragraphs) >= 3
    assert not [p for p in paragraphs if p in read]


def test_text_of_a_run_that_does_not_tell_its_text_is_refused(
    trained: Path, text_file: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(trained, tmp_path / "old")
    (old / "sources.npy").unlink()
    with pytest.raises(InputError, match="trained by an earlier version"):
        dynamics.text_for(checkpoints.training_run(str(old)), str(text_file))


def test_counts_of_a_corpus_stop_at_the_limit_and_say_so(
    trained: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checkpoints.training_run(str(trained))
    options = {"n_rows": RECIPE.vocabulary, "tokens": range(1, RECIPE.vocabulary)}
    whole = dynamics.frequencies(run, str(text_file), **options)
    assert whole.source == f"the corpus {text_file.name}", "no path of this machine"
    some = whole.counts.sum() // 2
    monkeypatch.setattr(corpora, "COUNT_LIMIT", some)
    first = dynamics.frequencies(run, str(text_file), **options)
    assert first.counts.sum() == some
    assert f"the first {some:,} tokens of the corpus" in first.source


# --------------------------------------------------------------------------------------- emergence


@given(
    st.lists(st.floats(-5, 5), min_size=5, max_size=5),
    st.floats(0.1, 10),
    st.booleans(),
    st.floats(-3, 3),
)
def test_halfway_does_not_depend_on_units(
    curve: list[float], scale: float, down: bool, shift: float
) -> None:
    values = np.array(curve)
    if abs(values[-1] - values[0]) < 0.1:
        return
    half = dynamics.halfway(STEPS, values)
    assert 0 <= half <= STEPS[-1]
    other = dynamics.halfway(STEPS, (-scale if down else scale) * values + shift)
    assert other == pytest.approx(half, rel=1e-6, abs=1e-6)


def test_halfway_of_known_curves() -> None:
    steps = [0, 1, 3, 7, 15]
    assert dynamics.halfway(steps, np.log1p(steps)) == pytest.approx(3)
    assert dynamics.halfway(steps, np.array([1.0, 0.9, 0.1, 0.0, 0.0])) == pytest.approx(
        2**0.5 * 2 - 1
    )
    assert np.isnan(dynamics.halfway(steps, np.ones(5)))
    assert np.isnan(dynamics.halfway(steps, np.array([0.3, 0.9, 0.5, 0.4, 0.1 + 0.2])))
    assert np.isnan(dynamics.crossing(steps, np.log1p(steps), 99.0))


@pytest.mark.parametrize(
    ("high", "expected"), [(9.0, True), (11.0, False)], ids=["apart", "overlapping"]
)
def test_verdict_follows_the_rule_in_every_run(high: float, expected: bool) -> None:
    rows = [("a", FREQUENCY, 5.0, 4.0, 6.0), ("a", EMBEDDING, 20.0, 10.0, 30.0)]
    rows += [("b", FREQUENCY, 5.0, 4.0, high), ("b", EMBEDDING, 20.0, 10.0, 30.0)]
    table = pd.DataFrame(rows, columns=["run", "what", "step", "low", "high"])
    assert dynamics.is_earliest(table, before=[EMBEDDING]) is expected
    halves = dynamics.over_runs(table)
    assert halves.loc[EMBEDDING, "frequency_first"] == ("yes" if expected else "no")
    assert halves.loc[FREQUENCY].tolist() == [5, 4, max(6, high), 5, 5, ""]
    with pytest.raises(InputError, match="loss was not measured"):
        dynamics.is_earliest(table, before=[LOSS])


@pytest.fixture(scope="module")
def measured(trained: Path, text_file: Path) -> dynamics.Dynamics:
    run = checkpoints.training_run(str(trained))
    return dynamics.measure(run, blocks=dynamics.text_for(run, str(text_file)), device="cpu")


def test_trained_model_learns_frequency(measured: dynamics.Dynamics) -> None:
    table = tables.by_step(measured)
    assert abs(table["r2_adj_frequency"].iloc[0]) < 0.1
    assert table["r2_adj_frequency"].iloc[-1] > 0.5
    assert table["r2_adj_shuffled"].abs().max() < 0.1
    assert table["loss"].iloc[-1] < table["loss"].iloc[0] - 0.5
    assert table["kl_unigram"].iloc[-1] < table["kl_unigram"].iloc[0]
    # The log-partition hardly varies at the start, so -log a is linear before anything is learnt.
    assert table["r2_adj_log_a"].iloc[0] > 0.9


def test_intervals_hold_their_values(measured: dynamics.Dynamics) -> None:
    found = dynamics.halfway_estimates(measured, n_replicates=60)
    parts = {dynamics.FREQUENCY_PART, dynamics.REST}
    assert set(found) == {FREQUENCY, LOSS, KL, *measured.convergence.groups, *parts}
    for half in found.values():
        assert half.low <= half.value <= half.high
    assert dynamics.halfway_estimates(measured, n_replicates=60) == found
    some = dynamics.halfway_estimates(measured, intervals=[FREQUENCY, BODY], n_replicates=60)
    assert some[BODY] == found[BODY], "draws do not depend on what else is drawn"
    steps = [estimate.value for estimate in found.values()]
    assert [estimate.value for estimate in some.values()] == pytest.approx(steps)
    assert all(np.isnan(some[what].low) for what in some if what not in (FREQUENCY, BODY))


def test_share_of_the_loss_and_its_inverse(measured: dynamics.Dynamics) -> None:
    assert measured.loss_share(0) == 0.0
    assert measured.loss_share(60) == 1.0
    half = dynamics.halfway(measured.read_steps, measured.loss)
    assert measured.loss_share(half) == pytest.approx(0.5, abs=1e-6)
    middle = np.interp(np.log1p(half), np.log1p(measured.steps), measured.r2_adj)
    assert early_frequency.r2_when_loss_fell(measured, 0.5) == pytest.approx(middle)
    against = early_frequency.against_loss([measured, measured])
    passed = np.interp(np.log1p(against.step_r2_half), np.log1p(measured.steps), measured.r2_adj)
    assert passed == pytest.approx(0.5)
    assert against.loss_share == pytest.approx(measured.loss_share(against.step_r2_half))
    deaf = early_frequency.against_loss([replace(measured, behaviour=[])])
    assert deaf.step_r2_half == pytest.approx(against.step_r2_half)
    assert np.isnan([deaf.loss_share, deaf.r2_at_quarter]).all(), "no text was read"


def test_stopping_earlier_changes_what_is_final(measured: dynamics.Dynamics) -> None:
    by_end = convergence.to_earlier_ends(measured.run, [2, 4, 8, 16, 32])
    cut = measured.truncated_at(by_end[16])
    assert cut.steps == [0, 1, 2, 4, 8, 16]
    assert cut.convergence.distance(WHOLE)[-1] == 0.0
    assert measured.convergence.distance(WHOLE)[5] > 0.1
    assert np.array_equal(cut.r2_adj, measured.r2_adj[:6])
    for end, distances in by_end.items():
        shorter = measured.run.select(range(end + 1))
        direct = convergence.of_parameters(shorter)
        assert (distances.steps, distances.groups) == (shorter.steps, direct.groups)
        for group in direct.groups:
            assert np.array_equal(distances.to_final[group], direct.to_final[group])
    with pytest.raises(TypeError, match="cut short"):
        tables.by_group(cut)


def test_shortened_runs_are_those_that_ended_there(measured: dynamics.Dynamics) -> None:
    found = dynamics.by_length([measured], before=[EMBEDDING], n_replicates=30, seed=1)
    assert found["stopped_at"].tolist() == [8, 32]
    shorter = measured.run.select(range(33))
    cut = measured.truncated_at(convergence.of_parameters(shorter))
    table = dynamics.emergence_table([cut], n_replicates=30, seed=1)
    row = found.set_index("stopped_at").loc[32]
    assert row["frequency_first"] == dynamics.is_earliest(table, before=[EMBEDDING])
    for what, step in table.set_index("what")["step"].items():
        assert row[what] == pytest.approx(step, nan_ok=True)


def test_text_is_read_at_some_checkpoints_only(trained: Path, text_file: Path) -> None:
    run = checkpoints.training_run(str(trained))
    blocks = dynamics.shortened(dynamics.text_for(run, str(text_file)), 8)
    assert blocks.ids.shape[1] == 8
    assert blocks.documents is not None
    assert blocks.documents.shape == blocks.ids.shape
    found = dynamics.measure(run, blocks=blocks, device="cpu", read_at=[4, 32])
    assert found.read_steps == [0, 4, 32, 60]
    assert len(found.fits) == len(run.steps)
    table = tables.by_step(found).set_index("step")
    assert table["loss"].notna().to_numpy().nonzero()[0].tolist() == [
        run.steps.index(s) for s in (0, 4, 32, 60)
    ]
    assert found.kl_to_final[-1] == pytest.approx(0, abs=1e-6)
    assert found.kl_to_final[0] > found.kl_to_final[1] > found.kl_to_final[2] > 0
    assert (tables.by_state(found).query("step == 60")["cka"] > 0.999999).all()


@given(st.sets(st.integers(0, 10_000), min_size=2), st.floats(1.01, 4))
def test_thinned_steps_keep_the_ends_and_their_ratio(steps: set[int], ratio: float) -> None:
    kept = dynamics.thinned(sorted(steps), ratio)
    assert set(kept) <= steps
    assert (kept[0], kept[-1]) == (min(steps), max(steps))
    inner = np.array(kept[:-1]) + 1
    assert (inner[1:] >= ratio * inner[:-1]).all()
    left_out = steps - set(kept)
    assert all(any(k < s and s + 1 < ratio * (k + 1) for k in kept) for s in left_out)


def test_share_of_a_curve_and_its_halfway_agree() -> None:
    curve = np.array([9.0, 8.5, 7.0, 3.0, 1.0])
    assert dynamics.share_by(dynamics.halfway(STEPS, curve), STEPS, curve) == pytest.approx(0.5)
    assert dynamics.share_by(0, STEPS, curve) == 0.0
    assert dynamics.share_by(8, STEPS, curve) == 1.0


def test_no_run_is_ahead_of_its_own_straight_line(line: TrainingRun, tmp_path: Path) -> None:
    """The control's own control: on a straight run, frequency comes no earlier than on the line."""
    E, tokens = line.embedding(8), np.arange(320)
    slopes = np.random.default_rng(0).normal(size=E.shape[1])
    counts = np.round(np.exp(9 - E.double().numpy() @ slopes / 2)).astype(np.int64)
    np.save(tmp_path / "counts.npy", counts)
    found = dynamics.measure(line, counts=str(tmp_path / "counts.npy"), embedding_only=True)
    seen = found.frequencies.tokens
    assert 0 < len(seen) <= len(tokens)
    way = dynamics.straight_line(line.embedding(0), E, found.frequencies, n=201)
    ours = np.interp(SHARES, 1 - way["distance"], way["r2_adj"])
    assert found.r2_adj == pytest.approx(ours, abs=1e-3)
    ahead = dynamics.ahead_of(found, way)
    assert ahead.training == pytest.approx(ahead.straight, abs=0.06)
    assert found.r2_adj[-1] > 0.95


def test_an_estimate_leaves_out_what_is_not_known() -> None:
    draws = np.array([np.nan, *np.arange(101.0), np.inf])
    found = dynamics.Estimate.of(50.0, draws)
    assert (found.low, found.high) == pytest.approx((2.5, 97.5))
    assert found.metrics("x") == {"x": 50.0, "x_low": found.low, "x_high": found.high}
    runs = dynamics.Estimate.mean_of_runs([1.0, 3.0], [np.zeros(9), np.full(9, 4.0)])
    assert runs == dynamics.Estimate(2.0, 2.0, 2.0)
    assert dynamics.Estimate.unknown().metrics("x") == {}


def test_a_unigram_phase_is_found_where_it_was_planted() -> None:
    def phase(*nats: float) -> dynamics.UnigramPhase:
        return dynamics.UnigramPhase.of(pd.Series(nats, index=STEPS[: len(nats)]))

    planted_phase = phase(2.0, 1.0, 0.3, 0.9, 1.5)
    assert planted_phase.exists
    assert (planted_phase.step, planted_phase.lowest) == (2, 0.3)
    assert not phase(2.0, 1.0, 0.9, 1.2, 1.5).exists, "hardly nearer than the end"
    assert not phase(2.0, 1.0, 0.5, 0.2, 0.1).exists, "nearest at the end"
    assert not phase(0.1, 1.0, 0.5, 0.2, 0.3).exists, "nearest at the start"


# ------------------------------------------------------------------------------------------ tokens


def test_tokens_are_learnt_when_they_stay_right() -> None:
    E, known = planted()
    fit = dynamics.fit_frequency(E, known)
    y = known.y.astype(np.float32)
    off = [y + 3, y.copy(), y.copy(), y.copy()]
    off[1][0] += 2
    off[2][0] -= 0.5
    off[3][1] += 5
    fits = [replace(fit, step=s, predicted=v) for s, v in zip(STEPS, off, strict=False)]
    run = TrainingRun("made up", "", {s: f"step{s}" for s in STEPS[:4]}, True)
    empty = dynamics.Convergence([], {}, {}, {})
    found = dynamics.Dynamics(run, known, fits, empty, [], [], np.nan, None)
    learnt = dynamics.learnt_at(found)
    assert learnt[0] == 2
    assert np.isnan(learnt[1])
    assert (learnt[2:] == 1).all()
    table = dynamics.by_frequency(found)
    assert table[table["step"] == 0]["rms_error"].to_numpy() == pytest.approx(3.0, rel=1e-5)
    assert table.groupby("step")["true"].apply(lambda v: v.is_monotonic_increasing).all()
    texts = [f"t{i}" for i in range(len(known.counts))]
    shown = dynamics.examples(found, texts)
    assert shown["true"].is_monotonic_increasing
    assert (shown["token"] == [f"t{i}" for i in shown["id"]]).all()
    assert (known.counts[shown["id"]] == shown["count"]).all()


def test_examples_lie_at_equal_ratios_of_the_rank() -> None:
    """Ranks 1, 2, 4 and so on to 256, of which a power of ten falls short by rounding."""
    counts = np.arange(256, 0, -1)
    known = Frequencies(counts, "made up", np.arange(256), 0)
    E = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    run = TrainingRun("made up", "", {0: "step0"}, True)
    empty = dynamics.Convergence([], {}, {}, {})
    fits = [dynamics.fit_frequency(E, known, n_shuffles=1)]
    found = dynamics.Dynamics(run, known, fits, empty, [], [], np.nan, None)
    shown = dynamics.examples(found, [str(i) for i in range(256)], n=9)
    assert shown["id"].tolist() == [2**k - 1 for k in range(9)]


# -------------------------------------------------------------------------------------- end to end


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], TrainingRun]:
    """A hub with one model in it, laid out by branches; whole checkpoints cannot be had."""
    folder = tmp_path / "hub"
    straight(folder / "lab", "padded")
    for path in (folder / "lab").iterdir():
        path.rename(folder / f"lab@{path.name}")
    (folder / "owner").mkdir()
    for path in folder.glob("lab@*"):
        path.rename(folder / "owner" / path.name)

    class Api:
        def list_repo_refs(self, hub_id: str) -> Any:
            names = [p.name.partition("@")[2] for p in folder.glob(f"{hub_id}@*")]
            branch = type("Branch", (), {})
            found = [branch() for _ in [*names, "main"]]
            for each, name in zip(found, [*names, "main"], strict=True):
                each.name = name
            return type("Refs", (), {"branches": found})()

    def download(hub_id: str, revision: str, patterns: tuple[str, ...]) -> Path:
        if any(pattern.endswith((".safetensors", ".bin")) for pattern in patterns):
            raise InputError("The whole checkpoint was asked for.")
        return folder / f"{hub_id}@{revision}"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    files = DirFileSystem(path=str(folder), fs=LocalFileSystem())
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: files)
    monkeypatch.setattr(hub_files, "download", download)
    return lambda: checkpoints.training_run("owner/lab")


def test_hub_path_fetches_the_embedding_alone(
    hub: Callable[[], TrainingRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for Pythia: a head with padding rows, a table of counts for real tokens, zeros in it."""
    run = hub()
    assert run.steps == STEPS
    assert not run.local
    E = run.embedding(8)
    assert len(E) == 320 + 24
    counts = np.arange(320) * 7
    counts[[5, 9]] = 0
    np.save(tmp_path / "counts.npy", counts)
    found = dynamics.measure(run, counts=str(tmp_path / "counts.npy"), embedding_only=True)
    assert found.frequencies.n_unseen == 3
    assert len(found.frequencies.tokens) == 317
    assert found.convergence.distance(EMBEDDING) == pytest.approx(1 - np.array(SHARES), abs=1e-5)
    assert list(tables.by_step(found)["step"]) == STEPS
    with pytest.raises(InputError, match="whole checkpoint"):
        run.weights(8)
    # A second reading needs no hub.
    monkeypatch.delattr("huggingface_hub.HfFileSystem")
    assert torch.equal(run.embedding(8), E)
    with pytest.raises(InputError, match="not known here"):
        dynamics.measure(run, embedding_only=True)


def test_notebook_on_a_run_with_checkpoints(
    trained: Path, text_file: Path, tmp_path: Path, warm_kernels: None
) -> None:
    page = execute.run(
        "05",
        model=str(trained),
        results_dir=tmp_path / "out",
        parameters={"corpus": str(text_file), "n_positions": 256, "n_bootstrap": 30},
    )
    found = results.load_metrics(page.parent, "05_training_dynamics")
    for name in ("frequency", "embedding", "body", "loss"):
        low, step, high = (found[f"halfway_step_{name}{end}"] for end in ("_low", "", "_high"))
        assert low <= step <= high
    assert found["frequency_first"] in (0, 1)
    assert found["n_seeds"] == 1
    assert abs(found["r2_frequency_step0"]) < 0.1 < 0.5 < found["r2_frequency_final"]
    assert found["ahead_of_line"] in (0, 1)
    for name in ("halfway_frequency_over_function", "halfway_random_target_over_frequency"):
        assert 0 < found[f"{name}_low"] <= found[f"{name}_high"]
    assert 0 <= found["loss_fall_at_halfway"] <= 1
    for name in (
        "by_step", "by_layer", "by_state", "emergence", "by_length", "by_frequency", "tokens",
        "properties",
    ):  # fmt: skip
        table = pd.read_parquet(page.with_name(f"05_training_dynamics.{name}.parquet"))
        written = pd.read_csv(page.with_name(f"05_training_dynamics.{name}.csv"))
        assert len(table) == len(written) > 0
    by_step = pd.read_parquet(page.with_name("05_training_dynamics.by_step.parquet"))
    assert by_step["r2_adj_frequency"].iloc[-1] == pytest.approx(found["r2_frequency_final"])


def test_notebook_with_the_embedding_alone(
    line: TrainingRun, text_file: Path, tmp_path: Path, warm_kernels: None
) -> None:
    page = execute.run(
        "05",
        model=line.source,
        results_dir=tmp_path / "out",
        parameters={"counts": str(text_file), "embedding_only": True, "n_bootstrap": 30},
    )
    found = results.load_metrics(page.parent, "05_training_dynamics")
    assert "halfway_step_loss" not in found
    assert not [name for name in found if "over_rivals" in name], "nothing was learnt"
    unknown = {"halfway_frequency_over_function", "loss_fall_at_halfway", "r2_final_co_occurrence"}
    assert not unknown & set(found), "what cannot be measured is left out"
    assert found["halfway_step_embedding"] > 0


@pytest.mark.skipif(
    "PROBENC_SHARED_DATA" not in os.environ,
    reason="PROBENC_SHARED_DATA names no folder with Pythia's token counts and tokenizer",
)
def test_counts_of_pythias_training_run(tmp_path: Path) -> None:
    data = Path(os.environ["PROBENC_SHARED_DATA"])
    n_rows, d = 50_304, 8
    rng = torch.Generator().manual_seed(0)
    first, last = (torch.randn(n_rows, d, generator=rng) for _ in range(2))
    table = np.load(data / "token_counts" / "pythia-training-run.npy")
    y = -np.log(np.maximum(table, 1))
    last[: len(table), 0] = torch.from_numpy(y - y.mean()).float()
    for step, share in zip(STEPS, SHARES, strict=True):
        folder = tmp_path / "run" / f"step{step}"
        folder.mkdir(parents=True)
        save_file(
            {"embed_out.weight": first + share * (last - first)}, folder / "model.safetensors"
        )
        (folder / "config.json").write_text('{"model_type": "gpt_neox"}')
        (folder / "tokenizer.json").write_bytes(
            (data / "tokenizers" / "pythia" / "tokenizer.json").read_bytes()
        )
    run = checkpoints.training_run(str(tmp_path / "run"))
    found = dynamics.measure(
        run,
        counts=str(data / "token_counts" / "pythia-training-run.npy"),
        embedding_only=True,
    )
    known = found.frequencies
    assert int(known.counts.sum()) == 300_039_168_000 == 143_000 * 1024 * 2049
    assert len(known.counts) == n_rows
    assert known.n_unseen == 214
    assert len(known.tokens) == 50_277 - 214
    assert abs(found.r2_adj[0]) < 0.01
    assert found.r2_adj[-1] > 0.99


settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")
