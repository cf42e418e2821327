"""The book's matrix: which notebook runs for which model, with what parameters and resources."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from probenc_support import execute, names
from probenc_support.errors import InputError

FETCH = "fetch"
"""Name of the step that gets (or trains) a model before its notebooks."""
ACROSS = names.ALL_MODELS
"""Folder below `book/runs` of the notebook that compares the models."""


@dataclass(frozen=True)
class Cell:
    """One model x one notebook."""

    model: str
    """As the person named it: roster name, hub id, folder or file."""
    slug: str
    """Folder below `book/runs`."""
    notebook: str
    """Name, such as `01_log_linear_fit`."""
    parameters: Mapping[str, Any]
    """What papermill gets besides model and results_dir."""
    resources: Mapping[str, Any]
    """`mem_mb`, `runtime` (minutes), `gpu`, and what else an executor knows."""

    @property
    def page(self) -> Path:
        """The executed notebook, below the repository."""
        return execute.RUNS / self.slug / f"{self.notebook}.ipynb"


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """The matrix that a configuration (`config.yaml` and the command line's MODELS) asks for.

    Raises:
        InputError: an unknown notebook, or two models that would share a folder.
    """
    found = []
    for model, entry in models(config).items():
        for name in entry.get("notebooks") or config["added_models"]["notebooks"]:
            notebook = execute.source(str(name)).stem
            found.append(
                Cell(
                    model=model,
                    slug=names.slug(model),
                    notebook=notebook,
                    parameters=_layers(config, entry, "parameters", notebook),
                    resources=_layers(config, entry, "resources", notebook),
                )
            )
    return found


def models(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Models with their entries: those of the file, then those of the command line.

    `MODELS` is a list, or one line as `names.split` reads it.

    Raises:
        InputError: two models would share a folder, or there is none.
    """
    entries: dict[str, Mapping[str, Any]] = {
        str(name): entry or {} for name, entry in (config.get("models") or {}).items()
    }
    added = config.get("MODELS") or ""
    for name in names.split(added) if isinstance(added, str) else map(str, added):
        entries.setdefault(name, config.get("added_models") or {})
    if not entries:
        raise InputError("config.yaml names no model: give one under `models`, or by MODELS=...")
    _check_slugs(entries)
    return entries


def _check_slugs(models: Iterable[str]) -> None:
    # Many file systems do not tell capitals from small letters.
    owner: dict[str, str] = {ACROSS: "the comparison of all models"}
    for name in models:
        other = owner.setdefault(names.slug(name).lower(), name)
        if other != name:
            raise InputError(
                f"{name!r} and {other!r} would share the folder {execute.RUNS}/"
                f"{names.slug(name)}: rename one of them."
            )


def _layers(
    config: Mapping[str, Any], entry: Mapping[str, Any], what: str, notebook: str
) -> dict[str, Any]:
    of_notebook = config.get(f"notebook_{what}") or {}
    return {
        **(config.get(what) or {}),
        **(of_notebook.get(notebook) or {}),
        **(entry.get(what) or {}),
    }


def modules(notebook: Path) -> list[Path]:
    """Files of the package that a notebook needs, so that an edit elsewhere does not re-run it.

    A module counts where it is imported at the top, not inside a function: the loader imports the
    trainer only for a model that is trained here, and that step has its own dependency.
    """
    book = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    todo = {name for source in code for name in _imported(_python(source))}
    found: set[str] = set()
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= _imports_of(name) - found
    return sorted(_file(name) for name in found)


def _python(source: str) -> str:
    # Lines of IPython (%pip install) become `pass`, which keeps the indentation of a block.
    lines = source.splitlines()
    return "\n".join(
        line[: len(line) - len(line.lstrip())] + "pass" if line.lstrip()[:1] in ("%", "!") else line
        for line in lines
    )


@cache
def _imports_of(module: str) -> frozenset[str]:
    return frozenset(_imported(_file(module).read_text(encoding="utf-8")))


def _imported(code: str) -> set[str]:
    package = "probenc_support"
    found: set[str] = set()
    for node in _at_the_top(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            found |= {name[1] for name in parts if name[0] == package and len(name) > 1}
    return {name for name in found if _file(name).is_file()}


def _at_the_top(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child
            yield from _at_the_top(child)


def _file(module: str) -> Path:
    return Path(__file__).with_name(f"{module}.py")
