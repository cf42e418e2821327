"""Mean and covariance of hidden states, which theory, steering and pruning work from.

Arithmetic is float64 on the device that holds the hidden states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.precision import ROWS_AT_ONCE, wide, wide_device

RESOLUTION = 1e-12
"""Share of the largest variance below which a variance counts as rounding: a network's arithmetic
in float32 leaves its hidden states uncertain by about 1e-6, so that smaller standard deviations say
nothing. The sums here, in float64, err by about 1e-16 of the largest variance."""


POSITIONS_AT_ONCE = 4096
"""Hidden states that are converted to float64 at a time: few enough that each block takes the
memory of the one before, and enough that threads seldom wait for one another."""


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
        """Of hidden states h [n, d]; position i counts `weight` [n] times, or all alike.

        The states are read twice, some at a time: for the mean, and for the products about it.

        Raises:
            InputError: a hidden state is not finite.
        """
        n, d = h.shape
        weight = wide(h.new_ones(n)) if weight is None else weight
        parts = list(zip(h.split(POSITIONS_AT_ONCE), weight.split(POSITIONS_AT_ONCE), strict=True))
        mean = wide(h.new_zeros(d))
        for rows, share in parts:
            mean += share @ wide(rows)
        mean /= weight.sum()
        if not bool(mean.isfinite().all()):
            raise InputError(
                "The hidden states hold values that are not finite: load the model with "
                "dtype=float32, or in bfloat16 if it is too large for that."
            )
        cov = wide(h.new_zeros(d, d))
        for rows, share in parts:
            centred = wide(rows) - mean
            cov.addmm_((centred * share[:, None]).T, centred)
        return cls(n, mean, cov / weight.sum())

    @classmethod
    def pool(
        cls, parts: Sequence["Moments"], *, shares: Sequence[float] | None = None
    ) -> "Moments":
        """The moments of several corpora together, by their size or by given `shares`."""
        share = torch.tensor(shares or [float(p.n) for p in parts], dtype=torch.float64)
        share = (share / share.sum()).to(parts[0].mean.device)
        mean = torch.stack([p.mean for p in parts]).T @ share
        drift = [p.mean - mean for p in parts]
        # About the common mean: a difference of second moments would lose the digits of small ones.
        spread = torch.stack([p.cov + torch.outer(x, x) for p, x in zip(parts, drift, strict=True)])
        return cls(sum(p.n for p in parts), mean, torch.tensordot(share, spread, dims=1))

    def to(self, device: torch.device) -> "Moments":
        """The same moments on a device, or on the CPU for one that has no float64 (`mps`)."""
        place = wide_device(device)
        return Moments(self.n, self.mean.to(place), self.cov.to(place))

    @cached_property
    def axes(self) -> tuple[Tensor, Tensor]:
        """Variances [d], ascending, along the orthonormal columns of [d, d].

        Those below `RESOLUTION` times the largest are raised to it, so that all directions along
        which the hidden states do not vary (there are some wherever positions are fewer than
        dimensions, and one behind a LayerNorm) count alike, and rounding does not choose among
        them. Between this floor and what is computed from it everything is continuous.
        """
        values, vectors = torch.linalg.eigh(self.cov)
        # Where all positions are the same, the variances are themselves rounding of the mean.
        rounding = torch.finfo(values.dtype).eps * float(self.mean @ self.mean)
        return values.clamp(min=RESOLUTION * max(float(values[-1]), rounding)), vectors

    def _variances(self, ridge: float) -> Tensor:
        return self.axes[0] + ridge * self.cov.diagonal().mean()

    def ridged(self, ridge: float) -> Tensor:
        """[d, d] covariance that can be inverted: that of `axes`, with `ridge` mean variances on
        the diagonal."""
        vectors = self.axes[1]
        return (vectors * self._variances(ridge)) @ vectors.T

    def solved(self, ridge: float) -> Tensor:
        """[d] the inverse of `ridged` times the mean, at O(d^2) once `axes` are known."""
        vectors = self.axes[1]
        return vectors @ ((vectors.T @ self.mean) / self._variances(ridge))

    def unevenness(self, vector: Tensor) -> float:
        """Mean of (v . h - 1)^2: how far the direction v [d] is from moving all logits alike."""
        bias = float(vector @ self.mean) - 1.0
        return bias**2 + max(0.0, float(vector @ self.cov @ vector))


def variances_along(cov: Tensor, rows: Tensor) -> Tensor:
    """[n] float64 variance of r . h for each row r of `rows` [n, d], with cov [d, d] that of h."""
    wide_parts = (wide(part) for part in rows.split(ROWS_AT_ONCE))
    return torch.cat([(part @ cov.to(part.device) * part).sum(dim=1) for part in wide_parts])


def sums_by_label(h: Tensor, label: Tensor, n_labels: int) -> Tensor:
    """[n_labels, d] float64 sums of the hidden states h [N, d] of each label [N], from 0."""
    states = wide(h)
    sums = torch.zeros(n_labels, states.shape[1], dtype=states.dtype, device=states.device)
    return sums.index_add_(0, label.to(states.device), states)


States = Tensor | Moments
"""Hidden states [N, d], or their moments where several things are made from the same ones."""


def moments_of(h: States) -> Moments:
    """The moments of hidden states [N, d], where these lie; moments as they are."""
    return h if isinstance(h, Moments) else Moments.of(h)


def square_roots(matrix: Tensor, *, floor: float = RESOLUTION) -> tuple[Tensor, Tensor]:
    """Square root of a positive matrix [d, d] and its inverse, both float64.

    Eigenvalues below `floor` times the largest are raised to it.
    """
    values, vectors = torch.linalg.eigh(wide(matrix))
    values = values.clamp(min=float(values.max()) * floor).sqrt()
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def covariance(h: Tensor, z: Tensor) -> Tensor:
    """[d] covariance of hidden states h [N, d] and log-partition z [N], by N; where h lies."""
    states = wide(h)
    levels = wide(z).to(states.device)
    return (states - states.mean(dim=0)).T @ (levels - levels.mean()) / len(z)
