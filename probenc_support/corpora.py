"""Text to blocks of tokens, and token counts.

Text is tokenised in pieces whose ends depend on the text alone, so that the first tokens of a
corpus are the same, and cost the same, however long it is. `parts` and `exclude` keep text on which
something is chosen apart from text on which it is judged, by document.
"""

import bisect
import hashlib
import itertools
import json
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probenc_support.built_in_texts import fingerprint
from probenc_support.errors import InputError
from probenc_support.texts import built_in, divisions, documents, label, stream, text

__all__ = [
    "COUNT_LIMIT",
    "TokenBlocks",
    "apart_from",
    "blocks",
    "built_in",
    "check_apart",
    "documents",
    "encode",
    "encode_documents",
    "fingerprints",
    "from_ids",
    "label",
    "parts",
    "stream",
    "text",
    "token_counts",
]

COUNT_LIMIT = 10**8
"""Tokens after which counting stops: a data set of the hub may be longer than one can wait."""

_PIECES = (2**17, 2**18, 2**19, 2**20)
"""Characters of the first pieces that are tokenised at once; the last is that of all others."""

_TELLING = 40
"""Characters from which a paragraph that two documents share tells that they share text."""

_SAME = 0.75
"""Share of a document that must be left when shared paragraphs are taken out; else it counts as
the same document."""


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """A corpus as the model reads it: consecutive blocks of tokens, no special tokens."""

    ids: Tensor
    """[n_blocks, sequence_length] int64 token ids."""
    corpus: str
    """What it is called on a page: see `label`."""
    hash: str
    """SHA-256 of the ids."""
    sources: frozenset[int] | None = None
    """Fingerprints of all documents that the blocks touch, to their ends; None: not known."""
    n_left_out: int = 0
    """Documents that were passed over, since they share text with what was excluded."""
    documents: Tensor | None = None
    """[n_blocks, sequence_length] int64: which document each token lies in, never decreasing;
    None: not known."""

    @property
    def n_documents(self) -> int | None:
        """Documents that the blocks touch; None: not known."""
        return None if self.documents is None else len(self.documents.unique())

    @property
    def n_positions(self) -> int:
        """Tokens in all blocks."""
        return self.ids.numel()

    def select(self, start: int, stop: int | None = None) -> "TokenBlocks":
        """Blocks `start` to `stop`, as a corpus of their own."""
        name = f"{self.corpus}[{start}:{stop or ''}]"
        documents = None if self.documents is None else self.documents[start:stop]
        return from_ids(
            self.ids[start:stop], corpus=name, sources=self.sources, documents=documents
        )


def from_ids(
    ids: Tensor,
    *,
    corpus: str,
    sources: frozenset[int] | None = None,
    n_left_out: int = 0,
    documents: Tensor | None = None,
) -> TokenBlocks:
    """Token blocks of given ids [n_blocks, sequence_length]; the rest as in `TokenBlocks`."""
    ids = ids.to(torch.int64).contiguous()
    digest = hashlib.sha256(ids.numpy().tobytes()).hexdigest()
    return TokenBlocks(ids, corpus, digest, sources, n_left_out, documents)


