"""The closed form of an edit against the same edit of the real model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from probenc_support import models
from probenc_support.models import LanguageModel
from probenc_support.precision import wide
from probenc_support.steering.closed_form import new_probability
from probenc_support.steering.editing import add_to_rows, own_output_embedding
from probenc_support.steering.scores import effect


def closed_form_error(
    lm: LanguageModel,
    ids: Tensor,
    tokens: Tensor,
    scales: Sequence[float],
    vector: Tensor,
    *,
    as_bias: bool = False,
) -> float:
    """Largest relative difference of a new mean probability between closed form and real edits.

    For each token [K] and scale the token's row is edited, the model is run over the text `ids`
    [B, T] with its own forward pass, and the row is restored.

    Args:
        vector: [d] along which rows move.
        as_bias: compare with a plain logit bias, in place of what the vector should do.
    """
    states = models.hidden_states(lm, ids).flatten(0, 1)
    h, z = wide(states), lm.head.log_partition(states)
    log_p = lm.head.log_p(h, tokens, z)
    g = effect(None if as_bias else vector.to(h.device), h)
    worst = 0.0
    with own_output_embedding(lm) as weight:
        for scale in scales:
            step = math.log(scale)
            expected = new_probability(log_p, step * g[:, None]).mean(dim=0)
            for token, goal in zip(tokens, expected, strict=True):
                row = weight[token].clone()
                add_to_rows(lm, weight, token[None], step * vector[None])
                measured = float(mean_probabilities(lm, ids, token[None]))
                weight[token] = row
                worst = max(worst, abs(measured / float(goal) - 1.0))
    return worst


@torch.inference_mode()
def mean_probabilities(lm: LanguageModel, ids: Tensor, tokens: Tensor) -> Tensor:
    """[K] float64 of tokens [K] over a text ids [B, T], by the model's own forward pass, as it
    stands."""
    logits = wide(models.logits(lm, ids)).flatten(0, 1)
    log_p = logits[:, tokens] - torch.logsumexp(logits, dim=1)[:, None]
    return log_p.exp().mean(dim=0).cpu()
