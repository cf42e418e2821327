"""Training: exact resumption, determinism, what is kept, and what is refused."""

import argparse
import contextlib
import itertools
import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from stops import stopped_at
from torch import Tensor

from probenc_support import cache, corpora, models, progress, roster
from probenc_support.commands.arguments import add_train
from probenc_support.corpora import built_in_texts
from probenc_support.errors import InputError
from probenc_support.models import checkpoints, objectives, training, training_text
from probenc_support.models.recipes import RECIPES, Recipe
from probenc_support.models.training_text import Text

TINY = Recipe("tiny", 2, 16, 2, 320, 32, 4, 12, 512, 1e-2, dropout=0.1)
"""Dropout is on, so that a resumed run needs its random numbers, too."""


OTHERS = {
    "causal": replace(TINY, architecture="modernbert", tied=True),
    "masked": replace(TINY, architecture="modernbert", tied=True, objective="masked"),
    "encoder-decoder": replace(TINY, architecture="t5", tied=True, objective="encoder-decoder"),
}


pytestmark = pytest.mark.usefixtures("module_cache")


@pytest.fixture(scope="module")
def text(text_file: Path) -> Text:
    return training_text.prepare(TINY, str(text_file))


@pytest.fixture(scope="module")
def run_folder(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return train(text_file, tmp_path_factory.mktemp("runs") / "whole")


def train(text_file: Path, folder: Path, recipe: Recipe = TINY, seed: int = 0) -> Path:
    return training.train(
        recipe, folder=folder, corpus=str(text_file), seed=seed, device="cpu", progress=False
    )


def weights(folder: Path, step: int = TINY.steps) -> dict[str, Tensor]:
    return load_file(folder / f"step{step}" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


# ----------------------------------------------------------------------------------------- recipes


def test_checkpoints_are_pythias() -> None:
    early = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    every_second = [0, 1, *range(2, 65, 2)]
    assert RECIPES["pythia-nano"].checkpoints == [*every_second, 128, 256, 512, 640, 768]
    assert replace(RECIPES["pythia-nano"], dense=0).checkpoints == [*early, 640, 768]
    assert RECIPES["pythia-mini"].checkpoints == [*early, *range(768, 2049, 256)]


def test_a_run_without_early_checkpoints_keeps_even_ones() -> None:
    assert replace(TINY, early=False, steps=100, every=40).checkpoints == [0, 40, 80, 100]
    assert replace(TINY, early=False, steps=80, every=40).checkpoints == [0, 40, 80]


@given(st.integers(1, 3000), st.integers(1, 700), st.integers(0, 100))
def test_checkpoints_ascend_from_start_to_end(steps: int, every: int, dense: int) -> None:
    found = replace(TINY, steps=steps, every=every, dense=dense).checkpoints
    assert found[0] == 0
    assert found[-1] == steps
    assert found == sorted(set(found))


def test_later_fields_leave_the_place_of_earlier_models_as_it_was() -> None:
    """Nano has the settings that it had before recipes had architectures and objectives."""
    before = {
        "name": "pythia-nano", "layers": 2, "d": 128, "heads": 4, "vocabulary": 8192,
        "sequence_length": 256, "batch_size": 4, "steps": 768, "every": 128, "learning_rate": 4e-3,
        "warmup": 0.1, "weight_decay": 0.01, "dropout": 0.0, "dense": 64,
    }  # fmt: skip
    assert RECIPES["pythia-nano"].settings == before
    keys = [json.dumps(recipe.settings, sort_keys=True) for recipe in RECIPES.values()]
    assert len(set(keys)) == len(RECIPES)
    for recipe in RECIPES.values():
        assert Recipe(**recipe.settings) == recipe


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "pythia-mini"])
def test_size_is_what_the_roster_says(name: str) -> None:
    count = training.new_model(RECIPES[name], 0).num_parameters()
    assert count == pytest.approx(roster.ROSTER[name].parameters, rel=0.05)


def test_learning_rate_warms_up_and_decays_to_a_tenth() -> None:
    recipe = replace(TINY, steps=1000, warmup=0.05)
    rates = np.array([training.learning_rate(recipe, step) for step in range(1000)])
    assert np.allclose(np.diff(rates[:50]), recipe.learning_rate / 50)
    assert rates.max() == pytest.approx(recipe.learning_rate)
    assert (np.diff(rates[50:]) <= 0).all()
    assert rates[-1] == pytest.approx(recipe.learning_rate / 10, rel=1e-3)