# ------------------------------------------------------------------------------------------- tokens


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that is nothing but text: no special token comes out of it.

    What reads like a special token, such as a literal `<|endoftext|>`, is tokenised as the
    characters that it consists of. Tokens that were added to a vocabulary and are not special, such
    as runs of spaces, are used. The tokenizer is left as it was.
    """
    return _encoded(tokenizer, text)[0]


def _encoded(
    tokenizer: PreTrainedTokenizerBase, text: str, *, ends: bool = False
) -> tuple[list[int], list[int] | None]:
    """Token ids of a text, and the character at which each token ends.

    The ends are None where they were not asked for, or where a tokenizer in Python cannot tell.
    """
    has_backend = getattr(tokenizer, "backend_tokenizer", None) is not None
    ends = ends and has_backend
    options = {"add_special_tokens": False, "verbose": False, "return_offsets_mapping": ends}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if has_backend and _names_a_special_token(tokenizer, text):
            plain = _without_special_tokens(
                tokenizer.backend_tokenizer.to_str(), frozenset(_special_tokens(tokenizer))
            )
            found = plain.encode(text, add_special_tokens=False)
            ids, offsets = found.ids, found.offsets if ends else None
        else:
            if _names_a_special_token(tokenizer, text):
                options["split_special_tokens"] = True
            tokens = tokenizer(text, **options)
            ids, offsets = tokens["input_ids"], tokens["offset_mapping"] if ends else None
    return list(ids), None if offsets is None else [end for _, end in offsets]


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def _names_a_special_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return any(token.strip().casefold() in folded for token in _special_tokens(tokenizer))


@lru_cache(maxsize=2)
def _without_special_tokens(serialised: str, special: frozenset[str]) -> Tokenizer:
    """A copy of a tokenizer whose special tokens have names that occur in no text.

    To split them (`split_special_tokens`) is not enough where the model itself knows them as
    pieces, as a unigram model does.
    """
    made = json.loads(serialised)
    unreachable = {token: f"\0{token}" for token in special}
    for token in made["added_tokens"]:
        token["content"] = unreachable.get(token["content"], token["content"])
    model = made["model"]
    if isinstance(model["vocab"], list):
        model["vocab"] = [[unreachable.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {unreachable.get(p, p): i for p, i in model["vocab"].items()}
    if model.get("unk_token"):
        model["unk_token"] = unreachable.get(model["unk_token"], model["unk_token"])
    made |= {"post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(made))


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]
) -> Iterator[NDArray[np.int64]]:
    """Token ids of documents that follow one another (see `stream`), piece by piece."""
    for piece in _pieces(documents):
        yield np.asarray(encode(tokenizer, "".join(piece)), dtype=np.int64)


def _pieces(documents: Iterable[str]) -> Iterator[list[str]]:
    """Runs of whole documents: the first of 131,072 characters, later ones of up to a million.

    The sizes are fixed, so that the first tokens of a text do not depend on how many are wanted.
    """
    sizes = itertools.chain(_PIECES, itertools.repeat(_PIECES[-1]))
    held: list[str] = []
    length, size = 0, next(sizes)
    for document in documents:
        held.append(document)
        length += len(document)
        if length >= size:
            yield held
            held, length, size = [], 0, next(sizes)
    if held:
        yield held


# ---------------------------------------------------------------------------------- text kept apart


def fingerprints(document: str) -> frozenset[int]:
    """What tells a document: 64-bit hashes of it and of its paragraphs of 40 characters or more.

    White space does not count. A document that is one paragraph counts by its lines.
    """
    telling = filter(_is_telling, divisions(document))
    return frozenset(map(fingerprint, [document, *telling]))


def _is_telling(paragraph: str) -> bool:
    return len(" ".join(paragraph.split())) >= _TELLING


def check_apart(*several: TokenBlocks) -> None:
    """Asserts that no document or paragraph lies in two of some token blocks.

    Raises:
        InputError: two share text, or the text of one is not known.
    """
    for one, other in itertools.combinations(several, 2):
        if one.sources is None or other.sources is None:
            unknown = one if one.sources is None else other
            raise InputError(
                f"Of {unknown.corpus} only tokens are known, so whether it is text of its own "
                "cannot be told: make it by corpora.blocks or corpora.parts."
            )
        if one.sources & other.sources:
            raise InputError(
                f"{one.corpus} and {other.corpus} share text, so what is chosen on one cannot be "
                "judged on the other: make them by corpora.parts, or exclude one from the other."
            )


def _avoided(exclude: Iterable[TokenBlocks | Set[int]]) -> Set[int]:
    found: set[int] = set()
    for other in exclude:
        sources = other.sources if isinstance(other, TokenBlocks) else other
        if sources is None:
            raise InputError(
                f"Of {getattr(other, 'corpus', 'a corpus')} only tokens are known, so its text "
                "cannot be left out: make it by corpora.blocks."
            )
        found |= sources
    return found


def apart_from(avoided: Set[int], documents: Iterable[str]) -> Iterator[str]:
    """Documents, with nothing in place of those that share text with what is to be avoided.

    Of a document that shares less than a quarter of its text, only those paragraphs are taken out.

    Args:
        avoided: fingerprints.
    """
    left_out = kept = False
    for document in documents:
        rest = _apart(avoided, document) if avoided else document
        yield rest if kept or not left_out else rest.lstrip()
        kept |= bool(rest)
        left_out |= not rest


def _apart(avoided: Set[int], document: str) -> str:
    """A document without the paragraphs that are to be avoided.

    Where these are more than a quarter of it, it counts as the same document and nothing is left;
    where they are less, they are what many documents share, such as a licence.
    """
    if not document.strip() or not fingerprints(document) & avoided:
        return document
    if fingerprint(document) in avoided:
        return ""
    kept = [p for p in divisions(document) if not _is_telling(p) or fingerprint(p) not in avoided]
    rest = "".join(kept)
    return rest if len(rest) >= _SAME * len(document) else ""


# ------------------------------------------------------------------------------------------- blocks


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
    found = _first_tokens(corpus, tokenizer, wanted, _avoided(exclude))
    beside = (
        f" beside the {found.n_left_out} documents that are left out, as they share text with what "
        "is used already"
        if found.n_left_out
        else ""
    )
    if not len(found.ids):
        raise InputError(f"The corpus {corpus} holds no text{beside}; name one that does.")
    if len(found.ids) < sequence_length:
        raise InputError(
            f"The corpus {corpus} has {len(found.ids)} tokens{beside}, too few for one block of "
            f"{sequence_length}; give a longer text or a smaller sequence_length."
        )
    return found.blocks(sequence_length, label(corpus))


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
    for piece in _pieces(apart_from(avoided, stream(corpus))):
        found, document = _encode_piece(tokenizer, piece)
        documents.append(n_read + document[: wanted - count])
        n_read += len(piece)
        if count + len(found) > wanted:
            piece = piece[: _n_touched(tokenizer, piece, wanted - count)]
        sources.update(*map(fingerprints, filter(str.strip, piece)))
        n_left_out += piece.count("")
        ids.append(found[: wanted - count])
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
    ids, ends = _encoded(tokenizer, "".join(piece), ends=True)
    if ends is None:
        lengths = [len(encode(tokenizer, document)) for document in piece]
        ends, limits = list(range(1, len(ids) + 1)), np.cumsum(lengths)
    else:
        limits = np.cumsum([len(document) for document in piece])
    # A byte of a character ends where the character does, and a token of nothing where it stands.
    document = np.searchsorted(limits, np.maximum.accumulate(ends), side="left")
    return np.asarray(ids, dtype=np.int64), np.minimum(document, len(piece) - 1)


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
        found = _consecutive(corpus, tokenizer, counts, sequence_length, context_length, given)
        if [len(part.ids) for part in found] == counts:
            return found
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
    found: list[TokenBlocks] = []
    for count in counts:
        wanted = count * sequence_length
        sizes = {"n_positions": wanted, "sequence_length": sequence_length}
        if not found:
            first = blocks(
                corpus, tokenizer, **sizes, context_length=context_length, exclude=exclude
            )
            found.append(first)
            continue
        avoided = _avoided([*exclude, *found])
        tokens = _first_tokens(corpus, tokenizer, wanted, avoided)
        if len(tokens.ids) < sequence_length:
            break
        name = f"{label(corpus)}, part {len(found) + 1}"
        found.append(tokens.blocks(sequence_length, name))
    return found


# ------------------------------------------------------------------------------------------- counts


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
        found = np.bincount(ids[:left], minlength=n_rows)
        if len(found) > n_rows:
            raise InputError(
                f"The tokenizer makes a token {len(found) - 1} of the corpus {corpus}, and the "
                f"model has {n_rows} rows: it is the tokenizer of another model."
            )
        counts += found
        left -= len(ids[:left])
        if not left:
            break
    if left == limit:
        raise InputError(f"The corpus {corpus} holds no text; name one that does.")
    return counts
