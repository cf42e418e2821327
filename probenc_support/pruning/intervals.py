"""What pruning costs, with intervals: documents are drawn, since positions of one text depend.

Where a method has a random part (the order in which dimensions go), its draws are rows of values
[R, N], and rows are drawn as well: the interval then covers other documents and other luck.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.pruning.divergence import Divergences
from probenc_support.regression import Interval, draws_with_replacement
from probenc_support.regression.arrays import Array


def mean_interval(
    values: Tensor, group: Tensor, *, n_replicates: int = 1000, seed: int = 0
) -> Interval:
    """Mean of values [N] or [R, N] with its interval over draws of documents (and of rows).

    Values that are NaN are left out. group: [N] document of each position.

    Raises:
        InputError: no value is known.
    """
    known = (~torch.isnan(values)).double()
    if not bool(known.any()):
        raise InputError("No value is known, so there is no mean.")
    return ratio_interval(
        values.double().nan_to_num(), known, group, n_replicates=n_replicates, seed=seed, same=True
    )


def ratio_interval(
    top: Tensor,
    bottom: Tensor,
    group: Tensor,
    *,
    n_replicates: int = 1000,
    seed: int = 0,
    same: bool = False,
) -> Interval:
    """Mean of one cost over the mean of another, paired: both see the same documents in each draw.

    Args:
        top: [N] or [R, N] values, each row for instance one random order.
        bottom: [N] or [R', N] values of a mean other than zero.
        group: [N] document of each position.
        same: whether the rows of both are the same draws, to be drawn together.
    """
    index = torch.unique(group, return_inverse=True)[1].numpy()
    above, below = _sums(top, index), _sums(bottom, index)
    told = (below != 0).any(axis=0)
    above, below = above[:, told], below[:, told]
    documents = _draws(above.shape[1], n_replicates, seed=seed)
    rows = _draws(len(above), n_replicates, seed=seed + 1) / len(above)
    others = rows if same else _draws(len(below), n_replicates, seed=seed + 2) / len(below)
    replicates = _weighted(rows, above, documents) / _weighted(others, below, documents)
    estimate = above.mean(axis=0).sum() / below.mean(axis=0).sum()
    return Interval.of(float(estimate), replicates)


def _sums(values: Tensor, index: NDArray[np.int64]) -> Array:
    """[R, G] sums of each row of values over each document."""
    rows = values.double().reshape(-1, values.shape[-1]).numpy()
    return np.stack([np.bincount(index, weights=row) for row in rows])


_draws = lru_cache(maxsize=16)(draws_with_replacement)


def _weighted(rows: Array, sums: Array, documents: NDArray[np.int64]) -> Array:
    return np.asarray(((rows @ sums) * documents).sum(axis=1))


def table(
    swept: Divergences | Sequence[Divergences], shares: Sequence[float], group: Tensor
) -> pd.DataFrame:
    """One row a level: means over positions, with 95 % intervals over documents (`_low`, `_high`).

    Columns besides `share`: `kl`, `js`, `nll_increase` in nats, `top1` from 0 to 1, and
    `perplexity_ratio` of the pruned head to the intact one.

    Args:
        swept: one sweep, or one for each random order, which are then averaged and drawn too.
        shares: [L] share of dimensions removed at each level.
        group: [N] document of each position.
    """
    several = [swept] if isinstance(swept, Divergences) else list(swept)
    rows = []
    for level, share in enumerate(shares):
        row: dict[str, float] = {"share": share}
        for name in ("kl", "js", "top1", "nll_increase"):
            values = torch.stack([_values(one, name, level) for one in several])
            interval = mean_interval(values, group)
            row |= {name: interval.estimate}
            row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        for end in ("", "_low", "_high"):
            row[f"perplexity_ratio{end}"] = math.exp(row[f"nll_increase{end}"])
        rows.append(row)
    return pd.DataFrame(rows)


def _values(swept: Divergences, name: str, level: int) -> Tensor:
    """[N] float64 of one column at one level."""
    values: Tensor = swept.same_top if name == "top1" else getattr(swept, name)
    return values[level].double()


def halves_ratio(nll: Tensor, group: Tensor, *, n_splits: int = 1000, seed: int = 0) -> float:
    """Median factor, at least 1, between the perplexities of two random halves of the documents.

    What a change of the text alone does: a yardstick for the perplexity of a changed model.
    nll: [N] loss of the next token in nats, NaN where there is none; group: [N].

    Raises:
        InputError: there are fewer than two documents with a known loss.
    """
    known = ~torch.isnan(nll)
    index = torch.unique(group[known], return_inverse=True)[1].numpy()
    sums, counts = np.bincount(index, weights=nll[known].double().numpy()), np.bincount(index)
    if len(sums) < 2:
        raise InputError("Two halves of a text need at least two documents.")
    rng = np.random.default_rng(seed)
    half = rng.permuted(np.tile(np.arange(len(sums)) % 2 == 0, (n_splits, 1)), axis=1)
    gap = (half @ sums) / (half @ counts) - (~half @ sums) / (~half @ counts)
    return float(np.exp(np.median(np.abs(gap))))
