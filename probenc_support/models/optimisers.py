"""Optimisers by the name that a recipe gives, and whether they know one dimension from another.

Let the residual stream of a network be turned by a rotation of its d dimensions, and every matrix
that reads it or writes to it turned along. The network computes the same, and its gradients turn,
too. Plain gradient descent then takes the turned step. Adam does not: it divides each entry by a
root mean square of its own, so that the axes matter to it (Caples and Neuhaus 2024 call the basis
that it makes privileged). `AveragedAdamW` shares these among all d entries along the stream, and so
follows the rotation again at Adam's pace.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from probenc_support.errors import InputError
from probenc_support.models.recipes import Recipe

BETA1 = 0.9
"""Share of the running mean of gradients that Adam keeps a step, and of SGD's momentum."""


class AveragedAdamW(torch.optim.Optimizer):
    """AdamW whose mean squares of gradients are averaged over the dimensions of the stream.

    A mean square is kept for each row of E, for each neuron that reads or writes the stream, and
    for each of a norm's vectors. Where both sides of a matrix are d wide, one is kept for all of
    it. The length of a step is Adam's.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        d: int,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """`d`: width of the stream, which its axes are told by; the rest as in `torch.optim`."""
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.d = d

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; a closure, if given, is called before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, group)
        return loss

    def _change(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        squares = self._shared(gradient.square())
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(squares)
        state["step"] += 1
        steps = float(state["step"])
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"].lerp_(squares, 1 - beta2)
        root = (square / (1 - beta2**steps)).sqrt_().add_(group["eps"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(mean / root, alpha=group["lr"] / (1 - beta1**steps))

    def _shared(self, squares: Tensor) -> Tensor:
        """The mean over every axis that is d long, kept as an axis of one entry."""
        axes = [axis for axis, length in enumerate(squares.shape) if length == self.d]
        return squares.mean(dim=axes, keepdim=True) if axes else squares


_Make = Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer]


def _adamw(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **_adams(recipe), fused=True)


def _averaged(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return AveragedAdamW(groups, d=recipe.d, **_adams(recipe))


def _sgd(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=BETA1)


def _adams(recipe: Recipe) -> dict[str, Any]:
    betas = (BETA1, recipe.beta2)
    return {"lr": recipe.learning_rate, "betas": betas, "eps": recipe.epsilon}


ADAMW, AVERAGED, SGD = "adamw", "adamw-averaged", "sgd"

OPTIMISERS: dict[str, _Make] = {ADAMW: _adamw, AVERAGED: _averaged, SGD: _sgd}
"""What makes them of groups of parameters, by the name that a recipe gives."""


def of(model: PreTrainedModel, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of a recipe. Matrices decay, and vectors do not.

    Raises:
        InputError: there is none of that name.
    """
    if recipe.optimiser not in OPTIMISERS:
        raise InputError(
            f"The optimiser of {recipe.name} is {recipe.optimiser!r}; name one of "
            f"{', '.join(OPTIMISERS)}."
        )
    trained: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    return OPTIMISERS[recipe.optimiser](groups, recipe)
