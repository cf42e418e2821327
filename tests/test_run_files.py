"""What a run wrote is its own; what a person wrote is never removed, overwritten or counted."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import warm
from test_execute import GOOD, ROOT, notebook
from test_parameters import GOOD as PARAMETERS

from probenc_support import cache, claims
from probenc_support.errors import InputError
from probenc_support.notebook import parameters, results
from probenc_support.runs import execute, run_files


@pytest.fixture(autouse=True)
def _own_cache(own_cache: Path) -> None: ...


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# -------------------------------------------------------------------- the notebook is its own page


def as_it_is(path: Path) -> str:
    return str(path.parent)


def through_a_link(path: Path) -> str:
    link = path.parent.parent / "link"
    link.symlink_to(path.parent)
    return str(link)


def spelt_otherwise(path: Path) -> str:
    return f"{path.parent}/../{path.parent.name}/."


def hard_link(path: Path) -> str:
    other = path.parent.parent / "other"
    other.mkdir()
    os.link(path, other / path.name)
    return str(other)


def link_of_the_page(path: Path) -> str:
    other = path.parent.parent / "other"
    other.mkdir()
    (other / path.name).symlink_to(path)
    return str(other)


@pytest.mark.parametrize(
    "results_dir", [as_it_is, through_a_link, spelt_otherwise, hard_link, link_of_the_page]
)
def test_a_notebook_is_not_run_onto_itself(
    tmp_path: Path, results_dir: Callable[[Path], str]
) -> None:
    """As in `nteract/papermill#138`, but that the person's notebook was deleted, too."""
    mine = tmp_path / "mine"
    mine.mkdir()
    path = notebook(mine / "01_x.ipynb", GOOD)
    (mine / "01_x.notes.csv").write_text("a,b\n1,2\n")
    folder = results_dir(path)
    before = contents(tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "probenc_support", "run", "--model", "m"),
            *("--notebook", str(path), "--results-dir", folder),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "onto the notebook itself" in done.stderr
    assert "Traceback" not in done.stderr
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after.keys() - before.keys() if not name.startswith("cache/")]


def test_a_page_of_the_book_and_a_failed_draft_are_not_run_onto_themselves(tmp_path: Path) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD)
    runs = tmp_path / "runs"
    page = execute.run(str(path), model="m", results_dir=runs)
    before = contents(runs)
    with pytest.raises(InputError, match="onto the notebook itself"):
        execute.run(str(page), model="m", results_dir=runs)
    assert contents(runs) == before

    notebook(path, "raise ValueError('x')")
    with pytest.raises(execute.NotebookError):
        execute.run(str(path), model="m", results_dir=runs)
    before = contents(runs)
    with pytest.raises(InputError, match="onto the notebook itself"):
        execute.run(str(runs / "failed" / "01_x.ipynb"), model="m", results_dir=runs)
    assert contents(runs) == before


# ---------------------------------------------------------------------- files of the person's own


@pytest.mark.parametrize("name", ["01_x.ipynb", "failed/01_x.ipynb", "failed/01_x.log"])
def test_somebodys_file_of_the_pages_name_is_left(tmp_path: Path, name: str) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD)
    runs = tmp_path / "runs"
    mine = runs / name
    mine.parent.mkdir(parents=True)
    mine.write_bytes(path.read_bytes() if name.endswith(".ipynb") else b"my notes\n")
    before = contents(runs)
    with pytest.raises(InputError, match="no run of this project wrote it"):
        execute.run(str(path), model="m", results_dir=runs)
    assert contents(runs) == before


@pytest.mark.parametrize("last", ["print(1)", "raise ValueError('x')"])
def test_what_lies_beside_a_page_stays(tmp_path: Path, last: str) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD, last)
    runs = tmp_path / "runs"
    mine = {"01_x.notes.csv": "1,2", "01_x.py": "x = 1", "failed/notes.txt": "why", "a.txt": "b"}
    for name, text in mine.items():
        (runs / name).parent.mkdir(parents=True, exist_ok=True)
        (runs / name).write_text(text)
    for _ in range(2):
        try:
            execute.run(str(path), model="m", results_dir=runs)
        except execute.NotebookError:
            assert "ValueError" in last
        assert {name: (runs / name).read_text() for name in mine} == mine
    page = runs / "01_x.ipynb"
    assert page.is_file() == ("ValueError" not in last)
    if page.is_file():
        named = nbformat.read(page, as_version=4).metadata["probenc"]["files"]
        assert named == ["01_x.metrics.json"]


