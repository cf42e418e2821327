"""Unusual machines: no home, no locks, no UTF-8, folders that are files, names that are long."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from test_execute import GOOD, ROOT, notebook
from test_parameters import GOOD as PARAMETERS

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.notebook import parameters
from probenc_support.runs import execute


def command(*words: str, cwd: Path, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """`python -m probenc_support`, in an environment with some variables changed or taken away."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-m", "probenc_support", *words],
        cwd=cwd, capture_output=True, check=False, encoding="utf-8", errors="replace",
        env={name: value for name, value in variables.items() if value is not None},
    )  # fmt: skip


@pytest.mark.parametrize("fault", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with cache.locked("one"):
        with cache.locked("another"):
            pass
        place = cache.cache_dir() / "locks" / "one.lock"
        with pytest.raises(cache.Timeout):
            cache.acquired(place, timeout=0.2)
    with cache.locked("one"):
        pass


def test_no_home_at_all_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROBENC_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: f"~/.cache/{name}")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(InputError, match="PROBENC_CACHE"):
        cache.cache_dir()


def test_a_run_by_a_user_without_a_home(tmp_path: Path) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD, "print('done')")
    nowhere = tmp_path / "nowhere"
    done = command(
        "run", "--model", "m", "--notebook", str(path), "--results-dir", str(tmp_path / "runs"),
        cwd=tmp_path, HOME=str(nowhere), PROBENC_CACHE=str(tmp_path / "cache"),
        XDG_CACHE_HOME=None, XDG_CONFIG_HOME=None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "01_x.ipynb").is_file()


@pytest.mark.parametrize("home", ["/proc/nowhere", "/dev/null"])
def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path, home: str) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD)
    done = command(
        "run", "--model", "m", "--notebook", str(path), "--results-dir", str(tmp_path / "runs"),
        cwd=tmp_path, HOME=home, PROBENC_CACHE=None, XDG_CACHE_HOME=None,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "PROBENC_CACHE" in done.stderr


@pytest.mark.parametrize("kind", ["long", "absent", "file"])
def test_a_temporary_folder_that_is_long_or_not_there(tmp_path: Path, kind: str) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD, "print('done')")
    place = tmp_path / ("x" * 150 if kind == "long" else "t")
    if kind == "long":
        place.mkdir()
    elif kind == "file":
        place.write_text("in the way")
    done = command(
        "run", "--model", "m", "--notebook", str(path), "--results-dir", str(tmp_path / "runs"),
        cwd=tmp_path, TMPDIR=str(place), PROBENC_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_locale_without_utf8(tmp_path: Path) -> None:
    model = tmp_path / "mödel 模型"
    model.mkdir()
    path = notebook(tmp_path / "01_x.ipynb", GOOD, "print('é · 模', model)")
    done = command(
        "run", "--model", str(model), "--notebook", str(path),
        "--results-dir", str(tmp_path / "é runs"), cwd=tmp_path,
        LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PROBENC_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "é runs" / "01_x.ipynb").read_text(encoding="utf-8")
    assert "# mödel 模型 · The fit" in page
    assert "é · 模 mödel 模型" in page
    assert "é runs" in done.stdout


def test_a_results_folder_that_is_a_file(tmp_path: Path, own_cache: Path) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    path = notebook(tmp_path / "01_x.ipynb", GOOD)
    for folder in (place, place / "below"):
        with pytest.raises(InputError, match=r"is a file; name a folder|Cannot write"):
            execute.run(str(path), model="m", results_dir=folder)
    with pytest.raises(InputError, match="is a file; name a folder"):
        parameters.check("x", {**PARAMETERS, "results_dir": str(place)})
    assert place.read_text() == "mine"


def test_names_that_no_file_system_takes(tmp_path: Path, own_cache: Path) -> None:
    path = notebook(tmp_path / "01_x.ipynb", GOOD)
    with pytest.raises(InputError, match="Cannot write"):
        execute.run(str(path), model="m", results_dir=tmp_path / ("x" * 300))
    page = execute.run(str(path), model="m" * 3000, results_dir=tmp_path / "runs")
    assert page.is_file()
