"""Bands of neighbouring principal components, and what each of them adds.

The components are in order of variance, largest first, so that a band is a part of the spectrum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Order


@dataclass(frozen=True, eq=False)
class Bands:
    """A partition of d components in order."""

    edges: Order
    """[m + 1] from 0 to d: band k holds the components `edges[k]` to `edges[k + 1] - 1`."""

    @classmethod
    def tenths(cls, d: int, *, first: int = 3) -> "Bands":
        """The tenths of d components, after the `first` few as a band of their own."""
        first = min(first, d)
        tenths = -(-d * np.arange(1, 11) // 10)  # rounded up, in integers
        edges = np.unique(np.r_[0, first, tenths])
        return cls(edges[(edges == 0) | (edges >= first)])

    @property
    def names(self) -> list[str]:
        """[m] such as `1–3`, the components being numbered from 1."""
        return [f"{start + 1}–{stop}" for start, stop in pairwise(self.edges)]

    def sums(self, values: Array) -> Array:
        """[m] sums of values [d] within the bands."""
        return np.asarray(np.add.reduceat(values, self.edges[:-1]))

    def shares(self, values: Array) -> Array:
        """[m] shares of the bands in the sum of values [d]."""
        return np.asarray(self.sums(values) / values.sum())

    def gains(self, cumulative: Array) -> Array:
        """[m] what each band adds to a curve [d] over the components."""
        return np.diff(np.r_[0.0, cumulative[self.edges[1:] - 1]])

    def table(self, columns: Mapping[str, Array]) -> pd.DataFrame:
        """A row a band: `components`, its name, and columns with one value a band."""
        return pd.DataFrame({"components": self.names, **columns})


def last(d: int, share: float) -> slice:
    """The last share of d components (those of least variance), the very last if that is none."""
    return slice(min(d - 1, int(np.ceil((1.0 - share) * d - 1e-9))), d)
