"""Executed pages that are committed with the repository, and whether they still belong to it.

They are runs that take too long for every build: the book shows them and never makes them again by
itself. A run that a build has made stands in their place.
"""

import ast
from collections.abc import Iterable, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any

from probenc_support.runs import run_files
from probenc_support.runs.dependencies import without_magics

KEPT = Path("book") / "kept"
"""Where they lie, below the repository: one folder a model, as in the folder of runs."""

RECORD = ".kept.json"
"""End of the name of the file beside a kept page that says when and from what it was kept."""

SHOWN = 6
"""So many names of metrics, at most, are told."""


def is_kept(page: Path) -> bool:
    """Whether an executed page is one of those that are committed."""
    return page.with_name(page.stem + RECORD).is_file()


def record(page: Path) -> dict[str, Any]:
    """What was written down when a page was kept; empty where it is no such page.

    `kept`: the date; `left_out`: tables that were too large; `more` and `fewer`: see `apart`.
    """
    return run_files.read_object(page.with_name(page.stem + RECORD))


def made_on(provenance: Mapping[str, Any]) -> str:
    """The day of a run, such as `2026-01-31`, from its provenance; empty where it does not say."""
    return str(provenance.get("started", ""))[:10]


def what_changed(page: Path, source: Path, present: Set[str]) -> str:
    """Why a kept page was made by an earlier version of its notebook; empty where it was not.

    Args:
        page: the kept page.
        source: the notebook that it was made from, as it is now.
        present: names of the metrics that the default models' runs of this notebook leave now;
            empty where there is no such run, and then the code alone is compared.

    Returns:
        A clause such as `its code has changed since`.
    """
    if not source.is_file():
        return "the notebook is no longer there"
    if code(page) != code(source):
        return "its code has changed since"
    own = run_files.read_object(page.with_name(f"{page.stem}.metrics.json")).keys()
    written = record(page)
    before = (set(own) | set(written.get("more", []))) - set(written.get("fewer", []))
    if present and "more" in written and before != present:
        added, gone = sorted(present - before), sorted(before - present)
        told = [f"it now leaves {_some(added)}"] if added else []
        return ", and ".join([*told, *([f"no longer {_some(gone)}"] if gone else [])])
    return ""


def apart(own: Set[str], default: Set[str]) -> dict[str, list[str]]:
    """Names of metrics that the default models' runs have more and fewer than a run that is kept,
    for its record; empty where there is no such run."""
    if not default:
        return {}
    return {"more": sorted(default - own), "fewer": sorted(own - default)}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def code(notebook: Path) -> tuple[str, ...]:
    """What a notebook's cells of code say, without the parameters of one run, comments and layout.

    A cell that is no Python stands as it is written.
    """
    stamp = notebook.stat()
    return _code(notebook, stamp.st_mtime_ns, stamp.st_size)


@cache
def _code(notebook: Path, *stamp: int) -> tuple[str, ...]:
    cells = run_files.read_object(notebook).get("cells", [])
    return tuple(_tree("".join(cell["source"])) for cell in cells if _is_code(cell))


def _is_code(cell: Mapping[str, Any]) -> bool:
    tags = cell.get("metadata", {}).get("tags", [])
    return cell.get("cell_type") == "code" and "injected-parameters" not in tags


def _tree(source: str) -> str:
    try:
        return ast.dump(ast.parse(without_magics(source)))
    except SyntaxError:
        return source


def names_of(all_metrics: Iterable[Mapping[str, Any]]) -> set[str]:
    """Names of the metrics that any of some runs has."""
    return {name for metrics in all_metrics for name in metrics}
