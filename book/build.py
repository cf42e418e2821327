"""`make book`: the matrix, the comparison and the site by Snakemake, then times and failures.

Exit code: 0 when everything is there, 1 when a cell of the matrix or the site failed.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from filelock import Timeout

from probenc_support import cache, claims, names
from probenc_support.__main__ import in_utf8
from probenc_support.claims import kept_runs
from probenc_support.errors import InputError
from probenc_support.runs import execute, kept, matrix, run_files

INDEX = Path("_build/html/index.html")
COMPLETE = INDEX.with_name(".complete")


@dataclass(frozen=True)
class Absent:
    """A page that could not be made."""

    model: str
    notebook: str
    cause: str
    log: Path | None


def main() -> int:
    in_utf8()
    options = _arguments()
    config = yaml.safe_load(Path(options.configfile).read_text(encoding="utf-8"))
    Path("_build").mkdir(exist_ok=True)
    try:
        options.models = config["MODELS"] = names.split(options.models)
        # How figures are drawn is no part of a step, so that it alone runs none again.
        options.environment = {"PROBENC_FIGURES": config["figures"]} if "figures" in config else {}
        cells = matrix.cells(config)
        lock = cache.acquired(Path("_build/.make-book.lock"), timeout=0)
        try:
            return _make(cells, options)
        finally:
            lock.release()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Timeout:
        print("Another `make book` is at work in this folder; wait for it.", file=sys.stderr)
        return 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", default="", help="further models, separated by blanks, quoted as in a shell"
    )
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--configfile", default="config.yaml")
    parser.add_argument("--no-site", action="store_true", help="stop after the notebooks")
    parser.add_argument("snakemake", nargs="*", help="further arguments of snakemake, after --")
    return parser.parse_args()


def _make(cells: list[matrix.Cell], options: argparse.Namespace) -> int:
    began = time.time()
    _check_pages(cells)
    limits = _limits(cells)
    codes = [_snakemake("cells", options, limits)]
    if not options.no_site:
        codes.append(_snakemake("site", options, limits))
    absent = [found for cell in cells if (found := _absent(cell))]
    print(f"\n{_times(began)}")
    if absent:
        print(f"\n{_table_of_failures(absent)}")
    if aged := _aged():
        print(f"\nKept pages that an earlier version made ({len(aged)}):", *aged, sep="\n  ")
    if any(codes):
        print("\nThe book is not complete: see above.", file=sys.stderr)
    if COMPLETE.exists():
        print(f"\nOpen {INDEX.resolve()}")
    return int(any(codes))


def _limits(cells: list[matrix.Cell]) -> list[str]:
    """What this machine has, so that no more cells run at once than it can hold."""
    needed = [int(cell.resources.get("mem_mb", 0)) for cell in cells]
    memory = max(psutil.virtual_memory().total // 1_000_000, *needed)
    return [f"mem_mb={memory}", f"gpu={max(1, _gpus())}"]


def _gpus() -> int:
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return len(listed.stdout.splitlines())


def _snakemake(target: str, options: argparse.Namespace, limits: list[str]) -> int:
    command = [
        *(sys.executable, "-m", "snakemake", target, "--cores", str(options.cores)),
        # A lock of ours guards the folder: unlike Snakemake's it is gone with a killed process.
        *("--nolock", "--keep-going", "--rerun-incomplete", "--quiet", "host", "reason"),
        *("--scheduler", "greedy", "--resources", *limits),
        # A list in JSON keeps blanks and quotes within names; Snakemake reads it as YAML.
        *("--configfile", options.configfile, "--config", f"MODELS={json.dumps(options.models)}"),
        *options.snakemake,
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    environment = {
        **os.environ, "PATH": path, "OMP_NUM_THREADS": threads, "PYTHONUTF8": "1",
        **options.environment,
    }  # fmt: skip
    return subprocess.run(command, env=environment, check=False).returncode


def _check_pages(cells: list[matrix.Cell]) -> None:
    """Names the runs with files that are lost or damaged, and removes their pages where they belong
    to the matrix, so that these are made again.

    Raises:
        InputError: in the place of a page is a notebook that no run of this project wrote.
    """
    across = execute.RUNS / matrix.ACROSS / "06_across_models.ipynb"
    own = {*(cell.page for cell in cells), across}
    for page in sorted(own):
        run_files.check_page(page)
    made = [page for folder in (execute.RUNS, kept.KEPT) for page in folder.glob("*/[0-9]*.ipynb")]
    for page in sorted(made):
        if wrong := run_files.damage(page):
            again = "it is made again" if page in own else "it is left out"
            print(f"{wrong}: {again}.", file=sys.stderr)
            if page in own:
                page.unlink()


def _absent(cell: matrix.Cell) -> Absent | None:
    if cell.page.is_file():
        return None
    folder = cell.page.parent / "failed"
    for failure in execute.failures(cell.page.parent):
        if failure.notebook == cell.notebook:
            log = folder / f"{cell.notebook}.log"
            return Absent(cell.model, cell.notebook, failure.cause, log)
    log = folder / f"{matrix.FETCH}.log"
    if log.is_file() and log.stat().st_size:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return Absent(cell.model, cell.notebook, f"Not fetched: {last}", log)
    return Absent(cell.model, cell.notebook, "Not run (stopped before).", None)


def _aged() -> list[str]:
    """Kept pages whose notebooks have become other ones, with the reason; the book marks them."""
    config = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8"))
    default = {names.slug(name) for name in config.get("models") or {}}
    # Damaged files have been named already.
    with contextlib.redirect_stderr(io.StringIO()):
        runs = claims.runs(execute.RUNS, kept.KEPT)
    found = kept_runs.aged(runs, default, Path("notebooks"))
    return [f"{model} · {notebook}: {reason}" for (model, notebook), reason in found.items()]


def _times(began: float) -> str:
    rows = sorted(_steps(began), key=lambda row: row[2], reverse=True)
    lines = [f"{'step':<28} {'model':<28} {'time':>8} {'memory':>9}"]
    lines += [
        f"{step:<28} {model:<28} {_clock(seconds):>8} {memory:>6.0f} MB"
        for step, model, seconds, memory in rows
    ]
    if not rows:
        lines = ["Nothing to do: every page is newer than what it is made of."]
    lines.append(f"{'all in all':<57} {_clock(time.time() - began):>8}")
    return "\n".join(lines)


def _steps(began: float) -> Iterator[tuple[str, str, float, float]]:
    """Step, model, seconds and peak memory (MB) of what Snakemake ran since `began`."""
    files = [*execute.RUNS.glob("*/*.benchmark.tsv"), *Path("_build").glob("*.benchmark.tsv")]
    for file in files:
        if file.stat().st_mtime >= began:
            if not (row := run_files.read_row(file)):
                continue
            memory = row["max_rss"]
            step = file.name.removesuffix(".benchmark.tsv")
            model = file.parent.name if file.parent.parent == execute.RUNS else ""
            yield step, model, float(row["s"]), 0.0 if memory in ("NA", "-") else float(memory)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def _table_of_failures(absent: list[Absent]) -> str:
    lines = [f"Pages that are absent ({len(absent)}):"]
    for row in absent:
        lines.append(f"  {row.model} · {row.notebook}: {row.cause}")
        if row.log:
            lines.append(f"      log: {row.log}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
