"""Language models: fetching, loading, checking, and training the ones that are trained here.

`load` gives a `LanguageModel` by roster name, hub id, folder or `.gguf` file; `wrap` makes one of a
model that is loaded already; `fetch` downloads one ahead of time. `hidden_states` and `logits` run
it. The modules `checkpoints`, `training` and `untrained` are imported by name.
"""

from probenc_support.models.fetching import fetch, revisions
from probenc_support.models.language_model import (
    LanguageModel,
    continued,
    head_logits,
    hidden_states,
    logits,
    next_state,
    targets,
)
from probenc_support.models.loading import load
from probenc_support.models.saving import save
from probenc_support.models.wrapping import check_editable, logit_scale, wrap

__all__ = [
    "LanguageModel",
    "check_editable",
    "continued",
    "fetch",
    "head_logits",
    "hidden_states",
    "load",
    "logit_scale",
    "logits",
    "next_state",
    "revisions",
    "save",
    "targets",
    "wrap",
]
