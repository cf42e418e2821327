"""The book's matrix: which notebook runs for which model, with what parameters and resources."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probenc_support import names
from probenc_support.errors import InputError
from probenc_support.runs import execute

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


_OF_PASS = (
    "revision", "n_positions", "sequence_length", "positions", "first_token", "device", "dtype",
)  # fmt: skip
"""Parameters that a pass depends on, besides model and corpora."""


def pass_arguments(cell: Cell) -> list[str]:
    """What `python -m probenc_support detect` is told so that it makes the passes of a cell over
    its corpus and eval_corpus; empty where its notebook makes none."""
    if "inference.detect(" not in execute.source(cell.notebook).read_text(encoding="utf-8"):
        return []
    given = cell.parameters
    named = (given.get("corpus", "docstrings"), given.get("eval_corpus"))
    words = ["--model", cell.model, "--corpus", *(str(name) for name in named if name)]
    for name in _OF_PASS:
        if given.get(name):
            words += [f"--{name.replace('_', '-')}", str(given[name])]
    return words


def cells(config: Mapping[str, Any]) -> list[Cell]:
    """The matrix that a configuration (`config.yaml` and the command line's MODELS) asks for.

    Raises:
        InputError: an unknown notebook, or two models that would share a folder.
    """
    wanted = []
    for model, entry in models(config).items():
        for name in entry.get("notebooks") or config["added_models"]["notebooks"]:
            notebook = execute.source(str(name)).stem
            wanted.append(
                Cell(
                    model=model,
                    slug=names.slug(model),
                    notebook=notebook,
                    parameters=_layers(config, entry, "parameters", notebook),
                    resources=_layers(config, entry, "resources", notebook),
                )
            )
    return wanted


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
    """What one cell gets, from the general to the particular: of all cells, of a notebook, of a
    model, and of a model's notebook."""
    layers = (
        layer
        for source in (config, entry)
        for layer in (source.get(what), (source.get(f"notebook_{what}") or {}).get(notebook))
    )
    return {name: value for layer in layers for name, value in (layer or {}).items()}
