"""GGUF files as safetensors folders of the cache, converted once and checked.

Reading GGUF takes transformers ten times longer than reading safetensors, and every notebook would
pay that again. Files that transformers would read wrongly without a word are refused here: those
that lack tensors (which it fills with random numbers), those that are one part of several, and
those whose tokenizer splits text by an unknown rule.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.models import gguf_tokenizers
from probenc_support.models.runtime import check_loaded, first_line, quiet

_VERSION = 4
"""Increase it when the conversion changes, so that folders made before are not used any more."""


def converted_path(sha256: str) -> Path:
    """Where the conversion of a GGUF file with this hash lies, or will lie.

    It depends on the libraries that convert: another release may read weights or text otherwise.
    """
    facts = [str(_VERSION), *(importlib.metadata.version(p) for p in ("transformers", "gguf"))]
    by = hashlib.sha256("-".join(facts).encode()).hexdigest()[:8]
    return cache.cache_dir() / "models" / f"gguf-{sha256[:16]}-{by}"


def is_complete(folder: Path) -> bool:
    """Whether a conversion lies there. Folders are renamed into place when they are whole."""
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def convert(path: Path) -> Path:
    """Dequantises a GGUF file once, into a safetensors folder of the cache.

    Raises:
        InputError: the file is damaged, incomplete, or of a kind that cannot be converted.
    """
    target = converted_path(cache.file_hash(path))
    if is_complete(target):
        return target
    _check_magic(path)
    with cache.locked(target.name):
        if is_complete(target):
            return target
        print(f"Converting {path.name} ...", file=sys.stderr)
        facts = _facts(path)
        _check_whole(path, facts)
        tokenizer = gguf_tokenizers.tokenizer(path, facts)
        try:
            with quiet(), contextlib.redirect_stderr(io.StringIO()):
                arguments: dict[str, Any] = {"gguf_file": path.name}
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    path.parent, dtype=torch.float32, output_loading_info=True, **arguments
                )
        except Exception as error:
            raise InputError(
                f"{path} cannot be read as a GGUF model ({first_line(error)}); it is damaged or "
                "of an architecture that transformers does not convert: fetch it again, or give "
                "the safetensors folder of the same model."
            ) from error
        model, report = loaded
        check_loaded(report, path)
        _check_all_read(path, facts, model)
        with cache.atomic_path(target) as temporary, quiet():
            plain = _plain(model)
            plain.config.stored_as = stored_as(facts["tensors"], facts["types"])
            plain.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return target


def _check_magic(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{path} is no GGUF file (its first bytes are not 'GGUF').")


def _facts(path: Path) -> dict[str, Any]:
    """The settings of a GGUF file, the lists of its tokenizer, and the sizes of its tensors."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a GGUF model ({first_line(error)}); it is damaged or "
            "incomplete: fetch it again."
        ) from error
    tensors = [t for t in reader.tensors if "rope" not in t.name]
    return {key: field.contents() for key, field in reader.fields.items()} | {
        "tensors": {t.name: int(t.n_elements) for t in tensors},
        "types": {t.name: str(t.tensor_type.name) for t in tensors},
    }


_WHOLE = {"F64", "F32", "F16", "BF16"}
"""Types of tensors that are not quantised: each weight is a number of 16 bits or more."""


def stored_as(sizes: dict[str, int], types: dict[str, str]) -> str:
    """In which types a GGUF file holds its weights, such as `Q4_1 body, Q8_0 output embedding`.

    Args:
        sizes: weights in each tensor, by its name.
        types: type of each tensor, by its name, as the file names it.

    Returns:
        The type of the output embedding (of the input embedding, which stands for it where there
        is no other), and those that hold a hundredth or more of the other weights, largest first;
        empty where nothing is quantised.
    """
    head = "output.weight" if "output.weight" in types else "token_embd.weight"
    held: dict[str, int] = {}
    for name in sizes.keys() - {"output.weight", "token_embd.weight"}:
        held[types[name]] = held.get(types[name], 0) + sizes[name]
    body = [t for t in sorted(held, key=lambda t: -held[t]) if held[t] >= 0.01 * sum(held.values())]
    if {*body, types[head]} <= _WHOLE:
        return ""
    return f"{' and '.join(body)} body, {types[head]} output embedding"


def _check_whole(path: Path, facts: dict[str, Any]) -> None:
    parts = int(facts.get("split.count", 1))
    if parts > 1:
        raise InputError(
            f"{path} is one of {parts} parts of a model, and the others are not read: merge them "
            "(llama-gguf-split --merge) and give the merged file."
        )
    if "token_embd.weight" not in facts["tensors"]:
        raise InputError(f"{path} holds no token_embd.weight, so it is no whole language model.")


def _check_all_read(path: Path, facts: dict[str, Any], model: PreTrainedModel) -> None:
    """Compares sizes, since names and shapes differ between the formats."""
    there, read = sum(facts["tensors"].values()), model.num_parameters()
    if there != read:
        raise InputError(
            f"{path} holds {there:,} weights, and transformers made a model of {read:,} of them, "
            "so it does not read this file as it was meant: give the safetensors folder of the "
            "same model."
        )


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that no longer remembers a quantised source."""
    config = AutoConfig.for_model(**_without_quantisation(model.config.to_dict()))
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain  # type: ignore[no-any-return]


def _without_quantisation(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "quantization_config"}
