"""How far a checkpoint is from the final model in what it does, not in where its weights are.

Weights may still move much when predictions hardly change, and the other way round. So beside the
distance of weights stand the divergence of predictions, and the similarity of hidden states
(linear CKA, Kornblith et al. 2019, arXiv 1905.00414), on fixed text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support import models
from probenc_support.corpora import TokenBlocks
from probenc_support.head import Head
from probenc_support.inference import Detection, evenly
from probenc_support.precision import wide

Array = NDArray[np.float64]


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

    head: Head
    chosen: Tensor
    """[n] positions that are judged, evenly spread over the text."""
    h: Tensor
    """[n, d] hidden states at them."""
    z: Tensor
    """[n] log-partition."""
    group: Tensor
    """[n] group of documents of each."""
    layers: dict[str, Tensor]
    """[n, d] hidden states after each layer."""

    @classmethod
    def of(
        cls,
        lm: models.LanguageModel,
        found: Detection,
        blocks: TokenBlocks,
        *,
        n_positions: int = 2048,
    ) -> "Final":
        """From the last checkpoint and its pass over the text."""
        chosen = evenly(found.n_positions, min(n_positions, found.n_positions))
        return cls(
            head=lm.head,
            chosen=chosen,
            h=found.h[chosen],
            z=found.z[chosen],
            group=found.group[chosen],
            layers=layer_states(lm, blocks, chosen),
        )

    def compare(
        self, lm: models.LanguageModel, found: Detection, blocks: TokenBlocks, *, step: int = 0
    ) -> FunctionDistance:
        """Measures a checkpoint of the same run by its own pass over the same text."""
        theirs = found.h[self.chosen], found.z[self.chosen]
        kl = divergence((self.head, self.h, self.z), (lm.head, *theirs))
        n_groups = found.n_groups
        sums = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, self.group, kl)
        layers = layer_states(lm, blocks, self.chosen)
        return FunctionDistance(
            step=step,
            kl=float(kl.mean()),
            kl_sums=sums.numpy(),
            sizes=torch.bincount(self.group, minlength=n_groups).double().numpy(),
            cka={name: cka(states, layers[name]) for name, states in self.layers.items()},
        )


@torch.inference_mode()
def divergence(one: tuple[Head, Tensor, Tensor], other: tuple[Head, Tensor, Tensor]) -> Tensor:
    """[n] float64 KL(one || other) of the predictions at each position, in nats.

    Args:
        one: head, hidden states [n, d] and log-partition [n] of a model.
        other: the same of another one with the same V; its d may differ.
    """
    (head, h, z), (head2, h2, z2) = one, other
    parts = []
    rows = max(1, 2**21 // head.V)
    for some in torch.arange(len(h)).split(rows):
        log_p = head.logits(h[some].to(head.E)) - z[some, None].to(head.E)
        log_q = head2.logits(h2[some].to(head2.E)) - z2[some, None].to(head2.E)
        parts.append(wide(torch.linalg.vecdot(log_p.exp(), log_p - log_q.to(log_p))).cpu())
    return torch.cat(parts).clamp(min=0.0)


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
    """
    body = cast(Callable[..., Any], lm.model.base_model)
    kept: dict[str, list[Tensor]] = {}
    length = blocks.ids.shape[1]
    batch = max(1, 2048 // length)
    for start in range(0, len(blocks.ids), batch):
        ids = models.with_first_token(lm, blocks.ids[start : start + batch])
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
    rng = np.random.default_rng(seed)
    G = len(sizes)
    drawn = [np.bincount(rng.integers(G, size=G), minlength=G) for _ in range(n_replicates)]
    weights = np.array(drawn, dtype=np.float64)
    return (weights @ sums.T) / (weights @ sizes)[:, None]
