"""Longer and longer passes of pythia-nano, end to end, and four jobs that share one.

    pytest tests/benchmarks/test_long_pass_speed.py

Each is a process of its own, with an empty folder of passes: it loads the model, cuts the text into
blocks, makes the pass and writes it, adds it up, and fits. `pass_seconds` is the part of the pass.
`memory_before_mb` is what the process holds when the pass begins (libraries, model and text),
`pass_adds_mb` by how much the pass grows it at the most, `disk_mb` what it leaves. The corpus is
long enough for 2^20 positions; model and corpus are in the cache before.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from probenc_support import cache, corpora, models

MODEL, CORPUS = "pythia-nano", "docstrings"
SHARED = 2**18

END_TO_END = f"""
import json, pathlib, re, sys, time
def status(key):  # Linux
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(key + r":\\s+(\\d+)", text)[1]) / 1e3
from probenc_support import corpora, inference, models, regression
lm = models.load({MODEL!r}, device="cpu")
blocks = corpora.blocks({CORPUS!r}, lm.tokenizer, n_positions=int(sys.argv[1]))
assert blocks.n_positions == int(sys.argv[1])
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
start = time.perf_counter()
detection = inference.detect(lm, blocks, progress=False)
print(json.dumps({{"seconds": time.perf_counter() - start, "kept": detection.n_kept,
                   "before": before, "more": status("VmHWM") - before}}))
print(regression.fit(lm.head.rows, detection.y).r2_adj)
"""


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The model is trained, and the corpus cut, before anything is timed."""
    corpora.blocks(CORPUS, models.load(MODEL, device="cpu").tokenizer, n_positions=2**14)


@pytest.fixture
def own_passes(tmp_path: Path) -> Iterator[Path]:
    """A cache with everything that the person's has but its passes."""
    for entry in cache.cache_dir().iterdir():
        if entry.name not in ("passes", "locks"):
            (tmp_path / entry.name).symlink_to(entry)
    yield tmp_path
    for path in tmp_path.rglob("*.safetensors"):
        if path.is_relative_to(tmp_path / "passes"):
            path.unlink()


def process(arguments: list[str], folder: Path, threads: int) -> "subprocess.Popen[str]":
    environment = {
        **os.environ, "PROBENC_CACHE": str(folder), "OMP_NUM_THREADS": str(threads),
        "TQDM_DISABLE": "1",
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def finished(running: "subprocess.Popen[str]") -> str:
    """What a process printed."""
    printed, _ = running.communicate()
    assert running.returncode == 0
    return printed


@pytest.mark.benchmark(group=f"A pass of {MODEL} over more and more text, end to end")
@pytest.mark.parametrize("power", [14, 16, 18, 20])
def test_length(benchmark: Any, own_passes: Path, power: int) -> None:
    benchmark.name = f"test_{2**power:,} positions"
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))

    def run() -> str:
        return finished(process(["-c", END_TO_END, str(2**power)], own_passes, threads))

    printed = benchmark.pedantic(run, rounds=1)
    told = json.loads(printed.splitlines()[0])
    files = [*(own_passes / "passes").rglob("*.safetensors")]
    benchmark.extra_info |= {
        "pass_seconds": told["seconds"],
        "positions_per_second": 2**power / told["seconds"],
        "hidden_states_held": told["kept"],
        "memory_before_mb": told["before"],
        "pass_adds_mb": told["more"],
        "disk_mb": sum(file.stat().st_size for file in files) / 1e6,
    }


WAYS = {
    "one job, one thread": (1, 1),
    "one job, two threads": (1, 2),
    "four jobs, one thread each": (4, 1),
}
"""Jobs and threads of each."""


NUMBERS: dict[str, str] = {}


@pytest.mark.benchmark(group=f"{SHARED:,} positions of {MODEL} by several jobs on two cores")
@pytest.mark.parametrize("way", WAYS)
def test_jobs(benchmark: Any, own_passes: Path, way: str) -> None:
    """The command `detect`, whole or in four parts at the same time."""
    jobs, threads = WAYS[way]
    common = ["-m", "probenc_support", "detect", "--model", MODEL, "--corpus", CORPUS,
              "--device", "cpu", "--n-positions", str(SHARED)]  # fmt: skip

    def run() -> None:
        parts = [["--shard", f"{k + 1}/{jobs}"] if jobs > 1 else [] for k in range(jobs)]
        running = [process([*common, *part], own_passes, threads) for part in parts]
        for one in running:
            finished(one)

    benchmark.pedantic(run, rounds=1)
    NUMBERS[way] = numbers(own_passes / "passes")
    if threads == 1:  # sums in another order, as with more threads, round otherwise
        assert len({NUMBERS[w] for w in NUMBERS if WAYS[w][1] == 1}) == 1
    benchmark.extra_info["same_numbers_as_one_job"] = NUMBERS[way] == NUMBERS[next(iter(WAYS))]


def numbers(folder: Path) -> str:
    """A hash of all that the shards of a pass hold but how long they took and in what memory."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("[0-9]*.safetensors")):
        with safe_open(path, framework="np") as shard:
            for name in sorted(set(shard.keys()) - {"seconds", "peak_memory_mb"}):
                digest.update(path.name.encode() + name.encode() + shard.get_tensor(name).tobytes())
    return digest.hexdigest()
