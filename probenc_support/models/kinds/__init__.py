"""Kinds of model: at which positions of a text they predict, what, and from which hidden states.

Whatever a model reads is a function of a block of token ids [B, T], so that the rest of the package
need not know whether it is causal, masked or has an encoder. `kind_of` tells the kind of a model.
"""

from probenc_support.models.kinds.base import Kind, head_inputs
from probenc_support.models.kinds.causal import Causal
from probenc_support.models.kinds.encoder_decoder import EncoderDecoder
from probenc_support.models.kinds.masked import Masked
from probenc_support.models.kinds.speech import Speech
from probenc_support.models.kinds.telling import kind_of

__all__ = ["Causal", "EncoderDecoder", "Kind", "Masked", "Speech", "head_inputs", "kind_of"]
