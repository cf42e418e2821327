"""The comparison of two folders of runs: what differs, by how much, and what is missing."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "book" / "compare_runs.py"


@pytest.fixture(scope="module")
def compare_runs() -> Any:
    spec = importlib.util.spec_from_file_location("compare_runs", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def folder(path: Path, **metrics: float | None) -> Path:
    (path / "m").mkdir(parents=True)
    (path / "m" / "01_log_linear_fit.metrics.json").write_text(json.dumps(metrics))
    return path


def test_differences_are_absolute_and_relative(compare_runs: Any, tmp_path: Path) -> None:
    here = folder(tmp_path / "a", r2=0.5, small=-2e-9, n=3, none=None, lost=1.0, head_ms=1.0)
    there = folder(tmp_path / "b", r2=0.4, small=2e-9, n=3, none=None, lost=None, head_ms=9.0)
    found = {one.metric: one for one in compare_runs.differences(here, there)}
    assert found["r2"].absolute == pytest.approx(0.1)
    assert found["r2"].relative == pytest.approx(0.2)
    assert found["small"].relative == pytest.approx(2)
    assert found["n"].relative == found["none"].relative == 0
    assert math.isinf(found["lost"].relative)
    assert "head_ms" not in found


def test_the_tables_name_the_worst_and_what_is_missing(
    compare_runs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = folder(tmp_path / "a", r2=0.5, kl=0.1, alone=1.0)
    there = folder(tmp_path / "b", r2=0.4, kl=0.10001)
    assert compare_runs.main([str(here), str(there)]) == 0
    said = capsys.readouterr().out
    assert "| m/01_log_linear_fit | 2 | 0 | 2.0e-01 | 2.0e-01 | r2 | 0.5 | 0.4 |" in said
    assert "| m/01_log_linear_fit | r2 | 0.5 | 0.4 | 1.0e-01 | 2.0e-01 |" in said
    assert "| kl |" not in said
    assert "In one of the folders only: m/01_log_linear_fit alone." in said
    assert compare_runs.main([str(here), str(tmp_path)]) == 2
    assert "holds no metrics" in capsys.readouterr().out
