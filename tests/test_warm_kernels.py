"""Kernels that are forked off a warm process show what fresh ones show."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
import warm

from probenc_support.runs import execute

LOOKS_AROUND = """
import os, sys
print(sorted(name for name in globals() if not name.startswith("_")))
print(os.getcwd(), os.environ["PROBENC_CACHE"], os.environ["MPLBACKEND"], __name__)
print([path for path in sys.path if "tests" in path], sys.stdin.closed)
print(os.getpid() == os.getpgid(0) != os.getpgid(os.getppid()))
"""
CELLS = (
    LOOKS_AROUND,
    "import sys, warnings\nprint('told', file=sys.stderr)\nwarnings.warn('beware')",
    "import subprocess\nx = subprocess.run(['echo', 'from elsewhere'])",
    "from matplotlib import pyplot as plt\nfigure = plt.plot([1, 2])",
    "import tqdm, torch\nlist(tqdm.tqdm(range(3)))\ntorch.get_num_threads()",
    "import logging\nlogging.getLogger('x').warning('logged')\nlogging.getLogger('x').info('not')",
    "import warnings\nwarnings.simplefilter('ignore')\nfrom transformers.utils import logging\n"
    "logging.get_verbosity(), logging.is_progress_bar_enabled()",
    "get_ipython().run_line_magic('pwd', '')",
    "def f():\n    return 1 / 0\nf()",
)


def outputs(folder: Path, name: str) -> list[list[Any]]:
    """What the cells show, run in a folder that both kernels share."""
    cells = [nbformat.v4.new_code_cell(code) for code in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "probe.ipynb")
    page = folder / f"{name}.ipynb"
    with (
        execute._sockets() as config,
        execute._environment(execute._KERNEL_ENVIRONMENT),
        pytest.raises(papermill.exceptions.PapermillExecutionError, match="ZeroDivisionError"),
    ):
        papermill.execute_notebook(
            folder / "probe.ipynb", page, kernel_name="python3", cwd=str(folder),
            progress_bar=False, config=config,
        )  # fmt: skip
    cells = nbformat.read(page, as_version=4).cells
    shown = [cell.outputs for cell in cells if cell.cell_type == "code"]
    without_id: list[list[Any]] = json.loads(re.sub(r"ipykernel_\d+", "", json.dumps(shown)))
    return without_id


def test_a_warm_kernel_shows_what_a_fresh_one_shows(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = outputs(tmp_path, "fresh")
    warm.use(monkeypatch)
    for code, expected, shown in zip(CELLS, fresh, outputs(tmp_path, "warm"), strict=True):
        assert shown == expected, code
    assert "image/png" in fresh[3][-1]["data"], "a figure that a cell left open"
    assert fresh[-1][-1]["ename"] == "ZeroDivisionError"


SHARED = """
import random, numpy, torch
print(getattr(torch, "left", "nothing is left"))
torch.left = "something is left"
print(random.random(), numpy.random.rand(), float(torch.rand(1)))
"""


def test_warm_kernels_share_neither_state_nor_random_numbers(
    tmp_path: Path, warm_kernels: None
) -> None:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHARED)])
    nbformat.write(book, tmp_path / "probe.ipynb")
    drawn: list[str] = []
    for _ in range(2):
        with execute._sockets() as config:
            page = papermill.execute_notebook(
                tmp_path / "probe.ipynb", None, kernel_name="python3", progress_bar=False,
                config=config,
            )  # fmt: skip
        left, *numbers = page.cells[-1].outputs[0].text.split("\n")
        assert left == "nothing is left"
        drawn += numbers[0].split()
    assert len(set(drawn)) == 6
