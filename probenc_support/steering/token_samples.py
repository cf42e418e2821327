"""Which tokens are steered: samples over the ranking by probability, and classes of tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor

from probenc_support.errors import InputError

LIKELY = -10.0
"""log a above which a token counts as likely: once in 22,000 positions."""

CLASSES: Mapping[str, str] = {
    "never_seen": "never seen in the detecting text",
    "seen": "seen there",
    "likely": "likely: a > exp(-10)",
}
"""Classes of tokens; the last two overlap."""


def spread_over_ranks(log_a: Tensor, tokens: Tensor, n: int) -> Tensor:
    """[n] tokens spread evenly over the ranking of `tokens` [m] by log_a [V], likeliest first.

    The ranking is cut into n classes of equal size, and each gives the token whose id has the
    smallest hash. Neighbours in the ranking differ by little, so their order depends on rounding
    and on details of the text; this choice depends only on who is in the class, and hardly changes.
    """
    ranked = tokens[torch.argsort(log_a[tokens], descending=True, stable=True)]
    classes = ranked.tensor_split(min(n, len(ranked)))
    return torch.stack([members[_hashes(members).argmin()] for members in classes])


def _hashes(ids: Tensor) -> Tensor:
    """[n] int64, all different: Knuth's multiplicative hash."""
    return ids * 2_654_435_761 % 2**32


def two_samples(log_a: Tensor, tokens: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Two samples of n tokens, each spread over the ranking, that have none in common.

    What is chosen on the second is judged on the first. The second is smaller where no more are
    left.

    Args:
        log_a: [V] nats; tokens: [m] ids to draw from.

    Raises:
        InputError: the first would take all tokens.
    """
    judged = spread_over_ranks(log_a, tokens, n)
    rest = tokens[~torch.isin(tokens, judged)]
    if not len(rest):
        raise InputError(
            f"n_tokens is {n}, and there are {len(tokens)} tokens: leave some to choose on, "
            "half of them for instance."
        )
    return judged, spread_over_ranks(log_a, rest, n)


def token_classes(log_a: Tensor, counts: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Ids of each of `CLASSES` that has any, out of `tokens` [m].

    Args:
        log_a: [V] of the detecting text, nats.
        counts: [V] how often each token occurs in it.
    """
    seen = counts[tokens] > 0
    members = {
        "never_seen": tokens[~seen],
        "seen": tokens[seen],
        "likely": tokens[log_a[tokens] > LIKELY],
    }
    return {name: ids for name, ids in members.items() if len(ids)}
