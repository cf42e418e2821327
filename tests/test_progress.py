"""The bar of text that long work shows: what it says, and when it says nothing."""

import os
import subprocess
import sys
import threading

import pytest

from probenc_support import progress
from probenc_support.progress import Progress


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bar shows at once."""
    monkeypatch.setattr(progress, "patience", lambda: 0.0)


def last_look(error: str) -> str:
    """A bar as it stood at the end."""
    return error.strip().split("\r")[-1]


@pytest.mark.usefixtures("impatient")
def test_a_bar_says_what_how_far_and_how_fast(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pass", 4000, "positions") as so_far:
        so_far.advance(1000)
        so_far.advance(1000, "loss 2.50 nats")
    shown = capsys.readouterr()
    assert shown.out == ""
    for part in ("pass:  50%", "2.00k/4.00k", "positions/s", "loss 2.50 nats"):
        assert part in last_look(shown.err)


@pytest.mark.usefixtures("impatient")
def test_what_was_done_before_does_not_count_as_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress("pass", 100, "positions") as so_far:
        monkeypatch.setattr(so_far._bar, "_time", lambda: so_far._bar.start_t + 10.0)
        so_far.skip(50)
        so_far.advance(20)
    # 20 positions in 10 seconds, and 30 are left.
    assert "70.0/100 [00:10<00:15, 2.00 positions/s]" in last_look(capsys.readouterr().err)


def test_a_bar_starts_no_thread() -> None:
    before = threading.active_count()
    with Progress("pass", 10, "positions"):
        assert threading.active_count() == before


def test_short_work_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pass", 10, "positions") as so_far:
        so_far.advance(10)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("impatient")
def test_a_bar_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pass", 10, "positions", shown=False) as so_far:
        so_far.skip(5)
        so_far.advance(5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("variables", "shown"), [({}, True), ({"TQDM_DISABLE": "1"}, False)])
def test_an_executed_page_shows_no_bar(variables: dict[str, str], shown: bool) -> None:
    code = (
        "from probenc_support import progress; progress.patience = lambda: 0.0\n"
        "with progress.Progress('pass', 10, 'positions') as so_far: so_far.advance(10)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TQDM_")} | variables
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ("100%" in done.stderr) == shown
