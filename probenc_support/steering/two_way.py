"""Draws of tokens and of documents with replacement: how sure an error is (a two-way bootstrap).

What is scored is a sample of tokens on a sample of documents, so both are drawn anew. The sums of a
token's probability over each document, before and after an edit, are all that a draw needs: a
thousand draws are one matrix product.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TwoWay:
    """How often each token and each document is in each draw."""

    tokens: Tensor
    """[B, K] float64"""
    groups: Tensor
    """[B, G] float64"""

    @classmethod
    def of(cls, n_tokens: int, n_groups: int, *, n_draws: int = 500, seed: int = 0) -> "TwoWay":
        """The same seed and sizes give the same draws, so that edits are compared pair by pair."""
        rng = np.random.default_rng(seed)
        counts = (
            torch.from_numpy(rng.multinomial(n, np.full(n, 1.0 / n), size=n_draws)).double()
            for n in (n_tokens, n_groups)
        )
        return cls(*counts)

    def log_sums(self, sums: Tensor) -> Tensor:
        """[B, K] log of each draw's sum over documents, from sums by document [K, G]."""
        return (self.groups @ sums.T).log()

    def errors(self, before: Tensor, after: Tensor, wanted: float, scored: Tensor) -> Tensor:
        """[B] mean absolute error of log scale in each draw, nats.

        Args:
            before: [B, K] `log_sums` of the old probabilities.
            after: [K, G] sums of the new probabilities by document.
            wanted: log scale.
            scored: [K] bool, tokens that count.
        """
        error = (self.log_sums(after[scored]) - before[:, scored] - wanted).abs()
        weight = self.tokens[:, scored]
        return (weight * error).sum(dim=1) / weight.sum(dim=1)
