"""What this machine does at best: the rates that the benchmarks quote their shares of.

Each is the best of several rounds of one plain call of the library that the package itself is built
on, so that a share tells how much of the time the hardware was put to use.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

SIDE = 2_048
"""Rows and columns of the matrices whose product is timed on a CPU."""


N_VALUES = 8_000_000
"""Float32 values of the buffer of the exponentials, 32 MB: what `HeadSums` fills at a time."""


N_COPIED = 64_000_000
"""Float32 values that are copied, 256 MB: more than a processor's cache holds."""


@dataclass(frozen=True)
class Yardstick:
    """One plain call, and how much of what it does."""

    run: Callable[[], object]
    amount: float
    """Of `unit` in one call."""
    unit: str
    prepare: Callable[[], None] = lambda: None
    """Comes before every call and is not timed."""

    def rate(self, rounds: int = 5) -> float:
        """Of `unit` a second, the best of some rounds after one that does not count."""
        times = []
        for _ in range(rounds + 1):
            self.prepare()
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
        return self.amount / min(times[1:])


def product(dtype: torch.dtype, side: int = SIDE, device: str = "cpu") -> Yardstick:
    """One product of two square matrices: 2 side^3 floating-point operations."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    return Yardstick(run, 2.0 * side**3, "floating-point operations")


def copy() -> Yardstick:
    """A copy of more than the cache holds; bytes that are read and bytes that are written."""
    a = torch.ones(N_COPIED)
    out = torch.empty_like(a)
    return Yardstick(lambda: out.copy_(a), 2.0 * a.nbytes, "bytes")


def triad() -> Yardstick:
    """a + 2 b of more than the cache holds; bytes that are read and bytes that are written."""
    a, b = torch.ones(N_COPIED), torch.ones(N_COPIED)
    out = torch.empty_like(a)
    return Yardstick(lambda: torch.add(a, b, alpha=2.0, out=out), 3.0 * a.nbytes, "bytes")


def exponentials() -> Yardstick:
    """`exp_` over a buffer of float32 values that are spread as logits are."""
    logits = torch.randn(N_VALUES)
    buffer = torch.empty_like(logits)

    def prepare() -> None:
        buffer.copy_(logits)  # what the last call left would soon be too large for float32

    return Yardstick(buffer.exp_, float(N_VALUES), "exponentials", prepare)
