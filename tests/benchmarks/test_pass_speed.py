"""The pass against the bare forward that a person would write, and against this machine's rates.

python -m pytest tests/benchmarks/test_pass_speed.py --benchmark-only

Shares are of the time that the counted work takes at a rate of `yardsticks`: of the pass, the
matrix products of body and head in float32; of the sums over the vocabulary also the exponentials,
and the bytes of the sweeps over the buffer, as if it lay in memory and in no cache.
"""

import itertools
import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yardsticks

from probenc_support import corpora, inference

N_BLOCKS, LENGTH = 8, 256
GROUP = "The pass over 2,048 positions of SmolLM2-135M"


@pytest.fixture(scope="module")
def blocks(real_lm: Any) -> corpora.TokenBlocks:
    return corpora.blocks(
        "python-manual", real_lm.tokenizer, n_positions=N_BLOCKS * LENGTH, sequence_length=LENGTH
    )


def _bare_forward(lm: Any, blocks: corpora.TokenBlocks) -> None:
    """What a person writes: the model's own logits, four blocks at a time, and nothing kept."""
    with torch.inference_mode():
        for batch in blocks.ids.split(4):
            _ = lm.model(batch, use_cache=False).logits


def _by_hand(lm: Any, blocks: corpora.TokenBlocks) -> torch.Tensor:
    """The average probability as a person writes it: softmax of the logits, summed."""
    total = torch.zeros(lm.V, dtype=torch.float64)
    with torch.inference_mode():
        for batch in blocks.ids.split(4):
            total += torch.softmax(lm.model(batch, use_cache=False).logits, -1).double().sum((0, 1))
    return total / blocks.n_positions


def _operations(lm: Any, n: int) -> float:
    """Floating-point operations of the matrix products of body and head for n positions."""
    weights = sum(p.numel() for p in lm.model.parameters())
    body = weights if lm.tied else weights - lm.V * lm.d
    return 2.0 * n * body


def _pass(lm: Any, blocks: corpora.TokenBlocks) -> inference.Detection:
    return inference.detect(lm, blocks, cache=False, progress=False)


def _written_pass(lm: Any, blocks: corpora.TokenBlocks) -> inference.Detection:
    """With the cache: identity of the model, files with their hashes, and reading them back."""
    return inference.detect(lm, blocks, progress=False)


WAYS: dict[str, tuple[Callable[..., Any], str]] = {
    "bare forward": (_bare_forward, "logits, dropped"),
    "by hand": (_by_hand, "average probabilities"),
    "pass": (_pass, "states, averages, log-likelihoods"),
    "pass, written to the cache": (_written_pass, "the same, and files"),
}
"""Each way, and what it leaves."""


@pytest.fixture
def fresh_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_lm: Any, blocks: corpora.TokenBlocks
) -> Callable[[], None]:
    """A function that leaves the package an empty cache folder; model and text are there before."""
    number = itertools.count()
    return lambda: monkeypatch.setenv("PROBENC_CACHE", str(tmp_path / str(next(number))))


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("way", WAYS)
def test_pass(
    benchmark: Any,
    real_lm: Any,
    blocks: corpora.TokenBlocks,
    fresh_cache: Callable[[], None],
    way: str,
) -> None:
    run, leaves = WAYS[way]
    peak = yardsticks.product(torch.float32).rate()
    benchmark.extra_info["peak_memory_above_model_mb"] = _memory_above_model(way)
    benchmark.pedantic(lambda: run(real_lm, blocks), setup=fresh_cache, rounds=3, warmup_rounds=1)
    _tell(benchmark, real_lm, blocks.n_positions, peak)
    benchmark.extra_info["leaves"] = leaves


RIVALS = {
    "TransformerLens": "states, logits",
    "lm-evaluation-harness": "log-likelihoods",
}
"""Other programs, and what each leaves; `rivals.py` tells what it does and does not."""


RIVALS_PYTHON = Path(__file__).resolve().parents[2] / ".venv-rivals" / "bin" / "python"


class Rival:
    """Another program in a process of its own, which has the model loaded and waits to be asked."""

    def __init__(self, name: str, folder: Path) -> None:
        command = [str(RIVALS_PYTHON), str(Path(__file__).with_name("rivals.py")), name, folder]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.about = self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """`seconds`, `memory` or `mean_log_p`; the rival does its work and answers."""
        assert self._process.stdin
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the rival ended early; it says why above"
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Closes its standard input, at which it ends."""
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def model_folder(
    real_lm: Any, blocks: corpora.TokenBlocks, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The real model as transformers saves it, and the token ids: all that a rival gets."""
    folder = tmp_path_factory.mktemp("model")
    real_lm.model.save_pretrained(folder)
    real_lm.tokenizer.save_pretrained(folder)
    (folder / "blocks.json").write_text(json.dumps(blocks.ids.tolist()), encoding="utf-8")
    return folder


