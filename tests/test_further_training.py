"""Pruned models under further training: what is held is held, and the twin is the model itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rules import check_run_of_a_null_model
from safetensors.torch import load_file
from test_experiments import TINY

from probenc_support.dynamics import text_for
from probenc_support.experiments import further_training
from probenc_support.experiments.further_training import Pruned, Trained
from probenc_support.models import checkpoints, training
from probenc_support.models.recipes import RECIPES
from probenc_support.notebook import results
from probenc_support.runs import execute

pytestmark = pytest.mark.usefixtures("module_cache")

BASE = replace(TINY, name="tiny-base", intervention="bias-zero")


@pytest.fixture(scope="module")
def other_text(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same characters backwards: other words from the same letters."""
    path = tmp_path_factory.mktemp("other") / "other.txt"
    path.write_text(text_file.read_text(encoding="utf-8")[::-1], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def arms(text_file: Path, other_text: Path) -> list[Trained]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, BASE.name, BASE)
        return further_training.train(
            BASE.name, BASE.intervention, seed=0, domain=str(other_text), steps=4,
            corpus=str(text_file), device="cpu",
        )  # fmt: skip


def weights(arm: Trained, step: int) -> dict[str, torch.Tensor]:
    return load_file(Path(arm.run.source) / f"step{step}" / "model.safetensors")


def by_name(arms: list[Trained]) -> dict[str, Trained]:
    return {arm.name: arm for arm in arms}


def test_every_method_is_held_and_released_beside_one_twin(arms: list[Trained]) -> None:
    assert [arm.name for arm in arms[:3]] == ["intact", "paper, held", "paper, released"]
    assert len(arms) == 1 + 2 * len(further_training.METHODS)


def test_arms_begin_as_the_model_with_its_head_pruned(arms: list[Trained], text_file: Path) -> None:
    base = training.trained(BASE, corpus=str(text_file), device="cpu")
    before = load_file(base / f"step{BASE.steps}" / "model.safetensors")
    for arm in arms:
        begun = weights(arm, 0)
        for name, value in before.items():
            if not name.startswith("lm_head"):
                assert torch.equal(begun[name], value), (arm.name, name)
        assert torch.equal(begun["lm_head.weight"], arm.head.E)
        assert torch.equal(begun["lm_head.bias"], arm.head.b)
    assert torch.equal(weights(arms[0], 0)["lm_head.weight"], before["lm_head.weight"])


def test_what_is_held_stays_in_its_space_and_what_is_released_leaves_it(
    arms: list[Trained],
) -> None:
    for arm in arms[1:]:
        E = weights(arm, 4)["lm_head.weight"]
        outside = float(arm.head.outside(E).norm() / E.norm())
        assert (outside < 1e-6) == (arm.mask == "held"), arm.name
        assert not torch.equal(E, weights(arm, 0)["lm_head.weight"])


def test_dimensions_that_are_held_at_zero_are_zero(arms: list[Trained]) -> None:
    for name in ("paper, held", "random, held"):
        E = weights(by_name(arms)[name], 4)["lm_head.weight"]
        assert int((E.abs().max(dim=0).values < 1e-7).sum()) == round(0.3 * TINY.d)


