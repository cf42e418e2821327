"""A training step against a plain one, and its share of the rate of a matrix product.

python -m pytest tests/benchmarks/test_training_speed.py --benchmark-only

The product is in the precision of the step: float32 on a CPU, bfloat16 on a GPU.
"""

from typing import Any

import pytest
import torch
import yardsticks

from probenc_support.models import optimisers, training
from probenc_support.models.recipes import RECIPES, Recipe

NANO, MINI = RECIPES["pythia-nano"], RECIPES["pythia-mini"]


def _operations(model: Any, recipe: Recipe) -> float:
    """Floating-point operations of a step's matrix products: 6 a weight and token."""
    used = model.num_parameters() - model.get_input_embeddings().weight.numel()
    return 6.0 * used * recipe.batch_size * recipe.sequence_length


def _steps(recipe: Recipe, way: str, device: str) -> Any:
    """A function that does one step, and its model."""
    model = training.new_model(recipe, 0)
    model.to(device=device)  # type: ignore[call-arg]
    shape = (recipe.batch_size, recipe.sequence_length)
    ids = torch.randint(recipe.vocabulary, shape, device=device)
    plain = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ours = optimisers.of(model, recipe)

    def by_hand() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        plain.step()
        plain.zero_grad()

    def by_training() -> None:
        training._backward(model, ids)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        ours.step()
        ours.zero_grad()

    return (by_hand if way == "by hand" else by_training), model


def _measure(benchmark: Any, recipe: Recipe, way: str, device: str) -> None:
    if device == "cpu":
        precision, peak = "float32", yardsticks.product(torch.float32).rate()
    else:
        precision, peak = "bfloat16", yardsticks.product(torch.bfloat16, 8192, device).rate()
    step, model = _steps(recipe, way, device)

    def run() -> None:
        step()
        if device == "cuda":
            torch.cuda.synchronize()

    benchmark.pedantic(run, rounds=15, warmup_rounds=3)
    seconds = benchmark.stats.stats.median
    tokens = recipe.batch_size * recipe.sequence_length
    benchmark.extra_info["tokens_per_second"] = tokens / seconds
    benchmark.extra_info[f"share_of_{precision}_product_rate"] = (
        _operations(model, recipe) / seconds / peak
    )


@pytest.mark.benchmark(group="A training step of pythia-nano, 1,024 tokens")
@pytest.mark.parametrize("way", ["by hand", "training"])
def test_step(benchmark: Any, way: str) -> None:
    _measure(benchmark, NANO, way, "cpu")


@pytest.mark.gpu
@pytest.mark.benchmark(group="A training step of pythia-mini on a GPU, 32,768 tokens")
def test_step_on_gpu(benchmark: Any) -> None:
    _measure(benchmark, MINI, "training", "cuda")
    benchmark.extra_info["gpu"] = torch.cuda.get_device_name()
