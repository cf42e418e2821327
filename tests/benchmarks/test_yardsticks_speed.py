"""The rates of this machine that the other benchmarks quote their shares of.

    pytest tests/benchmarks/test_yardsticks_speed.py

`giga_per_second` is by the quickest round, since a rate that is reached is one that can be; the
times are medians as everywhere.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import yardsticks
from yardsticks import Yardstick

YARDSTICKS: dict[str, Callable[[], Yardstick]] = {
    "float32 product": lambda: yardsticks.product(torch.float32),
    "float64 product": lambda: yardsticks.product(torch.float64),
    "copy in memory": yardsticks.copy,
    "triad in memory": yardsticks.triad,
    "float32 exp": yardsticks.exponentials,
}


@pytest.mark.benchmark(group="Yardsticks: what this machine does at best")
@pytest.mark.parametrize("name", YARDSTICKS)
def test_yardstick(benchmark: Any, name: str) -> None:
    yardstick = YARDSTICKS[name]()
    benchmark.pedantic(yardstick.run, setup=yardstick.prepare, rounds=15, warmup_rounds=1)
    benchmark.extra_info["giga_per_second"] = yardstick.amount / benchmark.stats.stats.min / 1e9
    benchmark.extra_info["of"] = yardstick.unit
