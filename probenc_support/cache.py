"""The user's cache folder: atomic files, locks between processes, a size limit."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from probenc_support.errors import InputError

KINDS = ("models", "corpora", "passes", "training")
"""Subfolders of the cache."""

_UNWRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR
}  # fmt: skip


def cache_dir() -> Path:
    """Where models, corpora and passes lie: `$PROBENC_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("PROBENC_CACHE") or platformdirs.user_cache_dir("probenc"))


@contextlib.contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Turns 'disk full', 'read-only' and 'no permission' into one sentence.

    Raises:
        InputError: the body failed since `what` cannot be written.
    """
    try:
        with _unwrapped():
            yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise InputError(
            f"Cannot write {what} ({os.strerror(error.errno or 0)}): free some space or name a "
            "folder that can be written, by the environment variable PROBENC_CACHE for the cache "
            "or by the parameter results_dir for results."
        ) from error


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Errors of the operating system as the OSError that they were.

    The Rust libraries safetensors and tokenizers raise exceptions of their own, with its number in
    the text.
    """
    try:
        yield
    except Exception as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), str(error)) from error
        raise


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renamed onto `path` on success, removed on failure.

    What is written may be a file or a folder. A reader sees the old content or the new, never a
    part of it; a process killed inside leaves only a `.tmp-*` name, which `clear` removes.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    temporary = holder / path.name
    try:
        with writing(path):
            yield temporary
            if temporary.is_dir() and path.is_dir():
                path.rename(holder / ".old")
            temporary.replace(path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds an inter-process lock in the cache: a second process waits here for the first."""
    path = cache_dir() / "locks" / f"{name}.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Entry:
    """One thing kept in the cache."""

    path: Path
    """File or folder."""
    size: int
    """Bytes, with everything below."""
    used: float
    """Seconds since the epoch, when last written or read."""


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(f.stat().st_size for f in files)


def entries() -> list[Entry]:
    """Everything in the cache, one entry a model, corpus or pass, the least recently used first."""
    found = []
    for kind in KINDS:
        folder = cache_dir() / kind
        if folder.is_dir():
            found += [Entry(p, _size(p), p.stat().st_mtime) for p in folder.iterdir()]
    return sorted(found, key=lambda entry: entry.used)


def clear(kind: str = "") -> int:
    """Removes all entries, or those of one kind (`models`, `corpora`, `passes`, `training`).

    Returns:
        Bytes freed.
    """
    freed = 0
    for entry in entries():
        if kind in ("", entry.path.parent.name):
            freed += entry.size
            remove(entry.path)
    return freed


def remove(path: Path) -> None:
    """Removes a file or folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_limit() -> int:
    """Bytes that cached passes may take: `$PROBENC_CACHE_GB` (default 20) in bytes."""
    text = os.environ.get("PROBENC_CACHE_GB", "20")
    try:
        return int(float(text) * 1e9)
    except ValueError:
        raise InputError(
            f"PROBENC_CACHE_GB is {text!r}; give a number of gigabytes, such as 20."
        ) from None


def shrink(kind: str, keep: Path) -> None:
    """Drops the least recently used entries of a kind until they fit `size_limit`; never `keep`."""
    of_kind = [entry for entry in entries() if entry.path.parent.name == kind]
    excess = sum(entry.size for entry in of_kind) - size_limit()
    for entry in of_kind:
        if excess <= 0:
            return
        if entry.path != keep:
            remove(entry.path)
            excess -= entry.size
