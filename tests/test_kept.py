"""Pages that are kept: small, whole, shown where no run was made here, and known when they age."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from probenc_support import claims
from probenc_support.errors import InputError
from probenc_support.runs import compact, execute, kept, matrix, run_files

ROOT = Path(__file__).resolve().parents[1]
LARGEST_OF_ALL = 18_000_000
"""Bytes of everything that is kept: what each copy of the repository carries."""

CODE = ["n = 1\n", "import math  # for the root\nroot = math.sqrt(n)\nprint(root)"]


def notebook(path: Path, *sources: str, given: str = "") -> Path:
    """A notebook with these cells of code and, where it was executed, the parameters of its run."""
    cells = [nbformat.v4.new_markdown_cell("# Title")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    if given:
        tags = {"tags": ["injected-parameters"]}
        cells.insert(2, nbformat.v4.new_code_cell(given, metadata=tags))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (CODE, True),
        (["n=1", "import math\n\nroot = math.sqrt( n )\nprint(root)  # another remark"], True),
        (["n = 2", CODE[1]], False),
        (CODE[:1], False),
        ([*CODE, "print(n)"], False),
        ([CODE[1], CODE[0]], False),
    ],
)
def test_a_page_belongs_to_a_notebook_of_the_same_code(
    tmp_path: Path, now: list[str], same: bool
) -> None:
    page = notebook(tmp_path / "page.ipynb", *CODE, given='model = "gpt2"')
    source = notebook(tmp_path / "source.ipynb", *now)
    assert (kept.what_changed(page, source, set()) == "") == same


def test_lines_of_ipython_and_cells_that_are_no_python_are_compared_too(tmp_path: Path) -> None:
    page = notebook(tmp_path / "page.ipynb", "try:\n    x\nexcept E:\n    %pip install y", "a b c")
    assert not kept.what_changed(page, shutil.copy(page, tmp_path / "same.ipynb"), set())
    other = notebook(
        tmp_path / "other.ipynb", "try:\n    x\nexcept E:\n    %pip install y", "a b d"
    )
    assert kept.what_changed(page, other, set()) == "its code has changed since"


def test_a_notebook_that_is_gone_is_told(tmp_path: Path) -> None:
    page = notebook(tmp_path / "page.ipynb", *CODE)
    assert "no longer there" in kept.what_changed(page, tmp_path / "source.ipynb", set())


def test_names_of_metrics_are_those_of_the_default_runs_then_and_now(tmp_path: Path) -> None:
    page = notebook(tmp_path / "page.ipynb", *CODE)
    source = shutil.copy(page, tmp_path / "source.ipynb")
    assert kept.what_changed(page, source, {"spread"}) == "", "nothing was written down"
    (tmp_path / "page.metrics.json").write_text('{"fit": 1, "of_this_kind": 2}')
    written = kept.apart({"fit", "of_this_kind"}, {"fit", "error"})
    assert written == {"more": ["error"], "fewer": ["of_this_kind"]}
    (tmp_path / "page.kept.json").write_text(json.dumps(written))
    assert kept.what_changed(page, source, {"fit", "error"}) == ""
    assert kept.what_changed(page, source, set()) == "", "no default run says what is left now"
    told = kept.what_changed(page, source, {"fit", "spread"})
    assert told == "it now leaves spread, and no longer error"
    many = kept.what_changed(page, source, {"fit", "error", *map(str, range(9))})
    assert many == "it now leaves 0, 1, 2, 3, 4, 5 and 3 more"


# ----------------------------------------------------------------------------------- what is shown


def leave(folder: Path, model: str, fit: float, *, kept_on: str = "") -> Path:
    """A run of one notebook, made or kept."""
    page = notebook(folder / model / "01_x.ipynb", *CODE)
    page.with_name("01_x.metrics.json").write_text(json.dumps({"fit": fit}))
    page.with_name("01_x.provenance.json").write_text(json.dumps({"started": "2026-01-31T10:00Z"}))
    if kept_on:
        page.with_name("01_x.kept.json").write_text(json.dumps({"kept": kept_on}))
    return page


def test_what_was_made_here_stands_in_the_place_of_what_was_kept(tmp_path: Path) -> None:
    made, brought = tmp_path / "runs", tmp_path / "kept"
    leave(made, "a", 1.0)
    for model in ("a", "b"):
        leave(brought, model, 2.0, kept_on="2026-02-01")
    found = claims.runs(made, brought)
    assert [(run.model, run.metrics["fit"], kept.is_kept(run.page)) for run in found] == [
        ("a", 1.0, False),
        ("b", 2.0, True),
    ]
    assert kept.made_on(found[1].provenance) == "2026-01-31"
    page = made / "a" / "01_x.ipynb"
    page.write_bytes(page.read_bytes()[:20])
    assert [run.metrics["fit"] for run in claims.runs(made, brought)] == [2.0, 2.0], "damaged"


@pytest.fixture
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """The book's extension over a folder of a test's own."""
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import probenc_html
    import probenc_pages

    runs, kept_ones = tmp_path / execute.RUNS, tmp_path / kept.KEPT
    (tmp_path / "config.yaml").write_text("repository: x\nbranch: main\nmodels:\n  a:\n")

    def with_runs() -> ModuleType:
        found = claims.runs(runs, kept_ones)
        for module in (probenc_html, probenc_pages):
            monkeypatch.setattr(module, "ROOT", tmp_path)
            monkeypatch.setattr(module, "all_runs", lambda: found)
        probenc_html._aged.cache_clear()
        return probenc_pages

    return with_runs


def test_a_kept_page_says_so_and_an_old_one_too(tmp_path: Path, extension: Any) -> None:
    leave(tmp_path / execute.RUNS, "a", 1.0)
    page = leave(tmp_path / kept.KEPT, "b", 2.0, kept_on="2026-02-01")
    facts = {"started": "2026-01-31T10:00Z", "commit": "abc", "device": "a <processor>"}
    page.with_name("01_x.provenance.json").write_text(json.dumps({**facts, "duration_s": 600}))
    source = notebook(tmp_path / "notebooks" / "01_x.ipynb", *CODE)
    bar = extension()._bar("book/kept/b/01_x")
    assert "Kept from 2026-01-31." in bar
    assert "in 10 minutes with commit abc, a &lt;processor&gt;; not made again" in bar
    assert "earlier version" not in bar
    assert 'href="../../runs/a/01_x.html"' in bar, "the other model's page lies in another folder"
    assert "Kept from" not in extension()._bar("book/runs/a/01_x")
    notebook(source, "n = 5")
    bar = extension()._bar("book/kept/b/01_x")
    assert "Made by an earlier version</strong> of the notebook: its code has changed" in bar


def test_a_kept_page_whose_run_was_made_here_is_no_page_of_the_book(
    tmp_path: Path, extension: Any
) -> None:
    from types import SimpleNamespace

    leave(tmp_path / execute.RUNS, "a", 1.0)
    broken = leave(tmp_path / execute.RUNS, "b", 1.0)
    broken.write_bytes(b"")
    for model in ("a", "b", "c"):
        leave(tmp_path / kept.KEPT, model, 2.0, kept_on="2026-02-01")
    config = SimpleNamespace(exclude_patterns=[])
    extension().leave_out_damaged(None, config)
    assert sorted(config.exclude_patterns) == ["book/kept/a/01_x.ipynb", "book/runs/b/01_x.ipynb"]


# --------------------------------------------------------------------------------------- smallness


def drawn(width: int = 600) -> bytes:
    """A picture with a line of each colour of the palette, and a density."""
    from probenc_support.notebook.figures import PALETTE

    pixels = np.full((300, width, 3), 255, dtype=np.uint8)
    for i, colour in enumerate(PALETTE):
        pixels[10 * i : 10 * i + 4] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    pixels[120:280, 100:500] = np.random.default_rng(0).integers(0, 255, (160, 400, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_small_picture_keeps_size_and_colours() -> None:
    png = drawn()
    small = compact.picture(png)
    assert len(small) < 0.6 * len(png)
    with Image.open(io.BytesIO(png)) as before, Image.open(io.BytesIO(small)) as after:
        assert after.size == before.size
        assert after.mode == "P"
        assert len(after.getcolors() or []) <= compact.COLOURS
        a, b = (np.asarray(one.convert("RGB"), dtype=float)[:80] for one in (before, after))
    assert np.abs(a - b).max() < 40, "no colour of the palette becomes another"


def test_a_picture_has_no_more_dots_than_its_width_needs() -> None:
    for width, shown in ((600, 250), (600, 600)):
        with Image.open(io.BytesIO(compact.picture(drawn(width), shown))) as small:
            assert small.width == min(width, round(compact.SCALE * shown))
    tiny = compact.picture(compact.picture(drawn(), 100), 100)
    assert compact.picture(tiny, 100) == tiny, "small enough already"


def image(mime: str, data: bytes) -> str:
    return f'<img src="data:{mime};base64,{base64.b64encode(data).decode()}" alt="x" width="300">'


def executed(*images: str) -> dict[str, Any]:
    """A page with a figure in HTML, and other forms of it that no page shows."""
    shown = f'<figure id="fig-x">{"".join(images)}</figure>'
    data = {"text/html": shown.splitlines(keepends=True), "text/plain": "<IPython HTML object>"}
    plain = {"output_type": "stream", "name": "stdout", "text": "said"}
    outputs = [{"output_type": "display_data", "metadata": {}, "data": data}, plain]
    metadata = {"tags": ["hide-input"], "papermill": {"duration": 1}}
    cell = {"cell_type": "code", "source": "x", "metadata": metadata, "outputs": outputs}
    prose = {"cell_type": "markdown", "source": "# Title", "metadata": {}}
    return {"cells": [prose, cell], "metadata": {"papermill": {"exception": None}}}


def test_a_small_page_shows_the_same_in_fewer_bytes() -> None:
    page = executed(image("image/png", drawn()), image("image/png", drawn(500)))
    small = compact.page(page, "01_x")
    figure, said = small["cells"][1]["outputs"]
    assert figure["data"].keys() == {"text/html"}
    assert len(re.findall('<img src="data:image/png;base64,', figure["data"]["text/html"])) == 2
    assert figure["data"]["text/html"].count('alt="x" width="300">') == 2
    assert said["text"] == "said"
    assert small["cells"][1]["metadata"] == {"tags": ["hide-input"]}
    assert small["cells"][0] == page["cells"][0]
    assert len(json.dumps(small)) < 0.6 * len(json.dumps(page))


def test_a_figure_that_is_no_png_is_refused() -> None:
    with pytest.raises(InputError, match="01_x has a figure as image/svg"):
        compact.page(executed(image("image/svg+xml", b"<svg/>")), "01_x")


def test_a_small_table_has_seven_digits_and_a_large_one_is_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=50), "n": range(50), "text": ["a"] * 50})
    frame.to_parquet(tmp_path / "x.parquet", index=False)
    assert compact.table(tmp_path / "x.parquet", tmp_path / "small.parquet")
    small = pd.read_parquet(tmp_path / "small.parquet")
    np.testing.assert_allclose(small["x"], frame["x"], rtol=1e-6)
    assert small["n"].tolist() == frame["n"].tolist()
    pd.DataFrame({"x": rng.normal(size=100_000)}).to_parquet(tmp_path / "y.parquet", index=False)
    assert not compact.table(tmp_path / "y.parquet", tmp_path / "large.parquet")
    assert not (tmp_path / "large.parquet").exists()


# ----------------------------------------------------------------------------------------- keeping


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder with two matrices and a run of the long one, of a default model, and of none."""
    notebooks = {"notebooks": ["01_log_linear_fit"]}
    base: dict[str, Any] = {"added_models": notebooks, "models": {"a": notebooks}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(base))
    base["models"] = {"a": notebooks, "b": notebooks, "c": notebooks}
    (tmp_path / "config.full.yaml").write_text(yaml.safe_dump(base))
    for model in ("a", "b"):
        folder = tmp_path / execute.RUNS / model
        folder.mkdir(parents=True)
        name = "01_log_linear_fit"
        (folder / f"{name}.metrics.json").write_text(json.dumps({"fit": 1.0, f"of_{model}": 2}))
        (folder / f"{name}.provenance.json").write_text('{"started": "2026-01-31T10:00Z"}')
        pd.DataFrame({"x": [1.0, 2.0]}).to_parquet(folder / f"{name}.rows.parquet")
        (folder / f"{name}.rows.csv").write_text("x\n1\n2\n")
        rng = np.random.default_rng(1)
        pd.DataFrame({"x": rng.normal(size=60_000)}).to_parquet(folder / f"{name}.tokens.parquet")
        files = [path.name for path in folder.iterdir()]
        book = executed(image("image/png", drawn()))
        book["metadata"]["probenc"] = {"files": files, "sizes": {}}
        (folder / f"{name}.ipynb").write_text(json.dumps(book))
    return tmp_path


