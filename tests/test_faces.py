"""The plan of the package: what each room shows, and that no room leans on one above it."""

import ast
import importlib
import inspect
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import probenc_support
from probenc_support.runs import dependencies

PACKAGE = dependencies.PACKAGE
FACES = sorted(p.parent.relative_to(PACKAGE).as_posix() for p in PACKAGE.glob("**/__init__.py"))

SHARED = {
    "cache", "embedding_rows", "errors", "head", "moments", "names", "precision", "progress",
    "quantisation", "roster", "shards", "wheels",
}  # fmt: skip
"""What every room may use."""

FLOORS = (
    SHARED,
    {"corpora", "runs"},
    {"models", "claims"},
    {"inference"},
    {"regression"},
    {"theory", "sparsity"},
    {"generation"},
    {"steering", "pruning", "dynamics"},
    {"experiments", "undertrained"},
    {"commands", "notebook"},
    {"__main__"},
)
"""From the ground up: a room uses itself and rooms of lower floors."""

WITHOUT_TORCH = (SHARED | {"runs", "claims"}) - {
    "embedding_rows", "head", "moments", "precision", "quantisation", "shards",
}  # fmt: skip
"""Rooms that tools of the book import, for which a second of loading torch is too long."""


def module_of(face: str) -> ModuleType:
    dotted = "." + face.replace("/", ".") if face != "." else ""
    return importlib.import_module(f"probenc_support{dotted}")


def room(path: Path) -> str:
    """Folder or module directly below the package in which a file lies."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, ...]]:
    """Every module or name of the package that a file imports, also inside functions, in parts."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by dots"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (tuple(n.split(".")[1:]) for n in names if n.split(".")[0] == PACKAGE.name)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


# ------------------------------------------------------------------------------------------- faces


@pytest.mark.parametrize("face", FACES)
def test_a_face_says_what_its_room_is_for(face: str) -> None:
    assert (module_of(face).__doc__ or "").strip()


@pytest.mark.parametrize("face", [face for face in FACES if face != "."])
def test_what_a_face_shows_is_there_and_explained(face: str) -> None:
    module = module_of(face)
    shown = getattr(module, "__all__", [])
    assert len(shown) == len(set(shown)), "none twice"
    for name in shown:
        value: Any = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert (value.__doc__ or "").strip(), f"{face}.{name} has no docstring"
        else:
            assert explained(module, name), f"{face}.{name} has no docstring"


def explained(face: ModuleType, name: str) -> bool:
    """Whether a string stands under the assignment of a constant that a face shows."""

    def explains(node: ast.stmt, after: ast.stmt) -> bool:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        return named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)

    paths = Path(str(face.__file__)).parent.rglob("*.py")
    bodies = [ast.parse(path.read_text(encoding="utf-8")).body for path in paths]
    return any(explains(*pair) for body in bodies for pair in itertools.pairwise(body))


@pytest.mark.parametrize("face", [face for face in FACES if face != "."])
def test_a_face_imports_nothing_that_it_does_not_show(face: str) -> None:
    tree = ast.parse((PACKAGE / face / "__init__.py").read_text(encoding="utf-8"))
    brought = [a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(brought) == sorted(getattr(module_of(face), "__all__", []))


def test_the_index_names_every_room_and_no_other() -> None:
    there = {room(path) for path in files()} - {"__init__", "__main__"}
    assert probenc_support.__all__ == sorted(there)
    for name in there:
        assert f"`{name}`" in (probenc_support.__doc__ or ""), f"the index does not explain {name}"


def test_importing_the_package_is_light_and_silences_nothing() -> None:
    code = (
        "import sys, warnings; before = list(warnings.filters); known = set(sys.modules)\n"
        "import probenc_support; assert warnings.filters == before\n"
        "print(*(name for name in sys.modules if name not in known))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["probenc_support"]


def test_a_notebook_silences_the_search_for_widgets_and_nothing_else() -> None:
    code = (
        "import warnings; from probenc_support.notebook import parameters\n"
        "warnings.warn('IProgress not found. Please update jupyter and ipywidgets.')\n"
        "warnings.warn('something else')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "IProgress" not in done.stderr.replace("warnings.warn('IProgress", "")
    assert "UserWarning: something else" in done.stderr


# ------------------------------------------------------------------------------------------ arrows


def test_every_room_stands_on_one_floor() -> None:
    placed = [name for floor in FLOORS for name in floor]
    assert len(placed) == len(set(placed))
    assert set(placed) == {room(path) for path in files()} - {"__init__"}


@pytest.mark.parametrize("path", files(), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_no_arrow_points_up(path: Path) -> None:
    level = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    here = room(path)
    for parts in imported(path):
        there = parts[0]
        if there in level and there != here:
            shared = here in SHARED and there in SHARED
            assert level[there] < level[here] or shared, f"{here} uses {there}"


@pytest.mark.parametrize("name", ["runs", "claims"])
def test_runs_and_claims_use_nothing_of_models(name: str) -> None:
    used = {p[0] for path in files() if room(path) == name for p in imported(path)}
    assert used <= SHARED | {"runs", "claims"}


def test_no_module_comes_back_to_itself() -> None:
    """At the top of files, where a circle would depend on what is imported first."""
    edges = {m: dependencies._imports_of(m) - faces_of(m) - {m} for m in modules()}
    done: set[str] = set()
    open_: list[str] = []

    def visit(module: str) -> None:
        assert module not in open_, " -> ".join([*open_[open_.index(module) :], module])
        if module in done:
            return
        open_.append(module)
        for other in sorted(edges.get(module, ())):
            visit(other)
        open_.pop()
        done.add(module)

    for module in sorted(edges):
        visit(module)
    assert len(done) >= len(edges)


def modules() -> list[str]:
    """Dotted names of all modules and faces."""
    dotted = [p.relative_to(PACKAGE.parent).with_suffix("").as_posix() for p in files()]
    names = [name.replace("/", ".").removesuffix(".__init__") for name in dotted]
    return [name for name in names if name != PACKAGE.name]


def faces_of(module: str) -> set[str]:
    """The folders that a module lies in: Python runs their faces before it, or is about to."""
    parts = module.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts))}


def test_the_check_of_circles_sees_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    circle = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"})}
    monkeypatch.setattr(sys.modules[__name__], "modules", lambda: list(circle))
    monkeypatch.setattr(dependencies, "_imports_of", circle.__getitem__)
    with pytest.raises(AssertionError, match="a -> b -> c -> a"):
        test_no_module_comes_back_to_itself()


def test_what_the_tools_of_the_book_import_leaves_torch_alone() -> None:
    light = [m for m in modules() if m.split(".")[1] in WITHOUT_TORCH]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {light!r}]; " + (
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_what_runs_in_a_notebook_imports_the_harness() -> None:
    users = {room(path) for path in files() for parts in imported(path) if parts[0] == "notebook"}
    assert users <= {"notebook"}
