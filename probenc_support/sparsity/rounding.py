"""What storing E in few bits does to it, and whether its components of least variance are noise.

A GGUF file's Q8_0 keeps a row in blocks of 32 dimensions: for each block one step (the size of its
largest entry over 127), and for each dimension an integer. An E that was loaded from such a file is
rounded already, and its steps can be computed from it, since the largest entry of every block is
127 steps. The errors of rounding are taken as uniform and independent, which holds where the steps
are small beside the spread of the entries.
"""

from dataclasses import dataclass, replace

import numpy as np

from probenc_support.quantisation import steps
from probenc_support.regression import Matrix, as_tensor
from probenc_support.regression.arrays import Array
from probenc_support.sparsity import bands
from probenc_support.sparsity.components import (
    Components,
    Statistics,
    correlations_of_components,
)

BLOCK = 32
"""Dimensions that share a scale in GGUF's block formats of 8 bits and less."""


def noise(E: Matrix, *, bits: int = 8) -> Array:
    """[d] expected variance of the rounding error in each dimension of E [n, d].

    That of a uniform error is a twelfth of the squared step; this is its mean over the tokens.
    """
    return np.asarray(
        steps(as_tensor(E), bits, block=BLOCK).double().square().mean(0).cpu().numpy() / 12.0
    )


def with_noise(statistics: Statistics, by_dimension: Array) -> Statistics:
    """Statistics of E rounded once more, in expectation.

    On a grid that is shifted at random the error is independent of E and of y, so that only the
    variances grow.

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

        The logits are those of the rounded E, and log a follows them: an error e along a component
        of slope s moves y by s e, as the rest of the component does. So the part of rounding is the
        same in r^2 as in the variance.

        Args:
            r: [d] correlation of every component with y.
        """
        return np.asarray(np.square(r) * self.share)


def r2_of_last(statistics: Statistics, share: float = 0.1) -> float:
    """R^2 of the last tenth (or another share) of the components of E, given its statistics."""
    r = correlations_of_components(statistics)
    return float(np.square(r[bands.last(len(r), share)]).sum())


def in_words(quantisation: str) -> str:
    """One or two sentences on how a model's weights were stored, and what that means for a page.

    Args:
        quantisation: the kinds of rounding, as `LanguageModel.quantisation`; empty: none.
    """
    if not quantisation:
        return "The weights of this model are not quantised."
    return (
        f"The weights of this model were stored in few bits ({quantisation}) and are used as they "
        "were read back, so what follows is a finding about the quantised model, not about the one "
        "that was trained. The rounding of the output embedding is a part of $E$, that of the body "
        "a part of the hidden states and so of $\\log a$."
    )
