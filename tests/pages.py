"""Notebooks of the repository by papermill, and what is asked of every page that comes out."""

import functools
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import warm

from probenc_support.runs import execute as runs

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@dataclass(frozen=True)
class Done:
    """How papermill ended, as `subprocess.CompletedProcess` says it."""

    returncode: int
    stderr: str = ""


@functools.cache
def _cache() -> "tempfile.TemporaryDirectory[str]":
    """A cache folder that the runs of one process share, so that corpora are collected once."""
    return tempfile.TemporaryDirectory(prefix="probenc-tests-")


def execute(notebook: str, folder: Path, **parameters: Any) -> Done:
    """What `papermill notebooks/NAME.ipynb FOLDER/page.ipynb -p ...` does, in this process.

    The kernel is a process of its own, forked off one that has imported what it needs. A page that
    comes out whole is checked for figures and values that stand there by themselves.

    Args:
        notebook: its number, or more of its name.
        folder: where the page and the results go, and where the kernel runs.
        parameters: of the notebook; what is no number reaches it as text, as a person types it.
    """
    with pytest.MonkeyPatch.context() as patch, runs._sockets() as config:
        warm.use(patch)
        patch.setenv("PROBENC_CACHE", _cache().name)
        try:
            papermill.execute_notebook(
                _source(notebook), folder / "page.ipynb", _typed(folder, parameters),
                kernel_name="python3", cwd=str(folder), progress_bar=False, config=config,
            )  # fmt: skip
        except papermill.PapermillExecutionError as error:
            return Done(1, str(error))
    check_outputs(folder / "page.ipynb")
    return Done(0)


def execute_as_typed(notebook: str, folder: Path, **parameters: Any) -> Done:
    """The same by the command, whose process starts a fresh kernel."""
    options = ["-k", "python3", "--no-progress-bar", "--cwd", str(folder)]
    typed = _typed(folder, parameters).items()
    words = [word for name, value in typed for word in ("-p", name, str(value))]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "papermill", *options),
            *(str(_source(notebook)), str(folder / "page.ipynb"), *words),
        ],
        capture_output=True, text=True, cwd=folder, timeout=600, check=False,
        env={**os.environ, "PROBENC_CACHE": str(folder / "cache")},
    )  # fmt: skip
    if done.returncode == 0:
        check_outputs(folder / "page.ipynb")
    return Done(done.returncode, done.stderr)


def _source(notebook: str) -> Path:
    return next((ROOT / "notebooks").glob(f"{notebook}*.ipynb"))


def _typed(folder: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    given = {**parameters, "results_dir": folder}
    return {n: v if isinstance(v, int | float) else str(v) for n, v in given.items()}


def check_outputs(page: Path) -> None:
    """Figures come with caption and text, no cell ends with a value that says nothing, and what a
    library writes to stderr is not on the page."""
    for cell in nbformat.read(page, as_version=4).cells:
        hidden = "remove-stderr" in cell.metadata.get("tags", [])
        for output in cell.get("outputs", []):
            said = output.get("text", "") if output.get("name") == "stderr" else ""
            assert hidden or not said, said
            data = output.get("data", {})
            assert "image/png" not in data, f"a bare figure: {cell.source}"
            if output.output_type == "execute_result":
                assert "text/html" in data, f"a bare value: {cell.source}"
