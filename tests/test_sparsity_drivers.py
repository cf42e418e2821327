"""What drives sparsity: the measures on planted embeddings, and effects against brute force."""

from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rules import check_run_of_a_null_model

from probenc_support.errors import InputError
from probenc_support.experiments import sparsity_drivers
from probenc_support.experiments.sparsity_drivers import CELLS, FACTORS, SCAN, Cell, Measures
from probenc_support.models.optimisers import ADAMW, AVERAGED, SGD
from probenc_support.models.recipes import RECIPES, Recipe
from probenc_support.moments import Moments
from probenc_support.notebook import results
from probenc_support.runs import execute
from probenc_support.sparsity import controls

BASE = RECIPES["nano-llama-untied"]

V, D = 600, 32


def measures(slopes: np.ndarray, mean_h: np.ndarray, turn: np.ndarray | None = None) -> Measures:
    """Of a planted model: normal rows, -log a along the slopes, hidden states about a mean; all
    turned by a rotation."""
    rng = np.random.default_rng(0)
    E = rng.normal(size=(V, D))
    y = E @ slopes + 0.1 * rng.normal(size=V)
    h = mean_h + rng.normal(size=(400, D))
    turn = np.eye(D) if turn is None else turn
    head = SimpleNamespace(rows=torch.from_numpy(E @ turn))
    moments = Moments.of(torch.from_numpy(h @ turn))
    detection = SimpleNamespace(y=torch.from_numpy(y), moments=moments)
    return Measures.of(SimpleNamespace(head=head), detection)  # type: ignore[arg-type]


def one_hot() -> np.ndarray:
    return np.eye(D)[3]


def test_what_lies_along_one_dimension_is_sparse() -> None:
    found = measures(one_hot(), 20 * one_hot())
    assert found.gini > 1.8
    assert found.dimensions < 0.2
    assert found.mean_h < 0.15
    assert found.outliers > 0.5 * D


def test_what_lies_evenly_along_all_is_not() -> None:
    even = np.full(D, 1 / np.sqrt(D))
    found = measures(even, 20 * even)
    assert found.gini < 0.5
    assert found.mean_h > 2
    assert found.outliers < 1.5


def test_a_rotation_takes_raw_sparsity_and_leaves_components() -> None:
    rng = np.random.default_rng(1)
    turned = [
        measures(one_hot(), 20 * one_hot(), controls.random_rotation(D, rng)) for _ in range(30)
    ]
    assert np.mean([one.gini for one in turned]) == pytest.approx(1.0, abs=0.06)
    assert np.mean([one.mean_h for one in turned]) == pytest.approx(1.0, abs=0.15)
    assert np.mean([one.dimensions for one in turned]) == pytest.approx(1.0, abs=0.1)
    straight = measures(one_hot(), 20 * one_hot())
    for one in turned:
        assert one.r2_adj == pytest.approx(straight.r2_adj)
        assert one.components == pytest.approx(straight.components, rel=0.05)  # random shares


def planted(noise: float = 0.0) -> pd.DataFrame:
    """Gini 1.3 times as large with AdamW, 1.1 times with LayerNorm, 0.9 times with ties."""
    rng = np.random.default_rng(0)
    rows = []
    for seed, cell in product(range(3), CELLS):
        gini = 1.3 if cell.optimiser == ADAMW else 1.0
        gini *= (1.1 if cell.norm == "LayerNorm" else 1.0) * (0.9 if cell.tied else 1.0)
        gini *= 1.2 if cell.gains else 1.0
        gini *= float(np.exp(noise * rng.normal()))
        others = dict.fromkeys(sparsity_drivers.NAMES, 1.0) | {"loss": 5.0}
        rows.append({**asdict(cell), "seed": seed, **others, "gini": gini})
    return pd.DataFrame(rows)


def test_effects_are_what_was_planted() -> None:
    found = {name: of["gini"].value for name, of in sparsity_drivers.effects(planted()).items()}
    wanted = {"adamw_over_averaged": 1.3, "adamw_over_sgd": 1.3, "trained_over_fixed_norms": 1.2,
              "layer_over_rms_norm": 1.1, "tied_over_untied": 0.9}  # fmt: skip
    within = {name: wanted[of] for name, (of, _, _) in sparsity_drivers.WITHIN.items()}
    assert found == pytest.approx(wanted | within)


