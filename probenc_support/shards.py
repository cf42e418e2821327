"""Files of one long computation, a shard each, which several processes make together.

A shard is a dictionary of tensors. It is written whole or not at all, with a hash of what it holds,
so that a damaged one is made again. Each has a lock of its own: processes that want the same
shards, also on several machines that share the folder, make each of them once.

While a shard is computed, a thread hashes and writes the one before it, and all others before are
there. So a kill loses the one that is computed and, while the writing lasts, also the one before.
That is no more work than is done in the time of computing one shard and writing it, as if each were
written before the next is begun.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import torch
from filelock import BaseFileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probenc_support import cache

Shard = dict[str, Tensor]
"""Tensors by name, all on the CPU and contiguous."""


@dataclass(eq=False)
class Shards:
    """The shards of one computation, by number, in a folder of their own."""

    folder: Path
    compute: Callable[[int], Shard]
    """Makes the shard of a number."""
    passed: Callable[[int], None] = lambda number: None
    """Told the number of each shard that was there, or that another process made."""
    made: int = field(default=0, init=False)
    """Shards that this process made."""

    def path(self, number: int) -> Path:
        """Where the shard of a number lies, or will lie."""
        return self.folder / f"{number:05d}.safetensors"

    def make(self, numbers: Iterable[int]) -> None:
        """Makes those that are not there; what other processes are making is waited for at the end.

        While one shard is hashed and written by a thread, the next is computed. A kill loses these
        two at most.

        Raises:
            InputError: the folder cannot be written; the message gives the reason.
        """
        with _Writer() as writer:
            busy = [number for number in numbers if not self._made(number, writer, wait=False)]
            for number in busy:
                # The other process may be waiting for what this one still writes.
                writer.finish()
                self._made(number, writer, wait=True)

    def _made(self, number: int, writer: "_Writer", *, wait: bool) -> bool:
        """Makes a shard unless it is there; False where another process has its lock."""
        path = self.path(number)
        lock = None if path.exists() else self._lock(number, wait=wait)
        if lock is None and not path.exists():
            return False
        if lock is None or path.exists():
            self.passed(number)
            if lock is not None:
                lock.release()
            return True
        try:
            writer.write(path, self.compute(number), lock)
        except BaseException:
            lock.release()
            raise
        self.made += 1
        return True

    def read(self, number: int) -> Shard:
        """A shard, which is made again where it is damaged or gone.

        Raises:
            InputError: it has to be made again and cannot be written.
        """
        path = self.path(number)
        shard = read(path)
        if shard is not None:
            return shard
        lock = self._lock(number, wait=True)
        try:
            shard = read(path)
            if shard is None:
                if path.exists():
                    print(f"{path.name} in the cache is damaged; making it again.", file=sys.stderr)
                shard = self.compute(number)
                write(path, shard)
                self.made += 1
            return shard
        finally:
            if lock is not None:
                lock.release()

    def _lock(self, number: int, *, wait: bool) -> BaseFileLock | None:
        return cache.held(self.path(number).with_suffix(".lock"), wait=wait)


class _Writer:
    """Writes one shard at a time in a thread, and lets go of its lock when it is there."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: tuple[Future[None], BaseFileLock] | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.finish()
        finally:
            self._thread.shutdown()

    def write(self, path: Path, shard: Shard, lock: BaseFileLock) -> None:
        """Starts to write; first the shard before is waited for, so that two at most are held."""
        self.finish()
        self._writing = self._thread.submit(write, path, shard), lock

    def finish(self) -> None:
        """Waits until everything is written.

        Raises:
            InputError: it cannot be; the message gives the reason.
        """
        if self._writing is None:
            return
        (done, lock), self._writing = self._writing, None
        try:
            done.result()
        finally:
            lock.release()


def read(path: Path) -> Shard | None:
    """What `write` wrote; None where there is no such file or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            shard = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            whole = (file.metadata() or {}).get("sha256") == _checksum(shard)
    except (OSError, SafetensorError, ValueError):
        return None
    return shard if whole else None


def write(path: Path, shard: Shard) -> None:
    """Writes a shard with its hash, so that it is there whole or not at all.

    Raises:
        InputError: it cannot be written; the message gives the reason.
    """
    with cache.atomic_path(path) as temporary:
        save_file(shard, temporary, metadata={"sha256": _checksum(shard)})


def _checksum(shard: Shard) -> str:
    digest = hashlib.sha256()
    for name in sorted(shard):
        digest.update(name.encode())
        digest.update(shard[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