# -------------------------------------------------------------------------------------------- text


def test_every_block_is_read_once_an_epoch(text: Text) -> None:
    n = len(text.train)
    recipe = replace(TINY, batch_size=7, steps=4 * n)
    rows = np.concatenate([text.order(recipe, 3, step) for step in range(n)])
    for epoch in np.split(rows, 7):
        assert sorted(epoch) == list(range(n))
    assert not np.array_equal(rows[:n], rows[n : 2 * n])
    assert not np.array_equal(rows[:7], text.order(recipe, 4, 0))


@pytest.mark.parametrize("objective", ["masked", "encoder-decoder"])
def test_twins_read_the_same_text(objective: str, text: Text) -> None:
    other = training_text.prepare(OTHERS[objective], text.corpus)
    assert other.hash == text.hash
    assert np.array_equal(other.train, text.train)


@pytest.mark.parametrize("name", [name for name in RECIPES if "nano" in name])
def test_the_like_of_nano_reads_what_nano_reads(name: str, text: Text) -> None:
    """The same text in the same order, in steps of as many blocks or fewer."""
    nano, recipe = RECIPES["pythia-nano"], RECIPES[name]
    for same in ("vocabulary", "sequence_length", "tokens", "dropout", "weight_decay"):
        assert getattr(recipe, same) == getattr(nano, same)
    blocks = [
        np.concatenate([text.order(r, 3, step) for step in range(200 // r.batch_size)])
        for r in (nano, recipe)
    ]
    assert np.array_equal(*blocks)


def test_counts_are_those_of_the_text_that_was_read(text: Text, run_folder: Path) -> None:
    direct = np.zeros(TINY.vocabulary, dtype=np.int64)
    for step in range(TINY.steps):
        for token in text.train[text.order(TINY, 0, step)].ravel():
            direct[token] += 1
    assert np.array_equal(np.load(run_folder / "token_counts.npy"), direct)
    assert direct.sum() == TINY.tokens
    # The run is one epoch long, so seeds differ before its end only.
    assert not np.array_equal(text.counts(TINY, 1, 6), text.counts(TINY, 0, 6))


def test_whole_documents_are_held_out(text: Text, text_file: Path) -> None:
    """No paragraph of a held-out document is in the training text, nor taken for it."""
    documents = [d.strip() for d in corpora.stream(str(text_file)) if len(d.strip()) >= 40]
    held_out = set(filter(built_in_texts.is_held_out, documents))
    rest = [d for d in documents if not built_in_texts.is_held_out(d)]
    read = text.tokenizer.decode(text.train.ravel(), clean_up_tokenization_spaces=False)
    assert len(held_out) >= 3
    for document in held_out:
        assert document not in read
        assert not corpora.fingerprints(document) & text.sources
    assert sum(document in read for document in rest[:20]) >= 15, "the control: what is trained on"


def test_what_is_held_out_depends_on_the_text_alone(tmp_path: Path) -> None:
    """Neither on what stands before it, nor on its white space."""
    paragraphs = [f"Paragraph {n} says that {n * n} is the square of {n}." for n in range(2000)]
    chosen = set(filter(built_in_texts.is_held_out, paragraphs))
    share = built_in_texts.HELD_OUT_EVERY * len(chosen) / len(paragraphs)
    assert 0.7 < share < 1.3, "one in so many, within four standard deviations"
    path = tmp_path / "moved.txt"
    path.write_text("\n\n".join(p.replace(" ", "  ") for p in reversed(paragraphs)))
    sources = training_text.prepare(replace(TINY, steps=400), str(path)).sources
    assert {p for p in paragraphs if built_in_texts.fingerprint(p) not in sources} == chosen


def test_a_paragraph_of_a_held_out_document_is_trained_on_nowhere(tmp_path: Path) -> None:
    shared = "This paragraph stands in all documents, of which some are held out."
    for n in range(200):
        own = [f"Sentence {i} of {n}, one of those that fill a document." for i in range(8)]
        (tmp_path / f"{n:03}.txt").write_text("\n\n".join([own[0], shared, *own[1:]]))
    documents = corpora.documents(str(tmp_path))
    held_out = [built_in_texts.is_held_out(d) for d in documents]
    assert 1 < sum(held_out) < 50
    sources = training_text.prepare(replace(TINY, steps=400), str(tmp_path)).sources
    assert built_in_texts.fingerprint(shared) not in sources
    last = [built_in_texts.fingerprint(d.split("\n\n")[-1]) for d in documents]
    assert [found not in sources for found in last] == held_out, "all else is kept"


def test_literal_special_tokens_in_the_training_text_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "literal.txt"
    path.write_text(tiny.prose().replace("the ", f"the {training_text.END_OF_TEXT} "))
    found = training_text.prepare(TINY, str(path))
    assert found.tokenizer.eos_token_id == 0
    assert 0 not in found.train


def test_a_model_of_another_version_is_not_taken(
    text_file: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "VERSION", training.VERSION + 1)
    with pytest.raises(InputError, match="another version"):
        train(text_file, run_folder)


def test_tokenizer_is_lossless_and_has_no_more_tokens_than_rows(text: Text) -> None:
    sample = "The quick  brown\n\tfox – déjà vu 東京 <|endoftext|"
    ids = text.tokenizer(sample, add_special_tokens=False)["input_ids"]
    assert text.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == sample
    assert len(text.tokenizer) == TINY.vocabulary
    assert max(ids) < TINY.vocabulary


# ------------------------------------------------------------------------------------ arithmetic


def test_loss_and_gradient_equal_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = training.new_model(replace(TINY, dropout=0.0), 0)
    ids = torch.randint(TINY.vocabulary, (4, 32), generator=torch.Generator().manual_seed(1))
    direct = model(input_ids=ids, labels=ids).loss
    direct.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setitem(training._HEAD_LOGITS, "cpu", 10 * TINY.vocabulary)
    assert training._backward(model, ids) == pytest.approx(float(direct.detach()), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-7)


def test_seed_decides_the_weights(text_file: Path, run_folder: Path, tmp_path: Path) -> None:
    assert same(run_folder, train(text_file, tmp_path / "again"))
    other = train(text_file, tmp_path / "other", seed=1)
    assert not same(run_folder, other)
    first, second = (folder / "step0" / "tokenizer.json" for folder in (run_folder, other))
    assert first.read_bytes() == second.read_bytes()


def test_loss_falls(text_file: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, steps=60, dropout=0.0)
    losses = training.record(train(text_file, tmp_path / "longer", recipe))["losses"]
    assert losses[0] == pytest.approx(np.log(recipe.vocabulary), abs=0.1)
    assert np.mean(losses[-5:]) < losses[0] - 0.5


# ----------------------------------------------------------------------------------- interruptions

KILLS = [("step", 3), ("between", 8), ("writing", 12)]
"""At the start of a step; between weights and optimiser state; while the weights get their name."""

KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    sys.path.insert(0, {tests!r})
    torch.set_num_threads(1)
    from probenc_support.models import training
    from test_training import train

    def dying(where, at):
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
        advance, save = training._Run.advance, training.torch.save
        def advance_or_die(run):
            if where == "step" and run.step == at:
                die()
            advance(run)
        def save_or_die(state, stream):
            if where == "between" and state["step"] == at:
                die()
            save(state, stream)
        def replace_or_die(path, target):
            if where == "writing" and target.name == f"step{{at}}":
                die()
            return os.replace(path, target)
        training._Run.advance = advance_or_die
        training.torch.save = save_or_die
        Path.replace = replace_or_die

    text, folder = Path({text!r}), Path({folder!r})
    for where, at in {kills!r}:
        child = os.fork()
        if child == 0:
            dying(where, at)
            train(text, folder / "killed")
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(max(int(p.name[4:]) for p in (folder / "killed").glob("step*")))
    train(text, folder / "killed")
    train(text, folder / "whole")
"""


def test_killed_runs_end_with_the_same_weights(text_file: Path, tmp_path: Path) -> None:
    """One run is killed (signal 9) three times; each time it goes on, and in the end finishes."""
    code = textwrap.dedent(KILLED).format(
        tests=str(Path(__file__).parent), kills=KILLS, text=str(text_file), folder=str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    left = [int(line) for line in done.stdout.split()]
    assert left == [-signal.SIGKILL, 2, -signal.SIGKILL, 8, -signal.SIGKILL, 8]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    assert same(killed, whole)
    assert training.record(killed)["losses"] == training.record(whole)["losses"]
    assert not (killed / "state.pt").exists()


@pytest.mark.parametrize("kind", OTHERS)
def test_an_interrupted_run_of_any_objective_ends_with_the_same_weights(
    kind: str, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = OTHERS[kind]
    whole = train(text_file, tmp_path / "whole", recipe)
    with monkeypatch.context() as patch:
        stopped_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(text_file, tmp_path / "stopped", recipe)
    assert (tmp_path / "stopped" / "state.pt").is_file()
    assert same(train(text_file, tmp_path / "stopped", recipe), whole)
    assert not same(train(text_file, tmp_path / "other", recipe, seed=1), whole), "the control"
    assert models.load(whole, device="cpu").kind.name == kind


def test_masks_are_new_at_every_step_and_the_same_in_every_run(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Tensor]] = {"one": [], "two": []}
    masked_positions = objectives.masked_positions
    for name, kept in seen.items():

        def keep(*args: Any, kept: list[Tensor] = kept, **options: Any) -> Tensor:
            kept.append(masked_positions(*args, **options))
            return kept[-1]

        monkeypatch.setattr(objectives, "masked_positions", keep)
        train(text_file, tmp_path / name, OTHERS["masked"])
    assert len(seen["one"]) == TINY.steps
    assert all(torch.equal(a, b) for a, b in zip(*seen.values(), strict=True))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen["one"]))


@pytest.mark.parametrize("forgotten", ["optimiser", "random numbers", "order of the text"])
def test_weights_differ_if_a_resumed_run_forgets(
    forgotten: str,
    text_file: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: what is restored matters, since without it the weights are others."""
    folder = tmp_path / "forgetful"
    with monkeypatch.context() as patch:
        stopped_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(text_file, folder)
    if forgotten == "optimiser":
        monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda self, state: None)
    elif forgotten == "random numbers":
        seeded = training._seeded
        monkeypatch.setattr(training, "_seeded", lambda *seed: seeded(*seed, 1))
    else:
        order = Text.order
        monkeypatch.setattr(Text, "order", lambda s, r, seed, step: order(s, r, seed, step + 1))
    assert not same(train(text_file, folder), run_folder)


def test_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(
    text_file: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "full"
    advance = training._Run.advance
    with monkeypatch.context() as patch, contextlib.ExitStack() as full:

        def fill(run: training._Run) -> None:
            advance(run)
            if run.step == 7:
                full.enter_context(tiny.no_space())

        patch.setattr(training._Run, "advance", fill)
        with pytest.raises(InputError, match="free some space"):
            train(text_file, folder)
    assert models.revisions(folder)[-1] == "step4"
    assert not list(folder.glob(".tmp*"))
    assert len(models.load(folder, device="cpu").E) == TINY.vocabulary
    assert same(train(text_file, folder), run_folder)


# ------------------------------------------------------------------------------------- what is left


def test_checkpoints_load_by_revision(run_folder: Path) -> None:
    assert models.revisions(run_folder) == [f"step{n}" for n in TINY.checkpoints]
    last = models.load(run_folder, device="cpu")
    fourth = models.load(run_folder, revision="step4", device="cpu")
    assert torch.equal(last.E, weights(run_folder)["embed_out.weight"])
    assert torch.equal(fourth.E, weights(run_folder, 4)["embed_out.weight"])
    assert not torch.equal(fourth.E, last.E)
    assert not last.tied
    assert last.context_length == TINY.sequence_length
    with pytest.raises(InputError, match=r"no revision 'step3'.*step4"):
        models.load(run_folder, revision="step3")


def test_record_tells_what_was_done(run_folder: Path, text: Text) -> None:
    found = training.record(run_folder)
    assert found["tokens"] == 12 * 4 * 32
    assert found["text_hash"] == text.hash
    assert len(found["losses"]) == TINY.steps
    assert found["epochs"] == pytest.approx(TINY.steps * TINY.batch_size / len(text.train))
    with pytest.raises(InputError, match="no complete training run"):
        training.record(run_folder / "step4")


def test_names_lead_to_trained_models(
    own_cache: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "pythia-nano", replace(TINY, name="pythia-nano"))
    stream = corpora.stream
    beside = own_cache.with_name("beside.txt")
    beside.write_text("Something else, which is held out.")
    texts = {"docstrings": str(text_file), "docstrings:held-out": str(beside)}
    monkeypatch.setattr(corpora, "stream", lambda corpus: stream(texts[corpus]))
    seed1 = models.load("pythia-nano-seed1", device="cpu")
    folder = training.trained("pythia-nano", seed=1)
    assert own_cache in folder.parents
    monkeypatch.setattr(training, "_to_the_end", pytest.fail)
    again = models.load("pythia-nano-seed1", revision="step8", device="cpu")
    assert torch.equal(seed1.E, weights(folder)["embed_out.weight"])
    assert torch.equal(again.E, weights(folder, 8)["embed_out.weight"])
    assert cache.entries()


def test_progress_gives_loss_speed_and_time_left(
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "patience", lambda: 0.0)
    training.train(TINY, folder=tmp_path / "told", corpus=str(text_file), device="cpu")
    last = capsys.readouterr().err.strip().split("\r")[-1]
    for part in ("training tiny (seed 0): 100%", "step 12 of 12", "nats", " tokens/s", "<00:00"):
        assert part in last


# --------------------------------------------------------------------------------------- bad input


def test_a_folder_belongs_to_one_run(text_file: Path, run_folder: Path) -> None:
    with pytest.raises(InputError, match="another training run"):
        train(text_file, run_folder, seed=5)


def test_impossible_runs_are_refused(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zero or more"):
        train(text_file, tmp_path / "negative", seed=-1)
    short = tmp_path / "short.txt"
    short.write_text("Too little text. " * 5)
    with pytest.raises(InputError, match="too few to train tiny on"):
        train(short, tmp_path / "short")
    with pytest.raises(InputError, match="smaller learning rate"):
        train(text_file, tmp_path / "nan", replace(TINY, learning_rate=float("inf")))
    with pytest.raises(InputError, match=r"name pythia-nano, .*pythia-mini"):
        training.trained("pythia-giga")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pythia-giga"], "No model 'pythia-giga'"),
        (["pythia-nano", "--steps", "0"], "--steps is 0"),
        (["pythia-nano", "--seeds", "0"], "--seeds is 0"),
        (["pythia-nano", "--steps", "8"], "name one by --out"),
        (["pythia-nano", "--seeds", "2", "--out", "x"], "one seed"),
    ],
)
def test_command_line_refuses(words: list[str], message: str) -> None:
    parser = argparse.ArgumentParser()
    add_train(parser)
    with pytest.raises(InputError, match=message):
        training.main(parser.parse_args(words))


def test_command_line_trains(
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(RECIPES, "tiny", TINY)
    parser = argparse.ArgumentParser()
    add_train(parser)
    out = tmp_path / "out"
    words = ["tiny", "--corpus", str(text_file), "--steps", "2", "--out", str(out)]
    assert training.main(parser.parse_args([*words, "--device", "cpu"])) == 0
    assert models.revisions(out) == ["step0", "step1", "step2"]
    assert "tokens/s on cpu" in capsys.readouterr().out
    assert json.loads((out / "training.json").read_text())["recipe"]["steps"] == 2


# --------------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
def test_gpu_trains_the_same_twice_and_learns(text_file: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, steps=40, dropout=0.0)
    runs = [
        training.train(recipe, folder=tmp_path / name, corpus=str(text_file), device="cuda")
        for name in ("one", "two")
    ]
    first, second = (weights(run, 40) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = training.record(runs[0])["losses"]
    assert np.mean(losses[-5:]) < losses[0] - 0.3


settings.register_profile("quick", max_examples=50, deadline=None)
settings.load_profile("quick")


@pytest.mark.parametrize("content", ["", "[1]", '{"learning_rate": 0.1}'])
def test_somebody_elses_record_of_training_is_none(tmp_path: Path, content: str) -> None:
    for step in range(3):
        tiny.save(tmp_path / f"step{step}", seed=step)
    (tmp_path / "training.json").write_text(content)
    run = checkpoints.training_run(str(tmp_path))
    if content.startswith("{"):
        assert checkpoints.record(run) == {}
    else:
        with pytest.raises(InputError, match="cannot be read as the record"):
            checkpoints.record(run)
