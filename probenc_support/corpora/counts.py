"""How often each token occurs in a corpus."""

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from probenc_support.corpora.encoding import encode_documents
from probenc_support.corpora.texts import stream
from probenc_support.errors import InputError

COUNT_LIMIT = 10**8
"""Tokens after which counting stops: a data set of the hub may be longer than one can wait."""


def token_counts(
    corpus: str, tokenizer: PreTrainedTokenizerBase, n_rows: int, *, limit: int = COUNT_LIMIT
) -> NDArray[np.int64]:
    """How often each token occurs in a corpus: [n_rows] int64, indexed by token id.

    Args:
        n_rows: V, rows of the output embedding.
        limit: tokens after which counting stops; where the sum is the limit, it did.

    Raises:
        InputError: no such corpus, no text, or a tokenizer with more tokens than rows.
    """
    counts = np.zeros(n_rows, dtype=np.int64)
    left = limit
    for ids in encode_documents(tokenizer, stream(corpus)):
        occurrences = np.bincount(ids[:left], minlength=n_rows)
        if len(occurrences) > n_rows:
            raise InputError(
                f"The tokenizer makes a token {len(occurrences) - 1} of the corpus {corpus}, and "
                f"the model has {n_rows} rows: it is the tokenizer of another model."
            )
        counts += occurrences
        left -= len(ids[:left])
        if not left:
            break
    if left == limit:
        raise InputError(f"The corpus {corpus} holds no text; name one that does.")
    return counts
