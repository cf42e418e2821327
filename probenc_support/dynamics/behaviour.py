"""What a checkpoint predicts: its loss, and its distance from the unigram distribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probenc_support import models
from probenc_support.dynamics.predictions import Predictions
from probenc_support.inference import Detection
from probenc_support.precision import wide, wide_device
from probenc_support.regression import Design
from probenc_support.regression.arrays import Array


@dataclass(frozen=True)
class Behaviour:
    """What a checkpoint does on text."""

    step: int
    loss: float
    """Mean negative log-probability of the next token, in nats."""
    loss_sums: Array
    """[G] sums of the same over the positions of each group of documents."""
    loss_sizes: Array
    """[G] positions of each group that have a next token."""
    r2_adj_log_a: float
    """Adjusted R^2 of -log a on E over all real tokens (the paper's encoding)."""
    kl_unigram: float
    """Mean over positions of KL(P_n || unigram), in nats: 0 for a model that ignores context and
    predicts the frequencies."""
    kl_average_unigram: float
    """KL(a || unigram) of the average prediction a, in nats; never above `kl_unigram`."""


def on_text(
    lm: models.LanguageModel,
    detection: Detection,
    predictions: Predictions,
    log_unigram: Array,
    *,
    step: int = 0,
) -> Behaviour:
    """Loss, encoding of the output probability, and distance from the unigram distribution.

    Args:
        detection: one pass of the model over text that it was not trained on.
        predictions: the same model's at some positions of that text, for `kl_unigram`.
        log_unigram: [V] log frequencies, see `Frequencies.log_unigram`.
    """
    log_u = torch.from_numpy(log_unigram)
    has_next = detection.targets >= 0
    losses = torch.where(has_next, -detection.target_log_p, 0.0)
    n_groups = detection.n_groups
    sums = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, detection.group, losses)
    sizes = torch.bincount(detection.group[has_next], minlength=n_groups)
    log_a = detection.log_a_rows
    return Behaviour(
        step=step,
        loss=float(losses.sum() / has_next.sum()),
        loss_sums=sums.numpy(),
        loss_sizes=sizes.double().numpy(),
        r2_adj_log_a=Design.of(lm.head.rows).fit(detection.y).r2_adj,
        kl_unigram=unigram_divergence(predictions, log_u),
        kl_average_unigram=float((log_a.exp() * (log_a - log_u)).sum()),
    )


def unigram_divergence(predictions: Predictions, log_u: Tensor) -> float:
    """Mean over positions of KL(P_n || u), at least 0, in nats.

    Args:
        log_u: [V] log probabilities of all rows of the head.
    """
    # sum_w P_w (log P_w - log u_w), with the sum over u taken for all positions at once.
    E = predictions.head.E
    total = torch.zeros(len(E), dtype=torch.float64, device=wide_device(E.device))
    negative_entropy = 0.0
    for log_p in predictions.log_p():
        P = log_p.exp()
        negative_entropy += float(wide(torch.linalg.vecdot(P, log_p)).sum())
        total += wide(P.sum(0))
    return (negative_entropy - float(total @ log_u.to(total))) / len(predictions.h)


def unigram_loss(ids: Tensor, log_unigram: Array) -> float:
    """Loss on blocks [n, T] of a model that always predicts the frequencies, in nats."""
    return float(-torch.from_numpy(log_unigram)[ids[:, 1:]].mean())