def keep(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "book" / "keep.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_pages_of_the_long_matrix_are_kept_whole_and_small(workshop: Path) -> None:
    done = keep(workshop)
    assert done.returncode == 1, "one of the models has not been run"
    assert "c · 01_log_linear_fit: it has not been made" in done.stderr
    folder = workshop / kept.KEPT
    assert [path.name for path in folder.iterdir()] == ["b"], "a is of the default matrix"
    page = folder / "b" / "01_log_linear_fit.ipynb"
    assert {path.name.removeprefix("01_log_linear_fit.") for path in page.parent.iterdir()} == {
        "ipynb", "metrics.json", "provenance.json", "kept.json", "rows.parquet",
    }  # fmt: skip
    record = kept.record(page)
    assert record["left_out"] == ["01_log_linear_fit.tokens.parquet"]
    assert kept.apart({"fit"}, set()) == {}, "no default run"
    assert (record["more"], record["fewer"]) == (["of_a"], ["of_b"])
    assert run_files.damage(page) == ""
    assert run_files.read_object(page)["metadata"]["papermill"] == {"exception": None}
    (run,) = claims.runs(folder)
    assert run.metrics == {"fit": 1.0, "of_b": 2}


@pytest.mark.parametrize("harm", ["page", "metrics", "size"])
def test_what_cannot_be_kept_leaves_what_was_kept_before(workshop: Path, harm: str) -> None:
    keep(workshop, "--model", "b")
    folder = workshop / kept.KEPT / "b"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 5
    made = workshop / execute.RUNS / "b" / "01_log_linear_fit.ipynb"
    if harm == "page":
        made.write_bytes(made.read_bytes()[:100])
    elif harm == "metrics":
        made.with_name("01_log_linear_fit.metrics.json").unlink()
    else:
        book = json.loads(made.read_text())
        book["cells"][0]["source"] = "long " * 300_000
        made.write_text(json.dumps(book))
    done = keep(workshop, "--model", "b")
    assert done.returncode == 1
    assert "nothing is kept of it" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_unknown_model_or_file_is_one_sentence(workshop: Path) -> None:
    for words, told in ((["--model", "z"], "names no model z"), (["--configfile", "y"], "no file")):
        done = keep(workshop, *words)
        assert done.returncode == 2
        assert told in done.stderr
        assert not (workshop / kept.KEPT).exists()


# --------------------------------------------------------------------- what the repository carries


def carried() -> list[Path]:
    return sorted((ROOT / kept.KEPT).glob("*/[0-9]*.ipynb"))


def test_the_long_matrix_differs_from_the_default_one_in_its_models_and_figures() -> None:
    default, full = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))
        for name in ("config.yaml", "config.full.yaml")
    )
    assert {k: v for k, v in full.items() if k not in ("models", "figures")} == {
        k: v for k, v in default.items() if k != "models"
    }
    assert full["figures"] == "png", "of an SVG no small picture can be made"
    assert list(full["models"])[: len(default["models"])] == list(default["models"])
    for name, entry in default["models"].items():
        more, notebooks = full["models"][name], entry["notebooks"]
        assert more["notebooks"][: len(notebooks)] == notebooks, "and perhaps further ones"
        assert {**more, "notebooks": notebooks} == entry
    assert len(matrix.cells(full)) > len(matrix.cells(default))


def test_kept_pages_belong_to_the_long_matrix_and_are_whole_and_small() -> None:
    full = yaml.safe_load((ROOT / "config.full.yaml").read_text(encoding="utf-8"))
    wanted = {(cell.slug, cell.notebook) for cell in matrix.cells(full)}
    default = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    beside = {cell.notebook for cell in matrix.cells(default)}
    for page in carried():
        assert (page.parent.name, page.stem) in wanted, page
        assert run_files.damage(page) == ""
        assert page.stat().st_size <= compact.LARGEST_PAGE, page
        # Of a notebook that no default model runs, there are no names to compare with.
        compared = {"more", "fewer"} if page.stem in beside else set()
        assert {"kept", "left_out"} | compared <= kept.record(page).keys()
        facts = run_files.read_object(page.with_name(f"{page.stem}.provenance.json"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", kept.made_on(facts)), page
        text = page.read_text(encoding="utf-8")
        assert "image/svg+xml" not in text
        assert run_files.read_object(page)["metadata"]["papermill"]["exception"] is None
    files = [path for path in (ROOT / kept.KEPT).rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix == ".csv"]
    assert sum(path.stat().st_size for path in files) <= LARGEST_OF_ALL
