"""`load`: a checked `LanguageModel` by the name that a person gives."""

import sys
from dataclasses import replace
from pathlib import Path

from probenc_support import names
from probenc_support.models import runtime, weights
from probenc_support.models.fetching import fetch
from probenc_support.models.first_token import probe_first_token
from probenc_support.models.language_model import LanguageModel
from probenc_support.models.wrapping import wrap


def load(
    name: str | Path,
    *,
    revision: str = "",
    device: str = "auto",
    dtype: str = "auto",
    first_token: str = "auto",
    trust_remote_code: bool = False,
    probe: bool = True,
    divided: bool = False,
) -> LanguageModel:
    """Loads a model by roster name, hub id, folder or `.gguf` file, and checks it (see `wrap`).

    Args:
        revision: branch, tag or commit on the hub, or a subfolder of a folder laid out by
            revisions (`step64`); empty: the newest.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a GPU, float32 else), `float32`, `float64`, `bfloat16`,
            `float16`. Head arithmetic is float32 in every case.
        first_token: what the model reads before every text, which does not count as a position:
            `auto` (what the tokenizer puts there by default, else nothing), `none`, or a token.
        trust_remote_code: run code that comes with the model's repository; off by default.
        probe: try on a text whether the first token helps, see `probe_first_token`; at each of the
            many checkpoints of one run that would cost time and tell nothing.
        divided: among the processes that `torchrun` started, see `tensor_parallel`.

    Raises:
        InputError: no such model, it cannot be fetched or read, or it fails a check.
    """
    where = runtime.resolve_device(device)
    precision = runtime.resolve_dtype(dtype, where)
    folder = fetch(str(name), revision=revision, trust_remote_code=trust_remote_code)
    model, tokenizer = runtime.from_folder(
        folder, where, precision, trust_remote_code, divided=divided
    )
    lm = wrap(
        model,
        tokenizer,
        name=names.shown(str(name)),
        revision=revision,
        weights_hash=weights.weights_hash(folder),
        first_token=first_token,
    )
    if not probe:
        return lm
    lm = replace(lm, probe=probe_first_token(lm))
    if lm.probe and lm.probe.warning:
        print(lm.probe.warning, file=sys.stderr)
    return lm
