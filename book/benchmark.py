"""`make benchmark`: runs tests/benchmarks and keeps the figures that the performance page shows.

One file a module in `book/benchmarks`, as pytest-benchmark writes it, without the single rounds and
the machine's name.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path("book/benchmarks")
ENDING = "ending of the file's name: the GPU's, or `before` for figures of an earlier version"
KEPT_STATS = ("median", "iqr", "min", "max", "rounds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="default: all of tests/benchmarks")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--name", default="", help=ENDING)
    options = parser.parse_args()
    files = options.files or sorted(Path("tests/benchmarks").glob("test_*.py"))
    return max((_measure(file, options.threads, options.name) for file in files), default=0)


def _measure(file: Path, threads: int, name: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pytest", str(file), "-o", "addopts=", "-q", "-s"]
        done = subprocess.run(
            [*command, "--benchmark-only", f"--benchmark-json={report}"],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            check=False,
        )
        if report.is_file() and report.stat().st_size:
            _keep(json.loads(report.read_text(encoding="utf-8")), file, threads, name)
    return done.returncode


def _keep(report: dict, file: Path, threads: int, name: str) -> None:
    if not report["benchmarks"]:  # all of a GPU, where there is none
        return
    machine = report["machine_info"]
    cpu = machine.get("cpu", {})
    kept = {
        "datetime": report["datetime"],
        "machine_info": {
            "machine": machine.get("machine"),
            "python_version": machine.get("python_version"),
            "cpu": {key: cpu.get(key) for key in ("brand_raw", "count")},
            "gpu": _gpu(),
            "cores_used": threads,
        },
        "benchmarks": [
            {
                "group": one["group"],
                "name": one["name"],
                "extra_info": one["extra_info"],
                "stats": {key: one["stats"][key] for key in KEPT_STATS},
            }
            for one in report["benchmarks"]
        ],
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    ending = f"-{name}" if name else ""
    path = FOLDER / f"{file.stem.removeprefix('test_').removesuffix('_speed')}{ending}.json"
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"kept in {path}")


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


if __name__ == "__main__":
    raise SystemExit(main())
