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
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from probenc_support import names
from probenc_support.errors import InputError

_HASH = r"[0-9a-f]"
ENTRIES = {
    "models": rf"(gguf|ctranslate2|rxn-albert)-{_HASH}{{16}}(-{_HASH}{{8}})?"
    r"|E-(of|at-commit-of)-.+",
    "corpora": r"(docstrings-\w+|bible|reactions)-.+-v\d+\.json",
    "passes": rf"{_HASH}{{24,64}}",
    "speech": rf"{_HASH}{{32}}\.safetensors",
    "downloads": r"$^",
    "training": rf"[\w.-]+-seed\d+-{_HASH}{{12}}|text-{_HASH}{{12}}(-\d+){{3}}(-v\d+)?",
}
"""Subfolders of the cache, and how this project names what it keeps in each.

Files of other names are never listed or removed, since `$PROBENC_CACHE` may be a folder in which
other programs keep a `models` folder, too. Of downloads nothing stays but what a killed process
leaves.
"""
KINDS = tuple(ENTRIES)
"""Subfolders of the cache."""
_HALF_WRITTEN = r"|\.tmp-[a-z0-9_]{8}"

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Numbers of the errors that say that no more can be written."""
_UNWRITABLE = FULL | {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR,
    errno.ENAMETOOLONG,
}  # fmt: skip
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def cache_dir() -> Path:
    """Where models, corpora and passes lie: `$PROBENC_CACHE`, else the user's cache folder.

    Raises:
        InputError: none is named and the user has no home folder.
    """
    folder = names.expanded(
        os.environ.get("PROBENC_CACHE") or platformdirs.user_cache_dir("probenc")
    )
    if str(folder).startswith("~"):
        raise InputError(
            "There is no place for the cache, since this user has no home folder: set the "
            "environment variable PROBENC_CACHE to a folder that can be written."
        )
    return folder


@contextlib.contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Turns 'disk full', 'read-only' and 'no permission' into one sentence for the person.

    Raises:
        InputError: the body of the `with` block failed because `what` cannot be written.
    """
    try:
        with _unwrapped():
            yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise _unwritable(what, error) from error


def _unwritable(what: str | Path, error: OSError) -> InputError:
    return InputError(
        f"Cannot write {what} ({os.strerror(error.errno or 0)}): free some space or name a folder "
        "that can be written, by the environment variable PROBENC_CACHE for the cache or by the "
        "parameter results_dir for results."
    )


def make_folder(path: Path) -> None:
    """Makes a folder and the folders above it, unless they exist.

    Raises:
        InputError: it cannot be made; the message gives the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Turns errors of the operating system that come from Rust back into OSError.

    The libraries safetensors and tokenizers raise exceptions of other types, with the number of
    the error in their text.
    """
    try:
        yield
    except Exception as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), str(error)) from error
        raise


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path`; renamed onto `path` on success, removed on failure.

    What is written may be a file or a folder. A reader sees the old content or the new, never a
    part of it; a process killed inside leaves only a `.tmp-*` name, which `clear` removes.
    """
    path = Path(path)
    make_folder(path.parent)
    with writing(path):
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
    make_folder(path.parent)
    with writing(path):
        lock = acquired(path)
    try:
        yield
    finally:
        lock.release()


def held(path: Path, *, wait: bool) -> BaseFileLock | None:
    """A lock that is held, see `acquired`; None where another process has it and `wait` is False.

    Raises:
        InputError: the lock's folder cannot be written.
    """
    make_folder(path.parent)
    with writing(path):
        try:
            return acquired(path, timeout=-1 if wait else 0)
        except Timeout:
            return None


def acquired(path: Path, *, timeout: float = -1) -> BaseFileLock:
    """A lock that is held: by the operating system, or by the mere existence of a file where the
    file system knows no locks (some network drives).

    Raises:
        Timeout: another process held it for `timeout` seconds (negative: wait).
    """
    lock: BaseFileLock = FileLock(path, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        lock = SoftFileLock(path.with_name(f"{path.name}-file"), timeout=timeout)
        lock.acquire()
    return lock


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
    """Bytes of a file or of all files in a folder; what another process takes away meanwhile is
    nothing."""
    files = (
        [path] if path.is_file() else [Path(at) / f for at, _, own in os.walk(path) for f in own]
    )
    size = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def entries() -> list[Entry]:
    """What this project keeps in the cache, one entry a model, corpus or pass, the least recently
    used first."""
    kept = []
    for kind, pattern in ENTRIES.items():
        folder = cache_dir() / kind
        if folder.is_dir():
            own = (p for p in folder.iterdir() if re.fullmatch(pattern + _HALF_WRITTEN, p.name))
            for path in own:
                with contextlib.suppress(FileNotFoundError):  # another process took it away
                    kept.append(Entry(path, _size(path), path.lstat().st_mtime))
    return sorted(kept, key=lambda entry: entry.used)


def clear(kind: str = "") -> int:
    """Removes all entries, or those of one kind (`models`, `corpora`, `passes`, `downloads`,
    `training`).

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
    """Removes a file or folder, if there is one; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
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
