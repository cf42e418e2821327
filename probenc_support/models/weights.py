"""The weight files of a model folder: which ones count, what E is called in them, their hash.

Nothing here loads a model. Names come from the architecture, built without allocating its weights,
and from the index of the files, so that no tensor is taken for E because its name looks similar.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.models.auto_class import auto_class

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Weight files in the order in which transformers prefers them; each may be an index of parts
instead (`model.safetensors.index.json`). Other files, such as a trainer's arguments or a second
format of the same weights, are not read."""


BUFFERS = re.compile(
    r"(masked_bias|inv_freq|attention\.bias|attn\.bias|causal_mask|position_ids|(cos|sin)_cached"
    r"|embed_positions\.weights|decoder\.version)$"
)
"""Names of tensors in older files that are not trained, such as masks."""


_HEADS = ("lm_head", "embed_out", "output", "head")
"""What an output embedding is called in full where a file's names differ from the module's."""


def index_of(folder: Path, single: str) -> Path:
    """Where the index of a weight file in several parts lies."""
    return folder / f"{single}.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights of a model folder; empty where there are none.

    Raises:
        InputError: the index names a part that is not there, or cannot be read.
    """
    for single in SINGLE:
        if (folder / single).is_file():
            return [folder / single]
        if index_of(folder, single).is_file():
            return _parts(folder, single)
    return []


def _parts(folder: Path, single: str) -> list[Path]:
    files = [folder / name for name in sorted(set(weight_map(folder, single).values()))]
    for path in files:
        if not path.is_file():
            raise InputError(
                f"{folder} lacks {path.name}, a part of the weights that its index names; fetch "
                "the model again."
            )
    return files


def weight_map(folder: Path, single: str) -> dict[str, str]:
    """File of each tensor, from the index of weights in several parts.

    Raises:
        InputError: the index cannot be read.
    """
    path = index_of(folder, single)
    try:
        files: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in files.items()}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path} cannot be read; fetch the model again.") from error


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weight files of a model folder, 64 hexadecimal digits.

    A file of the hub's cache is a link to a name that is its SHA-256 already; it is not read.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        blob = path.resolve().name
        known = path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob)
        digest.update((blob if known else cache.file_hash(path)).encode())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------- reading tensors


def tensors(path: Path, names: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Trained tensors of a weight file, one by one, in the file's precision.

    Args:
        names: those that are wanted; None: all but buffers.

    Raises:
        InputError: the file is damaged.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in _wanted(file.keys(), names):
                    yield name, file.get_tensor(name)
        else:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            yield from ((name, state[name]) for name in _wanted(state, names))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return f"{path} is damaged or incomplete: remove its folder and fetch it again."


def _wanted(there: Collection[str], names: Collection[str] | None) -> list[str]:
    if names is None:
        return [name for name in there if not BUFFERS.search(name)]
    return [name for name in there if name in names]


def places(folder: Path) -> dict[str, Path]:
    """The file of each trained tensor of a model folder, by the tensors' names.

    Raises:
        InputError: a file is damaged or missing.
    """
    return {name: path for path in weight_files(folder) for name in _there(path)}


def _there(path: Path) -> list[str]:
    if path.suffix != ".safetensors":
        return [name for name, _ in tensors(path)]
    try:
        with safe_open(path, framework="pt") as file:
            return _wanted(file.keys(), None)
    except (SafetensorError, OSError) as error:
        raise InputError(_damaged(path)) from error


def read(folder: Path, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """Tensors of a model folder by name, in the files' precision: all, or those of `names`.

    They are maps of the files, each of which is opened once: what is not used of a tensor is not
    read, and what was read takes no memory that the system could not have back.

    Raises:
        InputError: a file is damaged or missing.
    """
    files = weight_files(folder)
    return {name: tensor for path in files for name, tensor in tensors(path, names)}


# ---------------------------------------------------------------------------------------- E by name


@dataclass(frozen=True)
class HeadNames:
    """What E, its bias and the input embedding may be called in a model's weight files."""

    head: tuple[str, ...]
    """Names of the output embedding."""
    bias: tuple[str, ...]
    """Names of its bias."""
    inputs: tuple[str, ...]
    """Names of the input embedding."""
    tied: bool
    """Whether the output embedding is the input embedding."""
    may_differ: bool = False
    """Whether files may hold two different embeddings although the configuration ties them: T5's
    does in every case, and transformers ties what is equal."""

    @property
    def known(self) -> tuple[str, ...]:
        """What E may be called, in order of preference: the input embedding stands for it in a tied
        model only."""
        return (*self.head, *(self.inputs if self.tied else ()))

    def find(self, names: Collection[str]) -> str | None:
        """The name of E among the `names` of a file or of a whole model; None: it is not there."""
        return next((name for name in self.known if name in names), None)


def head_names(folder: Path) -> HeadNames:
    """The names that the architecture in a folder's `config.json` gives to its embeddings.

    Raises:
        InputError: no such architecture, or it has no output embedding.
    """
    path = folder / "config.json"
    try:
        return _head_names(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{folder} holds no config.json, so it is no model folder.") from error


@lru_cache(maxsize=64)
def _head_names(config: str) -> HeadNames:
    # Without a device the modules have names and no weights, whatever their size.
    try:
        settings = json.loads(config)
        kind = AutoConfig.for_model(**settings)
        with torch.device("meta"):
            model = auto_class(kind).from_config(kind)
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"The architecture that config.json names cannot be built ({line[:160]}), so it is not "
            "known which tensor is the output embedding; name another model."
        ) from error
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None:
        raise InputError("The model has no output embedding; name a language model.")
    own = _names_of(model, head)
    return HeadNames(
        head=(*own, *(f"{name}.weight" for name in _HEADS if f"{name}.weight" not in own)),
        bias=tuple(f"{name}.bias" for name in dict.fromkeys((*_bare(own), *_HEADS))),
        inputs=_names_of(model, inputs),
        tied=head.weight is inputs.weight,
        may_differ="t5" in kind.model_type,
    )


def _names_of(model: Any, module: Any) -> tuple[str, ...]:
    """Names of a module's weight, with and without the prefix of the body."""
    prefix = f"{model.base_model_prefix}."
    weights = [f"{name}.weight" for name, each in model.named_modules() if each is module]
    return tuple(dict.fromkeys([*weights, *(name.removeprefix(prefix) for name in weights)]))


def _bare(names: Collection[str]) -> list[str]:
    return [name.removesuffix(".weight") for name in names]


def head_of(tensors: dict[str, Tensor], names: HeadNames) -> Tensor:
    """E [V, d] among the tensors of a checkpoint, in their precision.

    Raises:
        InputError: it is not among them.
    """
    if name := names.find(tensors):
        return tensors[name]
    raise InputError(
        f"None of the tensors {', '.join(list(tensors)[:5])}, ... is the output embedding, which "
        f"this architecture calls {names.head[0]}; fetch the checkpoint again."
    )


def read_head(folder: Path, names: HeadNames) -> Tensor:
    """E [V, d] of a model folder, in the precision of its file, of which no other bytes are read.

    Raises:
        InputError: it is in none of the files, or a file is damaged.
    """
    return head_of(read(folder, names.known) or read(folder), names)
