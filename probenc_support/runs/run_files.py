"""The files of a run: which ones runs of this project wrote, and whether they are whole.

A record beside them, `.<notebook>.written`, names what the last run wrote; an executed page
names the same in its metadata. Nothing else is ever removed or overwritten.
"""

import functools
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from probenc_support import cache
from probenc_support.errors import InputError

FAILED = "failed"
"""Folder, below the results, of what a failed run left."""


_LEFT_BY_A_FAILURE = (".ipynb", ".log", ".json")


# ----------------------------------------------------------------------------------- who wrote what


def record_of(folder: Path, notebook: str) -> Path:
    """Where it is written down what a notebook's run wrote in a folder."""
    return folder / f".{notebook}.written"


def written(folder: Path, notebook: str) -> set[str]:
    """Files that the last run of a notebook wrote, by their paths below the folder of results."""
    named = read_object(record_of(folder, notebook)).get("files", [])
    page = folder / f"{notebook}.ipynb"
    if (own := _metadata(page)) is not None:
        named = [*named, page.name, *own.get("files", [])]
    mine = (f"{notebook}.", f"{FAILED}/{notebook}.")
    return {str(name) for name in named if str(name).startswith(mine) and ".." not in str(name)}


def notebooks(folder: Path) -> list[str]:
    """Names of the notebooks that have written in a folder."""
    recorded = (path.name[1:].removesuffix(".written") for path in folder.glob(".*.written"))
    pages = (page.stem for page in folder.glob("*.ipynb") if _metadata(page) is not None)
    return sorted({*recorded, *pages})


def note(folder: Path, notebook: str, files: Iterable[str]) -> None:
    """Writes down that a run writes these files (paths below the folder)."""
    known = written(folder, notebook)
    if not known >= (wanted := set(files)):
        settle(folder, notebook, known | wanted)


def settle(folder: Path, notebook: str, files: Iterable[str]) -> None:
    """Writes down that these files, and no others, are what the last run wrote."""
    with cache.atomic_path(record_of(folder, notebook)) as temporary:
        temporary.write_text(json.dumps({"files": sorted(files)}) + "\n", encoding="utf-8")


def claim(folder: Path, notebook: str, name: str) -> Path:
    """Path of a file that a run is about to write, which is written down first.

    Raises:
        InputError: such a file is there, and no run of this project wrote it.
    """
    path = folder / name
    if path.exists() and name not in written(folder, notebook):
        raise InputError(_not_ours(path))
    note(folder, notebook, [name])
    return path


def check_results(folder: Path, notebook: str) -> None:
    """Refuses, before the work, a folder in which the results would overwrite other files.

    Raises:
        InputError: metrics or provenance are there that no run of this project wrote.
    """
    for kind in ("metrics", "provenance"):
        path = folder / f"{notebook}.{kind}.json"
        if os.path.exists(path) and path.name not in written(folder, notebook):  # noqa: PTH110
            raise InputError(_not_ours(path))


def forget(folder: Path, notebook: str) -> None:
    """Removes what the last run of a notebook wrote in a folder, and the record of it."""
    for name in written(folder, notebook):
        if not (folder / name).is_dir():
            (folder / name).unlink(missing_ok=True)
    record_of(folder, notebook).unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Makes the folder of results, if it is not there.

    Raises:
        InputError: it is a file, or cannot be made.
    """
    if os.path.isfile(folder):  # noqa: PTH113 (Path.is_file may raise)
        raise InputError(f"results_dir {folder} is a file; name a folder.")
    cache.make_folder(folder)


def check_free(source: Path, folder: Path) -> None:
    """Refuses to run a notebook where its page would overwrite a file of somebody else.

    Raises:
        InputError: the results folder is a file or cannot be made; the notebook is itself the page
            or the draft; or there is a file of the page's name that no run of this project wrote.
    """
    make_folder(folder)
    page, draft = folder / source.name, folder / FAILED / source.name
    for path in (page, draft):
        if path.exists() and path.samefile(source):
            raise InputError(
                f"The run of {source} would write its page onto the notebook itself; name another "
                "folder by --results-dir (results_dir)."
            )
    known = written(folder, source.stem)
    if page.exists() and page.name not in known and page.stat().st_size:
        raise InputError(_not_ours(page))
    left = [draft.with_suffix(suffix) for suffix in _LEFT_BY_A_FAILURE]
    if not _is_draft(draft):
        for path in left:
            if path.exists() and f"{FAILED}/{path.name}" not in known and path.stat().st_size:
                raise InputError(_not_ours(path))


def check_page(page: Path) -> None:
    """Refuses to overwrite a notebook that no run of this project wrote.

    A file that cannot be read as a notebook (empty, cut off) may be overwritten.

    Raises:
        InputError: there is one.
    """
    if "cells" in read_object(page) and page.name not in written(page.parent, page.stem):
        raise InputError(_not_ours(page))


def _is_draft(path: Path) -> bool:
    """Whether a notebook, or the cause beside it, is what a failed or killed run left."""
    cause = read_object(path.with_suffix(".json"))
    executed = read_object(path).get("metadata", {})
    return {"notebook", "cause"} <= cause.keys() or "papermill" in executed


def _metadata(page: Path) -> Mapping[str, Any] | None:
    metadata = read_object(page).get("metadata")
    own = metadata.get("probenc") if isinstance(metadata, dict) else None
    return own if isinstance(own, dict) else None


def _not_ours(path: Path) -> str:
    return (
        f"{path} is there already and no run of this project wrote it; move it away, or name "
        "another folder by --results-dir (results_dir)."
    )


# ------------------------------------------------------------------------------ whether it is whole


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_row(path: Path) -> dict[str, str]:
    """The first row of a file of Snakemake's times; empty where it cannot be read."""
    try:
        header, values = path.read_text(encoding="utf-8").splitlines()[:2]
        return dict(zip(header.split("\t"), values.split("\t"), strict=True))
    except (OSError, ValueError):
        return {}


def damage(page: Path) -> str:
    """What is wrong with the files of a run, in one line; empty where they are whole or absent.

    Args:
        page: the executed notebook, with its metrics, provenance and tables beside it.
    """
    files = sorted(path for path in page.parent.glob(f"{page.stem}.*") if path.is_file())
    return _damage(page, tuple((p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in files))


@functools.lru_cache(maxsize=1024)
def _damage(page: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    sizes = {name: size for name, _, size in files}
    if page.name not in sizes:
        return ""
    known = _metadata(page) or {}
    wanted = known.get("sizes", {})
    for name in [page.name, *known.get("files", [])]:
        least = max(1, wanted.get(name, 1))
        if name not in sizes:
            return f"{page.parent.name}/{name} is missing"
        if sizes[name] < least or not _readable(page.with_name(name)):
            return f"{page.parent.name}/{name} is empty, cut off or damaged"
    for name in (f"{page.stem}.metrics.json", f"{page.stem}.provenance.json"):
        if name in sizes and not _readable(page.with_name(name)):
            return f"{page.parent.name}/{name} is empty, cut off or damaged"
    return ""


def _readable(path: Path) -> bool:
    if path.suffix in (".json", ".ipynb"):
        return _holds_object(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        try:
            pq.read_metadata(path)
        except (OSError, ValueError):
            return False
    return True


def _holds_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        return False


@functools.cache
def tell(line: str) -> None:
    """Prints a line on stderr, once however often it is called."""
    print(line, file=sys.stderr)
