"""Text to token ids: without special tokens, and document by document in parallel."""

import itertools
import json
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerBase

_PIECES = (2**17, 2**18, 2**19, 2**20)
"""Characters of the first pieces, between which no token lies; the last is that of all others."""


_WINDOW = 2**17
"""Characters of a piece that a tokenizer reads at once, besides `_BESIDE` on either side."""


_BESIDE = 2**12
"""Of so many two windows share half of their tokens, on either side of where they meet."""


class Encoded(NamedTuple):
    """Tokens of a text."""

    ids: NDArray[np.int64]
    """[n] token ids."""
    ends: NDArray[np.int64] | None
    """[n] the character at which each token ends, never decreasing: a byte of a character ends
    where the character does, and a token of nothing where it stands. None where a tokenizer in
    Python cannot tell."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that is nothing but text: no special token comes out of it.

    What reads like a special token, such as a literal `<|endoftext|>`, is tokenised as the
    characters that it consists of. Tokens that were added to a vocabulary and are not special, such
    as runs of spaces, are used. The tokenizer is left as it was.
    """
    ids: list[int] = encoded(tokenizer, text).ids.tolist()
    return ids


def encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Token ids of a text, see `encode`, with the character at which each token ends.

    A tokenizer takes about 170 bytes of memory for each character that it reads at once. So a long
    text is read in windows, unless these would give other tokens.
    """
    read = _reader(tokenizer, text)
    if len(text) > _WINDOW + _BESIDE and _reads_locally(tokenizer):
        joined = _in_windows(read, text)
        if joined is not None:
            return joined
    return read(text)


def _reader(tokenizer: PreTrainedTokenizerBase, text: str) -> Callable[[str], Encoded]:
    """What tokenises any part of a text, and nothing in it as a special token."""
    named = _names_a_special_token(tokenizer, text)
    has_backend = getattr(tokenizer, "backend_tokenizer", None) is not None
    if has_backend and named:
        plain = _without_special_tokens(
            tokenizer.backend_tokenizer.to_str(), frozenset(_special_tokens(tokenizer))
        )
        return lambda part: _read_by_backend(plain, part)
    options = {"add_special_tokens": False, "verbose": False, "return_offsets_mapping": has_backend}
    if named:
        options["split_special_tokens"] = True
    return lambda part: _read(tokenizer, part, options)


def _read(tokenizer: PreTrainedTokenizerBase, text: str, options: dict[str, bool]) -> Encoded:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokens = tokenizer(text, **options)
    return _of_lists(tokens["input_ids"], tokens.get("offset_mapping"))


def _read_by_backend(backend: Tokenizer, text: str) -> Encoded:
    encoding = backend.encode(text, add_special_tokens=False)
    return _of_lists(encoding.ids, encoding.offsets)


def _of_lists(ids: list[int], offsets: list[tuple[int, int]] | None) -> Encoded:
    if offsets is None:
        return Encoded(np.asarray(ids, dtype=np.int64), None)
    ends = np.fromiter((end for _, end in offsets), dtype=np.int64, count=len(ids))
    return Encoded(np.asarray(ids, dtype=np.int64), np.maximum.accumulate(ends))


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = tokenizer.added_tokens_decoder.values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def _names_a_special_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    folded = unicodedata.normalize("NFKC", text).casefold()
    by_beginning = _by_beginning(frozenset(_special_tokens(tokenizer)))
    return any(
        token in folded
        for beginning, tokens in by_beginning.items()
        if beginning in folded
        for token in tokens
    )


@lru_cache(maxsize=4)
def _by_beginning(special: frozenset[str]) -> dict[str, list[str]]:
    """Special tokens as they are sought, by their first characters: some tokenizers have thousands,
    such as `<unused17>`, and the text is searched for what they have in common first."""
    found: dict[str, list[str]] = {}
    for token in sorted({token.strip().casefold() for token in special}):
        found.setdefault(token[:4], []).append(token)
    return found


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


# ----------------------------------------------------------------------------------------- windows


def _reads_locally(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether tokens depend on nothing but the text near them, and their ends are known.

    A unigram model adds up scores from the beginning of what it reads, and how the sum is rounded
    decides between two equal divisions of a run such as `-----`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and not isinstance(backend.model, Unigram)


def _in_windows(read: Callable[[str], Encoded], text: str) -> Encoded | None:
    """Tokens of a text that is read in windows, each with some of the text before and after it.

    None where two windows do not agree on the tokens around the place at which they meet, as
    within a long run of one character.
    """
    starts = range(0, len(text) - _BESIDE, _WINDOW)
    parts: list[NDArray[np.int64]] = []
    before: NDArray[np.int64] | None = None
    for start in starts:
        first = max(0, start - _BESIDE)
        ids, ends = read(text[first : start + _WINDOW + _BESIDE])
        assert ends is not None
        here = np.stack([ids, ends + first])
        if before is not None and not _agree_around(start, before, here):
            return None
        stop = len(text) if start == starts[-1] else start + _WINDOW
        parts.append(_ending_within(here, start if start else -1, stop))
        before = here
    return Encoded(*np.concatenate(parts, axis=1))


def _agree_around(place: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Whether the tokens [2, n] of two windows, ids and ends, are the same around a character."""
    mine, theirs = (
        _ending_within(tokens, place - _BESIDE // 2, place + _BESIDE // 2)
        for tokens in (one, other)
    )
    return mine.size > 0 and np.array_equal(mine, theirs)


def _ending_within(tokens: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    """Those of tokens [2, n], ids and ends, that end after one character and not after another."""
    first, last = np.searchsorted(tokens[1], [low, high], side="right")
    return tokens[:, first:last]


# --------------------------------------------------------------------------------------- documents


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]
) -> Iterator[NDArray[np.int64]]:
    """Token ids of documents that follow one another (see `stream`), piece by piece."""
    for piece in pieces(documents):
        yield encoded(tokenizer, "".join(piece)).ids


def pieces(documents: Iterable[str]) -> Iterator[list[str]]:
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
