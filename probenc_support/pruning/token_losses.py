"""Which tokens a pruned head serves worse: its loss by frequency and kind of the next token."""

import itertools
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from probenc_support.models import LanguageModel

_EDGES = (100, 1000, 10000)
"""Ranks of the tokens' average probability at which classes end."""


def rank_classes(log_a: Tensor, tokens: Tensor) -> pd.Categorical:
    """The class of each of some tokens [n] by the rank of its average probability, 1 the likeliest.

    log_a: [V] log of the average probabilities.
    """
    V = len(log_a)
    rank = torch.empty(V, dtype=torch.int64)
    rank[log_a.argsort(descending=True)] = torch.arange(V)
    edges = [0, *(edge for edge in _EDGES if edge < V), V]
    names = [f"rank {low + 1:,} to {high:,}" for low, high in itertools.pairwise(edges)]
    return pd.cut(rank[tokens].numpy(), edges, labels=names, right=False)


def loss_by_class(
    lm: LanguageModel, log_a: Tensor, targets: Tensor, increase: Mapping[str, Tensor]
) -> pd.DataFrame:
    """Mean increase of the loss by class of the token that really comes next, and by its kind.

    Args:
        log_a: [V] log of the average probabilities.
        targets: [N] int64 next tokens, -1 where there is none.
        increase: for each method, [N] loss of the next token above the intact head's, nats.

    Returns:
        A row a class with `next token`, `positions`, and a column for each method; the classes of
        frequency come first.
    """
    known = targets >= 0
    tokens = targets[known]
    losses = pd.DataFrame({method: values[known].numpy() for method, values in increase.items()})
    rows = []
    for classes in (rank_classes(log_a, tokens), [lm.token_kind(int(t)) for t in tokens]):
        grouped = losses.groupby(pd.Series(classes, name="next token"), observed=True)
        means = grouped.mean()
        means.insert(0, "positions", grouped.size())
        rows.append(means.reset_index().astype({"next token": str}))
    return pd.concat(rows, ignore_index=True)
