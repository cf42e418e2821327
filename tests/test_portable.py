"""No path of the machine is in a page, in any kind of output or spelling; the rest stays."""

import base64
import html
import json
import re
import tempfile
import urllib.parse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import tiny
from test_execute import notebook
from test_training import TINY

from probenc_support.runs import execute, portable

MARKER = "unique-marker"


def test_every_spelling_of_a_path_becomes_a_name(tmp_path: Path) -> None:
    model = tmp_path / f"{MARKER} & 'so' é" / "my model"
    clean = portable.remover(tmp_path / "root", [str(model), ["docstrings"], 3])
    for spell in (str, repr, html.escape, json.dumps, urllib.parse.quote, lambda text: f"`{text}`"):
        for path, name in ((model, "my model"), (model / "config.json", "my model/config.json")):
            told = clean(f"see {spell(str(path))}: it")
            assert MARKER not in told
            assert urllib.parse.unquote(told).strip("'\"") in (
                f"see {name}: it", f"see '{name}': it", f'see "{name}": it', f"see `{name}`: it",
            )  # fmt: skip
    assert clean(f"\x1b[1;32m{model.parent}/other.txt\x1b[0m") == "\x1b[1;32mother.txt\x1b[0m"
    assert clean(f"{Path.home()}/notes and {tempfile.gettempdir()}/x") == "~/notes and x"
    assert clean({"a": [{"b": str(model)}, 1, None]}) == {"a": [{"b": "my model"}, 1, None]}


def test_what_only_looks_like_a_path_stays(tmp_path: Path) -> None:
    model = tmp_path / "m"
    code = base64.b64encode(bytes(range(256)) * 200).decode()
    clean = portable.remover(Path("/r"), [str(model), "/data/tiny"])
    picture = f'<img src="data:image/svg+xml;base64,{code}/data/tiny/{code}">'
    for text in (picture, "owner/name", "x/data/tiny", "/data/tiny-2x"[5:], "0.1/data", "a ~ b"):
        assert clean(text) == text
    assert clean({"image/png": "/data/tiny/+="}) == {"image/png": "/data/tiny/+="}


@pytest.mark.parametrize("model", [".", "..", "./", "../", "tiny/", "~"])
def test_a_short_name_of_a_folder_harms_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PROBENC_CACHE", "cache")
    clean = portable.remover(tmp_path, [model])
    text = "0.5 of ../x, ./y, tiny/z and cache/w. So it is... a~b"
    assert clean(text) == text


# ---------------------------------------------------------------------------- executed notebooks


def readable(path: Path) -> str:
    """All text of a file: drawings in pages and columns of tables as well."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_csv()
    text = path.read_text(encoding="utf-8", errors="replace")
    drawings = re.findall(r"svg\+xml;base64,([A-Za-z0-9+/=]+)", text)
    return text + "".join(base64.b64decode(code).decode() for code in drawings)


def told_in(folder: Path, *words: str) -> list[str]:
    return [
        f"{path.name}: {text[max(0, at - 60) : at + 60]!r}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for text in [readable(path)]
        for word in words
        if (at := text.find(word)) >= 0
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder below a marked path with a blank in it: a model, a training run, and texts."""
    folder = tmp_path_factory.mktemp("deep") / f"{MARKER} one" / "things"
    tiny.save(folder / "models" / "my model", "untied")
    for step in range(4):
        tiny.save(folder / "models" / "my run" / f"step{step}", seed=step)
    trained = {
        "corpus": str(folder / "gone.txt"), "tokens": 9, "epochs": 1.0, "seconds": 1.0,
        "recipe": asdict(TINY),
    }  # fmt: skip
    (folder / "models" / "my run" / "training.json").write_text(json.dumps(trained))
    np.save(folder / "models" / "my run" / "sources.npy", np.zeros(0, dtype=np.int64))
    prose = tiny.prose()
    size = len(prose) // 4
    for i in range(4):
        (folder / f"text {i}.txt").write_text(prose[i * size : (i + 1) * size], encoding="utf-8")
    return folder


