"""`make keep`: makes pages of the long matrix small and puts them where they can be committed.

    python book/keep.py                       every page of config.full.yaml that is no default one
    python book/keep.py --model whisper-base  those of one model

A page is kept whole or not at all: the executed notebook, its metrics, its provenance, its smaller
tables, and a record of when it was kept. Exit code: 1 when a page that was asked for is not there
or could not be kept, 2 when nothing could be done.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from probenc_support import cache, claims, names
from probenc_support.claims import kept_runs
from probenc_support.errors import InputError
from probenc_support.runs import compact, execute, kept, matrix, run_files


def main(words: list[str] | None = None) -> int:
    options = _arguments(words)
    try:
        cells = _cells(options)
        # Written down with a page, so that it can be told later whether it is an old one.
        default = {cell.slug for cell in matrix.cells(_read("config.yaml"))}
        known = kept_runs.default_metrics(claims.runs(execute.RUNS), default)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    failed = 0
    for cell in cells:
        try:
            size = keep(cell.page, kept.KEPT / cell.slug, known.get(cell.notebook, set()))
            print(f"{size / 1e3:>8,.0f} kB  {cell.slug} · {cell.notebook}")
        except InputError as error:
            failed += 1
            print(f"{cell.slug} · {cell.notebook}: {error}", file=sys.stderr)
    total = sum(path.stat().st_size for path in kept.KEPT.rglob("*") if path.is_file())
    print(f"{total / 1e3:>8,.0f} kB  in {kept.KEPT}: look at them, then `git add {kept.KEPT}`.")
    return int(failed > 0)


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--configfile", default="config.full.yaml")
    parser.add_argument("--model", action="append", default=[], help="only this one's pages")
    return parser.parse_args(words)


def _cells(options: argparse.Namespace) -> list[matrix.Cell]:
    """The cells of the long matrix that the default one does not make."""
    default = {(cell.slug, cell.notebook) for cell in matrix.cells(_read("config.yaml"))}
    cells = matrix.cells(_read(options.configfile))
    wanted = {names.slug(model) for model in options.model}
    if unknown := wanted - {cell.slug for cell in cells}:
        raise InputError(f"{options.configfile} names no model {', '.join(sorted(unknown))}.")
    return [
        cell
        for cell in cells
        if (cell.slug, cell.notebook) not in default and (not wanted or cell.slug in wanted)
    ]


def _read(file: str) -> dict[str, Any]:
    if not Path(file).is_file():
        raise InputError(f"There is no file {file}.")
    content: dict[str, Any] = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return content


def keep(page: Path, folder: Path, default: set[str]) -> int:
    """Keeps a page, compact, in a folder; what was kept of it before goes.

    Args:
        default: names of the metrics that the default models' runs of its notebook leave.

    Returns:
        Bytes of all its files.

    Raises:
        InputError: the page is not there, is damaged or failed, or is too large all the same.
    """
    if not page.is_file():
        raise InputError("it has not been made; nothing is kept of it.")
    if wrong := run_files.damage(page):
        raise InputError(f"{wrong}; nothing is kept of it.")
    parts = {kind: page.with_name(f"{page.stem}.{kind}.json") for kind in ("metrics", "provenance")}
    if lacking := [path.name for path in parts.values() if not path.is_file()]:
        raise InputError(f"{', '.join(lacking)} is not there; nothing is kept of it.")
    small = compact.page(run_files.read_object(page), page.name)
    cache.make_folder(folder)
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder) as temporary:
        new, left_out = Path(temporary), []
        for table in sorted(page.parent.glob(f"{page.stem}.*.parquet")):
            if not compact.table(table, new / table.name):
                left_out.append(table.name)
        for path in parts.values():
            shutil.copyfile(path, new / path.name)
        record = {
            "kept": time.strftime("%Y-%m-%d", time.gmtime()),
            "left_out": left_out,
            **kept.apart(run_files.read_object(parts["metrics"]).keys(), default),
        }
        _write(new / f"{page.stem}{kept.RECORD}", record)
        files = {path.name: path.stat().st_size for path in sorted(new.iterdir())}
        small["metadata"]["probenc"] = {"files": list(files), "sizes": files}
        _write(new / page.name, small)
        if (size := (new / page.name).stat().st_size) > compact.LARGEST_PAGE:
            raise InputError(
                f"its page has {size:,} bytes after compaction, and {compact.LARGEST_PAGE:,} are "
                "allowed; nothing is kept of it."
            )
        _replace(new, folder, page.stem)
    return sum(path.stat().st_size for path in folder.glob(f"{page.stem}.*"))


def _write(path: Path, content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _replace(new: Path, folder: Path, notebook: str) -> None:
    """Puts the new files in the place of the old; the page goes first and comes last, so that where
    it is, the rest is."""
    is_page = f"{notebook}.ipynb".__eq__
    for old in sorted(folder.glob(f"{notebook}.*"), key=lambda path: not is_page(path.name)):
        old.unlink()
    for path in sorted(new.iterdir(), key=lambda path: is_page(path.name)):
        path.replace(folder / path.name)


if __name__ == "__main__":
    sys.exit(main())
