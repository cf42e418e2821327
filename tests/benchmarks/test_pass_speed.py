"""The pass against the bare forward that a person would write, and against this machine's peak.

python -m pytest tests/benchmarks/test_pass_speed.py --benchmark-only
"""

import json
import os
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest
import torch

from probenc_support import corpora, inference

N_BLOCKS, LENGTH = 8, 256


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


def _peak() -> float:
    """Operations a second of one plain float32 matrix product, the best of five."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return float(2 * 2048**3 / min(times))


@pytest.mark.benchmark(group="The pass over 2,048 positions of SmolLM2-135M")
@pytest.mark.parametrize("way", ["bare forward", "by hand", "pass"])
def test_pass(benchmark: Any, real_lm: Any, blocks: corpora.TokenBlocks, way: str) -> None:
    ways = {
        "bare forward": lambda: _bare_forward(real_lm, blocks),
        "by hand": lambda: _by_hand(real_lm, blocks),
        "pass": lambda: inference.detect(real_lm, blocks, cache=False, progress=False),
    }
    peak = _peak()
    benchmark.pedantic(ways[way], rounds=3, warmup_rounds=1)
    rate = _operations(real_lm, blocks.n_positions) / benchmark.stats.stats.median
    benchmark.extra_info["positions_per_second"] = blocks.n_positions / benchmark.stats.stats.median
    benchmark.extra_info["share_of_matrix_product_rate"] = rate / peak
    benchmark.extra_info["peak_memory_above_model_mb"] = _memory_above_model(way)


_MEMORY = """
    import json, pathlib, re, sys
    sys.path[:0] = {paths!r}
    from benchmarks import test_pass_speed as speed
    from probenc_support import corpora, inference, models
    lm = models.load("smollm2-135m-instruct", device="cpu", dtype="float32")
    blocks = corpora.blocks("python-manual", lm.tokenizer, n_positions=2048)
    def status(key):
        text = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(key + r":\\s+(\\d+)", text)[1])
    inference.detect(lm, blocks.select(0, 1), cache=False, progress=False)
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew
    way = {{
        "bare forward": speed._bare_forward,
        "by hand": speed._by_hand,
        "pass": lambda lm, blocks: inference.detect(lm, blocks, cache=False, progress=False),
    }}[{way!r}]
    way(lm, blocks)
    print(json.dumps(status("VmHWM") - before))
"""


def _memory_above_model(way: str) -> float:
    """Megabytes by which a fresh process grows past what it holds after loading and one block."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    script = textwrap.dedent(_MEMORY.format(paths=[here], way=way))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return float(json.loads(done.stdout.splitlines()[-1])) / 1e3


@pytest.mark.gpu
@pytest.mark.benchmark(group="The pass on a GPU, randomly initialised models")
@pytest.mark.parametrize("size", ["gpt2-xl", "gpt-j-6b"])
def test_pass_on_gpu(benchmark: Any, size: str) -> None:
    """Tokens a second and share of the bfloat16 matrix-product rate at the papers' sizes."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM

    from probenc_support.models import LanguageModel
    from probenc_support.models.wrapping import check_head

    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        try:
            model: Any = (
                GPT2LMHeadModel(GPT2Config(n_embd=1600, n_layer=48, n_head=25))
                if size == "gpt2-xl"
                else GPTJForCausalLM(GPTJConfig(tie_word_embeddings=False))
            )
        finally:
            torch.set_default_dtype(torch.float32)
    model = model.eval().requires_grad_(False)
    head = model.get_output_embeddings()
    V = head.weight.shape[0]
    lm = LanguageModel(
        name=size, model=model, tokenizer=None,  # type: ignore[arg-type]
        E=head.weight.float(), b=None if head.bias is None else head.bias.float(),
        tokens=torch.arange(V), tied=size == "gpt2-xl", context_length=1024,
        device=head.weight.device, dtype=torch.bfloat16, revision="", weights_hash=size,
    )  # fmt: skip
    check_head(lm)
    blocks = corpora.from_ids(torch.randint(V, (128, 256)), corpus="random")
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, a)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = 2 * 8192**3 / sorted(times)[5]
    benchmark.pedantic(
        lambda: inference.detect(lm, blocks, cache=False, progress=False), rounds=3, warmup_rounds=1
    )
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["tokens_per_second"] = blocks.n_positions / seconds
    benchmark.extra_info["share_of_matrix_product_rate"] = (
        _operations(lm, blocks.n_positions) / seconds / peak
    )
    benchmark.extra_info["gpu"] = torch.cuda.get_device_name()
