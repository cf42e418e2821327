"""The matrix: what runs, what does not run again, what a failure and a kill leave behind."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hub
import nbformat
import pytest
import tiny
import yaml

from probenc_support.__main__ import _parser
from probenc_support.errors import InputError
from probenc_support.runs import execute, matrix

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("01_one", "02_two", "03_three")
MODELS = ("tiny-a", "tiny-b")

PARAMETERS = """model = ""
revision = ""
corpus = "docstrings"
eval_corpus = ""
first_token = "auto"
n_positions = 16384
sequence_length = 256
positions = "all"
device = "auto"
dtype = "auto"
seed = 0
results_dir = ""
"""

LOADS = """from probenc_support import models
from probenc_support.notebook import parameters
from probenc_support.notebook.results import Results
import pandas as pd

p = parameters.check("{name}", globals())
lm = models.load(p.model)
results = Results(p, lm)
results.add_metrics(rows=lm.V, width=lm.d)
results.add_table("rows", pd.DataFrame({{"row": range(3)}}))
results.finish()
"""

OPENS = """import json, pathlib
from safetensors import safe_open

(weights,) = pathlib.Path(model).glob("*.safetensors")
with safe_open(weights, "numpy") as tensors:
    rows = len(list(tensors.keys()))
folder = pathlib.Path(results_dir)
(folder / "{name}.rows.csv").write_text(f"row\\n{{rows}}\\n")
(folder / "{name}.provenance.json").write_text("{{}}")
(folder / "{name}.metrics.json").write_text(json.dumps({{"rows": rows}}))
"""

WRITES = """import json, pathlib, time
for kind in ("provenance", "metrics"):
    time.sleep(0.3)
    path = pathlib.Path(results_dir) / f"{name}.{{kind}}.json"
    path.write_text(json.dumps({{"rows": 1}}))
"""

READS = """import json, pathlib
from probenc_support import corpora, inference, models

lm = models.load(model)
blocks = corpora.blocks(
    corpus, lm.tokenizer, n_positions=n_positions, sequence_length=sequence_length
)
detection = inference.detect(lm, blocks)
for kind in ("provenance", "metrics"):
    path = pathlib.Path(results_dir) / f"{name}.{{kind}}.json"
    path.write_text(json.dumps({{"from_cache": int(detection.from_cache)}}))
