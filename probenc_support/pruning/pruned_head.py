"""Pruned output embeddings in real use: as torch modules, swapped into a model, saved, timed.

A pruned head computes decode (encode h) + bias, of d -> k -> V, or for plain dimensions
decode h[kept] + bias, of d' -> V: the arithmetic and the memory of the head shrink with k.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel, check_editable
from probenc_support.pruning.bases import Basis, MatrixBasis, levels, shift


class PrunedHead(nn.Module):
    """An output head that reads fewer coordinates: logits = decode (encode h) + bias."""

    def __init__(
        self,
        decode: Tensor,
        *,
        encode: Tensor | None = None,
        kept: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        """
        Args:
            decode: [V, k].
            encode: [k, d], what to read from h; or else
            kept: [k] int64, the plain dimensions to read.
            bias: [V].
        """
        super().__init__()
        if (encode is None) == (kept is None):
            raise InputError("A pruned head reads either a rotation or plain dimensions: give one.")
        self.decode = nn.Parameter(decode.contiguous(), requires_grad=False)
        self.encode = None if encode is None else nn.Parameter(encode.contiguous(), False)
        self.bias = None if bias is None else nn.Parameter(bias.contiguous(), False)
        self.kept: Tensor | None
        self.register_buffer("kept", kept)

    @property
    def V(self) -> int:
        """Rows, as of the intact head."""
        return int(self.decode.shape[0])

    @property
    def k(self) -> int:
        """Coordinates that are left."""
        return int(self.decode.shape[1])

    @property
    def n_parameters(self) -> int:
        """Numbers that the head stores."""
        return n_parameters(self)

    def forward(self, h: Tensor) -> Tensor:
        """Logits [..., V] of hidden states h [..., d]."""
        read = h[..., self.kept] if self.encode is None else functional.linear(h, self.encode)
        return functional.linear(read, self.decode, self.bias)


def n_parameters(module: nn.Module) -> int:
    """Numbers that a module stores, indices left out."""
    return sum(p.numel() for p in module.parameters())


def memory_mb(module: nn.Module) -> float:
    """Megabytes of a module's parameters and buffers."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6


@torch.no_grad()
def from_basis(lm: LanguageModel, basis: Basis, removed: int) -> PrunedHead:
    """The head of `lm` with the first `removed` coordinates of a basis gone.

    Ready to be swapped in: in the model's precision and on its device. With nothing removed from
    plain dimensions it is the intact head, bit for bit.

    Raises:
        InputError: all coordinates are removed.
    """
    levels([removed / basis.d], basis.d)
    constant = shift(basis, removed).to(lm.E)
    if basis.axes is None:
        return from_factors(lm, basis.encode[removed:], basis.decode[:, removed:], constant)
    gone, kept = (part.sort().values.to(lm.E.device) for part in basis.axes.tensor_split([removed]))
    rows = lm.E[:, kept]
    if isinstance(basis, MatrixBasis):
        # The coordinates left are functions of the kept dimensions alone: their columns are enough.
        encode, decode = basis.encode[removed:].to(lm.E), basis.decode[:, removed:].to(lm.E)
        rows = rows + lm.E[:, gone] @ (decode[gone] @ encode[:, kept])
    constant = constant.index_fill(0, kept, 0.0)  # kept dimensions have none, up to rounding
    bias = lm.E @ constant if bool(constant.any()) else None
    return _in_model(lm, rows, kept=kept, bias=bias)


@torch.no_grad()
def from_factors(lm: LanguageModel, encode: Tensor, decode: Tensor, shift: Tensor) -> PrunedHead:
    """The head that replaces h by decode (encode h) + shift before the output embedding.

    encode: [k, d]; decode: [d, k]; shift: [d].
    """
    encode, decode, shift = (t.to(lm.E) for t in (encode, decode, shift))
    return _in_model(lm, lm.E @ decode, encode=encode, bias=lm.E @ shift)


def _in_model(
    lm: LanguageModel,
    decode: Tensor,
    *,
    encode: Tensor | None = None,
    kept: Tensor | None = None,
    bias: Tensor | None = None,
) -> PrunedHead:
    """A head in the model's precision; the model itself applies its logit scale afterwards."""
    scale = lm.scale
    own = lm.own_bias
    if own is not None:
        bias = own if bias is None else own + bias

    def placed(part: Tensor) -> Tensor:
        return part.to(device=lm.device, dtype=lm.dtype)

    return PrunedHead(
        placed(decode / scale if scale != 1.0 else decode),
        encode=None if encode is None else placed(encode),
        kept=kept,
        bias=None if bias is None else placed(bias / scale),
    )


