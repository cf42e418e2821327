"""What a notebook depends on: files of the package, through folders, and nothing in silence."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from probenc_support.errors import InputError
from probenc_support.runs import dependencies

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def notebook_of(folder: Path, *cells: str) -> Path:
    """A notebook with some code cells."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    path = folder / "notebook.ipynb"
    nbformat.write(book, path)
    return path


def needed(notebook: Path) -> set[str]:
    """Files that a notebook needs, as paths below the package."""
    return {p.relative_to(dependencies.PACKAGE).as_posix() for p in dependencies.modules(notebook)}


def imports_of(notebook: Path) -> str:
    """The lines of a notebook that import the package."""
    cells = nbformat.read(notebook, as_version=4).cells
    trees = [
        ast.parse(dependencies.without_magics(c.source)) for c in cells if c.cell_type == "code"
    ]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.ImportFrom)]
    return "\n".join(ast.unparse(n) for n in nodes if (n.module or "").startswith("probenc"))


LISTING = """
import json, sys
listed = []
for code in json.loads(sys.stdin.read()):
    for name in [name for name in sys.modules if name.split(".")[0] == "probenc_support"]:
        del sys.modules[name]
    exec(code, {})
    own = [m for name, m in sys.modules.items() if name.startswith("probenc_support.")]
    listed.append([module.__file__ for module in own])
print(json.dumps(listed))
"""
"""Imports anew, for each piece of code, all of the package and nothing of other packages."""


@pytest.fixture(scope="module")
def loaded() -> dict[Path, set[Path]]:
    """Files of the package that Python loads for each notebook, in a process that starts empty."""
    codes = json.dumps([imports_of(notebook) for notebook in NOTEBOOKS])
    command = [sys.executable, "-c", LISTING]
    shown = subprocess.run(command, input=codes, capture_output=True, text=True, check=True)
    files = json.loads(shown.stdout)
    return {
        notebook: {Path(file).resolve() for file in own}
        for notebook, own in zip(NOTEBOOKS, files, strict=True)
    }


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_files_that_python_loads_are_those_that_are_traced(
    notebook: Path, loaded: dict[Path, set[Path]]
) -> None:
    traced = set(dependencies.modules(notebook)) - {dependencies.PACKAGE / "__init__.py"}
    assert loaded[notebook] == {path.resolve() for path in traced}


def test_sections_depend_on_their_own_folders() -> None:
    folders = {
        path.stem[:2]: {name.split("/")[0] for name in needed(path) if "/" in name}
        for path in NOTEBOOKS
    }
    sections = {"sparsity", "steering", "pruning", "dynamics"}
    assert folders["02"] & sections == {"sparsity"}
    assert "steering" in folders["03"]
    assert not {"pruning", "dynamics"} & folders["03"]
    assert "pruning" in folders["04"]
    assert not {"steering", "dynamics"} & folders["04"]
    assert "dynamics" in folders["05"]
    assert not {"steering", "pruning", "sparsity"} & folders["05"]
    assert not sections & folders["06"]


def test_an_edit_of_the_trainer_runs_no_notebook_but_those_of_training() -> None:
    users = {path.stem[:2] for path in NOTEBOOKS if "models/training.py" in needed(path)}
    assert users <= {"05", "07", "08", "10", "11", "12"}


def test_an_import_of_nothing_is_an_error(tmp_path: Path) -> None:
    for code in (
        "from probenc_support import no_such_module",
        "from probenc_support.steering import no_such_name",
        "from probenc_support.no_such_folder import thing",
        "import probenc_support.no_such_module",
    ):
        with pytest.raises(InputError, match=r"no such"):
            dependencies.modules(notebook_of(tmp_path, "%pip install x", code))


def test_imports_inside_functions_and_of_others_do_not_count(tmp_path: Path) -> None:
    path = notebook_of(
        tmp_path, "import numpy", "def f():\n    from probenc_support import inference"
    )
    assert needed(path) == set()


def test_a_module_brings_the_face_of_its_folder_and_what_that_imports(tmp_path: Path) -> None:
    found = needed(notebook_of(tmp_path, "from probenc_support.theory import logit_spread"))
    assert {
        "theory/__init__.py",
        "theory/logit_spread.py",
        "theory/orders.py",
        "moments.py",
    } <= found
    assert "sparsity/__init__.py" not in found
