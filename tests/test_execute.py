"""One notebook for one model: complete or absent, and a failure that can be found."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from probenc_support.errors import InputError
from probenc_support.runs import execute

ROOT = Path(__file__).resolve().parents[1]
GOOD = "import json, pathlib\npathlib.Path(results_dir, '01_x.metrics.json').write_text('{}')"


def notebook(path: Path, *code: str) -> Path:
    cells = [
        nbformat.v4.new_markdown_cell("# The fit\n\nWords."),
        nbformat.v4.new_code_cell(
            "model = ''\nseed = 0\nresults_dir = ''", metadata={"tags": ["parameters"]}
        ),
        *(nbformat.v4.new_code_cell(source) for source in code),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(own_cache: Path) -> None: ...


def test_a_run_leaves_its_page_and_nothing_half_done(tmp_path: Path) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD, "print('seed', seed)")
    page = execute.run(
        str(path), model="owner/name", results_dir=tmp_path / "runs", parameters={"seed": 7}
    )
    assert sorted(file.name for file in page.parent.iterdir()) == [
        ".01_x.written",
        "01_x.ipynb",
        "01_x.metrics.json",
    ]
    book = nbformat.read(page, as_version=4)
    assert book.cells[0].source.startswith("# owner/name · The fit\n")
    assert book.cells[-1].outputs[0].text == "seed 7\n"
    assert book.metadata["probenc"]["files"] == ["01_x.metrics.json"]
    assert book.metadata.papermill.input_path == "notebooks/01_x.ipynb"
    assert book.metadata.papermill.output_path == "01_x.ipynb"


def test_a_failure_leaves_no_page_but_notebook_log_and_cause(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = notebook(tmp_path / "01_x.ipynb", GOOD)
    execute.run(str(path), model="m", results_dir=runs)
    notebook(path, GOOD, "print('before')", "raise ValueError('too \\n bad')")
    with pytest.raises(execute.NotebookError, match="01_x for m: ValueError: too") as caught:
        execute.run(str(path), model="m", results_dir=runs)
    assert not list(runs.glob("01_x*")), "what an earlier run left is stale"
    assert caught.value.folder == runs / "failed"
    assert execute.failures(runs) == [caught.value.failure]
    assert "before" in (runs / "failed" / "01_x.log").read_text()
    assert "ValueError" in (runs / "failed" / "01_x.log").read_text()
    assert nbformat.read(runs / "failed" / "01_x.ipynb", as_version=4).cells

    notebook(path, GOOD)
    execute.run(str(path), model="m", results_dir=runs)
    assert not (runs / "failed").exists(), "a success clears the failure"


def test_refused_input_is_told_from_a_fault(tmp_path: Path) -> None:
    refuse = "from probenc_support.errors import InputError\nraise InputError('No such corpus.')"
    path = notebook(tmp_path / "01_x.ipynb", refuse)
    with pytest.raises(execute.NotebookError, match="No such corpus") as caught:
        execute.run(str(path), model="m", results_dir=tmp_path / "runs")
    assert caught.value.failure.refused
    assert caught.value.failure.cause == "No such corpus."


def test_a_kernel_that_dies_says_so(tmp_path: Path) -> None:
    path = notebook(tmp_path / "01_x.ipynb", "import os, signal\nos.kill(os.getpid(), 9)")
    with pytest.raises(execute.NotebookError, match="memory"):
        execute.run(str(path), model="m", results_dir=tmp_path / "runs")


def test_killed_in_the_middle_there_is_no_page_and_a_second_run_makes_it(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    slow = f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\ntime.sleep(60)"
    path = notebook(tmp_path / "01_x.ipynb", GOOD, slow)
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "probenc_support", "run", "--model", "m"]
    process = subprocess.Popen(
        [*command, "--notebook", str(path), "--results-dir", str(runs)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (runs / "01_x.ipynb").exists()
    notebook(path, GOOD)
    assert execute.run(str(path), model="m", results_dir=runs).is_file()


def test_two_at_once_wait_for_each_other(tmp_path: Path) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD, "import time\ntime.sleep(1)")
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "probenc_support", "run", "--model", "m"]
    both = [
        subprocess.Popen(
            [*command, "--notebook", str(path), "--results-dir", str(runs)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    assert [process.wait() for process in both] == [0, 0]
    assert nbformat.read(runs / "01_x.ipynb", as_version=4).metadata.papermill.exception is None


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("raise ValueError('x')", 1),
        ("from probenc_support.errors import *\nraise InputError('x')", 2),
    ],
)
def test_the_command_line_ends_with_the_right_code(
    tmp_path: Path, code: str, exit_code: int
) -> None:
    path = notebook(tmp_path / "01_x.ipynb", code)
    command = [sys.executable, "-m", "probenc_support", "run", "--model", "m"]
    done = subprocess.run(
        [*command, "--notebook", str(path), "--results-dir", str(tmp_path / "runs")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code
    assert "failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_notebook_is_refused() -> None:
    with pytest.raises(InputError, match="no notebook '99'"):
        execute.run("99", model="m")


def test_notebooks_are_found_by_number_name_and_path() -> None:
    for name in execute.notebooks():
        path = ROOT / "notebooks" / f"{name}.ipynb"
        assert execute.source(name) == execute.source(name[:2]) == execute.source(str(path)) == path


def test_a_folder_is_named_after_itself(tmp_path: Path) -> None:
    (tmp_path / "My Model").mkdir()
    assert execute.slug(str(tmp_path / "My Model")) == "My-Model"
    with pytest.raises(InputError, match="no letter"):
        execute.slug("///")
