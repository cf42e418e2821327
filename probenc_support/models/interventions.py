"""Interventions in training: what is done to a model before its first step and around each step.

An intervention is named in a recipe and made from the recipe, the text and the seed alone, so that
an interrupted run goes on with the same one. It holds nothing that changes from step to step.

Those here ask whether knowing the frequencies of tokens early helps the rest of a network to learn.
The head then has a bias that is not trained, so that frequency can be given to it, and the part of
E that tells frequencies apart can be taken away.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from probenc_support.errors import InputError
from probenc_support.models.recipes import Recipe
from probenc_support.models.training_text import Text

KNOT_RATIO = 4
"""Between knots of `splines`, ranks grow by this factor."""


class Intervention:
    """What the training loop calls; this one does nothing."""

    def begin(self, model: PreTrainedModel) -> None:
        """Is called once, with the new model's weights, before its optimiser is made."""

    def before_step(self, model: PreTrainedModel) -> None:
        """Is called when the gradients are there and before the optimiser uses them."""

    def after_step(self, model: PreTrainedModel, optimiser: torch.optim.Optimizer) -> None:
        """Is called when the optimiser has changed the weights."""


class FixedBias(Intervention):
    """The head's bias is given and stays as it is."""

    def __init__(self, bias: Tensor) -> None:
        """`bias`: [V], added to the logits."""
        self.bias = bias

    def begin(self, model: PreTrainedModel) -> None:
        """Raises: InputError, for a model whose head has no bias."""
        head = model.get_output_embeddings()
        if getattr(head, "bias", None) is None:
            raise InputError(
                f"A {model.config.model_type} model has no bias in its head, which this "
                "intervention sets; name an architecture that has one, such as gptj."
            )
        with torch.no_grad():
            head.bias.copy_(self.bias)
        head.bias.requires_grad_(False)


class FixedNorms(Intervention):
    """Gains of all norms stay at one, and their biases at zero, as both begin."""

    def begin(self, model: PreTrainedModel) -> None:
        for module in model.modules():
            if type(module).__name__.endswith("Norm"):
                for parameter in module.parameters():
                    parameter.requires_grad_(False)


class Projected(Intervention):
    """E never holds a part of itself that is left out, once it begins without it.

    After every step E loses that part. The gradient loses it before the optimiser sees it, and so
    does the mean of gradients that the optimiser keeps.
    """

    def __init__(self, part: Callable[[Tensor], Tensor]) -> None:
        """`part`: a linear projection of matrices [V, d] on what is left out of them."""
        self.part = part

    def before_step(self, model: PreTrainedModel) -> None:
        gradient = _embedding(model).grad
        if gradient is not None:
            gradient.sub_(self.part(gradient))

    def after_step(self, model: PreTrainedModel, optimiser: torch.optim.Optimizer) -> None:
        E = _embedding(model)
        self.clear(E.data)
        for moment in ("exp_avg", "momentum_buffer"):
            if (kept := optimiser.state[E].get(moment)) is not None:
                kept.sub_(self.part(kept))

    def clear(self, E: Tensor) -> None:
        """Takes the part out of E [V, d], in place."""
        E.sub_(self.part(E))


class Blocked(Projected):
    """E never tells given functions of the tokens, neither by a direction nor by its rows' lengths.

    Let the orthonormal columns of U [V, k] span these functions and be orthogonal to the constant.
    E is kept without U U^T E, so that a regression of any such function on E has slopes and an R^2
    of exactly zero, and so it has on E h at every h. Before that the logarithms of the lengths of
    E's rows lose their part in U. The projection changes lengths a little, so both are done in
    turn, four times.
    """

    def __init__(self, U: Tensor) -> None:
        """`U`: [V, k], orthonormal columns."""
        super().__init__(self._in_U)
        self.U = U

    def begin(self, model: PreTrainedModel) -> None:
        self.clear(_embedding(model).data)

    def clear(self, E: Tensor) -> None:
        for _ in range(4):
            lengths = E.norm(dim=1, keepdim=True).clamp(min=1e-12).log()
            E.mul_(self.part(lengths).neg().exp())
            super().clear(E)

    def _in_U(self, matrix: Tensor) -> Tensor:
        """U U^T of a matrix [V, m]."""
        U = self.U.to(matrix)
        return U @ (U.T @ matrix)


