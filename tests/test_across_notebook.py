"""The notebook that compares models, on made-up runs: of many kinds, and of one model alone."""

import json
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from pages import execute

from probenc_support.claims import relatives

FIT = {
    "spread_minus_log_a": 1.5, "r2_adj": 0.9, "r2_heldout_tokens": 0.85, "r2_log_frequency": 0.6,
    "r2_above_untrained": 0.1, "r2_untrained_a": 0.2, "r2_log_frequency_untrained": 0.01,
    "r2_adj_low": 0.88, "r2_adj_high": 0.92,
}  # fmt: skip

KINDS = {
    **dict.fromkeys((*relatives.SIZES, relatives.CAUSAL_TWIN), "causal"),
    "nano-masked": "masked", "nano-seq2seq": "encoder-decoder", "bert": "masked", "heard": "speech",
}  # fmt: skip


def leave(folder: Path, model: str, kind: str, width: int, fit: float) -> None:
    facts = {
        "kind": kind, "family": kind, "norm": "RMSNorm", "tied": True, "n_layers": 2,
        "n_parameters": 1000 * width, "d_model": width, "n_vocab": 500, "quantisation": "",
    }  # fmt: skip
    (folder / model).mkdir(parents=True)
    for notebook, metrics in (
        ("01_log_linear_fit", {**FIT, "r2_adj": fit}),
        ("02_sparsity", {"gini_excess": width / 1000}),
    ):
        path = folder / model / f"{notebook}.ipynb"
        path.write_text("{}")
        path.with_suffix(".metrics.json").write_text(json.dumps(metrics))
        path.with_suffix(".provenance.json").write_text(json.dumps(facts))
        if folder.name == "kept":
            path.with_suffix(".kept.json").write_text("{}")


def page_of(folder: Path) -> BeautifulSoup:
    cells = nbformat.read(folder / "page.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = [o.data.get("text/html") or o.data.get("text/markdown", "") for o in outputs]
    return BeautifulSoup("\n".join(shown), "html.parser")


def test_models_of_many_kinds_are_compared(tmp_path: Path) -> None:
    for i, (model, kind) in enumerate(KINDS.items()):
        folder = tmp_path / ("kept" if model == "heard" else "runs")
        leave(folder, model, kind, 64 * (i + 1), 0.7 if model == "heard" else 0.9)
    done = execute("06", tmp_path, runs_dir=tmp_path / "runs", kept_dir=tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "06_across_models.metrics.json").read_text())
    assert metrics["n_models"] == len(KINDS)
    assert metrics["c1_share_masked"] == 1.0
    assert metrics["c1_share_encoder_decoder"] == 0.5
    assert metrics["n_sizes"] == 3
    assert metrics["p_best_gini"] < 0.01, "planted: sparsity grows with width"
    assert metrics["n_pairs_apart"] == 4
    page = page_of(tmp_path)
    assert "16 runs of 8 models, 2 of them kept" in page.get_text()
    assert {figure["id"] for figure in page.select("figure")} == {
        "fig-measures",
        "fig-against-size",
    }
    assert "C1, log-linear encoding.** Models on which it holds: 4 of 4 causal, 2 of 2 masked" in (
        page.get_text()
    )
    verdicts = {
        box.strong.get_text().split(",")[0]: box.select_one(".verdict").get_text()
        for box in page.select(".claim-box")
    }
    assert verdicts == {"C3b": "holds", "Q1": "holds", "N1": "holds"}
    assert len(page.select("table.verdict-matrix tbody tr")) > 5


def test_one_model_is_compared_with_none_and_nothing_is_claimed(tmp_path: Path) -> None:
    leave(tmp_path / "runs", "only", "causal", 64, 0.9)
    done = execute("06", tmp_path, runs_dir=tmp_path / "runs", kept_dir="")
    assert done.returncode == 0, done.stderr
    page = page_of(tmp_path)
    assert {box.select_one(".verdict").get_text() for box in page.select(".claim-box")} == {
        "not tested here"
    }


@pytest.mark.parametrize("folder", ["nowhere", ""])
def test_no_run_is_a_sentence(tmp_path: Path, folder: str) -> None:
    done = execute("06", tmp_path, runs_dir=tmp_path / folder / "x", kept_dir="")
    assert done.returncode != 0
    assert "no run to compare" in done.stderr
