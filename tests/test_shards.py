"""Files of a long computation: each made once, whole or absent, also where several make them."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from probenc_support import cache, shards
from probenc_support.errors import InputError
from probenc_support.shards import Shard, Shards


def counting(made: list[int]) -> Callable[[int], Shard]:
    def compute(number: int) -> Shard:
        made.append(number)
        return {"x": torch.full((3, 2), float(number)), "n": torch.tensor(number)}

    return compute


def test_shards_are_made_once_and_read_back(tmp_path: Path) -> None:
    made: list[int] = []
    passed: list[int] = []
    files = Shards(tmp_path, counting(made), passed.append)
    files.make([0, 2])
    files.make(range(4))
    assert made == [0, 2, 1, 3]
    assert passed == [0, 2]
    assert files.made == 4
    assert [int(files.read(k)["n"]) for k in range(4)] == [0, 1, 2, 3]
    assert files.made == 4


@pytest.mark.parametrize("content", [b"", b"no tensor", None])
def test_a_damaged_or_missing_shard_is_made_again_when_it_is_read(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []
    files = Shards(tmp_path, counting(made))
    files.make(range(2))
    path = files.path(1)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert shards.read(path) is None
    assert int(files.read(1)["n"]) == 1
    assert made == [0, 1, 1]
    assert ("damaged" in capsys.readouterr().err) == (content is not None)
    assert shards.read(path) is not None


@pytest.mark.parametrize("written", [True, False])
def test_what_another_process_makes_is_waited_for_at_the_end(
    tmp_path: Path, *, written: bool
) -> None:
    """It finds the shard then, or makes it where the other has given up."""
    made: list[int] = []
    passed: list[int] = []
    files, others = Shards(tmp_path, counting(made), passed.append), Shards(tmp_path, counting([]))
    lock = cache.held(files.path(0).with_suffix(".lock"), wait=True)
    assert lock is not None
    assert cache.held(files.path(0).with_suffix(".lock"), wait=False) is None
    thread = threading.Thread(target=files.make, args=(range(3),), daemon=True)
    thread.start()
    while not files.path(2).exists():
        thread.join(0.01)
    assert thread.is_alive()
    assert made == [1, 2]
    if written:
        shards.write(others.path(0), others.compute(0))
    lock.release()
    thread.join(60)
    assert not thread.is_alive()
    assert made == [1, 2] + [0] * (not written)
    assert passed == [0] * written


def test_a_kill_loses_two_shards_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one is begun, all before it but the last are there, however slowly they are written."""
    write = shards.write
    monkeypatch.setattr(shards, "write", lambda *args: time.sleep(0.02) or write(*args))
    there: list[list[bool]] = []

    def compute(number: int) -> Shard:
        there.append([files.path(k).exists() for k in range(number)])
        return {"n": torch.tensor(number)}

    files = Shards(tmp_path, compute)
    files.make(range(6))
    assert [len(before) for before in there] == list(range(6))
    assert all(all(before[:-1]) for before in there)


def test_locks_are_free_again_after_an_error(tmp_path: Path) -> None:
    def fails_at_two(number: int) -> Shard:
        if number == 2:
            raise ZeroDivisionError
        return {"n": torch.tensor(number)}

    files = Shards(tmp_path, fails_at_two)
    with pytest.raises(ZeroDivisionError):
        files.make(range(4))
    assert [files.path(k).exists() for k in range(4)] == [True, True, False, False]
    for k in range(4):
        lock = cache.held(files.path(k).with_suffix(".lock"), wait=False)
        assert lock is not None
        lock.release()


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def large(number: int) -> Shard:
        return {"x": torch.zeros(1000, 10)}

    with tiny.no_space(), pytest.raises(InputError, match="Cannot write"):
        Shards(tmp_path, large).make(range(3))
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
    Shards(tmp_path, large).make(range(3))
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_sizes_are_told_while_another_process_takes_files_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").write_bytes(b"12345")
    walked = [(str(tmp_path), [], ["there", "gone"])]
    monkeypatch.setattr("os.walk", lambda path: walked)
    assert cache._size(tmp_path) == 5