def test_effect_is_the_mean_of_log_ratios_of_pairs() -> None:
    table = planted(noise=0.2)
    mine = sparsity_drivers.effects(table)["trained_over_fixed_norms_with_adamw"]["gini"]
    logs = []
    for seed, norm, tied in product(range(3), ("LayerNorm", "RMSNorm"), (False, True)):
        own = table[(table.optimiser == ADAMW) & (table.seed == seed) & (table.norm == norm)]
        own = own[own.tied == tied].set_index("gains")["gini"]
        logs.append(np.log(own.loc[True] / own.loc[False]))
    assert np.log(mine.value) == pytest.approx(np.mean(logs))
    half = 2.201 * np.std(logs, ddof=1) / np.sqrt(12)  # Student's, 11 degrees of freedom
    assert np.log(mine.high / mine.value) == pytest.approx(half, rel=1e-3)


def test_an_effect_whose_levels_are_not_there_is_unknown() -> None:
    table = planted()
    assert not sparsity_drivers.effect(table, "gini", "optimiser", ADAMW, "magic").known
    only = table[table.optimiser == ADAMW]
    assert "gini_adamw_over_sgd" not in sparsity_drivers.metrics(only)
    assert sparsity_drivers.metrics(only)["gini_trained_over_fixed_norms"] == pytest.approx(1.2)


def test_half_way_runs_stand_beside_the_ends_of_the_others() -> None:
    table = planted()
    half = table.assign(loss=4.0, mean_h=0.5)
    found = sparsity_drivers.half_way(table, half)
    assert found["gini"].value == pytest.approx(1.3)
    assert found["mean_h"].value == pytest.approx(0.5)
    assert found["loss"].value == pytest.approx(-1.0)


def test_levels_of_what_nothing_tells_apart() -> None:
    found = sparsity_drivers.metrics(planted())
    assert found["gini_equivariant"] == pytest.approx(0.95), "RMSNorm, fixed: tied and untied"
    assert found["gini_adamw_averaged"] == pytest.approx(1.2 * np.mean([1.1, 0.99, 1.0, 0.9]))
    equivariant = {cell for cell in CELLS if cell.equivariant}
    assert equivariant == {
        Cell(optimiser, "RMSNorm", False, tied)
        for optimiser, tied in product((AVERAGED, SGD), (False, True))
    }


def test_cells_are_all_combinations() -> None:
    assert len(set(CELLS)) == len(CELLS) == 24
    names = [cell.name for cell in CELLS]
    assert len(set(names)) == 24
    assert "averaged, RMSNorm fixed, tied" in names


def test_recipes_differ_in_what_their_cell_names() -> None:
    for cell in CELLS:
        own = cell.recipe(BASE)
        same = replace(own, **{name: getattr(BASE, name) for name in (
            "architecture", "optimiser", "learning_rate", "intervention", "tied", "early", "every",
            "steps", "dense",
        )})  # fmt: skip
        assert same == BASE
        assert len(own.checkpoints) == 3


def test_scanned_settings_are_changed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recipe] = []

    def measure(recipe: Recipe, seed: int, **options: Any) -> dict[str, float]:
        made.append(recipe)
        return {"loss": 1.0}

    monkeypatch.setattr(sparsity_drivers, "measure", measure)
    table = sparsity_drivers.scan(BASE, 0)
    assert list(table.index) == list(SCAN)
    assert len({str(recipe) for recipe in made}) == len(SCAN)
    by_name = dict(zip(SCAN, made, strict=True))
    rate = by_name["learning rate x 4"].learning_rate
    assert rate == pytest.approx(4 * by_name["as it is"].learning_rate)
    assert by_name["twice as wide"].d == 2 * BASE.d
    assert by_name["a quarter of the steps"].steps == BASE.steps // 4


@pytest.mark.parametrize("words", ["smollm2-135m-instruct", "a b c", "a b 64 d"])
def test_other_models_that_are_not_named_in_full_are_refused(words: str) -> None:
    with pytest.raises(InputError, match="length of a block"):
        sparsity_drivers.of_models([words], n_positions=64)


def test_notebook_on_short_runs(text_file: Path, tmp_path: Path, warm_kernels: None) -> None:
    page = execute.run(
        "12",
        model="nano-llama-untied",
        results_dir=tmp_path / "out",
        parameters={
            "corpus": str(text_file), "n_positions": 512, "sequence_length": 64, "steps": 24,
            "n_seeds": 1, "scan": False, "optimisers": [ADAMW, AVERAGED],
        },
    )  # fmt: skip
    found = results.load_metrics(page.parent, "12_what_drives_sparsity")
    check_run_of_a_null_model("12_what_drives_sparsity", found)
    assert 0.5 < found["gini_equivariant"] < 2.0
    assert set(FACTORS) <= set(pd.read_parquet(page.with_suffix(".runs.parquet")).columns)
