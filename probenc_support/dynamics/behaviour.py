"""What a checkpoint predicts: its loss, and its distance from the unigram distribution."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support import corpora, models
from probenc_support.corpora import TokenBlocks
from probenc_support.head import Head
from probenc_support.inference import Detection, evenly
from probenc_support.models import checkpoints, training_text
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.precision import wide, wide_device
from probenc_support.regression import Design

Array = NDArray[np.float64]


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


def behaviour(
    lm: models.LanguageModel,
    found: Detection,
    log_unigram: Array,
    *,
    step: int = 0,
    n_positions: int = 2048,
) -> Behaviour:
    """Loss, encoding of the output probability, and distance from the unigram distribution.

    Args:
        found: one pass of the model over text that it was not trained on.
        log_unigram: [V] log frequencies, see `Frequencies.log_unigram`.
        n_positions: for `kl_unigram`, evenly spread; its cost is one product with the head.
    """
    log_u = torch.from_numpy(log_unigram)
    known = found.targets >= 0
    losses = torch.where(known, -found.target_log_p, 0.0)
    n_groups = found.n_groups
    sums = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, found.group, losses)
    sizes = torch.bincount(found.group[known], minlength=n_groups)
    chosen = evenly(found.n_positions, min(n_positions, found.n_positions))
    fit = Design.of(lm.head.rows).fit(found.y)
    return Behaviour(
        step=step,
        loss=float(losses.sum() / known.sum()),
        loss_sums=sums.numpy(),
        loss_sizes=sizes.double().numpy(),
        r2_adj_log_a=fit.r2_adj,
        kl_unigram=unigram_divergence(lm.head, found.h[chosen], log_u),
        kl_average_unigram=float((found.log_a_rows.exp() * (found.log_a_rows - log_u)).sum()),
    )


@torch.inference_mode()
def unigram_divergence(head: Head, h: Tensor, log_u: Tensor) -> float:
    """Mean over positions of KL(P_n || u), at least 0, in nats.

    Args:
        h: [n, d] hidden states; log_u: [V] log probabilities of all rows of the head.
    """
    # sum_w P_w (log P_w - log u_w), with log P = logit - z and the sum over u taken for all
    # positions at once; pieces that stay in the processor's cache.
    E = head.E
    average = torch.zeros(len(E), dtype=torch.float64, device=wide_device(E.device))
    negative_entropy = 0.0
    for part in h.to(E).split(max(1, 2**20 // len(E))):
        logits = head.logits(part)
        top = logits.amax(1, keepdim=True)
        weights = (logits - top).exp_()
        mass = weights.sum(1)
        z = wide(top[:, 0]) + wide(mass).log()
        expected = wide(torch.linalg.vecdot(weights, logits)) / wide(mass)
        negative_entropy += float((expected - z).sum())
        average += wide(torch.mv(weights.T, 1 / mass))
    return (negative_entropy - float(average @ log_u.to(average))) / len(h)


def unigram_loss(ids: Tensor, log_unigram: Array) -> float:
    """Loss on blocks [n, T] of a model that always predicts the frequencies, in nats."""
    return float(-torch.from_numpy(log_unigram)[ids[:, 1:]].mean())


def text_for(
    run: TrainingRun, corpus: str, *, n_positions: int = 16384, sequence_length: int = 256
) -> TokenBlocks:
    """Blocks of a corpus to judge a run by.

    Of a model that was trained here, no document that shares a paragraph with its training text is
    taken: of that text itself, what was held out, and what lies after it. Blocks are no longer than
    those that it was trained on.

    Raises:
        InputError: see `corpora.blocks`; or it is not known on what the model was trained.
    """
    record = checkpoints.record(run)
    if record:
        sequence_length = min(sequence_length, record["recipe"]["sequence_length"])
    return corpora.blocks(
        corpus,
        run.tokenizer(),
        n_positions=n_positions,
        sequence_length=sequence_length,
        exclude=[training_text.sources(Path(run.source))] if record else [],
    )


def shortened(blocks: TokenBlocks, length: int = 64) -> TokenBlocks:
    """The first tokens of each block: as many documents as before, at a part of the cost, for text
    that is read at every checkpoint."""
    documents = None if blocks.documents is None else blocks.documents[:, :length]
    return corpora.from_ids(
        blocks.ids[:, :length],
        corpus=blocks.corpus,
        sources=blocks.sources,
        n_left_out=blocks.n_left_out,
        documents=documents,
    )