def test_a_name_with_the_signs_of_a_pattern_means_itself(tmp_path: Path) -> None:
    path = notebook(tmp_path / "0[1]*.ipynb", "print(1)")
    runs = tmp_path / "runs"
    runs.mkdir()
    for name in ("01.csv", "0[1]x.csv", "01.ipynb"):
        (runs / name).write_text("mine")
    assert execute.run(str(path), model="m", results_dir=runs).is_file()
    assert all((runs / name).read_text() == "mine" for name in ("01.csv", "0[1]x.csv", "01.ipynb"))


def made(folder: Path, *tables: str) -> None:
    p = parameters.check("01_x", {**PARAMETERS, "results_dir": str(folder)})
    found = results.Results(p)
    for table in tables:
        found.add_table(table, pd.DataFrame({"x": range(30)}))
    found.add_metrics(fit=0.5)
    found.finish()


@pytest.mark.parametrize("name", ["01_x.rows.csv", "01_x.rows.parquet", "01_x.metrics.json"])
def test_results_take_no_persons_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match="no run of this project wrote it"):
        made(tmp_path, "rows")
    assert (tmp_path / name).read_text() == "mine"


def test_results_take_the_place_of_their_own(tmp_path: Path) -> None:
    made(tmp_path, "rows")
    made(tmp_path, "rows")
    assert results.load_metrics(tmp_path, "01_x") == {"fit": 0.5}


def test_several_models_do_not_share_a_folder(tmp_path: Path) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "probenc_support", "run", "--model", "a", "--model", "b"),
            *("--notebook", str(path), "--results-dir", str(tmp_path / "runs")),
        ],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "one by one" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_killed_runs_files_are_known_and_made_again(tmp_path: Path) -> None:
    """A killed process leaves a draft and some tables, and no page that could name them."""
    made(tmp_path, "rows")
    run_files.note(tmp_path, "01_x", ["failed/01_x.ipynb"])
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "01_x.ipynb").write_text('{"cut')
    (tmp_path / "01_x.mine.csv").write_text("mine")
    run_files.forget(tmp_path, "01_x")
    assert contents(tmp_path) == {"01_x.mine.csv": b"mine"}


def test_a_record_names_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for path in (tmp_path / "mine.txt", tmp_path / "runs" / "02_y.csv"):
        path.write_text("mine")
    names = ["../mine.txt", str(tmp_path / "mine.txt"), "02_y.csv", "01_x./../../mine.txt"]
    run_files.record_of(tmp_path / "runs", "01_x").write_text(json.dumps({"files": names}))
    run_files.forget(tmp_path / "runs", "01_x")
    assert (tmp_path / "mine.txt").is_file()
    assert (tmp_path / "runs" / "02_y.csv").is_file()


# ------------------------------------------------------------------------------------------- cache


MINE = {
    "models": ("my-finetune", "pytorch_model.bin", "gguf-notes"),
    "corpora": ("wikipedia.txt", "docstrings.json"),
    "passes": ("boarding", "2024"),
    "training": ("run1", "logs"),
}


def test_a_folder_with_models_of_ones_own_is_safe_as_a_cache(own_cache: Path) -> None:
    for kind, names in MINE.items():
        for name in names:
            (own_cache / kind / name).mkdir(parents=True)
            (own_cache / kind / name / "data").write_bytes(b"mine" * 1000)
    before = contents(own_cache)
    assert cache.entries() == []
    assert cache.clear() == 0
    assert contents(own_cache) == before
    ours = {
        "models": ("gguf-0123456789abcdef", "E-of-EleutherAI--pythia-14m"),
        "corpora": ("docstrings-numpy-2.1.0-v1.json",),
        "passes": ("0123456789abcdef" * 2,),
        "training": ("pythia-nano-seed0-0123456789ab", "text-0123456789ab-4096-256-1000"),
    }
    for kind, names in ours.items():
        for name in names:
            (own_cache / kind / name).mkdir()
            (own_cache / kind / name / "data").write_bytes(b"ours" * 1000)
    assert {entry.path.name for entry in cache.entries()} == {n for ns in ours.values() for n in ns}
    assert cache.clear() == 4000 * sum(map(len, ours.values()))
    assert contents(own_cache) == before


