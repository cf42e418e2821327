"""Whether a fit to other text or other tokens finds the same dimensions and direction."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from probenc_support.regression import Design, Matrix, as_tensor, log_mean_exp
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Statistics
from probenc_support.sparsity.concentration import overlap

Pair = tuple[Array, Array]
"""Slopes [d] of two fits."""


def halves_of_vocabulary(design: Design, y: Matrix, rng: np.random.Generator) -> Pair:
    """Slopes of y [n] fitted to either half of the tokens, which are dealt at random."""
    first, second = np.array_split(rng.permutation(len(as_tensor(y))), 2)
    return design.without(first).fit(y).slopes, design.without(second).fit(y).slopes


def halves_of_text(design: Design, log_a_groups: Matrix, group_sizes: Matrix) -> Pair:
    """Slopes of -log a of the first and of the second half of the documents.

    Args:
        design: statistics of the n tokens' rows of E.
        log_a_groups: [G, n] log average probability of each token within each document, in nats;
            two documents or more.
        group_sizes: [G] positions in each.
    """
    groups, sizes = as_tensor(log_a_groups), as_tensor(group_sizes)
    first, second = (
        design.fit(-log_mean_exp(groups[part], sizes[part])).slopes
        for part in torch.arange(len(sizes)).tensor_split(2)
    )
    return first, second


def table(statistics: Statistics, pairs: Mapping[str, Pair]) -> pd.DataFrame:
    """How far the two fits of each pair agree, one row a pair.

    Args:
        statistics: of all tokens, over which the fitted values are compared.
        pairs: slopes of two fits by what they were fitted to.

    Returns:
        Columns `slopes from`, `shared of the top ten` (by size of the slope), `by chance`, `cosine`
        and `correlation of the fits`; see `Statistics.agreement` for the last two.
    """
    by_chance = min(10, statistics.d) / statistics.d
    rows = [
        (label, overlap(*pair, 10), by_chance, *statistics.agreement(*pair))
        for label, pair in pairs.items()
    ]
    columns = ["slopes from", "shared of the top ten", "by chance", "cosine"]
    return pd.DataFrame(rows, columns=[*columns, "correlation of the fits"])
