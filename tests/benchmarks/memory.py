"""How much memory a piece of work takes, where it runs in this process."""

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Growth:
    """Filled when the work is done."""

    mb: float = 0.0
    """Megabytes by which the process grew beyond what it held at the start, at the most."""


@contextmanager
def peak_above_start() -> Iterator[Growth]:
    """Watches this process's resident memory while the work within lasts."""
    if sys.platform == "linux":  # what was freed before would be taken again unseen
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    process, done, growth = psutil.Process(), threading.Event(), Growth()
    start = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.003):
            growth.mb = max(growth.mb, (process.memory_info().rss - start) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()
