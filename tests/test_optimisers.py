"""Optimisers: AdamW where nothing is shared, and equivariance under rotation where it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stops import stopped_at
from torch import Tensor
from torch.nn import functional

from probenc_support.errors import InputError
from probenc_support.models import architectures, interventions, optimisers, training
from probenc_support.models.optimisers import ADAMW, AVERAGED, SGD, AveragedAdamW
from probenc_support.models.recipes import Recipe

SMALL = Recipe("small", 2, 16, 2, 320, 32, 4, 12, 4, 1e-2, architecture="llama", early=False)


def trained(optimiser: torch.optim.Optimizer, parameters: list[Tensor], steps: int = 5) -> None:
    """Steps with gradients that are the same for whichever optimiser."""
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        optimiser.step()


def parameters(*shapes: tuple[int, ...]) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=random, dtype=torch.float64).requires_grad_() for s in shapes]


OPTIONS: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}


def test_it_is_adamw_where_no_axis_is_as_long_as_the_stream() -> None:
    mine, other = (parameters((5, 3), (4,)) for _ in range(2))
    trained(AveragedAdamW(mine, d=7, **OPTIONS), mine)
    trained(torch.optim.AdamW(other, **OPTIONS), other)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_mean_squares_are_shared_along_the_stream_only() -> None:
    """Rows of E keep one each, so do the columns of what writes; a square matrix keeps one."""
    d = 6
    several = parameters((9, d), (d, 9), (d, d), (3 * d, d), (d,), (9,))
    optimiser = AveragedAdamW(several, d=d)
    trained(optimiser, several)
    shapes = [tuple(optimiser.state[p]["exp_avg_sq"].shape) for p in several]
    assert shapes == [(9, 1), (1, 9), (1, 1), (3 * d, 1), (1,), (9,)]


def test_first_step_is_as_long_as_adams() -> None:
    """Adam's first step is the rate in every entry; here it is so in the root mean square."""
    (E,) = parameters((9, 6))
    before = E.detach().clone()
    trained(AveragedAdamW([E], d=6, lr=0.1), [E], steps=1)
    rows = (E.detach() - before).square().mean(dim=1).sqrt()
    torch.testing.assert_close(rows, torch.full_like(rows, 0.1), rtol=1e-6, atol=0)


def turned(model: Any, Q: Tensor) -> Any:
    """The same network with its stream turned: it reads x Q where it read x."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.copy_(Q.T @ weight)
            elif weight.ndim == 2:
                weight.copy_(weight @ Q)
    return model


def losses_and_E(optimiser: str, *, fixed: bool, Q: Tensor | None) -> tuple[Tensor, Tensor]:
    recipe = replace(SMALL, optimiser=optimiser, learning_rate=0.02)
    model = training.new_model(recipe, 0).double()
    if Q is not None:
        model = turned(model, Q)
    if fixed:
        interventions.FixedNorms().begin(model)
    made = optimisers.of(model, recipe)
    ids = torch.randint(320, (2, 32), generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(6):
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        loss = functional.cross_entropy(logits, ids[:, 1:].flatten())
        loss.backward()
        made.step()
        made.zero_grad()
        found.append(loss.detach())
    return torch.stack(found), model.get_output_embeddings().weight.detach()


@pytest.mark.parametrize(
    ("optimiser", "fixed", "follows"),
    [(AVERAGED, True, True), (SGD, True, True), (ADAMW, True, False), (AVERAGED, False, False)],
)
def test_who_follows_a_rotation(optimiser: str, fixed: bool, follows: bool) -> None:
    """A turned network trains to the turned weights where optimiser and norms know no axes: not
    with Adam, and not with gains that are trained. (RMSNorm computes in float32.)"""
    Q = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(3)).double()).Q
    losses, E = losses_and_E(optimiser, fixed=fixed, Q=None)
    of_turned, E_turned = losses_and_E(optimiser, fixed=fixed, Q=Q)
    assert losses[-1] < losses[0] - 1e-3
    apart = (E @ Q - E_turned).norm() / E.norm()
    assert (apart < 1e-4) == follows
    assert follows or apart > 1e-3
    torch.testing.assert_close(losses[0], of_turned[0], rtol=1e-5, atol=0)


@pytest.mark.parametrize("architecture", ["llama", "stablelm", "gpt-neox"])
def test_fixed_norms_stay(architecture: str) -> None:
    model = architectures.new(replace(SMALL, architecture=architecture))
    interventions.FixedNorms().begin(model)
    named = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert named
    assert all("norm" in name for name in named)
    assert len(named) == sum("norm" in name for name, _ in model.named_parameters())


def test_an_interrupted_run_goes_on(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(SMALL, optimiser=AVERAGED)
    options: dict[str, Any] = {"corpus": str(text_file), "device": "cpu", "progress": False}
    training.train(recipe, folder=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        stopped_at(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            training.train(recipe, folder=tmp_path / "cut", **options)
    training.train(recipe, folder=tmp_path / "cut", **options)
    ends = [load_file(tmp_path / f / "step12" / "model.safetensors") for f in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_unknown_optimisers_are_refused() -> None:
    recipe = replace(SMALL, optimiser="magic")
    with pytest.raises(InputError, match="adamw-averaged"):
        optimisers.of(architectures.new(recipe), recipe)
