"""Every step over the output embedding at three sizes, to plan for a vocabulary of 256,000.

    pytest tests/benchmarks/test_large_head_speed.py

Each step has a law, V^v d^p, for its time and one for its memory. The sizes keep V / d as that of
the planned size; the performance page extrapolates from the largest one, and shows beside it what
the same law would have said of the largest from the next one. Matrices are random.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from benchmarks.memory import peak_above_start

from probenc_support import pruning, sparsity
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.regression import Design
from probenc_support.sparsity import Components, Statistics, correlations

SIZES = [(16_000, 512), (32_000, 1024), (64_000, 2048)]
PLANNED = (256_000, 8192)
N = 64
"""Positions, where a step is over positions as well; its time is proportional to them."""


class Data:
    """Random E, y and hidden states of one size, and what the steps take from the ones before."""

    def __init__(self, V: int, d: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.E = torch.randn(V, d, generator=generator) * torch.logspace(0, -1, d)
        self.y = self.E.sum(1).double() + torch.randn(V, generator=generator).double()
        self.h = torch.randn(N, d, generator=generator)
        self.levels = pruning.levels([0.045 * k for k in range(1, 21)], d)

    @cached_property
    def design(self) -> Design:
        return Design.of(self.E)

    @cached_property
    def statistics(self) -> Statistics:
        return Statistics.of(self.design, self.y)

    @cached_property
    def components(self) -> Components:
        return Components.of(self.statistics)

    @cached_property
    def moments(self) -> Moments:
        d = self.E.shape[1]
        return Moments(N, torch.zeros(d).double(), torch.eye(d).double())

    @cached_property
    def weights(self) -> torch.Tensor:
        return torch.full((len(self.E),), 1.0 / len(self.E), dtype=torch.float64)


@dataclass(frozen=True)
class Step:
    """One step, and its laws: exponents of V and d of its time and of its memory."""

    run: Callable[[Data], Any]
    needs: tuple[str, ...]
    time: tuple[int, int]
    memory: tuple[int, int]


STEPS = {
    "sums of squares and products of E": Step(lambda x: Design.of(x.E), (), (1, 2), (0, 2)),
    "a fit with robust errors": Step(
        lambda x: x.design.fit(x.y, robust=True), ("design",), (1, 2), (0, 2)
    ),
    "one fit more": Step(lambda x: x.design.fit(x.y), ("design",), (1, 1), (1, 0)),
    "principal components": Step(
        lambda x: Components.of(x.statistics), ("statistics",), (0, 3), (0, 2)
    ),
    "scores of all tokens": Step(
        lambda x: x.components.scores(x.E), ("components",), (1, 2), (1, 1)
    ),
    "rank correlations of all dimensions": Step(
        lambda x: correlations.spearman(x.E, x.y), (), (1, 1), (1, 0)
    ),
    "forward selection to the end": Step(
        lambda x: sparsity.forward_selection(x.statistics), ("statistics",), (0, 3), (0, 2)
    ),
    "R\N{SUPERSCRIPT TWO} on tokens held out, five folds": Step(
        lambda x: sparsity.heldout_curve(x.design, x.y, lambda _: x.components.directions),
        ("components",), (1, 2), (0, 2),
    ),
    "rotated basis": Step(
        lambda x: pruning.rotated_basis(x.E, x.moments, x.weights), ("moments", "weights"),
        (1, 2), (0, 2),
    ),
    f"average probabilities over {N} positions": Step(
        lambda x: Head(x.E).log_mean_p(x.h), (), (1, 1), (1, 0)
    ),
    f"pruning at 20 levels, {N} positions": Step(
        lambda x: pruning.sweep(
            Head(x.E), pruning.zero_basis(torch.arange(x.E.shape[1])), x.h, x.levels
        ),
        (), (1, 1), (1, 0),
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size[0]:,} x {size[1]:,}")
def data(request: Any) -> Data:
    return Data(*request.param)


@pytest.mark.benchmark(group="Large heads")
@pytest.mark.parametrize("name", STEPS)
def test_step(benchmark: Any, data: Data, name: str) -> None:
    V, d = data.E.shape
    step = STEPS[name]
    benchmark.name = f"test_step[{name}, {V:,} x {d:,}]"
    for needed in step.needs:
        getattr(data, needed)
    benchmark.pedantic(step.run, (data,), rounds=3)
    with peak_above_start() as memory:
        step.run(data)
    benchmark.extra_info |= {
        "step": name, "V": V, "d": d, "time_law": step.time, "memory_law": step.memory,
        "planned": PLANNED, "memory_mb": memory.mb,
    }  # fmt: skip
