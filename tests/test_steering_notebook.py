"""Notebook 03 end to end on a tiny model: the contract's metrics, tables, and refusals."""

import json
import math
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import tiny
from pages import execute
from rules import check_run_of_a_null_model

from probenc_support.steering import omegas, token_samples

DIRECTIONS = (
    "paper_best", "paper", "paper_k1", "paper_all", "min_norm", "mean_hidden", "min_variance",
    "robust", "random_unit", "random", "shuffled", "logit_bias",
)  # fmt: skip
FIGURES = (
    "fig-family", "fig-expected-actual", "fig-errors", "fig-why-min-variance", "fig-frontier",
    "fig-few-examples", "fig-side-effects", "fig-joint", "fig-generated",
)  # fmt: skip


def outputs_of(folder: Path) -> str:
    page: Any = nbformat.read(folder / "page.ipynb", as_version=4)
    return json.dumps([cell.get("outputs", []) for cell in page.cells])


def texts(folder: Path) -> list[Path]:
    """Five texts, a fifth of some prose each."""
    prose = tiny.prose()
    size = len(prose) // 5
    paths = [folder / f"text{i}.txt" for i in range(5)]
    for i, path in enumerate(paths):
        path.write_text(prose[i * size : (i + 1) * size], encoding="utf-8")
    return paths


@pytest.mark.parametrize("style", ["tied", "bias"])
def test_steering_end_to_end(tmp_path: Path, style: str) -> None:
    model = tiny.save(tmp_path / "model", style)
    corpus, elsewhere, near, *others = texts(tmp_path)
    done = execute(
        "03", tmp_path, model=model, corpus=corpus, eval_corpus=elsewhere,
        near_corpus=near,
        calibration_corpora=json.dumps([str(other) for other in others]),
        calibration_positions=256, n_positions=1024, sequence_length=32, n_tokens=20, n_checked=2,
        n_generations=20, generation_tokens=6,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "03_steering.metrics.json").read_text())
    assert {
        f"steer_mae_{direction}_{scale}_{domain}{end}"
        for direction in DIRECTIONS
        for scale in ("2x", "20x", "0.05x")
        for domain in ("local", "id", "ood", "near")
        for end in ("", "_low", "_high")
    } <= set(metrics)
    assert {
        f"steer_mae_{direction}_20x_id_{kind}"
        for direction in DIRECTIONS
        for kind in token_samples.CLASSES
        if metrics.get(f"steer_share_{kind}", 0) > 0
    } <= set(metrics)
    check_run_of_a_null_model("03_steering", metrics)
    assert {"closed_form_max_rel_error", "steer_frequency_ratio_5x"} <= set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["closed_form_max_rel_error"] < 1e-4
    assert metrics["steer_mae_min_variance_solved_2x_local"] < 1e-6
    assert metrics["joint_worst_no_edit_id"] > 1
    assert metrics["joint_solved_logit_bias"] == 1
    if style == "bias":
        assert metrics["joint_worst_together_local"] < 1e-9 < metrics["joint_worst_separate_local"]
        assert metrics["joint_edited_rel_error"] < 1e-4
        assert metrics["joint_doubled_1_separate_local"] < 1e-9
    if style == "bias":  # the tied random model has no direction that works: its mean h is small
        assert metrics["steer_mae_random_20x_local"] > metrics["steer_mae_min_variance_20x_local"]
    table = pd.read_parquet(tmp_path / "03_steering.edits.parquet")
    assert len(pd.read_csv(tmp_path / "03_steering.edits.csv")) == len(table)
    assert set(table["scale"]) >= {0.05, 0.2, 1.0, 5.0, 20.0}
    still = table[(table["scale"] == 1.0) & ~table["direction"].str.endswith("solved")]
    assert still["log_scale"].abs().max() < 1e-9
    table = pd.read_parquet(tmp_path / "03_steering.family.parquet")
    assert len(table) == len(omegas.family(tiny.WIDTH))
    page = outputs_of(tmp_path)
    assert all(f'id=\\"{name}\\"' in page for name in FIGURES)
    assert page.count("claim-box") == 5
    assert '"image/png":' not in page, "no figure without a caption"
    assert '"output_type": "error"' not in page


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"n_tokens": 1}, "n_tokens is 1"),
        ({"calibration_corpora": "docstrings"}, "calibration_corpora must be a list"),
        ({"eval_corpus": "docstrings:torch"}, "is both eval_corpus and a calibration corpus"),
        ({"near_corpus": "docstrings:torch"}, "is both near_corpus and a calibration corpus"),
        ({"n_token": 5}, "did you mean n_tokens"),
    ],
)
def test_steering_refuses_in_one_sentence(
    tmp_path: Path, parameters: dict[str, Any], sentence: str
) -> None:
    done = execute("03", tmp_path, **parameters)
    assert done.returncode != 0
    assert sentence in outputs_of(tmp_path)
    assert not list(tmp_path.rglob("*.metrics.json"))