def test_the_size_limit_counts_and_drops_passes_of_this_project_alone(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBENC_CACHE_GB", "0.000001")
    mine, old, new = (own_cache / "passes" / n for n in ("mine", "0" * 32, "1" * 32))
    for path in (mine, old, new):
        path.mkdir(parents=True)
        (path / "data").write_bytes(b"x" * 5000)
    cache.shrink("passes", keep=new)
    assert mine.is_dir()
    assert not old.exists()
    assert new.is_dir()


def test_an_entry_that_is_a_link_loses_the_link_alone(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "data").write_text("mine")
    (own_cache / "models").mkdir(parents=True)
    (own_cache / "models" / "gguf-0123456789abcdef").symlink_to(tmp_path / "big")
    cache.clear()
    assert (tmp_path / "big" / "data").is_file()
    assert not list((own_cache / "models").iterdir())


def test_what_the_package_keeps_is_listed(tiny_folder: Path) -> None:
    """Every kind of entry that the package makes has a name that the cache knows."""
    from probenc_support import corpora, inference, models

    corpora.documents("docstrings:networkx")
    lm = models.load(tiny_folder, device="cpu")
    blocks = corpora.blocks("python-manual", lm.tokenizer, n_positions=64, sequence_length=32)
    inference.detect(lm, blocks, progress=False)
    kept = {path for kind in cache.KINDS for path in (cache.cache_dir() / kind).glob("*")}
    assert {entry.path for entry in cache.entries()} == kept
    assert len(kept) >= 2


# ------------------------------------------------------------------------------------- damaged runs


WRITES = (
    "import pandas as pd\n"
    "from probenc_support.notebook import parameters, results\n"
    f"p = parameters.check('01_x', {{**{PARAMETERS!r}, 'results_dir': results_dir}})\n"
    "found = results.Results(p)\n"
    "found.add_table('rows', pd.DataFrame({'x': range(300)}))\n"
    "found.add_metrics(fit=0.5)\n"
    "found.finish()"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, module_cache: None) -> Path:
    """Folder of one run with a table, beside its notebook."""
    folder = tmp_path_factory.mktemp("whole")
    path = notebook(folder / "01_x.ipynb", WRITES)
    with pytest.MonkeyPatch.context() as patch:
        warm.use(patch)
        return execute.run(str(path), model="m", results_dir=folder / "run").parent


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["ipynb", "metrics.json", "provenance.json", "rows.parquet",
                                  "rows.csv"])  # fmt: skip
def test_a_damaged_file_is_named_and_its_run_left_out(
    tmp_path: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    warm_kernels: None,
    kind: str,
    share: float,
) -> None:
    runs = tmp_path / "runs"
    page = Path(shutil.copytree(whole, runs / "a")) / "01_x.ipynb"
    assert [run.metrics for run in claims.runs(runs)] == [{"fit": 0.5}]
    assert run_files.damage(page) == ""
    other = runs / "b"
    other.mkdir()
    (other / "02_y.ipynb").write_text("{}")
    (other / "02_y.metrics.json").write_text('{"fit": 1}')
    file = page.with_name(f"01_x.{kind}")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    run_files.tell.cache_clear()
    assert [run.model for run in claims.runs(runs)] == ["b"]
    (line,) = capsys.readouterr().err.splitlines()
    assert f"a/01_x.{kind} is empty, cut off or damaged" in line
    claims.runs(runs)
    assert not capsys.readouterr().err, "said once"
    if share == 0.5:
        execute.run(str(whole.parent / "01_x.ipynb"), model="m", results_dir=runs / "a")
        assert {run.model for run in claims.runs(runs)} == {"a", "b"}


def test_the_book_is_built_without_damaged_pages(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import probenc_html
    import probenc_pages

    for module in (probenc_html, probenc_pages):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in ("a", "b", "c"):
        shutil.copytree(whole, tmp_path / execute.RUNS / name)
    (tmp_path / execute.RUNS / "b" / "01_x.ipynb").write_bytes(b"")
    (tmp_path / execute.RUNS / "c" / "01_x.rows.csv").unlink()
    config = SimpleNamespace(exclude_patterns=["tests/**"])
    probenc_pages.leave_out_damaged(None, config)
    assert sorted(config.exclude_patterns) == [
        "book/runs/b/01_x.ipynb", "book/runs/c/01_x.ipynb", "tests/**",
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b'{"notebook": "01_x"', b"[]", b"\xff\xfe", b'{"a": 1}'])
def test_a_damaged_record_of_a_failure_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "01_x.json").write_bytes(content)
    assert execute.failures(tmp_path) == []
