"""What tokenizers put around a text, and the first token that a person may name instead."""

from transformers import PreTrainedTokenizerBase

from probenc_support.errors import InputError
from probenc_support.models.vocabulary import Vocabulary


def put_around(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a tokenizer puts before and after a text by default."""
    for text in ("a", "C", "1"):
        plain = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        whole = list(tokenizer(text)["input_ids"])
        for i in range(len(whole) if plain else 0):
            if whole[i : i + len(plain)] == plain:
                return tuple(whole[:i]), tuple(whole[i + len(plain) :])
    return (), ()


def first_token_id(vocabulary: Vocabulary, wanted: str, name: str) -> int | None:
    """The id of a first token as a person names it: `auto`, `none`, or a token.

    Raises:
        InputError: there is no such token, or the tokenizer puts several before a text.
    """
    if wanted == "none":
        return None
    if wanted != "auto":
        by_piece = {piece: token for token, piece in vocabulary.pieces.items()}
        token = by_piece.get(wanted)
        return vocabulary.id_of(wanted, of=name) if token is None else token
    before = put_around(vocabulary.tokenizer)[0]
    if len(before) > 1:
        pieces = ", ".join(repr(vocabulary.pieces.get(token, "?")) for token in before)
        raise InputError(
            f"The tokenizer of {name} puts {len(before)} tokens before a text ({pieces}), and one "
            "can be read here: name it by the parameter first_token, or give none."
        )
    return before[0] if before else None
