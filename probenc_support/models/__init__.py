"""Language models: fetching, loading, checking, and training the ones that are trained here.

`load` gives a `LanguageModel` by roster name, hub id, folder or `.gguf` file; `wrap` makes one of a
model that is loaded already. `checkpoints` and `training` are imported by name."""

from probenc_support.models.fetching import WHEELS, fetch, is_converted, revisions
from probenc_support.models.first_token import probe_first_token
from probenc_support.models.language_model import (
    WORSE_BY,
    FirstTokenProbe,
    LanguageModel,
    check_ids,
    hidden_states,
    logits,
    overflow,
    with_first_token,
)
from probenc_support.models.loading import load
from probenc_support.models.wrapping import (
    CAUSAL_TOLERANCE,
    HEAD_TOLERANCE,
    check_causal,
    check_editable,
    check_head,
    logit_scale,
    quantisation,
    wrap,
)
from probenc_support.roster import ROSTER, RosterEntry, roster_entry
from probenc_support.wheels import Wheel

__all__ = [
    "CAUSAL_TOLERANCE",
    "HEAD_TOLERANCE",
    "ROSTER",
    "WHEELS",
    "WORSE_BY",
    "FirstTokenProbe",
    "LanguageModel",
    "RosterEntry",
    "Wheel",
    "check_causal",
    "check_editable",
    "check_head",
    "check_ids",
    "fetch",
    "hidden_states",
    "is_converted",
    "load",
    "logit_scale",
    "logits",
    "overflow",
    "probe_first_token",
    "quantisation",
    "revisions",
    "roster_entry",
    "with_first_token",
    "wrap",
]
