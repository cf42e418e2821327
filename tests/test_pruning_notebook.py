"""Notebook 04 end to end by papermill, on tiny models."""

import json
import math
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import tiny
from pages import execute
from rules import check_run_of_a_null_model

from probenc_support import generation
from probenc_support.pruning import orders

ORDERS = ("random", "paper", "tstat", "standardised", "wanda", "fisher", "fisher_slope")
METHODS = (
    "random", "paper", "tstat", "wanda", "paper_compensated", "wanda_compensated", "rotated",
    "tuned",
)  # fmt: skip
INTERVALS = (
    "kl_paper_30", "top1_paper_30", "perplexity_ratio_paper_30", "kl_random_over_paper_30",
    "kl_slope_over_without_30", "kl_A_kept_over_without_30", "kl_random_kept_over_without_30",
    "kl_int8_head", "kl_int4_head", "kl_paper_30_eval", "kl_paper_30_near",
    "kl_paper_30_redrawn",
)  # fmt: skip
SMALL = {
    "n_positions": 2048, "sequence_length": 32, "n_evaluation": 256, "tuning_steps": 12,
    "n_generations": 64, "generation_tokens": 3, "n_random": 3,
}  # fmt: skip


@pytest.mark.parametrize("style", ["untied", "bias"])
def test_pruning_end_to_end(tmp_path: Path, text_file: Path, style: str) -> None:
    model = tiny.save(tmp_path / "model", style)
    done = execute(
        "04", tmp_path, model=model, corpus=text_file, eval_corpus="python-manual",
        near_corpus="docstrings:numpy", **SMALL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "04_pruning.metrics.json").read_text())
    check_run_of_a_null_model("04_pruning", metrics)
    for method in METHODS:
        wanted = {f"kl_{method}_{share}" for share in (10, 30, 50)}
        assert wanted | {f"top1_{method}_30", f"nll_increase_{method}_30"} <= set(metrics)
    replacements = ("zero", "mean", "compensated")
    names = {orders.name_of(order, r) for order in ORDERS for r in replacements}
    assert {f"kl_{name}_30" for name in names} <= set(metrics)
    assert {f"kl_slope_over_without_30_{r}" for r in replacements} <= set(metrics)
    for name in INTERVALS:
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"], name
    assert {"rank_outlier_paper_low", "rank_costliest_paper_high"} <= set(metrics)
    assert {"spread_minus_log_a", "t_costliest_documents", "overlap_paper_30_redrawn"} <= set(
        metrics
    )
    assert not [name for name in metrics if name.endswith("_holds")], "only claims judge"
    if generation.has_mauve():
        assert {"mauve_paper_30", "mauve_best_30", "mauve_ceiling"} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["sweep_max_difference"] < 1e-10
    assert metrics["sweep_float32_difference_level"] < 1e-5
    assert metrics["sweep_float32_difference_position"] < 1e-4
    assert metrics["swapped_head_max_difference"] < 1e-3
    assert metrics["kl_rotated_30"] < metrics["kl_paper_30"]
    assert metrics["kl_random_30"] > 2 * metrics["kl_rotated_30"], "the control fails"
    assert metrics["kl_int8_head"] < metrics["kl_int4_head"]
    ratio = metrics["kl_random_30"] / metrics["kl_paper_30"]
    assert metrics["kl_random_over_paper_30"] == pytest.approx(ratio)
    kept = metrics["kl_A_kept_30"] / metrics["kl_rotated_30"]
    assert metrics["kl_A_kept_over_without_30"] == pytest.approx(kept)
    curves = pd.read_parquet(tmp_path / "04_pruning.curves.parquet")
    again = pd.read_csv(tmp_path / "04_pruning.curves.csv")
    pd.testing.assert_frame_equal(curves, again, rtol=1e-4)
    assert {"method", "share", "kl", "kl_low", "kl_high", "top1", "nll_increase"} <= set(curves)
    page = nbformat.read(tmp_path / "page.ipynb", as_version=4)
    outputs = [o for c in page.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert sum("claim-box" in o.get("data", {}).get("text/html", "") for o in outputs) == 2
    assert sum("<figure" in o.get("data", {}).get("text/html", "") for o in outputs) >= 2


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"shares": "[1.5]"}, "shares"),
        ({"shares": "[0.99]"}, "leaves no model"),
        ({"tuning_steps": 0}, "tuning_steps is 0"),
        ({"n_positions": 64, "sequence_length": 64, "corpus": "short"}, "too short for 3 parts"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    tmp_path: Path, parameters: dict[str, object], sentence: str
) -> None:
    if parameters.get("corpus") == "short":
        short = tmp_path / "short.txt"
        short.write_text(tiny.prose()[:600], encoding="utf-8")
        parameters = {**parameters, "corpus": short}
    options = {"corpus": "python-manual", **SMALL, **parameters}
    done = execute("04", tmp_path, model=tiny.save(tmp_path / "model"), **options)
    assert done.returncode != 0
    assert "InputError" in done.stderr
    assert sentence in done.stderr
    assert not list(tmp_path.glob("*.metrics.json"))
