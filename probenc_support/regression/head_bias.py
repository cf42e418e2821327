"""A head's bias beside its embedding: the second place where a token's probability can lie.

Logits are E h + b, so that to first order -log a = -E . mean(h) - b + mean(z): part of what the
regression on E alone must leave to its residuals is the bias, unless E carries the same. Kobayashi
et al. (2023) find word frequency in the biases of BERT and GPT-2.
"""

from dataclasses import dataclass

import torch

from probenc_support.head import Head
from probenc_support.precision import wide
from probenc_support.regression.arrays import Matrix, as_tensor
from probenc_support.regression.linear_fit import Design, adjusted


@dataclass(frozen=True)
class BesideBias:
    """What of the variance of y = -log a the embedding explains, the bias, and both; adjusted R^2.

    All are shares of the variance of y itself. A large bias makes the variance of y + b another
    one, of which a regression on E could explain much and tell nothing of y.
    """

    embedding: float
    """Of y on E, as the paper fits it."""
    embedding_less_bias: float
    """Of y on E with the bias as it enters the logits, -b, with no slope of its own: one minus what
    the fit of y + b on E leaves over the variance of y. Below zero where that makes it worse."""
    both: float
    """Of y on E and b, the bias with a fitted slope."""
    bias: float
    """Of y on b alone."""
    bias_slope: float
    """Slope of b in the fit to both; -1 where the bias counts as it does in the logits."""

    @classmethod
    def of(cls, head: Head, y: Matrix) -> "BesideBias | None":
        """Of the tokens of a head, y [n] in their order; None where the head has no bias.

        A bias that is the same for all tokens is none.
        """
        b = head.bias
        if b is None or not float(b.std()) > 0:
            return None
        E, b, values = wide(head.rows), wide(b), as_tensor(y).double()
        plain = Design.of(E)
        joint = Design.of(torch.cat([E, b[:, None]], dim=1)).fit_many(values)
        less = values + b.to(values)
        of_y, of_less = plain.fit_many(torch.stack([values, less], dim=1)).r2_adj
        spread = float(less.var() / values.var())
        r = float(torch.corrcoef(torch.stack([values, b.to(values)]))[0, 1])
        return cls(
            embedding=float(of_y),
            embedding_less_bias=1.0 - (1.0 - float(of_less)) * spread,
            both=float(joint.r2_adj[0]),
            bias=float(adjusted(r**2, len(values), 1)),
            bias_slope=float(joint.slopes[-1, 0]),
        )

    def metrics(self) -> dict[str, float]:
        """By name, for a notebook."""
        return {
            "r2_adj_less_bias": self.embedding_less_bias,
            "r2_adj_with_bias": self.both,
            "r2_adj_bias_alone": self.bias,
            "bias_slope": self.bias_slope,
        }
