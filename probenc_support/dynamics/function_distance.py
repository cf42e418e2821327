"""How far a checkpoint is from the final model in what it does, not in where its weights are.

Weights may still move much when predictions hardly change, and the other way round. So beside the
distance of weights stand the divergence of predictions, and the similarity of hidden states
(linear CKA, Kornblith et al. 2019, arXiv 1905.00414), on fixed text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from probenc_support import models
from probenc_support.corpora import TokenBlocks
from probenc_support.dynamics import resampling
from probenc_support.dynamics.predictions import Predictions
from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.models.kinds import Causal
from probenc_support.precision import wide
from probenc_support.regression.arrays import Array


@dataclass(frozen=True)
class FunctionDistance:
    """What one checkpoint does, beside what the final model does."""

    step: int
    kl: float
    """Mean over positions of KL(final || this one), in nats, at least 0."""
    kl_sums: Array
    """[G] sums of the same over the positions of each group of documents."""
    sizes: Array
    """[G] positions of each group that were judged."""
    cka: dict[str, float]
    """Linear CKA of the hidden states with the final ones after each layer, 0 to 1."""


@dataclass(frozen=True, eq=False)
class Final:
    """The final model on fixed text, as the others are measured by it."""

    predictions: Predictions
    """At the positions that are judged."""
    places: Tensor
    """[n] these positions, by their place in the text."""
    group: Tensor
    """[n] group of documents of each."""
    n_groups: int
    """Groups of documents in the whole text."""
    layers: dict[str, Tensor]
    """[n, d] hidden states after each layer."""

    @classmethod
    def of(
        cls,
        lm: models.LanguageModel,
        detection: Detection,
        predictions: Predictions,
        blocks: TokenBlocks,
        chosen: Tensor,
    ) -> "Final":
        """From the last checkpoint and its pass over the text.

        Args:
            predictions: the model's at `chosen` [n] of the positions that the pass keeps.
        """
        places = detection.places[chosen]
        layers = layer_states(lm, blocks, places)
        return cls(predictions, places, detection.group[chosen], detection.n_groups, layers)

    def compare(
        self,
        lm: models.LanguageModel,
        predictions: Predictions,
        blocks: TokenBlocks,
        *,
        step: int = 0,
    ) -> FunctionDistance:
        """Measures a checkpoint of the same run by its predictions at the same positions."""
        kl = divergence(self.predictions, predictions)
        sums = torch.zeros(self.n_groups, dtype=torch.float64).index_add_(0, self.group, kl)
        layers = layer_states(lm, blocks, self.places)
        return FunctionDistance(
            step=step,
            kl=float(kl.mean()),
            kl_sums=sums.numpy(),
            sizes=torch.bincount(self.group, minlength=self.n_groups).double().numpy(),
            cka={name: cka(states, layers[name]) for name, states in self.layers.items()},
        )


def divergence(one: Predictions, other: Predictions) -> Tensor:
    """[n] float64 KL(one || other) at each position, in nats, at least 0.

    Args:
        other: of a model with the same V at the same positions; its d may differ.
    """
    pieces = [
        wide(torch.linalg.vecdot(log_p.exp(), log_p - log_q.to(log_p))).cpu()
        for log_p, log_q in zip(one.log_p(), other.log_p(), strict=True)
    ]
    return torch.cat(pieces).clamp(min=0.0)


def cka(X: Tensor, Y: Tensor) -> float:
    """Linear CKA of two sets of states [n, d1] and [n, d2] of the same positions, 0 to 1.

    1 where one is the other up to rotation, scale and shift. 0 for constant states.
    """
    X, Y = (part.double() - part.double().mean(0) for part in (X, Y))
    size = torch.linalg.norm(X.T @ X) * torch.linalg.norm(Y.T @ Y)
    return float((X.T @ Y).square().sum() / size) if float(size) > 0 else 0.0


@torch.inference_mode()
def layer_states(
    lm: models.LanguageModel, blocks: TokenBlocks, chosen: Tensor
) -> dict[str, Tensor]:
    """[n, d] hidden states after each layer at some positions of the flattened blocks, float32.

    `input embedding`, `layer 1`, ...; the last layer's are those that the head reads.

    Raises:
        InputError: the model is not causal.
    """
    if not isinstance(lm.kind, Causal):
        raise InputError(
            f"{lm.name} is no causal model, and training is followed layer by layer in causal ones "
            "only; run notebooks 01 to 04 on it."
        )
    body = cast(Callable[..., Any], lm.model.base_model)
    kept: dict[str, list[Tensor]] = {}
    length = blocks.ids.shape[1]
    batch = max(1, 2048 // length)
    for start in range(0, len(blocks.ids), batch):
        ids = lm.kind.framed(blocks.ids[start : start + batch])
        here = chosen[(chosen >= start * length) & (chosen < (start + batch) * length)]
        states = body(
            input_ids=ids.to(lm.device), use_cache=False, output_hidden_states=True
        ).hidden_states
        for number, state in enumerate(states):
            name = f"layer {number}" if number else "input embedding"
            own = state[:, ids.shape[1] - length :].flatten(0, 1)
            kept.setdefault(name, []).append(own[here - start * length].float().cpu())
    return {name: torch.cat(parts) for name, parts in kept.items()}


def draws_of_means(sums: Array, sizes: Array, *, n_replicates: int = 400, seed: int = 0) -> Array:
    """[B, n_steps] means over positions, for groups of documents drawn with replacement.

    Args:
        sums: [n_steps, G] sums over the positions of each group; sizes: [G] positions of each.
    """
    weights = resampling.with_the_sample(len(sizes), n_replicates, seed=seed)[1:]
    return (weights @ sums.T) / (weights @ sizes)[:, None]
