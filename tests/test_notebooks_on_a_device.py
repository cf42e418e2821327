"""Notebooks whose model lies on a GPU: they run, and find the numbers that they find on the CPU.

The device is one that computes on the CPU and refuses what CUDA refuses, see `second_device`.
"""

import json
import re
from pathlib import Path
from typing import Any

import IPython.display
import nbformat
import pytest
import tiny
from pages import NOTEBOOKS
from second_device import put, second_device, stand_in
from torch.overrides import _pop_mode_temporarily

from probenc_support import models
from probenc_support.models import wrap

SIZES = {"n_positions": 1024, "sequence_length": 32}
SMALL = {
    "01": {"n_bootstrap": 20},
    "02": {"n_bootstrap": 20},
    "03": {
        "calibration_corpora": "[]", "calibration_positions": 256, "n_tokens": 20, "n_checked": 2,
        "n_generations": 20, "generation_tokens": 6,
    },
    "04": {
        "n_evaluation": 128, "tuning_steps": 4, "n_generations": 8, "generation_tokens": 3,
        "n_random": 3,
    },
    "09": {
        "n_evaluation": 128, "n_items": 20, "n_context": 10, "n_continuation": 3, "n_random": 2,
        "n_untrained": 20,
    },
    "10": {},
}  # fmt: skip

TIMED = re.compile(r"seconds_|tuning_seconds|latency_|head_ms|peak_memory")
"""Begins the names of metrics that no two runs share."""


def run(notebook: str, folder: Path, patch: pytest.MonkeyPatch, **parameters: Any) -> Any:
    """The metrics of a notebook whose cells are run here, without a kernel or a page."""
    (path,) = (one for one in NOTEBOOKS if one.stem.startswith(notebook))
    patch.setattr(IPython.display, "display", lambda *values, **options: None)
    names: dict[str, Any] = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{path.stem}, {cell.id}", "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {**parameters, "results_dir": str(folder)}
    return json.loads((folder / f"{path.stem}.metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("notebook", SMALL)
def test_a_notebook_finds_the_numbers_of_the_cpu(
    tmp_path: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch, notebook: str
) -> None:
    model = tiny.save(tmp_path / "model", "bias", english=notebook == "09")
    given = {"model": str(model), "corpus": str(text_file), **SIZES, **SMALL[notebook]}
    expected = run(notebook, tmp_path / "cpu", monkeypatch, **given)
    load = models.load

    def load_there(*args: Any, **options: Any) -> models.LanguageModel:
        with _pop_mode_temporarily():
            lm = load(*args, **options)
        return wrap(put(lm.model), lm.tokenizer, name=lm.name)

    stand_in(monkeypatch)
    monkeypatch.setattr(models, "load", load_there)
    with second_device():
        found = run(notebook, tmp_path / "there", monkeypatch, **given)
    same = {name for name in expected if not TIMED.match(name)}
    assert len(same) > 5
    assert set(found) == set(expected)
    for name in sorted(same):
        assert found[name] == pytest.approx(expected[name], rel=1e-2, abs=1e-4), name