SMALL: dict[str, dict[str, Any]] = {
    "01": {"n_positions": 512, "n_bootstrap": 20},
    "02": {"n_positions": 512, "n_bootstrap": 20, "n_controls": 5},
    "03": {
        "n_positions": 1024, "n_tokens": 10, "n_checked": 1, "n_generations": 0,
        "calibration_positions": 128,
    },
    "04": {
        "n_positions": 1024, "n_evaluation": 128, "tuning_steps": 4, "n_generations": 20,
        "generation_tokens": 4, "n_random": 1,
    },
    "05": {"n_positions": 256, "n_bootstrap": 20},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(place: Path, module_cache: None) -> Path:
    """Where the notebooks leave their runs, below the marked path too."""
    return place / "runs"


def executed(place: Path, runs: Path, notebook: str) -> Path:
    """The page of a notebook on the model or the run below the marked path."""
    texts = [str(place / f"text {i}.txt") for i in range(4)]
    given = {"sequence_length": 32, "corpus": texts[0], "eval_corpus": texts[1], **SMALL[notebook]}
    if notebook == "03":
        given["calibration_corpora"] = texts[2:]
    if notebook == "04":
        given["near_corpus"] = texts[2]
    if notebook == "05":
        given["counts"] = texts[0]
    model = place / "models" / ("my run" if notebook == "05" else "my model")
    return execute.run(notebook, model=str(model), results_dir=runs / "tiny", parameters=given)


@pytest.mark.parametrize("notebook", SMALL)
def test_no_path_of_the_machine_is_in_what_a_run_leaves(
    place: Path, runs: Path, warm_kernels: None, notebook: str
) -> None:
    """As asked for in `nteract/papermill#253`."""
    page = executed(place, runs, notebook)
    named = [MARKER, urllib.parse.quote(str(place)), str(Path.home()) + "/", tempfile.gettempdir()]
    assert not told_in(runs, *named)
    shown = readable(page)
    model = "my run" if notebook == "05" else "my model"
    assert model in shown
    assert "text 0.txt" in shown
    book = nbformat.read(page, as_version=4)
    assert book.metadata.papermill.parameters["model"] == model
    assert book.metadata.papermill.parameters["results_dir"] == ""


def test_no_path_of_the_machine_is_in_the_comparison(
    place: Path, runs: Path, warm_kernels: None
) -> None:
    if not list(runs.glob("*/01*.metrics.json")):
        executed(place, runs, "01")
    page = execute.run(
        "06", model="all-models", results_dir=runs / "all-models",
        parameters={"runs_dir": str(runs)},
    )  # fmt: skip
    assert not told_in(page.parent, MARKER, tempfile.gettempdir())


def test_every_kind_of_output_is_cleaned(tmp_path: Path, own_cache: Path) -> None:
    place = tmp_path / MARKER / "model"
    place.mkdir(parents=True)
    code = f"""
import sys, warnings
from IPython.display import HTML, Markdown, display
place = {str(place)!r} + "/sub"
print("out", place)
print("err", place, file=sys.stderr)
warnings.warn(place)
display(HTML("<b>" + place + "</b>"), Markdown("`" + place + "`"))
display({{"text/plain": place, "application/json": {{"a": [place]}}}}, raw=True)
place
"""
    path = notebook(place / "01_x.ipynb", code)
    execute.run(str(path), model=str(place), results_dir=tmp_path / "runs")
    assert not told_in(tmp_path / "runs", MARKER, str(Path.home()) + "/")


def test_a_failed_page_tells_no_path_and_its_log_does(tmp_path: Path, own_cache: Path) -> None:
    place = tmp_path / MARKER / "model"
    place.mkdir(parents=True)
    path = notebook(place / "01_x.ipynb", "raise ValueError(f'{model}/weights are bad')")
    with pytest.raises(execute.NotebookError, match=MARKER):
        execute.run(str(path), model=str(place), results_dir=tmp_path / "runs")
    failed = tmp_path / "runs" / "failed"
    assert MARKER not in readable(failed / "01_x.ipynb")
    assert "model/weights are bad" in readable(failed / "01_x.ipynb")
    assert str(place) in readable(failed / "01_x.log")
