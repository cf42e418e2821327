"""The norms of a network as maps from what they read to what they give.

At each position a LayerNorm gives gain * (x - mean(x)) / s + bias and an RMSNorm gain * x / s. Once
the scale s is taken as it is at the position, both are linear: what a sum of vectors gives is the
sum of what they give, plus the bias.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probenc_support.precision import wide

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 4e-3}
"""Largest difference from what was computed, relative to its largest entry, that is taken for
rounding of the model's arithmetic, by its precision. An RMSNorm works in float32 in a network in
float64 as well."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm or an RMSNorm of whichever class, found by what it does."""

    gain: Tensor
    """[d] float64; Gemma keeps its distance from one, and this is the whole of it."""
    bias: Tensor
    """[d] float64; zero where there is none."""
    centred: bool
    """Whether the mean over the dimensions is subtracted: a LayerNorm."""

    @classmethod
    def of(cls, module: nn.Module, x: Tensor, given: Tensor) -> "Norm | None":
        """The norm whose weights a module has, if it is one.

        Args:
            x: [..., d] what the module read; given: [..., d] what was then made of it, a factor of
                its own at each position included (T5 scales what its head reads).

        Returns:
            None where no form of norm with these weights leads from one to the other.
        """
        read, wanted = wide(x), wide(given)
        width = read.shape[-1]
        stored: Any = getattr(module, "weight", None)
        shift: Any = getattr(module, "bias", None)
        weight = read.new_ones(width) if stored is None else stored.detach().to(read)
        bias = read.new_zeros(width) if shift is None else shift.detach().to(read)
        if weight.shape != (width,) or bias.shape != (width,):
            return None
        for gain in (weight, 1.0 + weight):
            for centred in (True, False):
                norm = cls(gain, bias, centred)
                made = norm.direct(read) * norm.inverse_scale(x, given)[..., None] + bias
                if same(made, wanted, given.dtype):
                    return norm
        return None

    def direct(self, part: Tensor) -> Tensor:
        """[..., d] what a part [..., d] of the input gives at a scale of one, without the bias."""
        part = wide(part)
        centre = part.mean(dim=-1, keepdim=True) if self.centred else 0.0
        return self.gain.to(part) * (part - centre)

    def adjoint(self, direction: Tensor) -> Tensor:
        """[..., d] the u with u . part = direction . `direct`(part) for every part."""
        along = self.gain.to(direction) * direction
        return along - along.mean(dim=-1, keepdim=True) if self.centred else along

    def inverse_scale(self, x: Tensor, given: Tensor) -> Tensor:
        """[...] float64 one over the scale at each position, from input and output [..., d].

        By least squares over the dimensions, so that no constant below the root need be known.
        """
        direct, wanted = self.direct(x), wide(given) - self.bias.to(wide(given))
        square = direct.square().sum(dim=-1)
        return torch.where(square > 0, (direct * wanted).sum(dim=-1) / square, 0.0)


def same(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors of one shape differ by the rounding of arithmetic in `dtype` only."""
    a, b = wide(one), wide(other).to(wide(one).device)
    largest = float(b.abs().max()) if b.numel() else 0.0
    difference = float((a - b).abs().max()) if b.numel() else 0.0
    return largest > 0 and difference <= TOLERANCE[dtype] * largest
