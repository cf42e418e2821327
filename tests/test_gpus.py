"""GPUs of one machine, each lent to one run at a time; the machine's GPUs are made up."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import warm

from probenc_support.__main__ import main
from probenc_support.runs import execute, gpus

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def machine(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs, none of which is named in the environment."""
    monkeypatch.setattr(gpus, "_listed", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    monkeypatch.setattr(gpus, "_PATIENCE", 0.01)
    monkeypatch.delenv(VISIBLE, raising=False)


def named() -> list[str]:
    return os.environ.get(VISIBLE, "").split(",")


def test_runs_at_one_time_get_gpus_of_their_own() -> None:
    with gpus.lent(1):
        assert named() == ["GPU-a"]
    assert VISIBLE not in os.environ
    with gpus.lent(2):
        assert named() == ["GPU-a", "GPU-b"]


def _borrow(queue: Any) -> None:
    gpus._listed = lambda: ["GPU-a", "GPU-b", "GPU-c"]  # type: ignore[assignment]
    with gpus.lent(1):
        queue.put(named())
        time.sleep(300)


def test_a_run_waits_for_a_gpu_and_takes_that_of_a_run_that_was_killed() -> None:
    queue = warm.CONTEXT.Queue()
    workers = [warm.start(_borrow, queue) for _ in range(3)]
    lent = sorted(name for _ in workers for name in queue.get(timeout=120))
    assert lent == ["GPU-a", "GPU-b", "GPU-c"]
    found: list[list[str]] = []

    def fourth() -> None:
        with gpus.lent(1):
            found.append(named())

    waiting = threading.Thread(target=fourth, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert not found, "all are lent"
    workers[1].kill()
    waiting.join(60)
    assert len(found) == 1
    assert found[0][0] in lent
    for worker in workers:
        worker.kill()
        worker.join()


@pytest.mark.parametrize(
    ("given", "wanted", "sees"),
    [
        ("0,1,2,3", 1, "0"),
        ("2,3", 1, "2"),
        ("5", 1, "5"),  # as a cluster's job has it: left as it is
        ("2,3", 2, "2,3"),
        ("2,3", 4, "2,3"),
        ("", 1, ""),
        ("0,1", 0, "0,1"),
    ],
)
def test_what_the_environment_names_is_not_exceeded(
    given: str, wanted: int, sees: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, given)
    with gpus.lent(wanted):
        assert os.environ[VISIBLE] == sees
    assert os.environ[VISIBLE] == given


def test_a_machine_without_a_driver_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus._listed() == []
    with gpus.lent(1):
        assert VISIBLE not in os.environ
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho GPU-1234\necho GPU-5678\n")
    driver.chmod(0o755)
    assert gpus._listed() == ["GPU-1234", "GPU-5678"]
    driver.write_text("#!/bin/sh\necho 'no driver' >&2\nexit 9\n")
    assert gpus._listed() == []


def test_a_run_of_a_notebook_has_the_gpu_that_it_was_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(execute, "run", lambda *_, **__: seen.append(os.environ.get(VISIBLE)))
    words = ["run", "--model", "m", "--notebook", "01"]
    assert main([*words, "--gpus", "1"]) == 0
    assert main(words) == 0
    assert seen == ["GPU-a", None]
