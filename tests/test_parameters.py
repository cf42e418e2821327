"""Parameters, results, figures: what a notebook refuses, and what it leaves."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tiny
from matplotlib.colors import to_rgb

from probenc_support import corpora
from probenc_support.errors import InputError
from probenc_support.notebook import figures, parameters, results
from probenc_support.notebook.parameters import Flag, Number, Several, Text

GOOD: dict[str, Any] = {
    "model": "smollm2-135m-instruct", "revision": "", "corpus": "docstrings", "eval_corpus": "",
    "first_token": "auto",
    "n_positions": 16384, "sequence_length": 256, "positions": "all", "device": "auto",
    "dtype": "auto", "seed": 0, "results_dir": "",
}  # fmt: skip


def _check(**changes: Any) -> parameters.Parameters:
    return parameters.check("01_log_linear_fit", {**GOOD, **changes})


def test_good_parameters_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    p = _check()
    assert p.results_dir == tmp_path / "results" / "smollm2-135m-instruct"
    assert _check(results_dir="elsewhere").results_dir == tmp_path / "elsewhere"


def test_imports_and_ipythons_own_names_are_no_parameters() -> None:
    _check(In=["x"], Out={}, _i1="x", plt=plt, Path=Path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_postions": 5}, "no parameter 'n_postions'; did you mean n_positions?"),
        ({"zzz": 5}, "no parameter 'zzz'; there are model"),
        ({"n_positions": "many"}, "n_positions must be a whole number, not 'many'"),
        ({"n_positions": 2.5}, "n_positions must be a whole number, not 2.5"),
        ({"n_positions": True}, "n_positions must be a whole number, not True"),
        ({"n_positions": 0}, "n_positions is 0; it must be a whole number of at least 2"),
        ({"n_positions": -256}, "n_positions is -256"),
        ({"n_positions": 128}, "n_positions (128) is less than sequence_length (256)"),
        ({"sequence_length": 1}, "sequence_length is 1"),
        ({"positions": "first"}, "positions is 'first'; use one of all, last"),
        ({"model": 7}, "model must be text, not 7"),
        ({"model": ""}, "model is empty"),
        ({"dtype": "int8"}, "dtype is 'int8'; use one of auto"),
        ({"seed": -1}, "seed is -1; it must be a whole number between 0 and"),
        ({"eval_corpus": None}, "eval_corpus must be text, not None"),
    ],
)
def test_each_wrong_value_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        _check(**changes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_parameter_is_named() -> None:
    with pytest.raises(InputError, match="needs the parameter 'seed'"):
        parameters.check("x", {k: v for k, v in GOOD.items() if k != "seed"})


def test_a_notebooks_own_parameters() -> None:
    kinds = {
        "share": Number(low=0, high=1, whole=False),
        "names": Several(Text(choices=("a", "b")), at_least=1),
        "on": Flag(),
    }
    namespace = {**GOOD, "share": 1, "names": ["a"], "on": True}
    p = parameters.check("x", namespace, **kinds)
    assert p.own == {"share": 1.0, "names": ["a"], "on": True}
    for changes, message in (
        ({"share": 1.5}, "share is 1.5; it must be a number between 0 and 1"),
        ({"names": "a"}, "names must be a list"),
        ({"names": []}, "names must have at least 1 items"),
        ({"names": ["c"]}, r"names[0] is 'c'; use one of a, b"),
        ({"on": 1}, "on must be True or False"),
    ):
        with pytest.raises(InputError) as refused:
            parameters.check("x", {**namespace, **changes}, **kinds)
        assert message in str(refused.value)


# ----------------------------------------------------------------------------------------- results


def _results(folder: Path) -> results.Results:
    lm = tiny.language_model("untied")
    ids = corpora.from_ids(lm.tokens[:64].reshape(2, 32), corpus="some")
    return results.Results(_check(results_dir=str(folder)), lm, ids)


def test_results_leave_metrics_tables_and_provenance(tmp_path: Path) -> None:
    made = _results(tmp_path)
    made.add_metrics(r2=0.5, n=3, undefined=float("nan"), infinite=float("inf"), truth=True)
    frame = pd.DataFrame({"token": [" a", "b,c"], "y": [1.5, 2.5]})
    made.add_table("tokens", frame)
    made.finish()
    stem = tmp_path / "01_log_linear_fit"
    assert json.loads(stem.with_suffix(".metrics.json").read_text()) == {
        "r2": 0.5, "n": 3, "truth": 1,
    }  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_parquet(f"{stem}.tokens.parquet"), frame)
    pd.testing.assert_frame_equal(pd.read_csv(f"{stem}.tokens.csv"), frame)
    facts = json.loads(Path(f"{stem}.provenance.json").read_text())
    assert {
        "model", "revision", "weights_sha256", "corpus", "corpus_sha256", "parameters", "seed",
        "device", "dtype", "packages", "commit", "duration_s", "peak_memory_mb",
    } <= set(facts)  # fmt: skip
    assert str(tmp_path) not in json.dumps(facts), "no path of the machine"
    assert facts["weights_sha256"] == made.lm.weights_hash  # type: ignore[union-attr]
    assert not list(tmp_path.glob(".tmp-*"))


def test_provenance_names_files_without_their_folders(tmp_path: Path, text_file: Path) -> None:
    p = parameters.check(
        "x", {**GOOD, "corpus": str(text_file), "others": [str(text_file)]}, others=Several(Text())
    )
    facts = results.Results(p).provenance()
    assert facts["corpus"] == facts["parameters"]["corpus"] == text_file.name
    assert facts["parameters"]["others"] == [text_file.name]
    assert str(text_file.parent) not in json.dumps(facts)


def test_provenance_box_escapes_what_it_shows(tmp_path: Path) -> None:
    facts = _results(tmp_path).provenance() | {"model": "<script>"}
    assert "<script>" not in results.provenance_box(facts)


def test_metrics_of_an_absent_run_are_empty(tmp_path: Path) -> None:
    assert results.load_metrics(tmp_path, "01_log_linear_fit") == {}


# ----------------------------------------------------------------------------------------- figures


def test_figure_carries_caption_alternative_text_and_anchor(capsys: Any) -> None:
    from unittest.mock import patch

    figures.use()
    shown: list[Any] = []
    with patch("IPython.display.display", shown.append):
        one, axes = plt.subplots()
        axes.plot([1, 2])
        two, axes = plt.subplots()
        axes.plot(range(30_000), "o")
        figures.show(one, two, caption="Both.", alt=['a "line"', "dots"], name="fig-both")
    html = shown[0].data
    assert '<figure class="probenc" id="fig-both">' in html
    assert 'alt="a &quot;line&quot;"' in html
    assert "data:image/svg+xml;base64," in html
    assert "data:image/png;base64," in html, "a large drawing is a picture"
    assert not plt.get_fignums()


def test_a_panel_without_alternative_text_is_refused() -> None:
    with pytest.raises(ValueError, match="alternative text"):
        figures.show(plt.figure(), caption="c", alt=" ", name="n")


def _as_deuteranopes_see(colour: str) -> np.ndarray:
    """Simulated colour, by the matrix of Machado, Oliveira and Fernandes (2009)."""
    matrix = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    linear = np.array(to_rgb(colour)) ** 2.2
    return np.asarray(np.clip(matrix @ linear, 0, 1) ** (1 / 2.2))


def _nearest(colours: Sequence[str]) -> float:
    seen = [_as_deuteranopes_see(colour) for colour in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))


def test_palette_is_told_apart_by_colour_blind_readers() -> None:
    assert _nearest(figures.PALETTE) > 0.15
    assert _nearest(["#d62728", "#2ca02c", "#8c564b"]) < 0.15, "the control: red, green and brown"
    assert len(set(figures.MARKERS)) == len(set(figures.LINES)) == len(figures.PALETTE)
