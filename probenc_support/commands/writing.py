"""Writes a changed model: a folder that transformers loads, or a GGUF file; all or nothing."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from probenc_support import cache, models
from probenc_support.commands import output
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel, fetching, gguf_conversion, gguf_copy
from probenc_support.steering.editing import own_output_embedding

CARD = "README.md"

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""What a model that hears or sees needs beside its tokenizer."""


@dataclass(frozen=True)
class Told:
    """What goes beside the weights for the reader."""

    card: str
    """The model card, Markdown."""
    record: dict[str, Any]
    """What was wanted and what came."""
    table: pd.DataFrame


@contextlib.contextmanager
def with_head(lm: LanguageModel, E: Tensor, b: Tensor | None) -> Iterator[None]:
    """Inside the context the model's head has the weight E [V, d] and the bias b [V] (all of it,
    in logits, as `Head` has them); afterwards its own again. The input embedding stays.

    Raises:
        InputError: a bias is wanted, and the head has none.
    """
    module: Any = lm.model.get_output_embeddings()
    own = getattr(module, "bias", None)
    if b is not None and lm.outside is not None:
        b = b - lm.outside.to(b)
    if b is not None and own is None and bool((b != 0).any()):
        raise InputError(f"The head of {lm.name} has no bias to hold what this needs.")
    with own_output_embedding(lm) as weight:
        weight.copy_((E / lm.scale).to(weight))
        try:
            if own is not None and b is not None:
                module.bias = torch.nn.Parameter((b / lm.scale).to(own), requires_grad=False)
            yield
        finally:
            if own is not None:
                module.bias = own


@contextlib.contextmanager
def source(name: str, out: Path) -> Iterator[Path | None]:
    """The GGUF file to copy from if one is to be written, checked before anything is computed.

    Raises:
        InputError: a GGUF file is asked for, and the model is none that can be copied.
    """
    if not output.is_gguf(out):
        yield None
        return
    with fetching.gguf_file(name) as path:
        gguf_copy.check_copied(path)
        yield path


def write_model(
    lm: LanguageModel, path: Path, *, origin: str, gguf: Path | None, gguf_type: str
) -> None:
    """Writes the model as it stands to a new path.

    Args:
        origin: what the model was loaded from.
        gguf: the GGUF file to copy from; None: a folder is written.
    """
    if gguf is not None:
        head: Any = lm.model.get_output_embeddings()
        gguf_copy.copy_with_head(gguf, path, head.weight, kind=gguf_type)
        return
    models.save(lm, path)
    folder = models.fetch(origin, revision=lm.revision)
    for name in _PROCESSORS:
        if (folder / name).is_file() and not (path / name).exists():
            shutil.copyfile(folder / name, path / name)


@contextlib.contextmanager
def read_back(path: Path, lm: LanguageModel, dtype: str) -> Iterator[LanguageModel]:
    """The model that was written, loaded anew by transformers and checked."""
    first = lm.first_token_text if lm.kind.name == "causal" else "auto"
    try:
        yield models.load(path, device=str(lm.device), dtype=dtype, first_token=first, probe=False)
    finally:
        if output.is_gguf(path):  # whose conversion nobody has asked to keep
            cache.remove(gguf_conversion.converted_path(cache.file_hash(path)))


def write_told(told: Told, temporary: Path, out: Path) -> None:
    """Writes card, record and table into a folder that is being written, or beside a GGUF file."""
    place = temporary if not output.is_gguf(out) else out
    for name, text in {
        CARD: told.card,
        output.RECORD: json.dumps(told.record, indent=2, ensure_ascii=False) + "\n",
        output.TABLE: told.table.to_csv(index=False),
    }.items():
        path = output.beside(place, name)
        if place == temporary:
            path.write_text(text, encoding="utf-8")
            continue
        with cache.atomic_path(path) as half:
            half.write_text(text, encoding="utf-8")
