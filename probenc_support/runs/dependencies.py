"""Which files of the package a notebook needs, so that an edit elsewhere does not run it again."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat

from probenc_support.errors import InputError

PACKAGE = Path(__file__).parents[1]
"""Folder of `probenc_support`."""


def modules(notebook: Path) -> list[Path]:
    """Files of the package that a notebook imports, directly or through one another.

    A module counts where it is imported at the top, not inside a function: the loader imports the
    trainer only for a model that is trained here, and that step has its own dependency. With a
    module come the faces of the folders that it lies in, since Python runs them first.

    Raises:
        InputError: an import names no file of the package, and no name of one.
    """
    book = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
    todo = {name for source in cells for name in _imported(without_magics(source), notebook.name)}
    needed: set[str] = set()
    while todo:
        name = todo.pop()
        needed.add(name)
        todo |= _imports_of(name) - needed
    return sorted(_file(name) for name in needed)


def without_magics(source: str) -> str:
    """A cell as Python: lines of IPython (%pip install) become `pass`, which keeps the indentation
    of a block."""
    lines = source.splitlines()
    return "\n".join(
        line[: len(line) - len(line.lstrip())] + "pass" if line.lstrip()[:1] in ("%", "!") else line
        for line in lines
    )


@cache
def _imports_of(module: str) -> frozenset[str]:
    path = _file(module)
    return frozenset(_imported(path.read_text(encoding="utf-8"), path.name))


def _imported(code: str, where: str) -> set[str]:
    """Dotted names of the package's modules that some code imports at the top."""
    names: set[str] = set()
    for node in _at_the_top(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if _is_ours(alias.name)}
        elif isinstance(node, ast.ImportFrom) and _is_ours(node.module or ""):
            names |= {_module_of(str(node.module), alias.name, where) for alias in node.names}
    return {face for name in names for face in _with_faces(name)}


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE.name


def _module_of(module: str, name: str, where: str) -> str:
    """The module that `from module import name` reads."""
    if _exists(f"{module}.{name}"):
        return f"{module}.{name}"
    if name not in _defined(module):
        raise InputError(
            f"{where} imports {name} from {module}, where there is no such file or name; mend the "
            "import, or the run would not follow an edit of what it means."
        )
    return module


def _with_faces(module: str) -> list[str]:
    """A module and the folders that it lies in, but the package itself."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(2, len(parts) + 1)] or [module]


@cache
def _defined(module: str) -> frozenset[str]:
    """Names that a module defines or imports at the top."""
    names: set[str] = set()
    for node in ast.parse(_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return frozenset(names)


def _at_the_top(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _at_the_top(child)


def _path(module: str) -> Path:
    return PACKAGE.parent.joinpath(*module.split("."))


def _exists(module: str) -> bool:
    return _path(module).with_suffix(".py").is_file() or (_path(module) / "__init__.py").is_file()


def _file(module: str) -> Path:
    """The file of a module, or the face of a folder.

    Raises:
        InputError: there is neither.
    """
    if not _exists(module):
        raise InputError(f"{module} is imported, and the package has no such file.")
    face = _path(module) / "__init__.py"
    return face if face.is_file() else _path(module).with_suffix(".py")