@pytest.mark.skipif(
    not RIVALS_PYTHON.is_file(), reason="no other programs here: `make benchmark-rivals`"
)
@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("name", RIVALS)
def test_rival(
    benchmark: Any, real_lm: Any, blocks: corpora.TokenBlocks, model_folder: Path, name: str
) -> None:
    """The same positions and weights; the rival must find the same log-probability of the text."""
    detection = _pass(real_lm, blocks)
    peak = yardsticks.product(torch.float32).rate()
    rival = Rival(name, model_folder)
    try:
        benchmark.extra_info.update(rival.ask("memory"))
        benchmark.pedantic(rival.ask, ("seconds",), rounds=3, warmup_rounds=1)
        found = rival.ask("mean_log_p")["mean_log_p"]
    finally:
        rival.end()
    assert found == pytest.approx(detection.mean_target_log_p, abs=1e-3)
    _tell(benchmark, real_lm, rival.about["n_positions"], peak)
    benchmark.extra_info["leaves"] = RIVALS[name]
    benchmark.extra_info["release"] = rival.about["release"]


def _tell(benchmark: Any, lm: Any, n: int, peak: float) -> None:
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["positions_per_second"] = n / seconds
    benchmark.extra_info["share_of_float32_product_rate"] = _operations(lm, n) / seconds / peak


_MEMORY = """
    import json, os, pathlib, re, sys, tempfile
    sys.path[:0] = {paths!r}
    import test_pass_speed as speed
    from probenc_support import corpora, inference, models
    lm = models.load("smollm2-135m-instruct", device="cpu", dtype="float32")
    blocks = corpora.blocks("python-manual", lm.tokenizer, n_positions=2048)
    def status(key):
        text = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(key + r":\\s+(\\d+)", text)[1])
    inference.detect(lm, blocks.select(0, 1), cache=False, progress=False)
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROBENC_CACHE"] = folder
        speed.WAYS[{way!r}][0](lm, blocks)
    print(json.dumps(status("VmHWM") - before))
"""


def _memory_above_model(way: str) -> float:
    """Megabytes by which a fresh process grows past what it holds after loading and one block."""
    here = Path(__file__).resolve().parent
    script = textwrap.dedent(_MEMORY.format(paths=[str(here)], way=way))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1])) / 1e3


SWEEPS = 7
"""Times that each logit is read or written besides `exp_`, by `HeadSums`: largest, sum
over positions, subtraction (two), sum over tokens, sum of probabilities, and the product's own."""


def _sums_by_hand(head: Any, h: torch.Tensor) -> torch.Tensor:
    """[V] the sum of probabilities as a person writes it, as many positions at a time as `sums`."""
    total = torch.zeros(head.V, dtype=torch.float64)
    for part in h.split(head.sums().chunk):
        total += torch.softmax(part @ head.E.T, dim=1).sum(0).double()
    return total


def _sums(head: Any, h: torch.Tensor) -> torch.Tensor:
    """[V] the same by `HeadSums`, which has log-partition and mean log-probability besides."""
    sums = head.sums()
    sums.add(h)
    return (sums.log_a + math.log(len(h))).exp()


@pytest.mark.benchmark(group="Sums over the vocabulary of 2,048 positions, 49,152 x 576")
@pytest.mark.parametrize("way", [_sums_by_hand, _sums], ids=["by hand", "head sums"])
def test_sums(benchmark: Any, real_lm: Any, blocks: corpora.TokenBlocks, way: Any) -> None:
    head = real_lm.head
    product = yardsticks.product(torch.float32).rate()
    exp, bandwidth = yardsticks.exponentials().rate(), yardsticks.triad().rate()
    with torch.inference_mode():
        h = inference.read(real_lm, blocks.ids)
        found = benchmark.pedantic(way, (head, h), rounds=5, warmup_rounds=1)
        expected = _sums_by_hand(head, h)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)
    seconds, values = benchmark.stats.stats.median, len(h) * head.V
    benchmark.extra_info["share_of_float32_product_rate"] = 2 * values * head.d / seconds / product
    benchmark.extra_info["share_of_exp_rate"] = values / seconds / exp
    benchmark.extra_info["share_of_memory_bandwidth"] = SWEEPS * 4 * values / seconds / bandwidth
