"""The binary format of CTranslate2's `model.bin`: named arrays, and names that stand for others.

Little-endian: version, name and revision of the specification, the number of variables; of each
variable its name, rank, dimensions, type, size in bytes and values; then the number of aliases and
pairs of names. Names have their length before them and a zero at their end (python/ctranslate2/
specs/model_spec.py and src/models/model.cc of CTranslate2).
"""

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from probenc_support.errors import InputError

VERSIONS = (4, 5, 6)
"""Versions of the format that are laid out so: older ones give a size of items in place of types,
newer ones are not known."""

_TYPES = {
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}


@dataclass(frozen=True, eq=False)
class Contents:
    """What a `model.bin` holds."""

    specification: str
    """Kind of model, such as `WhisperSpec`."""
    revision: int
    """Revision of the specification."""
    variables: dict[str, Tensor]
    """Arrays by name, in the file's precision; numbers alone have no dimensions."""
    aliases: dict[str, str]
    """Names that stand for a variable: a tied output embedding is one."""


def read(path: Path) -> Contents:
    """Everything in a `model.bin`, checked to its last byte.

    Raises:
        InputError: it cannot be read, is no such file, ends early or goes on after its end, or
            the size of an array is not that of its dimensions.
    """
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _Reader(data, path).contents()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a model of CTranslate2 ({error}).") from error


class _Reader:
    """Reads one file from its beginning to its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def contents(self) -> Contents:
        version = self._number("I")
        if version not in VERSIONS:
            raise InputError(
                f"{self.path} is no model of CTranslate2, or one of another version of its format "
                f"than {VERSIONS[0]} to {VERSIONS[-1]} (it begins with the number {version})."
            )
        specification, revision = self._name(), self._number("I")
        variables = [self._variable() for _ in range(self._number("I"))]
        aliases = {self._name(): self._name() for _ in range(self._number("I"))}
        if self.at != len(self.data):
            raise self._damaged(f"{len(self.data) - self.at} bytes follow its end")
        found = dict(variables)
        if len(found) != len(variables):
            raise self._damaged("a variable is there twice")
        if lost := set(aliases.values()) - set(found):
            raise self._damaged(f"a name stands for {min(lost)}, which is not there")
        return Contents(specification, revision, found, aliases)

    def _variable(self) -> tuple[str, Tensor]:
        name = self._name()
        shape = [self._number("I") for _ in range(self._number("B"))]
        kind, size = self._number("B"), self._number("I")
        if kind not in _TYPES:
            raise self._damaged(f"{name} has the unknown type {kind}")
        dtype = _TYPES[kind]
        if size != prod(shape) * dtype.itemsize:
            raise self._damaged(f"{name} has {size} bytes, which are not {shape} of {dtype}")
        # A copy, since arrays in the file begin at odd bytes and end with the file.
        values = bytearray(self._take(size))
        array = torch.frombuffer(values, dtype=dtype) if size else torch.empty(0, dtype=dtype)
        return name, array.reshape(shape)

    def _name(self) -> str:
        text = self._take(self._number("H"))
        if text[-1:] != b"\0":
            raise self._damaged("a name has no end")
        try:
            return text[:-1].decode()
        except UnicodeDecodeError as error:
            raise self._damaged("a name is no text") from error

    def _number(self, kind: str) -> int:
        return int(struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")))[0])

    def _take(self, size: int) -> bytes:
        """The next bytes."""
        end = self.at + size
        if end > len(self.data):
            raise self._damaged("it ends early")
        start, self.at = self.at, end
        return self.data[start:end]

    def _damaged(self, why: str) -> InputError:
        return InputError(
            f"{self.path} is damaged, or no model of CTranslate2 ({why}): fetch it again."
        )
