"""How far the slopes, and the order in which they prune, depend on which text was read.

The average probabilities are computed again for documents drawn with replacement, and the fit is
made again with them. Standard errors that take tokens as independent observations say nothing about
that.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probenc_support.regression import Design, Matrix
from probenc_support.regression.arrays import Array
from probenc_support.regression.bootstrap import drawn_log_a


@dataclass(frozen=True, eq=False)
class Redrawn:
    """Slopes of the log-linear fit to all text, and of the fits to drawn documents."""

    slopes: Array
    """[d] slopes of the fit to all text, nats per unit of E."""
    replicates: Array
    """[d, B] slopes of the fits to drawn documents."""

    @property
    def t(self) -> Array:
        """[d] slopes over their standard deviation between draws."""
        return np.asarray(self.slopes / self.replicates.std(axis=1, ddof=1))

    @property
    def ranks(self) -> Array:
        """[d] place of each dimension in the paper's order, 1 for the one that goes first."""
        return _ranks(self.slopes[:, None])[:, 0]

    def rank_interval(self, dimension: int, level: float = 0.95) -> tuple[float, float]:
        """Interval that holds the dimension's place in the paper's order in this share of draws."""
        places = _ranks(self.replicates)[dimension]
        low, high = np.quantile(places, [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)

    def orders(self, n: int) -> list[Tensor]:
        """The paper's order [d] in each of the first `n` draws."""
        return [torch.from_numpy(np.argsort(np.abs(s))) for s in self.replicates.T[:n]]

    def overlap(self, removed: int) -> float:
        """Share of the first `removed` dimensions that the orders of two draws have in common.

        Mean over pairs of consecutive draws; by chance it is removed / d.
        """
        is_removed = _ranks(self.replicates) <= removed
        in_both = is_removed[:, 1:] & is_removed[:, :-1]
        return float(in_both.sum(axis=0).mean() / removed)


def redraw(
    design: Design,
    slopes: Array,
    log_a_groups: Matrix,
    group_sizes: Matrix,
    *,
    n_replicates: int = 100,
    seed: int = 0,
) -> Redrawn:
    """Fits -log a, as it is in each of many draws of documents with replacement.

    Args:
        design: statistics of the tokens' rows of E.
        slopes: [d] of the fit to all text.
        log_a_groups: [G, n] log average probability of the same tokens within each document.
        group_sizes: [G] positions in each.

    Raises:
        InputError: there are fewer than two documents.
    """
    log_a = drawn_log_a(log_a_groups, group_sizes, n_replicates=n_replicates, seed=seed)
    return Redrawn(slopes, design.fit_many(-log_a).slopes)


def _ranks(slopes: Array) -> Array:
    """[d, B] places of |slopes| within each column, from 1."""
    return np.asarray(np.abs(slopes).argsort(axis=0).argsort(axis=0) + 1.0)
