"""`make clean`: removes what runs wrote in book/runs and results, and no other file."""

import subprocess
from pathlib import Path

from probenc_support.runs import execute, matrix, run_files

RESULTS = Path("results")
STEPS = (".fetched", ".pass-*", "*.benchmark.tsv", f"{run_files.FAILED}/{matrix.FETCH}.log")
"""What Snakemake leaves beside the runs."""


def main() -> None:
    kept = _tracked()
    for root in (execute.RUNS, RESULTS):
        for folder in [root, *root.glob("*/")]:
            _clean(folder, kept)


def _tracked() -> set[Path]:
    """Runs that came with the repository are no leavings of this copy."""
    command = ["git", "ls-files", "-z", str(execute.RUNS), str(RESULTS)]
    try:
        listed = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(
            f"git cannot say which runs came with the project, so {execute.RUNS} and {RESULTS} "
            "are left as they are: remove by hand what you do not need."
        ) from None
    return {Path(name) for name in listed.split("\0") if name}


def _clean(folder: Path, kept: set[Path]) -> None:
    for notebook in run_files.notebooks(folder):
        if not {folder / name for name in run_files.written(folder, notebook)} & kept:
            run_files.forget(folder, notebook)
    for step in STEPS:
        for path in set(folder.glob(step)) - kept:
            path.unlink()
    for empty in (folder / run_files.FAILED, folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


if __name__ == "__main__":
    main()
