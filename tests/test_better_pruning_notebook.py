"""Notebook 09 end to end by papermill, on a tiny model of a tokenizer that knows some verbs."""

import json
import math
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import tiny
from pages import execute
from rules import check_run_of_a_null_model

from probenc_support.pruning import orders, tasks

SMALL = {
    "n_positions": 1024, "sequence_length": 32, "n_evaluation": 128, "n_items": 24,
    "n_context": 10, "n_continuation": 3, "n_random": 2, "n_untrained": 20,
}  # fmt: skip


def test_better_pruning_end_to_end(tmp_path: Path, text_file: Path) -> None:
    model = tiny.save(tmp_path / "model", english=True)
    done = execute(
        "09", tmp_path, model=model, corpus=text_file, eval_corpus="python-manual", **SMALL
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "09_better_pruning.metrics.json").read_text())
    check_run_of_a_null_model("09_better_pruning", metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    for name in metrics:
        if f"{name}_low" in metrics:
            assert metrics[f"{name}_low"] <= metrics[f"{name}_high"], name
    asked = ("continuation", "agreement", "next_class")
    assert {metrics[f"n_items_{name}"] for name in asked} == {24}
    for name in asked:
        intact, lost = metrics[f"accuracy_intact_{name}"], metrics[f"accuracy_lost_paper_{name}_30"]
        assert intact - lost == pytest.approx(metrics[f"accuracy_paper_{name}_30"])
    assert metrics["kl_parts_difference"] < 1e-5
    grid = pd.read_parquet(tmp_path / "09_better_pruning.grid.parquet").set_index("method")
    names = [
        orders.name_of(order, replacement)
        for order in ("paper", "variance", "random")
        for replacement in orders.REPLACEMENTS
    ]
    assert {*names, "rotated", "rotated_zero", "A_kept", "random_kept"} <= set(grid.index)
    assert not grid.isna().any().any()
    answers = pd.read_parquet(tmp_path / "09_better_pruning.answers.parquet")
    assert {tasks.INTACT, *grid.index} == set(answers["method"])
    page = nbformat.read(tmp_path / "page.ipynb", as_version=4)
    outputs = [o for c in page.cells if c.cell_type == "code" for o in c.outputs]
    assert sum("claim-box" in o.get("data", {}).get("text/html", "") for o in outputs) == 1
    assert sum("<figure" in o.get("data", {}).get("text/html", "") for o in outputs) == 4


def test_a_model_without_verbs_is_told_so(tmp_path: Path, text_file: Path) -> None:
    done = execute("09", tmp_path, model=tiny.save(tmp_path / "model"), corpus=text_file, **SMALL)
    assert "no token for both forms of any verb" in done.stderr
    assert not list(tmp_path.glob("*.metrics.json"))
