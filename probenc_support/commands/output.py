"""The place that a command writes to: free, or what the same command wrote before."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from probenc_support import names
from probenc_support.errors import InputError

RECORD = "probenc.json"
"""What was wanted and what came, in the folder of a model that a command wrote: by this it knows
its own folders again."""

TABLE = "probenc.csv"
"""The table of it."""

GGUF = ".gguf"


def is_gguf(path: Path) -> bool:
    """Whether a GGUF file is asked for, and no folder."""
    return path.suffix.lower() == GGUF


def beside(path: Path, name: str) -> Path:
    """Where a table goes: into the folder of a model, or beside a GGUF file, named after it."""
    return path / name if not is_gguf(path) else path.with_suffix(f".{name}")


def checked(out: str, *, overwrite: bool, dry_run: bool) -> Path:
    """The path to write to. Nothing need be named where nothing is written.

    Raises:
        InputError: something is there that may not be replaced, or nothing can be written there.
    """
    path = names.expanded(out)
    if dry_run and not out:
        return path
    if not out or path.name in ("", "..") or path == Path():
        raise InputError(f"--out is {out!r}; name a new folder for the model.")
    _check_above(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir()) and not is_gguf(path)):
        return path
    ours = (beside(path, RECORD)).is_file() and path.is_dir() != is_gguf(path)
    if not ours:
        raise InputError(
            f"{path} exists already, and no such command wrote it: name a new folder or file."
        )
    if not overwrite:
        raise InputError(
            f"{path} exists already: name a new one, or add --overwrite to replace what was "
            "written there before."
        )
    return path


def _check_above(path: Path) -> None:
    above = next(p for p in path.absolute().parents if os.path.exists(p))  # noqa: PTH110
    if not above.is_dir():
        raise InputError(f"{above} is a file, so nothing can be written below it; name another.")
    if not os.access(above, os.W_OK):
        raise InputError(f"{above} cannot be written to; name a folder that can.")


@contextlib.contextmanager
def ending_in_order() -> Iterator[None]:
    """Inside the context a request to end (SIGTERM, SIGHUP) raises SystemExit, so that what is
    half-written is removed. One that is ignored, as under nohup, stays ignored."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    asked = [s for name in ("SIGTERM", "SIGHUP") if (s := getattr(signal, name, None))]
    asked = [number for number in asked if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in asked}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
