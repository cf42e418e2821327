"""How far long work has come, on stderr."""

import sys
import time


class Progress:
    """A line to stderr now and then: how far, how fast, how long still."""

    def __init__(self, what: str, total: int, unit: str, *, every: float = 10.0) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.start(enabled=False)

    def start(self, *, enabled: bool) -> None:
        """Starts the clock."""
        self.enabled = enabled
        self.done = self.skipped = 0
        self.started = self.said = time.perf_counter()

    def skip(self, count: int) -> None:
        """Counts work that was done before: it tells nothing about the speed."""
        self.done += count
        self.skipped += count

    def advance(self, count: int) -> None:
        """Counts work, and says so every few seconds."""
        self.done += count
        now = time.perf_counter()
        if self.enabled and now - self.said >= self.every:
            self.said = now
            rate = (self.done - self.skipped) / (now - self.started)
            left = (self.total - self.done) / rate
            print(
                f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f} a second, "
                f"{left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )
