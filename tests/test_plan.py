"""What the performance page foretells of a size that was not measured."""

from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

EXTENSION = Path(__file__).resolve().parents[1] / "book" / "_ext"
SIZES, PLANNED = [(16_000, 512), (32_000, 1024), (64_000, 2048)], (256_000, 8192)


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXTENSION))
    import probenc_plan

    return probenc_plan


def measurement(V: int, d: int, seconds: float) -> dict[str, Any]:
    info = {
        "step": "a <step>", "V": V, "d": d, "time_law": [1, 2], "memory_law": [0, 2],
        "memory_mb": d * d * 8e-6, "planned": PLANNED,
    }  # fmt: skip
    return {"group": "g", "name": "n", "stats": {"median": seconds}, "extra_info": info}


def row(plan: Any, seconds: list[float]) -> list[str]:
    records = [measurement(*size, s) for size, s in zip(SIZES, seconds, strict=True)]
    table = BeautifulSoup(plan.plan_table({"benchmarks": records[::-1]}), "html.parser")
    heads = [cell.get_text() for cell in table.select("thead th")]
    assert heads[1:4] == [f"{V:,} x {d:,}" for V, d in SIZES]
    return [
        cell.get_text().replace("\N{NO-BREAK SPACE}", " ") for cell in table.select("tbody tr *")
    ]


def test_a_step_that_follows_its_law_is_foretold_exactly(plan: Any) -> None:
    cells = row(plan, [1e-12 * V * d * d for V, d in SIZES])
    assert "a <step>" in cells
    assert "1.00 times the measured" in cells
    assert "17.2 s" in cells, "1e-12 x 256,000 x 8,192^2"
    assert "0.537 GB" in cells, "8 bytes x 8,192^2"


def test_a_step_that_grows_faster_than_its_law_is_seen_to(plan: Any) -> None:
    cells = row(plan, [1e-15 * V * d**3 for V, d in SIZES])
    assert "0.500 times the measured" in cells