"""

LIGHT = {
    "01_one": WRITES,
    "02_two": "from probenc_support.runs import run_files\n"
    + WRITES
    + "\ndef later():\n    from probenc_support.pruning import tuning\n",
    "03_three": "from probenc_support.claims import rule_book\n" + WRITES,
}
"""Notebooks that take a second and load no model; two of them use some of the package."""


def notebook(path: Path, code: str) -> None:
    """A notebook with the shared parameters and one cell."""
    cells = [
        nbformat.v4.new_markdown_cell(f"# {path.stem}"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code.format(name=path.stem)),
    ]
    book = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)


def repository(folder: Path, models: list[str], notebooks: dict[str, str]) -> Path:
    """A copy of this repository's machinery, with a matrix of its own."""
    # With what is compiled of it, so that no job compiles it again.
    shutil.copytree(ROOT / "probenc_support", folder / "probenc_support")
    (folder / "book").mkdir()
    shutil.copy(ROOT / "book" / "build.py", folder / "book")
    for name in ("Snakefile", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config["models"] = {name: {"notebooks": list(notebooks)} for name in models}
    config["added_models"] = {"notebooks": list(notebooks)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    for name, code in notebooks.items():
        notebook(folder / "notebooks" / f"{name}.ipynb", code)
    return folder


def build(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "book/build.py", "--no-site", "--cores", "2", *arguments]


def environment(folder: Path) -> dict[str, str]:
    own = {"PROBENC_CACHE": str(folder / "cache"), "PYTHONPATH": str(folder)}
    return {**os.environ, **own, "HF_HUB_OFFLINE": "1"}


def make(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        build(folder, *arguments),
        cwd=folder,
        env={**environment(folder), **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def pages(folder: Path) -> set[str]:
    runs = folder / execute.RUNS
    return {path.relative_to(runs).as_posix() for path in runs.glob("*/*.ipynb")}


def stamps(folder: Path) -> dict[str, int]:
    runs = folder / execute.RUNS
    return {name: (runs / name).stat().st_mtime_ns for name in pages(folder)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Three models x three notebooks, run once; one model's weights are damaged."""
    folder = tmp_path_factory.mktemp("matrix")
    for name in (*MODELS, "broken"):
        tiny.save(folder / "models" / name)
    (weights,) = (folder / "models" / "broken").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    names = [f"models/{name}" for name in (*MODELS, "broken")]
    # One notebook loads the model as the book's do; the others only open its weights, in a second.
    repository(folder, names, {**dict.fromkeys(NOTEBOOKS, OPENS), "01_one": LOADS})
    return folder, make(folder)


def test_a_model_that_cannot_load_costs_its_own_pages_only(made: Any) -> None:
    folder, done = made
    good = {f"{name}/{n}.ipynb" for name in MODELS for n in NOTEBOOKS}
    assert pages(folder) == good, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.returncode == 1


def test_failures_are_summarised_with_their_causes(made: Any) -> None:
    folder, done = made
    summary = done.stdout[done.stdout.index("Pages that are absent (3)") :]
    for name in NOTEBOOKS:
        (line,) = [line for line in summary.splitlines() if name in line and "broken" in line][:1]
        assert line.split(": ", 1)[1].strip(), "a cause"
    logs = [line.split("log: ")[1] for line in summary.splitlines() if "log: " in line]
    assert len(logs) == 3
    assert all((folder / log).stat().st_size > 0 for log in logs)
    assert "Traceback" not in summary


def test_each_step_of_the_run_is_timed(made: Any) -> None:
    _, done = made
    for name in NOTEBOOKS:
        assert sum(name in line and "0:" in line for line in done.stdout.splitlines()) >= 2
    assert "all in all" in done.stdout


def test_pages_are_complete_and_name_their_model(made: Any) -> None:
    folder, _ = made
    for name in pages(folder):
        page = folder / execute.RUNS / name
        book = nbformat.read(page, as_version=4)
        assert book.cells[0].source.startswith(f"# {page.parent.name} · ")
        assert json.loads(page.with_suffix(".metrics.json").read_text())["rows"] > 0
        assert all((page.parent / file).is_file() for file in book.metadata["probenc"]["files"])


@pytest.fixture
def good(made: Any, tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of the same runs, with a configuration that leaves the damaged model out."""
    folder = Path(shutil.copytree(made[0], tmp_path / "copy", symlinks=True))
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    del config["models"]["models/broken"]
    (folder / "good.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder, ["--configfile", "good.yaml"]


def test_a_second_run_does_nothing_and_a_change_re_runs_only_its_cells(good: Any) -> None:
    folder, options = good
    before = stamps(folder)
    done = make(folder, *options)
    assert done.returncode == 0
    assert "Nothing to do" in done.stdout
    assert stamps(folder) == before

    changed = folder / "notebooks" / "03_three.ipynb"
    book = nbformat.read(changed, as_version=4)
    book.cells[-1].source += "\nprint('edited')"
    nbformat.write(book, changed)
    make(folder, *options)
    after = stamps(folder)
    assert {name for name in after if after[name] != before[name]} == {
        f"{model}/03_three.ipynb" for model in MODELS
    }

    (folder / execute.RUNS / "tiny-a" / "02_two.rows.csv").unlink()
    (folder / execute.RUNS / "tiny-b" / "03_three.metrics.json").unlink()
    make(folder, *options)
    last = stamps(folder)
    assert {name for name in last if last[name] != after[name]} == {
        "tiny-a/02_two.ipynb",
        "tiny-b/03_three.ipynb",
    }
    assert (folder / execute.RUNS / "tiny-a" / "02_two.rows.csv").is_file()


def test_a_folder_on_the_command_line_joins_the_book(good: Any) -> None:
    folder, options = good
    tiny.save(folder / "elsewhere" / "tiny-d")
    before = (folder / "config.yaml").read_bytes()
    make(folder, *options, "--models", "elsewhere/tiny-d")
    assert {f"tiny-d/{name}.ipynb" for name in NOTEBOOKS} <= pages(folder)
    assert (folder / "config.yaml").read_bytes() == before

    # A later run without it leaves its pages, and takes them as they are.
    kept = stamps(folder)
    done = make(folder, *options)
    assert done.returncode == 0
    assert stamps(folder) == kept


def test_a_model_of_the_hub_joins_the_book(tmp_path: Path) -> None:
    folder = repository(tmp_path / "book", [], {"01_one": LOADS})
    page = f"{hub.OWNER.replace('/', '--')}/01_one.ipynb"
    with hub.serving({"main": tiny.save(tmp_path / "served")}) as server:
        settings = hub.client_settings(server.url, tmp_path / "home")
        done = make(folder, "--models", hub.OWNER, **settings)
        assert done.returncode == 0, done.stdout + done.stderr
        assert pages(folder) == {page}
        assert any("model.safetensors" in request for request in server.requests)
    (folder / execute.RUNS / page).unlink()
    assert make(folder, "--models", hub.OWNER, **settings).returncode == 0, "the hub being gone"
    assert pages(folder) == {page}
    done = make(folder, "--models", "somebody/else", **settings)
    assert done.returncode == 1
    assert "somebody/else · 01_one: Not fetched: " in done.stdout
    assert pages(folder) == {page}


@pytest.fixture
def light(tmp_path: Path) -> Path:
    """A matrix whose notebooks take a second and load nothing."""
    return light_repository(tmp_path)


def light_repository(folder: Path) -> Path:
    tiny.save(folder / "models" / "tiny")
    return repository(folder, ["models/tiny"], LIGHT)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That matrix with its pages, made once."""
    folder = light_repository(tmp_path_factory.mktemp("light"))
    done = make(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def light_with_pages(once: Path, tmp_path: Path) -> Path:
    """A copy of it, whose files have the times of the first, to be changed by one test."""
    folder = Path(shutil.copytree(once, tmp_path / "copy", symlinks=True))
    assert "Nothing to do" in make(folder).stdout
    return folder


def test_an_edit_inside_a_folder_re_runs_just_the_notebooks_that_use_it(
    light_with_pages: Path,
) -> None:
    folder = light_with_pages

    def planned() -> set[str]:
        """Notebooks that would run now."""
        command = [sys.executable, "-m", "snakemake", "cells", "--cores", "1", "--dry-run"]
        done = subprocess.run(
            command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True
        )
        return set(re.findall(r"Job \d+: tiny/(\d\d_\w+)", done.stdout))

    assert planned() == set()
    package = folder / "probenc_support"
    for path, users in (
        ("pruning/tuning.py", set()),
        ("claims/rules_of_paper.py", {"03_three"}),
        ("runs/run_files.py", {"02_two", "03_three"}),
    ):
        with (package / path).open("a", encoding="utf-8") as file:
            file.write("\n# an edit\n")
        assert planned() == users, path


def test_killed_and_restarted_gives_the_same_pages(light: Path) -> None:
    runs = light / execute.RUNS / "tiny"
    # While the model is fetched, in the middle of a notebook, and between two of them.
    for mark in ("failed/fetch.log", "0*.provenance.json", "0*.ipynb"):
        process = subprocess.Popen(
            build(light),
            cwd=light,
            env=environment(light),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not list(runs.glob(mark)) and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, f"it ended before there was {mark}"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for page in pages(light):
            nbformat.validate(nbformat.read(light / execute.RUNS / page, as_version=4))
    done = make(light)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert pages(light) == {f"tiny/{name}.ipynb" for name in NOTEBOOKS}
    assert all(json.loads(file.read_text()) == {"rows": 1} for file in runs.glob("*.json"))
    assert not list((runs / "failed").glob("*")) if (runs / "failed").exists() else True


def test_models_with_blanks_in_their_paths_through_make(tmp_path: Path) -> None:
    folder = repository(tmp_path / "the book", [], {"01_one": OPENS})
    mine = [tiny.save(tmp_path / name / "a model") for name in ("one", "it's two, $HOME")]
    mine[1] = mine[1].rename(mine[1].with_name('b "model"'))
    shutil.copy(ROOT / "Makefile", folder)
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    (folder / ".installed").touch()
    for models, found in (
        (str(mine[0]), {"a-model"}),
        (" ".join(shlex.quote(str(path)) for path in mine), {"a-model", "b-model"}),
    ):
        command = ["make", "notebooks", "VENV=.", "CORES=2", f"MODELS={models.replace('$', '$$')}"]
        done = subprocess.run(
            [*command, "-o", ".installed"],
            cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert pages(folder) == {f"{name}/01_one.ipynb" for name in found}


def test_damaged_files_are_named_and_their_pages_made_again(light_with_pages: Path) -> None:
    light = light_with_pages
    runs = light / execute.RUNS
    shutil.copytree(runs / "tiny", runs / "brought")
    before = stamps(light)
    for name, size in {
        "tiny/01_one.ipynb": 0,
        "tiny/02_two.metrics.json": 3,
        "brought/01_one.ipynb": 50,
        "brought/02_two.provenance.json": 0,
    }.items():
        file = runs / name
        file.write_bytes(file.read_bytes()[:size])
    for file in (runs / "tiny" / "01_one.benchmark.tsv", runs / "tiny" / "fetch.benchmark.tsv"):
        file.write_bytes(b"")
    done = make(light)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if "cut off or damaged" in line]
    assert [line.split()[0] for line in told] == [
        "brought/01_one.ipynb", "brought/02_two.provenance.json", "tiny/01_one.ipynb",
        "tiny/02_two.metrics.json",
    ]  # fmt: skip
    assert [line.rsplit(" ", 2)[-1] for line in told] == ["out.", "out.", "again.", "again."]
    after = stamps(light)
    assert {name for name in after if name.startswith("tiny/") and after[name] != before[name]} == {
        "tiny/01_one.ipynb", "tiny/02_two.ipynb",
    }  # fmt: skip
    assert json.loads((runs / "tiny" / "02_two.metrics.json").read_text()) == {"rows": 1}
    assert "Traceback" not in done.stderr


def test_somebodys_notebook_in_the_place_of_a_page_is_refused(light: Path) -> None:
    mine = light / execute.RUNS / "tiny" / "02_two.ipynb"
    mine.parent.mkdir(parents=True)
    shutil.copy(light / "notebooks" / "02_two.ipynb", mine)
    before = mine.read_bytes()
    done = make(light)
    assert done.returncode == 2
    assert "02_two.ipynb is there already and no run of this project wrote it" in done.stderr
    assert mine.read_bytes() == before


def test_clean_removes_what_runs_wrote_and_nothing_else(light_with_pages: Path) -> None:
    light = light_with_pages
    shutil.copy(ROOT / "book" / "clean.py", light / "book")
    runs = light / execute.RUNS
    shutil.copytree(runs / "tiny", runs / "kept")
    for name in ("tiny/notes.txt", "tiny/01_one.mine.csv", "tiny/failed/why.txt"):
        (runs / name).parent.mkdir(exist_ok=True)
        (runs / name).write_text("mine")
    (light / "results").mkdir()
    (light / "results" / "thesis.txt").write_text("mine")
    for words in (("init", "-q"), ("add", "-f", "book/runs/kept")):
        subprocess.run(["git", *words], cwd=light, check=True)
    kept = {path.name for path in (runs / "kept").iterdir()}
    command = [sys.executable, "book/clean.py"]
    subprocess.run(command, cwd=light, env=environment(light), check=True)
    assert {path.relative_to(runs).as_posix() for path in (runs / "tiny").rglob("*")} == {
        "tiny/notes.txt", "tiny/01_one.mine.csv", "tiny/failed", "tiny/failed/why.txt",
    }  # fmt: skip
    assert (light / "results" / "thesis.txt").is_file()
    assert {path.name for path in (runs / "kept").iterdir()} == kept


@pytest.mark.parametrize("profile", ["slurm"])
def test_cluster_profiles_plan_every_cell(light: Path, profile: str) -> None:
    pytest.importorskip(f"snakemake_executor_plugin_{profile}")
    command = [sys.executable, "-m", "snakemake", "cells", "--profile", f"profiles/{profile}"]
    done = subprocess.run(
        [*command, "--dry-run"],
        cwd=light,
        env=environment(light),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plan = done.stdout + done.stderr
    for name in NOTEBOOKS:
        assert f"{execute.RUNS}/tiny/{name}.ipynb" in plan
    assert "slurm_partition=main" in plan
    assert not pages(light)


def test_passes_are_divided_among_jobs_before_the_cells_that_read_them(tmp_path: Path) -> None:
    folder = repository(
        tmp_path / "book",
        [str(tiny.save(tmp_path / "tiny"))],
        {"01_one": READS, "02_two": READS, "03_three": WRITES},
    )
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    (folder / "prose.txt").write_text(tiny.prose(), encoding="utf-8")
    config["parameters"] = {"corpus": "prose.txt", "n_positions": 8192, "sequence_length": 32}
    config["notebook_parameters"] = {}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")

    command = [sys.executable, "-m", "snakemake", "cells", "--cores", "1", "--dry-run"]
    plan = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=True
    )
    assert "of the pass" not in plan.stdout, "by default there is no such job"

    done = make(folder, "--", "--config", "pass_shards=2")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = folder / execute.RUNS / "tiny"
    ticks = sorted(path.name for path in runs.glob(".pass-*"))
    assert [tick[-7:] for tick in ticks] == ["-1-of-2", "-2-of-2"], "one pass, which two cells read"
    read = {path.name[:2]: json.loads(path.read_text()) for path in runs.glob("*.metrics.json")}
    assert read == {"01": {"from_cache": 1}, "02": {"from_cache": 1}, "03": {"rows": 1}}
    assert len(list((folder / "cache" / "passes").rglob("*.safetensors"))) == 4


# ----------------------------------------------------------------------------- the matrix as data


CONFIG = {
    "models": {
        "a": {"notebooks": ["01"], "parameters": {"seed": 2}, "resources": {"gpu": 1}},
        "b": None,
    },
    "added_models": {"notebooks": ["06_across_models"]},
    "parameters": {"corpus": "docstrings", "seed": 1},
    "notebook_parameters": {"06_across_models": {"runs_dir": "x"}},
    "resources": {"mem_mb": 1, "gpu": 0},
}


def test_parameters_and_resources_come_in_layers() -> None:
    first, second = matrix.cells(CONFIG)
    assert first.parameters == {"corpus": "docstrings", "seed": 2}
    assert first.resources == {"mem_mb": 1, "gpu": 1}
    assert second.parameters == {"corpus": "docstrings", "seed": 1, "runs_dir": "x"}
    assert second.page == Path("book/runs/b/06_across_models.ipynb")


def test_a_cell_tells_detect_what_its_pass_depends_on() -> None:
    parameters = {"corpus": "a b.txt", "eval_corpus": "bible", "n_positions": 512, "seed": 3}
    cell = matrix.Cell("m", "m", "01_log_linear_fit", {**parameters, "device": ""}, {})
    words = matrix.pass_arguments(cell)
    assert words == ["--model", "m", "--corpus", "a b.txt", "bible", "--n-positions", "512"]
    follows_training = matrix.Cell("m", "m", "05_training_dynamics", parameters, {})
    assert matrix.pass_arguments(follows_training) == []


def test_detect_has_the_defaults_of_the_notebooks() -> None:
    """So that the passes that it makes are those that they read."""
    told = _parser().parse_args(["detect", "--model", "m"])
    book = nbformat.read(ROOT / "notebooks" / "01_log_linear_fit.ipynb", as_version=4)
    (given,) = (c.source for c in book.cells if "parameters" in c.metadata.get("tags", []))
    defaults: dict[str, Any] = {}
    exec(given, defaults)
    assert told.corpus == [defaults["corpus"]]
    for name in (
        "revision", "first_token", "n_positions", "sequence_length", "positions", "device", "dtype",
    ):  # fmt: skip
        assert getattr(told, name) == defaults[name], name


def test_the_books_own_matrix_names_parameters_that_its_notebooks_have() -> None:
    for cell in matrix.cells(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))):
        book = nbformat.read(ROOT / "notebooks" / f"{cell.notebook}.ipynb", as_version=4)
        (given,) = (c.source for c in book.cells if "parameters" in c.metadata.get("tags", []))
        there = {name.id for name in ast.walk(ast.parse(given)) if isinstance(name, ast.Name)}
        assert set(cell.parameters) <= there, (cell.model, cell.notebook)


def test_models_of_the_command_line_join_those_of_the_file() -> None:
    names = [cell.model for cell in matrix.cells({**CONFIG, "MODELS": "gpt2 a owner/name"})]
    assert names == ["a", "b", "gpt2", "owner/name"]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"models": {}}, "names no model"),
        ({**CONFIG, "MODELS": "x/b x--b"}, "share the folder"),
        ({**CONFIG, "MODELS": "all-models"}, "share the folder"),
        ({**CONFIG, "models": {"a": {"notebooks": ["77"]}}}, "no notebook '77'"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        matrix.cells(config)


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ("gpt2", "gpt2"),
        ("EleutherAI/pythia-70m", "EleutherAI--pythia-70m"),
        ("../no/such/../folder", "no--such--..--folder"),
        ("my model.gguf", "my-model"),
    ],
)
def test_folder_names_are_safe(model: str, folder: str) -> None:
    assert execute.slug(model) == folder
    assert "/" not in execute.slug(model)
