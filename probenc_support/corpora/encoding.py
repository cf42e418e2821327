"""Text to token ids: without special tokens, and document by document in parallel."""

import itertools
import json
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

_PIECES = (2**17, 2**18, 2**19, 2**20)
"""Characters of the first pieces that are tokenised at once; the last is that of all others."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that is nothing but text: no special token comes out of it.

    What reads like a special token, such as a literal `<|endoftext|>`, is tokenised as the
    characters that it consists of. Tokens that were added to a vocabulary and are not special, such
    as runs of spaces, are used. The tokenizer is left as it was.
    """
    return encoded(tokenizer, text)[0]


def encoded(
    tokenizer: PreTrainedTokenizerBase, text: str, *, ends: bool = False
) -> tuple[list[int], list[int] | None]:
    """Token ids of a text, and the character at which each token ends.

    The ends are None where they were not asked for, or where a tokenizer in Python cannot tell.
    """
    has_backend = getattr(tokenizer, "backend_tokenizer", None) is not None
    ends = ends and has_backend
    options = {"add_special_tokens": False, "verbose": False, "return_offsets_mapping": ends}
    named = _names_a_special_token(tokenizer, text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if has_backend and named:
            plain = _without_special_tokens(
                tokenizer.backend_tokenizer.to_str(), frozenset(_special_tokens(tokenizer))
            )
            encoding = plain.encode(text, add_special_tokens=False)
            ids, offsets = encoding.ids, encoding.offsets if ends else None
        else:
            if named:
                options["split_special_tokens"] = True
            tokens = tokenizer(text, **options)
            ids, offsets = tokens["input_ids"], tokens["offset_mapping"] if ends else None
    return list(ids), None if offsets is None else [end for _, end in offsets]


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


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]
) -> Iterator[NDArray[np.int64]]:
    """Token ids of documents that follow one another (see `stream`), piece by piece."""
    for piece in pieces(documents):
        yield np.asarray(encode(tokenizer, "".join(piece)), dtype=np.int64)


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
