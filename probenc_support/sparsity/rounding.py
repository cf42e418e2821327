"""What storing E in few bits does to it, and whether its narrowest components are more than that.

A GGUF file's Q8_0 keeps a row in blocks of 32 dimensions: one scale a block (the largest size over
127), and an integer a dimension. A loaded E is rounded already, and its scales can be read off it
again, since the largest entry of every block is 127 of them. The errors of rounding are taken as
uniform and independent, which holds where the steps are small beside the spread of the entries.
"""

from dataclasses import dataclass, replace

import numpy as np

from probenc_support.quantisation import steps
from probenc_support.regression import Matrix, as_tensor
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Components, Statistics

BLOCK = 32
"""Dimensions that share a scale in GGUF's block formats of 8 bits and less."""


def noise(E: Matrix, *, bits: int = 8) -> Array:
    """[d] expected variance of the rounding error in each dimension: a twelfth of the step squared,
    on the mean over tokens."""
    return np.asarray(
        steps(as_tensor(E), bits, block=BLOCK).double().square().mean(0).cpu().numpy() / 12.0
    )


def with_noise(statistics: Statistics, by_dimension: Array) -> Statistics:
    """Statistics of E rounded once more, in expectation: such an error is independent of E and of
    y, so that it adds to the variances alone.

    Args:
        statistics: of E as it is, and y.
        by_dimension: [d] variance of the error; see `noise`.
    """
    return replace(statistics, gram=statistics.gram + np.diag(statistics.n * by_dimension))


@dataclass(frozen=True)
class RoundingOfComponents:
    """The part of each principal component of E that rounding alone would make."""

    noise: Array
    """[d] expected variance of the rounding error along each component."""
    share: Array
    """[d] the same over the component's variance, at most 1."""

    @classmethod
    def of(cls, components: Components, by_dimension: Array) -> "RoundingOfComponents":
        """From the error's variance by dimension [d]; see `noise`."""
        along = np.square(components.directions).T @ by_dimension
        return cls(along, np.minimum(1.0, along / np.maximum(components.variances, 1e-300)))

    def of_r2(self, r: Array) -> Array:
        """[d] the part of each component's share of R^2 that is rounding.

        The logits are those of the rounded E, and log a goes with it: an error e along a component
        of slope s moves y by s e, as the rest of the component does. So rounding has the same part
        in r^2 as in the variance.

        Args:
            r: [d] correlation of every component with y.
        """
        return np.asarray(np.square(r) * self.share)


def last(values: Array, share: float = 0.1) -> slice:
    """The last tenth (or another share) of d components, the last if that is none."""
    d = len(values)
    return slice(d - max(1, int(share * d)), d)


def r2_of_last(statistics: Statistics, share: float = 0.1) -> float:
    """R^2 of the last tenth of the components of an E, given its statistics with y."""
    r = Components.of(statistics).express(statistics).correlation
    return float(np.square(r[last(r, share)]).sum())


def in_words(quantisation: str) -> str:
    """What a page says of a model's weights: in how few bits they were stored, and what follows."""
    if not quantisation:
        return "The weights of this model are not quantised."
    return (
        f"The weights of this model were stored in few bits ({quantisation}) and are used as they "
        "were read back, so what follows is a finding about the quantised model, not about the one "
        "that was trained. The rounding of the output embedding is a part of $E$, that of the body "
        "a part of the hidden states and so of $\\log a$."
    )
