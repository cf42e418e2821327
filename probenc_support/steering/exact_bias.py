"""The direction that moves a logit by the same amount at every input, where the model has one."""

import torch
from torch import Tensor

from probenc_support.models import LanguageModel

_EXACT = 1e-3
"""Largest distance of v . h from one up to which v counts as exact (hidden states in float32)."""


def hidden_bias(lm: LanguageModel, h: Tensor) -> Tensor | None:
    """[d] the direction with v . h = 1 for every input, where the final norm is a LayerNorm.

    h = gamma x + beta with sum(x) = 0 gives (1 / gamma) . h = sum(beta / gamma) for every input, so
    v = (1 / gamma) / sum(beta / gamma), from the weights alone. Every LayerNorm of the model is
    tried, the last one first, and its direction is taken only if v . h is one on the hidden states
    h [N, d] to 1e-3.

    Returns:
        None where no norm does that: an RMSNorm, or a LayerNorm without bias or with a gain of 0.
    """
    for norm in reversed([m for m in lm.model.modules() if isinstance(m, torch.nn.LayerNorm)]):
        if norm.bias is None or tuple(norm.weight.shape) != (lm.d,):
            continue
        gain, bias = (x.detach().cpu().double() for x in (norm.weight, norm.bias))
        vector = (1 / gain) / (bias / gain).sum()
        if bool(vector.isfinite().all()) and float((h.double() @ vector - 1).abs().max()) < _EXACT:
            return vector
    return None
