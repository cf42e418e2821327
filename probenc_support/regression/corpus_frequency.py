"""How often each token occurs in a corpus, by groups of whole documents, and its fit on E.

A model can have learnt the frequency of tokens in text from its training alone: neither the rows
nor the average probabilities of an untrained network are related to it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from probenc_support import corpora
from probenc_support.errors import InputError
from probenc_support.regression.arrays import Array, Matrix
from probenc_support.regression.bootstrap import draws_of_groups
from probenc_support.regression.fits import Interval
from probenc_support.regression.linear_fit import Design

SMOOTHING = 0.5
"""Occurrences added to every token, so that none has frequency zero (Jeffreys' prior)."""


@dataclass(frozen=True)
class GroupCounts:
    """Counts of tokens in groups of whole documents."""

    counts: NDArray[np.int64]
    """[G, V] by group and token id."""

    @property
    def total(self) -> int:
        """Tokens that were counted."""
        return int(self.counts.sum())

    def whole(self, tokens: Matrix) -> Array:
        """[n] -log of the smoothed frequency of tokens [n] in all groups together, nats."""
        once = np.ones((1, len(self.counts)), dtype=np.int64)
        return self.minus_log_frequency(once, tokens)[:, 0]

    def minus_log_frequency(self, draws: NDArray[np.int64], tokens: Matrix) -> Array:
        """-log of the smoothed frequency, for draws of groups.

        Args:
            draws: [B, G] how often each group counts in each draw.
            tokens: [n] ids of the tokens that share the probability.

        Returns:
            [n, B] nats.
        """
        # Floats hold counts exactly, and their product is a fast one.
        counts = self.counts[:, np.asarray(tokens)].astype(np.float64)
        smoothed = (draws.astype(np.float64) @ counts).T + SMOOTHING
        return np.asarray(np.log(smoothed.sum(axis=0)) - np.log(smoothed), dtype=np.float64)


def counted(
    corpus: str,
    tokenizer: PreTrainedTokenizerBase,
    n_rows: int,
    *,
    characters: int = 2_000_000,
    n_groups: int = 64,
) -> GroupCounts:
    """Counts of tokens in the first documents of a corpus.

    Args:
        n_rows: V, rows of the output embedding.
        characters: about how much text is counted, rounded to whole documents.
        n_groups: about how many groups are counted separately, each of consecutive documents and
            of about the same length.

    Raises:
        InputError: no such corpus, no text, or a tokenizer with more tokens than rows.
    """
    rows = []
    for text in _groups(corpora.stream(corpus), characters, n_groups):
        counts = np.bincount(corpora.encode(tokenizer, text), minlength=n_rows)
        if len(counts) > n_rows:
            raise InputError(
                f"The tokenizer makes a token {len(counts) - 1} of the corpus {corpus}, and the "
                f"model has {n_rows} rows: it is the tokenizer of another model."
            )
        rows.append(counts)
    if not rows:
        raise InputError(f"The corpus {corpus} holds no text; name one that does.")
    return GroupCounts(np.stack(rows))


def _groups(documents: Iterable[str], characters: int, n_groups: int) -> Iterator[str]:
    """Texts of up to `n_groups` runs of documents, of about equal length, `characters` in all."""
    read, seen = [], 0
    for document in documents:
        read.append(document)
        seen += len(document)
        if seen >= characters:
            break
    held: list[str] = []
    size = 0
    for document in read:
        held.append(document)
        size += len(document)
        if size * n_groups >= seen:
            yield "".join(held)
            held, size = [], 0
    if size:
        yield "".join(held)


def r2_log_frequency(
    design: Design,
    in_text: GroupCounts,
    tokens: Matrix,
    *,
    n_replicates: int = 200,
    seed: int = 0,
) -> Interval:
    """Adjusted R^2 of -log frequency on E, with its interval over draws of documents.

    Args:
        design: of the rows of E that belong to `tokens` [n].
        in_text: of the text; if it is one group only, the ends of the interval are NaN.
        n_replicates: how many draws; seed: of the draws.
    """
    G = len(in_text.counts)
    if G < 2:
        return Interval.unknown(design.fit(in_text.whole(tokens)).r2_adj)
    draws = np.concatenate(
        [np.ones((1, G), dtype=np.int64), draws_of_groups(G, n_replicates, seed=seed)]
    )
    r2_adj = design.fit_many(in_text.minus_log_frequency(draws, tokens)).r2_adj
    return Interval.of(float(r2_adj[0]), r2_adj[1:])
