"""What a model that was written says, by its own forward pass."""

from collections.abc import Iterator

import torch
from torch import Tensor

from probenc_support import models
from probenc_support.corpora import TokenBlocks
from probenc_support.models import LanguageModel
from probenc_support.precision import wide

_BYTES = 2.5e8
"""What the logits of the blocks that are read together may fill."""


@torch.inference_mode()
def logits_of(lm: LanguageModel, blocks: TokenBlocks) -> Iterator[Tensor]:
    """[n, V] float32 logits of the model itself at its positions of a few blocks after another."""
    for ids in blocks.ids.split(blocks_at_once(lm, blocks)):
        yield models.logits(lm, ids).flatten(0, 1).float()


def blocks_at_once(lm: LanguageModel, blocks: TokenBlocks) -> int:
    """How many blocks `logits_of` reads together."""
    return max(1, int(_BYTES / (4 * lm.V * blocks.ids.shape[1])))


def mean_probabilities(
    lm: LanguageModel, blocks: TokenBlocks, tokens: Tensor, targets: Tensor
) -> tuple[Tensor, float]:
    """[K] float64 mean probabilities of tokens [K], and the perplexity.

    Args:
        targets: [N] what each position predicts, -1 where there is nothing, as of a pass.
    """
    means, losses, start = torch.zeros(len(tokens), dtype=torch.float64), [], 0
    for logits in logits_of(lm, blocks):
        z = torch.logsumexp(logits, dim=1)
        means += wide(logits[:, tokens] - z[:, None]).exp().sum(dim=0).cpu()
        goal = targets[start : start + len(logits)].to(logits.device)
        start += len(logits)
        loss = z - logits.gather(1, goal.clamp(min=0)[:, None])[:, 0]
        losses.append(loss[goal >= 0].double().cpu())
    return means / start, float(torch.cat(losses).mean().exp())
