"""Mean and covariance of hidden states, which theory, steering and pruning work from.

Arithmetic is float64 on the device that holds the hidden states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of hidden states."""

    n: int
    """Positions."""
    mean: Tensor
    """[d] float64"""
    cov: Tensor
    """[d, d] float64, divided by n"""

    @classmethod
    def of(cls, h: Tensor, weight: Tensor | None = None) -> "Moments":
        """Of hidden states h [n, d]; position i counts `weight` [n] times, or all alike."""
        wide = h.double()
        weight = torch.ones_like(wide[:, 0]) if weight is None else weight
        mean = weight @ wide / weight.sum()
        centred = wide - mean
        return cls(len(h), mean, (centred * weight[:, None]).T @ centred / weight.sum())

    @classmethod
    def pool(
        cls, parts: Sequence["Moments"], *, shares: Sequence[float] | None = None
    ) -> "Moments":
        """The moments of several corpora together, by their size or by given `shares`."""
        share = torch.tensor(shares or [float(p.n) for p in parts], dtype=torch.float64)
        share = share / share.sum()
        mean = torch.stack([p.mean for p in parts]).T @ share
        second = torch.stack([p.cov + torch.outer(p.mean, p.mean) for p in parts])
        cov = torch.tensordot(share, second, dims=1) - torch.outer(mean, mean)
        return cls(sum(p.n for p in parts), mean, cov)

    def ridged(self, ridge: float) -> Tensor:
        """[d, d] covariance that can be inverted; `ridge` is in units of the mean variance."""
        identity = torch.eye(len(self.mean), dtype=self.cov.dtype, device=self.cov.device)
        return self.cov + ridge * self.cov.diagonal().mean() * identity

    def unevenness(self, vector: Tensor) -> float:
        """Mean of (v . h - 1)^2: how far the direction v [d] is from moving all logits alike."""
        bias = float(vector @ self.mean) - 1.0
        return bias**2 + float(vector @ self.cov @ vector)


def covariance(h: Tensor, z: Tensor) -> Tensor:
    """[d] covariance of hidden states h [N, d] and log-partition z [N], divided by N."""
    wide = h.double()
    return (wide - wide.mean(dim=0)).T @ (z.double() - z.double().mean()) / len(z)
