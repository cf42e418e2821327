"""`steer` and `prune`: what they write is what they say, loads anywhere, and is whole or absent."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pandas as pd
import pytest
import tiny
import tiny_kinds
import torch
from test_models import gguf_file
from transformers import AutoModelForCausalLM

from probenc_support import models
from probenc_support.__main__ import main
from probenc_support.commands import arguments, output
from probenc_support.pruning import pruned_head

SIZES = ("--n-positions", "1024", "--sequence-length", "32", "--device", "cpu")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny model folder of a style, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(style: str) -> Path:
        if style not in made:
            made[style] = tiny.save(tmp_path_factory.mktemp("models") / f"tiny-{style}", style)
        return made[style]

    return folder


@pytest.fixture(autouse=True)
def _cache(module_cache: None) -> None:
    """Passes of the tiny models are kept from test to test."""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], text_file: Path) -> Run:
    """The command in this process, on the short text: its exit code and what it said."""

    def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
        given = [str(word) for word in words]
        corpus = [] if "--corpus" in given else ["--corpus", str(text_file)]
        try:
            code = main([given[0], *SIZES, *given[1:], *corpus])
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(given, code, said.out, said.err)

    return command


def wishes(**factors: float) -> list[str]:
    """Tokens by id, as the command line has them."""
    return [word for i, f in factors.items() for word in ("--token-id", f"{i[1:]}={f}")]


LIKELY = wishes(t83=1.5, t72=0.7, t260=1.0, t99=2.0)

WITHOUT_PACKAGE = """
import json, sys
sys.modules["probenc_support"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
try:
    import probenc_support
    raise SystemExit("the package is there")
except ImportError:
    pass
told = {}
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(json.load(open(sys.argv[1])))
    with torch.no_grad():
        p = model(ids).logits.double().softmax(dim=2).mean(dim=(0, 1))
    told[folder] = {
        "p": p.tolist(), "text": tokenizer.decode(ids[0]),
        "tied": model.config.tie_word_embeddings, "class": type(model).__module__,
        "written": model.generate(ids[:1, :8], max_new_tokens=4, do_sample=False).shape[1],
    }
print(json.dumps(told))
"""


def loaded_without_the_package(folder: Path, ids: torch.Tensor, *models: Path) -> dict[str, Any]:
    """What plain transformers makes of folders, in a process that cannot import this package."""
    (folder / "ids.json").write_text(json.dumps(ids.tolist()))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, str(folder / "ids.json"), *map(str, models)],
        capture_output=True, text=True, check=False, cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def fitted_ids(lm: Any, text_file: Path) -> torch.Tensor:
    """The blocks that the command fits to."""
    from probenc_support import corpora

    return corpora.blocks(str(text_file), lm.tokenizer, n_positions=1024, sequence_length=32).ids


def test_what_is_written_loads_without_the_package_and_has_the_factors(
    run: Run, folders: Any, text_file: Path, tmp_path: Path
) -> None:
    steered, pruned = tmp_path / "steered", tmp_path / "pruned"
    source = folders("bias")
    assert run("steer", "--model", source, *LIKELY, "--out", steered).returncode == 0
    done = run("prune", "--model", source, "--share", "0.3", "--out", pruned)
    assert done.returncode == 0, done.stderr
    lm = models.load(source, device="cpu", probe=False)
    ids = fitted_ids(lm, text_file)
    told = loaded_without_the_package(tmp_path, ids, source, steered, pruned)
    before, after = (np.array(told[str(f)]["p"]) for f in (source, steered))
    table = pd.read_csv(steered / output.TABLE)
    assert table["id"].tolist() == [83, 72, 260, 99]
    np.testing.assert_allclose(after[table["id"]] / before[table["id"]], table["wanted"], rtol=1e-4)
    np.testing.assert_allclose(table["came"], table["wanted"], rtol=1e-4)
    np.testing.assert_allclose(table["came elsewhere"], table["expected elsewhere"], rtol=1e-4)
    assert float((table["came elsewhere"] / table["wanted"] - 1).abs().max()) > 1e-4
    for folder in (steered, pruned):
        assert told[str(folder)]["text"] == told[str(source)]["text"]
        assert told[str(folder)]["tied"] is False
        assert told[str(folder)]["class"].startswith("transformers.models.gptj")
        assert told[str(folder)]["written"] == 12
        assert not list(tmp_path.glob(".tmp-*"))
    E, own = (AutoModelForCausalLM.from_pretrained(f).lm_head.weight for f in (pruned, source))
    assert int(torch.linalg.matrix_rank(E.detach(), rtol=1e-5)) == tiny.WIDTH - 5
    assert int(torch.linalg.matrix_rank(own.detach(), rtol=1e-5)) == tiny.WIDTH


@pytest.mark.parametrize("style", tiny.STYLES)
def test_only_the_wanted_rows_of_the_head_differ(
    run: Run, folders: Any, tmp_path: Path, style: str
) -> None:
    words = wishes(t83=1.1, t72=0.9)
    done = run("steer", "--model", folders(style), *words, "--out", tmp_path / "steered")
    assert done.returncode == 0, done.stderr
    old = AutoModelForCausalLM.from_pretrained(folders(style))
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "steered")
    before, after = old.state_dict(), new.state_dict()
    head = next(name for name in after if name.endswith(("lm_head.weight", "embed_out.weight")))
    rows = (after[head] != before[head]).any(dim=1).nonzero().flatten().tolist()
    assert rows == [72, 83]
    assert all(torch.equal(after[name], before[name]) for name in before if name != head)
    assert torch.equal(new.get_input_embeddings().weight, old.get_input_embeddings().weight)


@pytest.mark.parametrize("direction", ["min_variance", "robust", "exact", "paper"])
def test_every_direction_comes_to_the_factors(run: Run, tmp_path: Path, direction: str) -> None:
    prose = tiny.prose()
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text(prose[: len(prose) // 2], encoding="utf-8")
    other.write_text(prose[len(prose) // 2 :], encoding="utf-8")
    model = tiny.model("bias")  # whose last norm is a LayerNorm, here with a bias that matters
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.transformer.ln_f.bias.copy_(1 + 0.3 * torch.randn(tiny.WIDTH, generator=generator))
    model.save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    done = run(
        "steer", "--model", tmp_path / "model", *wishes(t83=1.3, t99=1.2), "--direction", direction,
        "--corpus", text, "--calibration", other, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / output.RECORD).read_text())
    assert record["direction"] == direction
    for token in record["tokens"]:
        assert token["came"] == pytest.approx(token["wanted"], rel=1e-4)
        if direction == "exact":  # what is left is saturation
            assert token["came elsewhere"] == pytest.approx(token["wanted"], rel=1e-2)


def test_no_exact_direction_behind_an_rmsnorm(run: Run, folders: Any, tmp_path: Path) -> None:
    words = (*wishes(t83=1.3), "--direction", "exact", "--out", tmp_path / "out")
    refused(run("steer", "--model", folders("tied"), *words), "which is no LayerNorm", tmp_path)


def test_the_card_and_the_table_say_what_was_done(
    run: Run, folders: Any, tmp_path: Path, text_file: Path
) -> None:
    out = tmp_path / "steered"
    done = run("steer", "--model", folders("untied"), *LIKELY, "--out", out)
    card = (out / "README.md").read_text()
    record = json.loads((out / output.RECORD).read_text())
    for token in record["tokens"]:
        assert token["token"] in done.stdout
        assert token["token"].replace("|", "\\|") in card
        assert f"{token['came elsewhere']:.4g}" in done.stdout
    assert "wanted" in done.stdout
    assert done.stderr.splitlines()[-1] == f"Written: {out}"
    assert record["model"] == "tiny-untied"
    for told in (card, json.dumps(record)):
        assert str(tmp_path) not in told, "no path of this machine"
        assert str(text_file.parent) not in told
    done = run("prune", "--model", folders("untied"), "--share", "0.3", "--out", tmp_path / "p")
    card = (tmp_path / "p" / "README.md").read_text()
    assert "11 of 16 dimensions" in card
    assert "fitted through the origin" in card
    assert "neither memory nor time is saved" in card
    assert "KL (nats)" in done.stdout


@pytest.mark.parametrize("style", ["tied", "bias", "divided"])
@pytest.mark.parametrize("method", arguments.METHODS)
def test_a_pruned_model_costs_what_is_said(
    run: Run, folders: Any, tmp_path: Path, style: str, method: str
) -> None:
    out = tmp_path / "pruned"
    words = ("--share", "0.3", "--method", method, "--factors", "--out", out)
    done = run("prune", "--model", folders(style), *words)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out / output.TABLE).set_index("measure")
    assert float(table.loc["KL (nats)", "came"]) > 1e-6
    np.testing.assert_allclose(table["came"], table["expected"], rtol=2e-3)
    assert bool((table["low"] <= table["came"]).all())
    assert bool((table["came"] <= table["high"]).all())
    new = models.load(out, device="cpu", probe=False)
    assert int(torch.linalg.matrix_rank(new.E, rtol=1e-5)) <= tiny.WIDTH - 5
    if method != "rotated":
        assert int((new.E == 0).all(dim=0).sum()) == 5
    h = models.hidden_states(new, torch.arange(2, 34)[None])[0]
    small = pruned_head.load(out / "pruned_head" / "head.safetensors")
    by_factors = small(h) * new.scale
    difference = (by_factors - new.head.logits(h)).log_softmax(1)
    torch.testing.assert_close(
        by_factors.log_softmax(1), new.head.logits(h).log_softmax(1), rtol=0, atol=1e-4
    )
    assert difference.isfinite().all()


def test_a_dry_run_expects_the_same_and_writes_nothing(
    run: Run, folders: Any, tmp_path: Path
) -> None:
    for words in (("steer", *LIKELY), ("prune", "--share", "0.3")):
        model = ("--model", folders("untied"))
        dry = run(*words, *model, "--out", tmp_path / "out", "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "Nothing was written." in dry.stderr
        assert "came" not in dry.stdout
        assert not list(tmp_path.iterdir())
        assert run(*words, *model, "--dry-run").stdout == dry.stdout, "no place need be named"
        wet = run(*words, *model, "--out", tmp_path / "out")
        expected = [line.split()[2] for line in dry.stdout.splitlines()[1:]]
        assert all(number in wet.stdout for number in expected)
        assert "came" in wet.stdout
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "albert", "t5", "t5-untied", "bart"])
def test_other_kinds_of_model_are_written_too(run: Run, tmp_path: Path, architecture: str) -> None:
    source = tiny_kinds.save(tmp_path / "model", architecture)
    steered = run("steer", "--model", source, *wishes(t83=1.1, t72=0.95), "--out", tmp_path / "s")
    assert steered.returncode == 0, steered.stderr
    table = pd.read_csv(tmp_path / "s" / output.TABLE)
    np.testing.assert_allclose(table["came"], table["wanted"], rtol=1e-4)
    np.testing.assert_allclose(table["came elsewhere"], table["expected elsewhere"], rtol=1e-4)
    old, new = (models.load(f, device="cpu", probe=False) for f in (source, tmp_path / "s"))
    assert torch.equal(
        old.model.get_input_embeddings().weight, new.model.get_input_embeddings().weight
    )
    pruned = run("prune", "--model", source, "--share", "0.3", "--out", tmp_path / "p")
    assert pruned.returncode == 0, pruned.stderr
    costs = pd.read_csv(tmp_path / "p" / output.TABLE)
    np.testing.assert_allclose(costs["came"], costs["expected"], rtol=2e-3)


# ---------------------------------------------------------------------------------------- refusals


def refused(done: subprocess.CompletedProcess[str], sentence: str, folder: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "No token is named"),
        (("--token", "x"), "'x' names no token with a factor"),
        (("--token", "=2"), "'=2' names no token with a factor"),
        (("--token", "x=two"), "The factor of 'x' is 'two'"),
        (("--token", "x=0"), "must be a positive number"),
        (("--token", "x=-1"), "must be a positive number"),
        (("--token", "x=inf"), "must be a positive number"),
        (("--token", "x=nan"), "must be a positive number"),
        (("--token", "x=2", "--token", "x=3"), "'x' is named twice"),
        (("--token-id", "x=2"), "'x' is no number of a token"),
        (("--token-id", "83=2", "--token-id", "83=2.5"), "83 is named twice"),
        (("--token", "x=2", "--direction", "up"), "no direction 'up'"),
        (("--token", "x=2", "--n-positions", "8"), "must be at least --sequence-length"),
        (("--token", "x=2", "--gguf-type", "q4"), "no type 'q4'"),
        (("--token", "several words=2"), "tokens of tiny-untied"),
        (("--token-id", "9999=2"), "9999 is no token of tiny-untied"),
        (("--token-id", "83=100000000"), "is no probability"),
        (("--token", "x=2", "--corpus", "missing.txt"), "no corpus 'missing.txt'"),
        (("--token", "x=2", "--dtype", "float8"), "Unknown dtype"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_in_a_sentence(
    run: Run, folders: Any, tmp_path: Path, words: Any, sentence: str
) -> None:
    done = run("steer", "--model", folders("untied"), "--out", tmp_path / "out", *words)
    refused(done, sentence, tmp_path)


def test_probabilities_above_one_together_name_the_token(
    run: Run, folders: Any, tmp_path: Path
) -> None:
    lm = models.load(folders("untied"), device="cpu", probe=False)
    many = {f"t{i}": 400.0 for i in lm.tokens[60:70].tolist()}
    done = run("steer", "--model", folders("untied"), *wishes(**many), "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "Together these tokens" in done.stderr or "is no probability" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--share", "0"), "A share of 0 cannot be removed"),
        (("--share", "1"), "A share of 1 cannot be removed"),
        (("--share", "-0.5"), "A share of -0.5 cannot be removed"),
        (("--share", "0.001"), "less than one of them"),
        (("--share", "0.99"), "leaves no model"),
        (("--share", "0.3", "--method", "luck"), "no method 'luck'"),
        (("--share", "0.3", "--corpus", "missing.txt"), "no corpus 'missing.txt'"),
    ],
)
def test_a_pruning_that_cannot_be_is_refused_in_a_sentence(
    run: Run, folders: Any, tmp_path: Path, words: Any, sentence: str
) -> None:
    done = run("prune", "--model", folders("untied"), "--out", tmp_path / "out", *words)
    refused(done, sentence, tmp_path)


def test_a_head_that_lies_elsewhere_is_refused(
    run: Run, folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = models.load

    def offloaded(*names: Any, **options: Any) -> Any:
        lm = load(*names, **options)
        lm.model.get_output_embeddings().to("meta")
        return lm

    monkeypatch.setattr(models, "load", offloaded)
    for words in (("steer", *LIKELY), ("prune", "--share", "0.3")):
        done = run(*words, "--model", folders("untied"), "--out", tmp_path / "out")
        refused(done, "is offloaded", tmp_path)


def test_what_is_there_is_not_replaced_unasked(run: Run, folders: Any, tmp_path: Path) -> None:
    words = ("steer", "--model", folders("untied"), *wishes(t83=1.5), "--out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("text")
    for name in ("mine", "file", "file/below"):
        for more in ((), ("--overwrite",)):
            done = run(*words, tmp_path / name, *more)
            assert done.returncode == 2
            assert "exists already" in done.stderr or "is a file" in done.stderr
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    for name in ("", ".", ".."):
        assert run(*words, name).returncode == 2
    (tmp_path / "empty").mkdir()
    assert run(*words, tmp_path / "empty").returncode == 0
    written = (tmp_path / "empty" / output.TABLE).read_text()
    done = run(*words, tmp_path / "empty")
    assert (done.returncode, "--overwrite" in done.stderr) == (2, True)
    again = ("steer", "--model", folders("untied"), *wishes(t83=1.2), "--overwrite", "--out")
    assert run(*again, tmp_path / "empty").returncode == 0
    assert (tmp_path / "empty" / output.TABLE).read_text() != written
    assert not list(tmp_path.glob(".tmp-*"))


# --------------------------------------------------------------------------------- whole or absent


@pytest.mark.parametrize("command", ["steer", "prune"])
def test_a_full_disk_leaves_nothing(run: Run, folders: Any, tmp_path: Path, command: str) -> None:
    words = [command, "--model", folders("untied")]
    words += LIKELY if command == "steer" else ["--share", "0.3"]
    run(*words, "--dry-run")  # so that the passes are in the cache, which is under the limit, too
    with tiny.no_space():
        done = run(*words, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "Cannot write" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_that_is_ended_leaves_nothing(
    run: Run, folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    model = folders("untied")
    # As in a terminal: what a shell puts into the background is started with Ctrl-C ignored.
    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL

    def ended(self: Any, folder: Path, *_: Any, **__: Any) -> None:
        assert (Path(folder) / "model.safetensors").is_file(), "in the middle of writing"
        os.kill(os.getpid(), number)

    monkeypatch.setattr(tiny.tokenizer().__class__, "save_pretrained", ended)
    with handled(number, usual):
        done = run("steer", "--model", model, *LIKELY, "--out", tmp_path / "out")
        assert signal.getsignal(number) == usual
    assert done.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def handled(number: int, handler: Any) -> Iterator[None]:
    """Inside the context a signal has another handler."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    """Under nohup a command goes on when its terminal is closed."""
    with handled(signal.SIGHUP, signal.SIG_IGN), output.ending_in_order():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


# -------------------------------------------------------------------------------------------- GGUF


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


def settings_of(path: Path) -> dict[str, Any]:
    fields = gguf.GGUFReader(path).fields
    return {k: f.contents() for k, f in fields.items() if not k.startswith("GGUF.")}


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_gguf_file_differs_in_its_output_embedding_alone(
    run: Run, tmp_path: Path, kind: str
) -> None:
    source, out = gguf_file(tmp_path / "tiny.gguf"), tmp_path / "steered.gguf"
    done = run(
        "steer", "--model", source, *wishes(t83=1.1, t72=0.9), "--gguf-type", kind, "--out", out
    )
    assert done.returncode == 0, done.stderr
    before, after = tensors_of(source), tensors_of(out)
    head = after.pop("output.weight")
    assert after == before
    assert head[0] == kind.upper()
    assert settings_of(out) == settings_of(source)
    record = json.loads((tmp_path / "steered.probenc.json").read_text())
    rough = 1e-4 if kind == "f32" else 1e-2
    for token in record["tokens"]:
        assert token["came"] == pytest.approx(token["wanted"], rel=rough)
    old, new = (models.load(path, device="cpu", probe=False) for path in (source, out))
    if kind == "f32":
        assert (new.E != old.E).any(dim=1).nonzero().flatten().tolist() == [72, 83]
    assert (old.tied, new.tied) == (True, False)
    assert torch.equal(
        new.model.get_input_embeddings().weight, old.model.get_input_embeddings().weight
    )
    assert (tmp_path / "steered.README.md").is_file()
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_pruned_gguf_file_has_the_rank(run: Run, tmp_path: Path) -> None:
    source, out = gguf_file(tmp_path / "tiny.gguf"), tmp_path / "pruned.gguf"
    done = run("prune", "--model", source, "--share", "0.3", "--out", out)
    assert done.returncode == 0, done.stderr
    new = models.load(out, device="cpu", probe=False)
    assert int(torch.linalg.matrix_rank(new.E, rtol=1e-5)) == tiny.WIDTH - 5


def test_gguf_where_it_cannot_be_is_refused(run: Run, folders: Any, tmp_path: Path) -> None:
    place = tmp_path / "out"
    place.mkdir()
    words = (*wishes(t83=1.1), "--out", place / "x.gguf")
    refused(run("steer", "--model", folders("untied"), *words), "is no GGUF file", place)
    other = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(other, "mamba")
    writer.add_tensor("token_embd.weight", np.zeros((4, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(run("steer", "--model", other, *words), "of the architecture 'mamba'", place)
