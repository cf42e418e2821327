"""Interventions in training: what they hold fixed, what they take away, and that both last."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stops import stopped_at
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.models import interventions, training, training_text
from probenc_support.models.recipes import Recipe
from probenc_support.models.training_text import Text
from probenc_support.regression import Design

TINY = Recipe(
    "tiny", 2, 16, 2, 320, 32, 4, 12, 4, 1e-2, dropout=0.1, architecture="gptj", early=False
)

pytestmark = pytest.mark.usefixtures("module_cache")


@pytest.fixture(scope="module")
def text(text_file: Path) -> Text:
    return training_text.prepare(TINY, str(text_file))


@pytest.fixture(scope="module")
def log_f(text: Text) -> Tensor:
    return interventions.log_frequency(text.counts(TINY, 0))


@pytest.fixture(scope="module")
def arms(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each intervention, and one without."""
    root = tmp_path_factory.mktemp("arms")
    names = ["", *interventions.INTERVENTIONS]
    return {name: train(text_file, root / f"arm-{name}", name) for name in names}


def train(text_file: Path, folder: Path, name: str) -> Path:
    recipe = replace(TINY, intervention=name)
    return training.train(
        recipe, folder=folder, corpus=str(text_file), device="cpu", progress=False
    )


def head(folder: Path, step: int) -> tuple[Tensor, Tensor]:
    """E and the head's bias at a step, in float64."""
    weights = load_file(folder / f"step{step}" / "model.safetensors")
    return weights["lm_head.weight"].double(), weights["lm_head.bias"].double()


def test_frequencies_are_those_of_what_is_read(log_f: Tensor, text: Text) -> None:
    counts = text.counts(TINY, 0)
    assert float(log_f.exp().sum()) == pytest.approx(1.0)
    ratios = np.exp(log_f.numpy())
    np.testing.assert_allclose(ratios / ratios.min(), (counts + 1) / (counts + 1).min())


def test_splines_are_orthonormal_and_hold_all_piecewise_linear_functions(log_f: Tensor) -> None:
    U = interventions.splines(log_f)
    torch.testing.assert_close(U.T @ U, torch.eye(U.shape[1]).double())
    assert U.sum(0).abs().max() < 1e-9
    falling = log_f.sort(descending=True).values
    for knot in (falling[0], falling[7], falling[31], falling[-1]):
        bent = (log_f - knot).clamp(min=0.0)
        bent = bent - bent.mean()
        torch.testing.assert_close(U @ (U.T @ bent), bent, rtol=1e-6, atol=1e-6)
    # A bend where there is no knot is not in the span.
    bent = (log_f - 0.5 * (falling[7] + falling[31])).clamp(min=0.0)
    bent = bent - bent.mean()
    assert (U @ (U.T @ bent) - bent).norm() > 1e-3 * bent.norm()


@pytest.mark.parametrize("step", [0, 4, 12])
def test_a_fixed_bias_stays(arms: dict[str, Path], log_f: Tensor, step: int) -> None:
    for name, wanted in {
        "bias-zero": torch.zeros_like(log_f),
        "bias-frequency": log_f,
        "bias-shuffled": interventions.shuffled(log_f, 0),
        "blocked": torch.zeros_like(log_f),
        "blocked-bias-frequency": log_f,
    }.items():
        assert torch.equal(head(arms[name], step)[1], wanted.float().double()), name
    assert step == 0 or head(arms[""], step)[1].abs().max() > 1e-3


def test_shuffling_keeps_the_values(log_f: Tensor) -> None:
    dealt = interventions.shuffled(log_f, 0)
    assert torch.equal(dealt.sort().values, log_f.sort().values)
    assert not torch.equal(dealt, log_f)
    assert not torch.equal(dealt, interventions.shuffled(log_f, 1))


@pytest.mark.parametrize("step", [0, 4, 12])
def test_what_is_blocked_is_never_there(arms: dict[str, Path], log_f: Tensor, step: int) -> None:
    """R^2 of log frequency and of whether a token is frequent on E is zero, and lengths of rows
    do not go with it; the trained embedding without the block, the control, has them."""
    wanted = torch.stack([log_f, (log_f - log_f.sort().values[-32]).clamp(min=0)], dim=1).numpy()
    for name in ("blocked", "blocked-bias-frequency"):
        E, _ = head(arms[name], step)
        assert Design.of(E).fit_many(wanted).r2.max() < 1e-10
        assert abs(np.corrcoef(E.norm(dim=1).log(), log_f)[0, 1]) < 0.05
    if step == 12:
        E, _ = head(arms["bias-zero"], step)
        assert Design.of(E).fit_many(wanted).r2.min() > 0.3
        assert abs(np.corrcoef(E.norm(dim=1).log(), log_f)[0, 1]) > 0.2


def test_blocking_keeps_the_rest_of_a_gradient(log_f: Tensor) -> None:
    model = training.new_model(TINY, 0)
    U = interventions.splines(log_f)
    block = interventions.Blocked(U)
    E = model.get_output_embeddings().weight
    E.grad = torch.randn(E.shape, generator=torch.Generator().manual_seed(0))
    before = E.grad.double()
    block.before_step(model)
    torch.testing.assert_close(E.grad.double(), before - U @ (U.T @ before), rtol=0, atol=1e-5)


def test_optimiser_holds_nothing_of_what_is_blocked(log_f: Tensor) -> None:
    model = training.new_model(TINY, 0)
    block = interventions.Blocked(interventions.splines(log_f))
    block.begin(model)
    E = model.get_output_embeddings().weight
    optimiser = torch.optim.AdamW([E], lr=0.1)
    for number in range(3):
        E.grad = torch.randn(E.shape, generator=torch.Generator().manual_seed(number))
        optimiser.step()
        block.after_step(model, optimiser)
    for kept in (E.data, optimiser.state[E]["exp_avg"]):
        assert (block.U.T @ kept.double()).abs().max() < 1e-5


def test_arms_read_the_same_text(arms: dict[str, Path]) -> None:
    counts = [np.load(folder / "token_counts_by_checkpoint.npy") for folder in arms.values()]
    assert all(np.array_equal(counts[0], other) for other in counts)


def test_arms_start_from_the_same_body(arms: dict[str, Path]) -> None:
    first, *others = (load_file(f / "step0" / "model.safetensors") for f in arms.values())
    for other in others:
        assert all(torch.equal(first[n], other[n]) for n in first if not n.startswith("lm_head"))


def test_an_interrupted_run_goes_on_with_its_intervention(
    arms: dict[str, Path], text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cut"
    with monkeypatch.context() as patch:
        stopped_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            train(text_file, folder, "blocked-bias-frequency")
    train(text_file, folder, "blocked-bias-frequency")
    for mine, other in zip(head(folder, 12), head(arms["blocked-bias-frequency"], 12), strict=True):
        assert torch.equal(mine, other)


def test_a_recipe_of_ones_own_has_its_own_place(text_file: Path) -> None:
    one = replace(TINY, intervention="bias-zero", steps=2)
    folder = training.trained(one, corpus=str(text_file), device="cpu")
    assert json.loads((folder / "training.json").read_text())["recipe"]["intervention"]
    assert folder != training.trained(replace(TINY, steps=2), corpus=str(text_file), device="cpu")


def test_unknown_interventions_are_refused(text_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bias-zero"):
        train(text_file, tmp_path / "unknown", "magic")


def test_a_head_without_a_bias_is_refused(text_file: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, intervention="bias-zero", architecture="gpt-neox")
    with pytest.raises(InputError, match="no bias"):
        training.train(recipe, folder=tmp_path / "a", corpus=str(text_file), progress=False)