@contextmanager
def swapped(lm: LanguageModel, head: nn.Module) -> Iterator[LanguageModel]:
    """The model speaks through another head within the context; the intact one comes back after.

    `lm.E` keeps describing the intact head. The input embedding is not touched, also where the
    intact head is tied to it.

    Raises:
        InputError: the model's head is no linear layer, or the new one has other sizes.
    """
    check_editable(lm)
    intact = lm.model.get_output_embeddings()
    if not isinstance(intact, nn.Linear):
        raise InputError(f"The head of {lm.name} is no linear layer and cannot be swapped.")
    _check_sizes(lm, head)
    lm.model.set_output_embeddings(head)
    try:
        if lm.model.get_output_embeddings() is not head:
            raise InputError(f"{lm.name} does not let its head be swapped.")
        yield lm
    finally:
        lm.model.set_output_embeddings(intact)


@torch.inference_mode()
def _check_sizes(lm: LanguageModel, head: nn.Module) -> None:
    try:
        rows = head(torch.zeros(1, lm.d, device=lm.device, dtype=lm.dtype)).shape[-1]
    except (RuntimeError, IndexError) as error:
        raise InputError(
            f"The pruned head does not read the {lm.d} dimensions of {lm.name} in {lm.dtype}: it "
            "was made for another model or precision."
        ) from error
    if rows != lm.V:
        raise InputError(
            f"The pruned head has {rows} rows and {lm.name} has {lm.V}: it was made for another "
            "model."
        )


def save(head: PrunedHead, path: Path) -> Path:
    """Writes a head as safetensors, atomically; returns the path."""
    tensors = {name: tensor.cpu() for name, tensor in head.state_dict().items()}
    with cache.atomic_path(path) as temporary:
        save_file(tensors, temporary)
    return path


def load(path: Path) -> PrunedHead:
    """Reads a head that `save` wrote.

    Raises:
        InputError: there is no such file, or it holds no pruned head.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return PrunedHead(tensors.pop("decode"), **tensors)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no pruned head that `save` wrote.") from error


@dataclass(frozen=True)
class Latency:
    """How long a head takes for one batch of hidden states."""

    seconds: float
    """Median over repetitions."""
    low: float
    """Lower quartile."""
    high: float
    """Upper quartile."""


@torch.inference_mode()
def latencies(heads: dict[str, nn.Module], h: Tensor, *, n_repeats: int = 30) -> dict[str, Latency]:
    """Times heads on the same hidden states h [n, d], taking turns so that a busy machine is fair.

    One untimed round comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in heads}
    for repeat in range(n_repeats + 1):
        for name, head in heads.items():
            spent = _timed(head, h)
            if repeat:
                seconds[name].append(spent)
    return {name: _latency(times) for name, times in seconds.items()}


def _timed(head: nn.Module, h: Tensor) -> float:
    _finish(h.device)
    start = time.perf_counter()
    head(h)
    _finish(h.device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _latency(times: list[float]) -> Latency:
    low, middle, high = statistics.quantiles(times, n=4)
    return Latency(seconds=middle, low=low, high=high)


def cost_table(heads: dict[str, nn.Module], h: Tensor) -> pd.DataFrame:
    """What heads take of memory and time: a row each, in the order given.

    Columns `head`, `parameters`, `memory_mb`, `ms_1` and `ms_64` (milliseconds for one position and
    for all of h), and the last three over those of the first head, `_ratio`.

    h: [n, d] hidden states in the heads' precision.
    """
    one, many = latencies(heads, h[:1]), latencies(heads, h)
    table = pd.DataFrame(
        {
            "head": list(heads),
            "parameters": [n_parameters(head) for head in heads.values()],
            "memory_mb": [memory_mb(head) for head in heads.values()],
            "ms_1": [1e3 * one[name].seconds for name in heads],
            "ms_64": [1e3 * many[name].seconds for name in heads],
        }
    )
    for column in ("memory_mb", "ms_1", "ms_64"):
        table[f"{column}_ratio"] = table[column] / table[column].iloc[0]
    return table
