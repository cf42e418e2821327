"""Text that a model writes itself, which the robust direction is fitted to besides corpora.

Corpora at hand may all be of one kind, and a model knows many. Left to write after a token drawn by
lot it goes on in whatever kind of text that token is from, so that its own texts are of many kinds.
"""

import torch
from torch import Tensor

from probenc_support import generation, inference
from probenc_support.models import LanguageModel
from probenc_support.steering.robust_direction import Calibration

NAME = "own text"
"""What this calibration corpus is called."""


def own_text(
    lm: LanguageModel, *, n_texts: int = 16, length: int = 128, seed: int = 0
) -> Tensor | None:
    """Token ids [n_texts, length] of texts that a model writes after one token drawn evenly from
    its tokens; texts are as long as its context, if that is shorter.

    None where the model is not causal (it completes a text, and has none to begin with), does not
    generate, or has too short a context.
    """
    length = min(length, lm.context_length)
    if lm.kind.name != "causal" or not lm.model.can_generate() or length < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(lm.tokens), (n_texts, 1), generator=generator)
    begun = lm.tokens.cpu()[chosen]
    return generation.sample(lm, begun, n_tokens=length - 1, seed=seed).sequences


def calibration_of_own_text(
    lm: LanguageModel, tokens: Tensor, *, seed: int = 0
) -> list[Calibration]:
    """The model's own text as a calibration corpus for `robust`; none where `own_text` is None.

    Args:
        tokens: [K] the sample of tokens by which positions are weighed.
    """
    ids = own_text(lm, seed=seed)
    if ids is None:
        return []
    h = inference.read(lm, ids).float().cpu()
    return [Calibration.of(lm, NAME, h, lm.head.log_partition(h).cpu(), tokens)]
