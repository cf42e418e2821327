"""The pass and the fit on a GPU, at the sizes of real models with random weights.

    pytest -m gpu tests/benchmarks/test_gpu_speed.py

Speed depends on shapes alone. `share_of_matrix_product_rate` is of the rate of one large bfloat16
product on the same GPU, and counts the operations of body and head.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from benchmarks import yardsticks
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, GPTJConfig, LlamaConfig

from probenc_support import corpora, inference, regression
from probenc_support.head import Head
from probenc_support.models import LanguageModel
from probenc_support.models.wrapping import check_head

N_BLOCKS, LENGTH = 256, 256


@dataclass(frozen=True)
class Shape:
    """A configuration, and what makes it small where the benchmark itself is tried."""

    config: Any
    small: dict[str, int]


SHAPES = {
    "gpt2-xl": Shape(
        GPT2Config(n_embd=1600, n_layer=48, n_head=25, attn_pdrop=0.0, resid_pdrop=0.0),
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 60},
    ),
    "gpt-j-6b": Shape(
        GPTJConfig(tie_word_embeddings=False),
        {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4, "vocab_size": 60},
    ),
    "Llama-3-8B": Shape(
        LlamaConfig(
            vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False,
        ),
        {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 60,
         "num_attention_heads": 2, "num_key_value_heads": 1},
    ),
    "Gemma-3-4B's text model": Shape(
        Gemma3TextConfig(
            vocab_size=262_208, hidden_size=2560, intermediate_size=10_240, num_hidden_layers=34,
            num_attention_heads=8, num_key_value_heads=4,
        ),
        {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 60,
         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
    ),
}  # fmt: skip


def random_model(name: str, device: str, *, small: bool = False, half_head: bool = True) -> Any:
    """A model of a shape with random bfloat16 weights, and the head's product in either precision.

    The tokenizer is left out, which neither the pass nor the check of the head asks for.
    """
    shape = SHAPES[name]
    config = shape.config
    if small:
        config = type(config)(**{**config.to_diff_dict(), "layer_types": None, **shape.small})
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.eval().requires_grad_(False)
    weight, bias = model.get_output_embeddings().weight, model.get_output_embeddings().bias
    lm = LanguageModel(
        name=name,
        model=model,
        tokenizer=None,  # type: ignore[arg-type]
        head=Head(weight.float(), None if bias is None else bias.float(), half=weight),
        tied=bool(config.tie_word_embeddings),
        context_length=LENGTH,
        device=weight.device,
        dtype=torch.bfloat16,
        revision="",
        weights_hash=name,
    )
    check_head(lm)
    return lm if half_head else replace(lm, head=Head(lm.E, lm.b))


def operations(lm: Any, n: int) -> float:
    """Floating-point operations of the matrix products of body and head for n positions."""
    weights = sum(p.numel() for p in lm.model.parameters())
    inputs = 0 if lm.tied else lm.model.get_input_embeddings().weight.numel()
    return 2.0 * n * (weights - inputs)


@pytest.mark.gpu
@pytest.mark.benchmark(group=f"The pass over {N_BLOCKS * LENGTH:,} positions on a GPU")
@pytest.mark.parametrize("half_head", [True, False], ids=["bfloat16 head", "float32 head"])
@pytest.mark.parametrize("name", SHAPES)
def test_pass(benchmark: Any, name: str, *, half_head: bool) -> None:
    benchmark.name = f"test_pass[{name}, {'bfloat16' if half_head else 'float32'} head]"
    lm = random_model(name, "cuda", half_head=half_head)
    blocks = corpora.from_ids(torch.randint(lm.V, (N_BLOCKS, LENGTH)), corpus="random")
    rate = yardsticks.product(torch.bfloat16, 8192, "cuda").rate()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    benchmark.pedantic(
        lambda: inference.detect(lm, blocks, cache=False, progress=False), rounds=3, warmup_rounds=1
    )
    seconds = benchmark.stats.stats.median
    benchmark.extra_info |= {
        "positions_per_second": blocks.n_positions / seconds,
        "share_of_matrix_product_rate": operations(lm, blocks.n_positions) / seconds / rate,
        "peak_memory_above_model_mb": (torch.cuda.max_memory_allocated() - held) / 1e6,
    }


@pytest.mark.gpu
@pytest.mark.benchmark(group="The log-linear fit on a GPU, 256,000 x 4,096")
def test_fit(benchmark: Any) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    E = torch.randn(256_000, 4096, device="cuda", generator=generator)
    y = (E[:, :64].sum(1) + torch.randn(len(E), device="cuda", generator=generator)).double()

    def run() -> float:
        return regression.fit(E, y).r2_adj

    assert benchmark.pedantic(run, rounds=3, warmup_rounds=1) == pytest.approx(64 / 65, abs=0.01)
