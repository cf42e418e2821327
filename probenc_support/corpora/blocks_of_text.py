"""From a corpus to blocks of tokens: as many as are asked for, apart from other text if need be."""

import bisect
import itertools
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probenc_support.corpora.apart import apart_from, fingerprints, to_avoid
from probenc_support.corpora.encoding import encode, encoded, pieces
from probenc_support.corpora.texts import label, stream
from probenc_support.corpora.token_blocks import TokenBlocks, from_ids
from probenc_support.errors import InputError


def blocks(
    corpus: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_positions: int = 16384,
    sequence_length: int = 256,
    context_length: int | None = None,
    exclude: Iterable[TokenBlocks | Set[int]] = (),
) -> TokenBlocks:
    """The first `n_positions / sequence_length` blocks of a corpus.

    Args:
        context_length: the model's; a longer `sequence_length` is refused.
        exclude: other blocks, or fingerprints. Documents that share more than a quarter of their
            text with them are passed over, and single paragraphs taken out of others.

    Raises:
        InputError: no such corpus, no text, too short for one block, or impossible sizes.
    """
    _check_sizes(n_positions, sequence_length, context_length)
    wanted = n_positions // sequence_length * sequence_length
    tokens = _first_tokens(corpus, tokenizer, wanted, to_avoid(exclude))
    beside = (
        f" besides the {tokens.n_left_out} documents that are left out because they share text "
        "with what is used already"
        if tokens.n_left_out
        else ""
    )
    if not len(tokens.ids):
        raise InputError(f"The corpus {corpus} holds no text{beside}; name one that does.")
    if len(tokens.ids) < sequence_length:
        raise InputError(
            f"The corpus {corpus} has {len(tokens.ids)} tokens{beside}, too few for one block of "
            f"{sequence_length}; give a longer text or a smaller sequence_length."
        )
    return tokens.blocks(sequence_length, label(corpus))


def _shaped(ids: NDArray[np.int64], sequence_length: int) -> Tensor:
    count = len(ids) // sequence_length
    return torch.from_numpy(ids[: count * sequence_length].reshape(count, sequence_length))


def _check_sizes(n_positions: int, sequence_length: int, context_length: int | None) -> None:
    if sequence_length < 2 or n_positions < sequence_length:
        raise InputError(
            f"n_positions ({n_positions}) must be at least sequence_length ({sequence_length}), "
            "which must be at least 2."
        )
    if context_length is not None and sequence_length > context_length:
        raise InputError(
            f"sequence_length {sequence_length} is longer than the model's context of "
            f"{context_length}; give {context_length} or less."
        )


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The first tokens of a corpus, and where they come from."""

    ids: NDArray[np.int64]
    documents: NDArray[np.int64]
    sources: frozenset[int]
    n_left_out: int

    def blocks(self, sequence_length: int, name: str) -> TokenBlocks:
        """As blocks; tokens that do not fill the last one are dropped."""
        return from_ids(
            _shaped(self.ids, sequence_length),
            corpus=name,
            sources=self.sources,
            n_left_out=self.n_left_out,
            documents=_shaped(self.documents, sequence_length),
        )


def _first_tokens(
    corpus: str, tokenizer: PreTrainedTokenizerBase, wanted: int, avoided: Set[int]
) -> _Tokens:
    """The first tokens of a corpus, as many as wanted or as there are."""
    ids, documents = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    sources: set[int] = set()
    count = n_left_out = n_read = 0
    for piece in pieces(apart_from(avoided, stream(corpus))):
        new, document = _encode_piece(tokenizer, piece)
        documents.append(n_read + document[: wanted - count])
        n_read += len(piece)
        if count + len(new) > wanted:
            piece = piece[: _n_touched(tokenizer, piece, wanted - count)]
        sources.update(*map(fingerprints, filter(str.strip, piece)))
        n_left_out += piece.count("")
        ids.append(new[: wanted - count])
        count += len(ids[-1])
        if count >= wanted:
            break
    return _Tokens(np.concatenate(ids), np.concatenate(documents), frozenset(sources), n_left_out)


def _encode_piece(
    tokenizer: PreTrainedTokenizerBase, piece: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids of documents that follow one another, and the number of each token's document.

    A token across two documents counts as the second one's. Where the tokenizer does not tell
    where its tokens end, documents are tokenised one by one, which may be off by a token.
    """
    ids, ends = encoded(tokenizer, "".join(piece))
    if ends is None:
        lengths = [len(encode(tokenizer, document)) for document in piece]
        ends, limits = np.arange(1, len(ids) + 1), np.cumsum(lengths)
    else:
        limits = np.cumsum([len(document) for document in piece])
    document = np.searchsorted(limits, ends, side="left")
    return ids, np.minimum(document, len(piece) - 1)


def _n_touched(tokenizer: PreTrainedTokenizerBase, piece: list[str], n: int) -> int:
    """How many documents of a piece its first `n` tokens touch.

    A text that is cut off can have a token less at its end than within the piece, so two more
    tokens count as touched: rather a document too many than one too few.
    """
    ends = list(itertools.accumulate(map(len, piece)))
    whole = "".join(piece)
    return 1 + bisect.bisect_left(ends, n + 2, key=lambda end: len(encode(tokenizer, whole[:end])))


def parts(
    corpus: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sizes: Sequence[int],
    sequence_length: int = 256,
    context_length: int | None = None,
    exclude: Iterable[TokenBlocks | Set[int]] = (),
) -> list[TokenBlocks]:
    """Consecutive parts of a corpus that share no document and no paragraph.

    The first part is what `blocks` gives. Where the text is too short for all, the parts become
    smaller in proportion, and each keeps at least one block.

    Args:
        sizes: positions of each part; fewer than one block count as one.
        exclude: see `blocks`; for all parts.

    Raises:
        InputError: see `blocks`; or the corpus cannot be divided into so many parts.
    """
    given = list(exclude)
    share = 1.0
    while True:
        counts = [max(1, int(share * size) // sequence_length) for size in sizes]
        divided = _consecutive(corpus, tokenizer, counts, sequence_length, context_length, given)
        if [len(part.ids) for part in divided] == counts:
            return divided
        if max(counts) == 1:
            raise InputError(
                f"The text of {label(corpus)} is too short for {len(sizes)} parts of different "
                f"documents, each of {sequence_length} tokens or more; give a longer text, or "
                "one file, of which paragraphs count as documents."
            )
        share *= 0.9


def _consecutive(
    corpus: str,
    tokenizer: PreTrainedTokenizerBase,
    counts: Sequence[int],
    sequence_length: int,
    context_length: int | None,
    exclude: Sequence[TokenBlocks | Set[int]],
) -> list[TokenBlocks]:
    """Parts of so many blocks each, as many as the text has."""
    made: list[TokenBlocks] = []
    for count in counts:
        wanted = count * sequence_length
        sizes = {"n_positions": wanted, "sequence_length": sequence_length}
        if not made:
            first = blocks(
                corpus, tokenizer, **sizes, context_length=context_length, exclude=exclude
            )
            made.append(first)
            continue
        others = to_avoid([*exclude, *made])
        tokens = _first_tokens(corpus, tokenizer, wanted, others)
        if len(tokens.ids) < sequence_length:
            break
        name = f"{label(corpus)}, part {len(made) + 1}"
        made.append(tokens.blocks(sequence_length, name))
    return made
