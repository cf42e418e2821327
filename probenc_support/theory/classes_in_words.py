"""What classes of context are, in words: the tokens around their positions."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.inference import kept_places
from probenc_support.models import LanguageModel
from probenc_support.precision import wide
from probenc_support.theory.context_classes import ContextClasses


def texts_of(lm: LanguageModel, ids: Tensor) -> list[str]:
    """[n] readable texts of token ids [n]; empty where an id is -1, which stands for no token."""
    return [lm.token_text(i) if i >= 0 else "" for i in ids.tolist()]


def tokens_before(lm: LanguageModel, ids: Tensor, positions: str = "all") -> Tensor:
    """[m] ids of the token before the one that is predicted, at each position that a pass keeps by
    default, see `inference.kept_places`; -1 where there is none. A causal model has read it last.

    Args:
        ids: [B, T] blocks of the text; positions: as of the pass, `all` or `last`.
    """
    before = lm.kind.preceding(ids)
    before = (before[:, -1:] if positions == "last" else before).flatten()
    return before[kept_places(len(before))]


def in_words(
    classes: ContextClasses,
    head: Head,
    log_a: Tensor,
    *,
    before: Sequence[str],
    after: Sequence[str],
    texts: Sequence[str],
    n_classes: int = 6,
    n_tokens: int = 6,
) -> pd.DataFrame:
    """The largest classes: the tokens around their positions, and those that they raise.

    A class raises a token by p log(p / a), with p its probability at the mean hidden state of the
    class. This is the token's term in the Kullback-Leibler divergence of that distribution from the
    average one.

    Args:
        head: of the n tokens that `texts` names; log_a: [n].
        before: [N] text of the token at each position, the last that the model has read.
        after: [N] text of the token that comes next; empty where none does.
        texts: [n] text of each token.

    Returns:
        One row a class, largest first: share, last read, comes next, raised most.
    """
    # The class's weights are the same for all tokens, so that they cancel in the softmax.
    log_p = torch.log_softmax(classes.log_joint(head), dim=0)
    raised = log_p.exp() * (log_p - wide(log_a)[:, None].to(log_p.device))
    label = classes.label.tolist()
    rows = []
    for k in classes.shares.argsort(descending=True)[:n_classes].tolist():
        inside = [i for i, own in enumerate(label) if own == k]
        top = raised[:, k].topk(min(n_tokens, len(texts))).indices.tolist()
        rows.append(
            {
                "share": float(classes.shares[k]),
                "last read": _most_frequent([before[i] for i in inside], n_tokens),
                "comes next": _most_frequent([after[i] for i in inside if after[i]], n_tokens),
                "raised most": _listed([texts[i] for i in top]),
            }
        )
    return pd.DataFrame(rows)


def _most_frequent(texts: Sequence[str], n: int) -> str:
    return _listed([text for text, _ in Counter(texts).most_common(n)])


def _listed(texts: Sequence[str]) -> str:
    return "  ".join(repr(text) for text in texts)
