"""What a pruned head loses, in words: after which contexts, before which tokens, and which tokens.

The divergence of a position is a sum over the tokens, KL = sum_w P(w) log (P(w) / Q(w)), so that it
can be divided by position and by token. A token that the pruned head raises has a negative part.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.models import LanguageModel
from probenc_support.pruning import intervals
from probenc_support.pruning.divergence import positions_at_once

_EDGES = (0.1, 0.5, 0.9)
"""Probabilities of the most probable token at which classes of certainty end."""

_LEAST = 10
"""Positions below which a class is not shown."""

Kept = Callable[[Tensor], Tensor]
"""What a pruned head reads in place of hidden states h [n, d]: [n, d]."""


@torch.inference_mode()
def certainty(head: Head, h: Tensor) -> Tensor:
    """[N] probability of the most probable token at each of some positions h [N, d]."""
    parts = h.split(positions_at_once(head.E))
    return torch.cat([head.logits(x.to(head.E)).softmax(dim=1).amax(dim=1).cpu() for x in parts])


def certainty_classes(certainty: Tensor) -> list[str]:
    """[N] in which range each probability [N] lies, in words."""
    names = [f"below {_EDGES[0]}"]
    names += [f"{a} to {b}" for a, b in itertools.pairwise(_EDGES)]
    names += [f"above {_EDGES[-1]}"]
    at = torch.bucketize(certainty.double(), torch.tensor(_EDGES, dtype=torch.float64))
    return [names[i] for i in at.tolist()]


def by_class(kl: Tensor, classes: Mapping[str, Sequence[str]], group: Tensor) -> pd.DataFrame:
    """The mean divergence of positions by classes of several kinds.

    Args:
        kl: [N] divergence at each position, nats.
        classes: by kind, such as `next token`, the class [N] of each position.
        group: [N] document of each position.

    Returns:
        A row a class with ten positions or more: `by` (the kind), `class`, `positions`, `kl` with
        its interval over documents, and `part`, its share of all divergence; by kind, the largest
        mean first.
    """
    rows = []
    for kind, names in classes.items():
        own = pd.Series(list(names))
        for name, at in own.groupby(own).groups.items():
            if len(at) < _LEAST:
                continue
            index = torch.tensor(at.to_numpy())
            mean = intervals.mean_interval(kl[index], group[index])
            part = float(kl[index].sum() / kl.sum())
            row = {"by": kind, "class": name, "positions": len(at), "part": part}
            rows.append(row | mean.metrics("kl"))
    frame = pd.DataFrame(rows)
    place = frame["by"].map({kind: i for i, kind in enumerate(classes)})
    frame = frame.assign(place=place).sort_values(["place", "kl"], ascending=[True, False])
    columns = ["by", "class", "positions", "kl", "kl_low", "kl_high", "part"]
    return frame[columns].reset_index(drop=True)


@torch.inference_mode()
def parts_of_tokens(head: Head, kept: Kept, h: Tensor) -> Tensor:
    """[V] float64 each token's part of the mean divergence, mean_n P_n(w) log (P_n(w) / Q_n(w)).

    They sum to the mean KL over the positions h [N, d]; a negative one is of a token that the
    pruned head gives too much.
    """
    total = torch.zeros(head.V, dtype=torch.float64)
    for x in h.split(positions_at_once(head.E)):
        log_p, log_q = _both(head, kept, x)
        total += (log_p.exp() * (log_p - log_q)).sum(dim=0).double().cpu()
    return total / len(h)


def tokens_lost(lm: LanguageModel, parts: Tensor, n: int = 12) -> pd.DataFrame:
    """The tokens that lose most of their probability, and those that gain most, side by side.

    parts: [V] of `parts_of_tokens`. Columns `lost` and `gained` (texts), each with its `nats`.
    """
    n = min(n, len(lm.tokens))
    own = parts[lm.tokens]
    columns: dict[str, list[object]] = {}
    for name, sign in (("lost", 1), ("gained", -1)):
        top = (sign * own).topk(n)
        ids = lm.tokens[top.indices].tolist()
        columns[name] = [repr(lm.token_text(token)) for token in ids]
        columns[f"{name}, nats"] = (sign * top.values).tolist()
    return pd.DataFrame(columns)


@torch.inference_mode()
def examples(
    lm: LanguageModel,
    kept: Kept,
    h: Tensor,
    *,
    contexts: Sequence[str],
    targets: Tensor,
    n_tokens: int = 3,
) -> pd.DataFrame:
    """What the intact and a pruned head expect at some positions.

    Args:
        kept: of the pruned head.
        h: [n, d] hidden states.
        contexts: [n] the text before each.
        targets: [n] int64 the token that really comes next, -1 where there is none.
        n_tokens: most probable tokens that are shown.

    Returns:
        A row a position: `context`, `comes next`, `KL` in nats, and the most probable tokens with
        their probabilities, `intact` and `pruned`.
    """
    log_p, log_q = (log.cpu() for log in _both(lm.head, kept, h))
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=1)
    return pd.DataFrame(
        {
            "context": list(contexts),
            "comes next": [repr(lm.token_text(t)) if t >= 0 else "" for t in targets.tolist()],
            "KL": kl.tolist(),
            "intact": [_most_probable(lm, row, n_tokens) for row in log_p],
            "pruned": [_most_probable(lm, row, n_tokens) for row in log_q],
        }
    )


def _both(head: Head, kept: Kept, h: Tensor) -> tuple[Tensor, Tensor]:
    """[n, V] log-probabilities of the intact and of the pruned head at h [n, d]."""
    x = h.to(head.E)
    return head.logits(x).log_softmax(dim=1), head.logits(kept(x).to(x)).log_softmax(dim=1)


def _most_probable(lm: LanguageModel, log_p: Tensor, n: int) -> str:
    top = log_p.topk(n)
    pairs = zip(top.indices.tolist(), top.values.exp().tolist(), strict=True)
    return ", ".join(f"{lm.token_text(token)!r} {p:.2f}" for token, p in pairs)


def contexts_of(lm: LanguageModel, ids: Tensor, positions: Tensor, n: int = 12) -> list[str]:
    """The text of the last n tokens that were read at positions [n], numbered through the blocks.

    ids: [B, T] blocks of text; positions: numbered as in a pass, which predicts at the last ones of
    each block where it does not at all of them.
    """
    predicted = lm.kind.n_predicted(ids.shape[1])
    block, place = positions // predicted, positions % predicted + ids.shape[1] - predicted
    return [
        " ".join(str(lm.tokenizer.decode(ids[b, max(0, at - n + 1) : at + 1])).split())
        for b, at in zip(block.tolist(), place.tolist(), strict=True)
    ]