def test_a_space_is_what_it_spans() -> None:
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(6, 4, generator=generator)).Q
    head = Pruned(torch.zeros(9, 6), torch.zeros(9), Q)
    E = torch.randn(9, 6, generator=generator)
    torch.testing.assert_close(head.outside(E @ Q @ Q.T), torch.zeros(9, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(head.outside(E) @ Q, torch.zeros(9, 4), atol=1e-6, rtol=0)
    whole = Pruned(E, torch.zeros(9), None)
    assert not whole.outside(E).any()


def test_arms_read_the_same_blocks_of_the_other_text(arms: list[Trained]) -> None:
    counts = [np.load(Path(arm.run.source) / "token_counts.npy") for arm in arms]
    assert all(np.array_equal(counts[0], other) for other in counts)


def test_measures_against_the_models_own_loss(arms: list[Trained], text_file: Path) -> None:
    run = arms[0].run
    blocks = text_for(run, str(text_file), n_positions=128, sequence_length=32)
    few = [arms[0], *(arm for arm in arms if arm.name in ("random, held", "random, released"))]
    found = further_training.measure(few, {"new": blocks, "first": blocks}, device="cpu")
    assert len(found) == 3 * 2 * 2
    lm = checkpoints.training_run(few[1].run.source).load(4, device="cpu", probe=False)
    with torch.no_grad():
        wanted = lm.model(input_ids=blocks.ids, labels=blocks.ids).loss
    own = found[(found["arm"] == "random, held") & (found["step"] == 4) & (found["text"] == "new")]
    assert own["loss"].item() == pytest.approx(float(wanted), abs=1e-4)
    twins = found[found["arm"] == "intact"]
    assert twins["KL"].abs().max() < 1e-9
    grown = found[found["step"] == 4].groupby("arm")["regrowth"].max()
    assert grown["random, held"] < 1e-5 < grown["random, released"]


def test_changes_are_differences_from_the_twin() -> None:
    rows = [
        ("intact", 0, "new", 0, 5.0, 0.0, 0.0), ("intact", 0, "new", 9, 4.0, 0.0, 0.0),
        ("intact", 0, "first", 0, 3.0, 0.0, 0.0), ("intact", 0, "first", 9, 3.5, 0.0, 0.0),
        ("random, held", 0, "new", 0, 5.4, 0.2, 0.0), ("random, held", 0, "new", 9, 4.1, 0.1, 0.5),
        ("random, held", 0, "first", 0, 3.3, 0.0, 0.0),
        ("random, held", 0, "first", 9, 3.9, 0.0, 0.0),
    ]  # fmt: skip
    names = ["arm", "seed", "text", "step", "loss", "KL", "regrowth"]
    table = pd.DataFrame(rows, columns=names)
    both = pd.concat([table, table.assign(seed=1)])
    found = further_training.changes(both)
    wanted = {
        "excess before": 0.4, "excess after": 0.1, "growth": -0.3, "forgot": 0.6,
        "forgot less intact": 0.1, "KL before": 0.2, "KL after": 0.1, "KL ratio": 0.5,
        "regrowth": 0.5,
    }  # fmt: skip
    for seed in (0, 1):
        assert found.loc[("random, held", seed)].to_dict() == pytest.approx(wanted)
    metrics = further_training.metrics(found)
    assert metrics["excess_growth_random_held"] == pytest.approx(-0.3)
    assert metrics["kl_random_held_after_over_before_high"] == pytest.approx(0.5)
    assert metrics["forgot_intact"] == pytest.approx(0.5)
    assert "excess_intact_after" not in metrics


def test_the_most_over_domains_is_of_the_domain_where_it_is_largest() -> None:
    names = ["intact", "paper, held", "rotated, held"]
    index = pd.MultiIndex.from_product([names, [0, 1]], names=["arm", "seed"])
    tables = {
        name: pd.DataFrame({"growth": [0.0] * 4 + own, "forgot less intact": 0.0}, index=index)
        for name, own in {"one": [0.1, 0.2], "other": [0.3, 0.5]}.items()
    }
    most = further_training.most_over_domains(tables, "growth", "rotated, held")
    assert most.value == pytest.approx(0.4)
    assert most.low == pytest.approx(0.4 - 12.706 * 0.1, rel=1e-3)  # Student's, of two
    shown = further_training.over_domains(tables)
    assert list(shown.index) == ["paper, held", "rotated, held"]
    assert list(shown.columns) == [
        f"{d}: {c}" for d in tables for c in ("growth", "forgot less intact")
    ]


def test_notebook_on_a_short_run(
    text_file: Path, other_text: Path, tmp_path: Path, warm_kernels: None
) -> None:
    page = execute.run(
        "11",
        model="nano-gptj",
        results_dir=tmp_path / "out",
        parameters={
            "corpus": str(text_file), "eval_corpus": str(other_text), "n_positions": 512,
            "sequence_length": 64, "steps": 3, "first_steps": 4, "n_seeds": 1,
            "more_domains": [str(text_file)],
        },
    )  # fmt: skip
    found = results.load_metrics(page.parent, "11_pruned_in_training")
    assert found["n_domains"] == 2
    assert found["excess_growth_rotated_held_most"] >= found["excess_growth_rotated_held"]
    assert found["regrowth_held_most"] < 1e-5 < found["regrowth_paper_released"]
    check_run_of_a_null_model("11_pruned_in_training", found)
