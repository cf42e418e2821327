"""Notebooks end to end by papermill, on tiny models: metrics, tables, and a clean page."""

import itertools
import json
import math
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import tiny
from pages import NOTEBOOKS, execute, execute_as_typed
from rules import check_run_of_a_null_model


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_in_the_repository_have_no_outputs_and_stable_ids(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
    assert sum("parameters" in c.metadata.get("tags", []) for c in notebook.cells) == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_is_one_step_and_prose_stands_between(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    steps = ["".join(cell["source"]).splitlines() for cell in cells if cell["cell_type"] == "code"]
    assert max(map(len, steps)) <= 25
    kinds = [cell["cell_type"] for cell in cells]
    assert all(len(list(run)) <= 6 for kind, run in itertools.groupby(kinds) if kind == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_checked_before_anything_large_is_loaded(path: Path) -> None:
    """So a misspelt one costs no time, and the harness's filters of warnings stand first."""
    cells = nbformat.read(path, as_version=4).cells
    source = next(c.source for c in cells if "from probenc_support" in c.source)
    before, found, _ = source.partition("parameters.check(")
    assert found
    assert set(re.findall(r"from (probenc_support[.\w]*) import", before)) <= {
        "probenc_support.notebook",
        "probenc_support.notebook.parameters",
    }
    assert not re.search(r"^(import|from) (torch|transformers|numpy|pandas|scipy)", before, re.M)


@pytest.mark.parametrize("style", ["untied", "bias", "divided"])
def test_log_linear_fit_end_to_end(tmp_path: Path, text_file: Path, style: str) -> None:
    model = tiny.save(tmp_path / "model", style)
    # One of them in processes of its own, as a person types it: papermill and a fresh kernel.
    run = execute_as_typed if style == "untied" else execute
    done = run(
        "01", tmp_path, model=model, corpus=text_file, eval_corpus="python-manual",
        n_positions=1024, sequence_length=32, n_bootstrap=20,
        near_corpus="docstrings:scipy",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "01_log_linear_fit.metrics.json").read_text())
    assert {
        "r2", "r2_adj", "r2_adj_low", "r2_adj_high", "r2_heldout_tokens", "r2_shuffled",
        "r2_transfer", "first_order_r2", "second_order_theory_r2", "cos_direction_mean_hidden",
        "n_vocab", "n_positions", "d_model", "perplexity", "seconds_pass", "peak_memory_mb",
    } <= set(metrics)  # fmt: skip
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["first_order_r2"] > 1 - 1e-6
    assert metrics["r2_adj_low"] <= metrics["r2_adj"] <= metrics["r2_adj_high"]
    assert metrics["r2_shuffled"] < 0.5 * metrics["r2"], "the control fails"
    assert metrics["jensen_gap_min"] >= 0.0
    assert metrics["one_intercept_r2"] <= 1.0
    assert "r2_transfer_near" in metrics
    check_run_of_a_null_model("01_log_linear_fit", metrics)
    assert (metrics["n_vocab"], metrics["n_positions"], metrics["d_model"]) == (320, 1024, 16)
    tokens = pd.read_parquet(tmp_path / "01_log_linear_fit.tokens.parquet")
    assert len(tokens) == 320
    assert {"token_id", "text", "minus_log_a", "fitted", "residual"} <= set(tokens)
    pd.testing.assert_series_equal(
        tokens["minus_log_a"] - tokens["fitted"], tokens["residual"], check_names=False
    )
    page = nbformat.read(tmp_path / "page.ipynb", as_version=4)
    outputs = [o for c in page.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    figures = [o for o in outputs if "<figure" in o.get("data", {}).get("text/html", "")]
    assert len(figures) >= 5
    assert all('alt="' in o["data"]["text/html"] for o in figures)


def test_refused_parameter_shows_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    done = execute("01", tmp_path, model="no-such-model", n_postions=5)
    assert done.returncode != 0
    assert "InputError: 01_log_linear_fit has no parameter 'n_postions'" in done.stderr
    page = nbformat.read(tmp_path / "page.ipynb", as_version=4)
    (error,) = [
        o
        for c in page.cells
        if c.cell_type == "code"
        for o in c.outputs
        if o.output_type == "error"
    ]
    assert error["traceback"] == [error["ename"] + ": " + error["evalue"]]
    assert not list(tmp_path.glob("*.metrics.json"))