class Several(Intervention):
    """Interventions one after the other."""

    def __init__(self, *parts: Intervention) -> None:
        self.parts = parts

    def begin(self, model: PreTrainedModel) -> None:
        for part in self.parts:
            part.begin(model)

    def before_step(self, model: PreTrainedModel) -> None:
        for part in self.parts:
            part.before_step(model)

    def after_step(self, model: PreTrainedModel, optimiser: torch.optim.Optimizer) -> None:
        for part in self.parts:
            part.after_step(model, optimiser)


def _embedding(model: PreTrainedModel) -> nn.Parameter:
    weight: nn.Parameter = model.get_output_embeddings().weight
    return weight


def log_frequency(counts: NDArray[np.int64]) -> Tensor:
    """[V] float64 log of the frequencies of tokens with counts [V], one being added to each count,
    so that tokens that never occur have one, too."""
    added = counts + 1.0
    return torch.from_numpy(np.log(added / added.sum()))


def shuffled(values: Tensor, seed: int) -> Tensor:
    """The same values, dealt out to the tokens by lot."""
    order = np.random.default_rng((seed, 1)).permutation(len(values))
    return values[torch.from_numpy(order)]


def splines(values: Tensor) -> Tensor:
    """[V, k] orthonormal columns that span the continuous, piecewise linear functions of some
    values [V], less the constant, to which they are orthogonal.

    Knots are the values of the tokens of ranks 1, 8, 32, 128, ... and last, from the largest on, so
    that the few frequent tokens, which make most of a text, are told apart more finely.
    """
    falling = values.sort(descending=True).values
    ranks = [0]
    while (rank := 8 * KNOT_RATIO ** (len(ranks) - 1)) < len(values):
        ranks.append(rank - 1)
    knots = falling[[*ranks, -1]].unique().numpy()
    hats = [np.interp(values.numpy(), knots, each) for each in np.eye(len(knots))]
    centred = np.stack([hat - hat.mean() for hat in hats[1:]], axis=1)
    return torch.from_numpy(np.linalg.qr(centred).Q)


_Make = Callable[[Tensor, int], Intervention]

INTERVENTIONS: dict[str, _Make] = {
    "bias-zero": lambda log_f, seed: FixedBias(torch.zeros_like(log_f)),
    "bias-frequency": lambda log_f, seed: FixedBias(log_f),
    "bias-shuffled": lambda log_f, seed: FixedBias(shuffled(log_f, seed)),
    "norms-fixed": lambda log_f, seed: FixedNorms(),
    "blocked": lambda log_f, seed: Several(
        FixedBias(torch.zeros_like(log_f)), Blocked(splines(log_f))
    ),
    "blocked-bias-frequency": lambda log_f, seed: Several(
        FixedBias(log_f), Blocked(splines(log_f))
    ),
}
"""Functions of the log frequencies [V] and the seed, by the name that a recipe gives."""


def of(recipe: Recipe, text: Text, seed: int) -> Intervention:
    """The intervention of a recipe.

    Raises:
        InputError: there is none of that name.
    """
    if not recipe.intervention:
        return Intervention()
    if recipe.intervention not in INTERVENTIONS:
        raise InputError(
            f"The intervention of {recipe.name} is {recipe.intervention!r}; name one of "
            f"{', '.join(INTERVENTIONS)}."
        )
    log_f = log_frequency(text.counts(recipe, seed))
    return INTERVENTIONS[recipe.intervention](log_f, seed)
