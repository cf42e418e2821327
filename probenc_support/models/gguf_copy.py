"""A GGUF file with another output embedding; all else is copied as it is, quantised or not."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.models.runtime import first_line

HEAD = "output.weight"
INPUT = "token_embd.weight"

ARCHITECTURES = ("llama",)
"""Architectures whose files may hold an output embedding of their own beside the input embedding,
and whose logits are it times the last norm's output, as tried."""

TYPES = {"f32": np.float32, "f16": np.float16}


def check_copied(source: Path) -> None:
    """Refuses a file in which the output embedding cannot be replaced.

    Raises:
        InputError: it is of another architecture, is split, or cannot be read.
    """
    _reader(source)


def _reader(source: Path) -> Any:
    import gguf

    try:
        reader = gguf.GGUFReader(source)
    except Exception as error:
        raise InputError(f"{source} cannot be read as GGUF ({first_line(error)}).") from error
    field = reader.get_field(gguf.Keys.General.ARCHITECTURE)
    architecture = str(field.contents()) if field else ""
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"{source.name} is of the architecture {architecture!r}, and a changed GGUF file is "
            f"written for {', '.join(ARCHITECTURES)} only: name a folder as --out, in which "
            "transformers' format is written."
        )
    return reader


def copy_with_head(source: Path, target: Path, weight: Tensor, *, kind: str = "f32") -> None:
    """Writes `source` to `target` with the output embedding `weight` [V, d], untied.

    Settings and all other tensors are copied bit by bit, so that the input embedding and quantised
    weights stay what they are.

    Args:
        kind: `f32`, or `f16`, which has half the size and rounds weights to three digits.

    Raises:
        InputError: see `check_copied`; or the shape is not that of the file's embedding.
    """
    import gguf

    reader = _reader(source)
    rows = _as_stored(weight, kind)
    tensors = [tensor for tensor in reader.tensors if tensor.name != HEAD]
    _check_shape(source, tensors, rows)
    writer = gguf.GGUFWriter(target, ARCHITECTURES[0], endianess=reader.endianess)
    _copy_settings(reader, writer)
    for tensor in tensors:
        stored = tensor.data
        writer.add_tensor_info(
            tensor.name, stored.shape, stored.dtype, stored.nbytes, tensor.tensor_type
        )
    writer.add_tensor_info(HEAD, rows.shape, rows.dtype, rows.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data, tensor_endianess=reader.endianess)
    writer.write_tensor_data(rows)
    writer.close()


def _as_stored(weight: Tensor, kind: str) -> NDArray[Any]:
    rows = np.ascontiguousarray(weight.detach().cpu().float().numpy()).astype(TYPES[kind])
    if not np.isfinite(rows).all():
        raise InputError(
            f"The output embedding has entries beyond the range of {kind}; use --gguf-type f32."
        )
    return rows


def _check_shape(source: Path, tensors: list[Any], rows: NDArray[Any]) -> None:
    inputs = next((tensor for tensor in tensors if tensor.name == INPUT), None)
    there = None if inputs is None else tuple(int(n) for n in inputs.shape[::-1])
    if there != rows.shape:
        raise InputError(
            f"{source.name} has embeddings of shape {there} and the model's are {rows.shape}, so "
            "that it is not the file that the model was read from."
        )


def _copy_settings(reader: Any, writer: Any) -> None:
    """All settings but the architecture and the header, which the writer writes itself."""
    import gguf

    for field in reader.fields.values():
        if field.name == gguf.Keys.General.ARCHITECTURE or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=of)
