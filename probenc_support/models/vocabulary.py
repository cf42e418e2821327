"""Token ids and their texts: what each row of the output embedding stands for, and back.

A token's text is what it adds to a text that goes on before it, so that the space that
sentencepiece tokenizers put before a text, or strip from its beginning, never changes it.
"""

from functools import cached_property

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probenc_support.errors import InputError

_ANCHOR = "a"
"""Text that goes before a token when it is decoded."""


class Vocabulary:
    """The tokens of a tokenizer, by the rows of an output embedding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, n_rows: int) -> None:
        """
        Args:
            n_rows: V, rows of the output embedding.
        """
        self.tokenizer, self.n_rows = tokenizer, n_rows
        self.pieces: dict[int, str] = {
            int(token): str(piece) for piece, token in tokenizer.get_vocab().items()
        }
        """Tokens as the tokenizer writes them, by id. Ids may have gaps, and may pass V."""

    @cached_property
    def rows(self) -> Tensor:
        """[n] int64, ascending: the rows that tokens own."""
        owned = sorted(token for token in self.pieces if 0 <= token < self.n_rows)
        return torch.tensor(owned, dtype=torch.int64)

    @cached_property
    def without_row(self) -> list[int]:
        """Ids of tokens that have no row in the output embedding, ascending."""
        return sorted(token for token in self.pieces if token >= self.n_rows)

    @cached_property
    def texts(self) -> list[str]:
        """Readable text of every row ([V] strings): a space is kept, a raw byte is `<0x..>`."""
        texts = [f"<row {token}>" for token in range(self.n_rows)]
        for token, decoded in zip(self.rows.tolist(), self._decoded, strict=True):
            whole = decoded and "\ufffd" not in decoded
            texts[token] = decoded if whole else self.pieces[token]
        return texts

    @cached_property
    def _decoded(self) -> list[str]:
        """What each row of `rows` adds to the anchor."""
        anchor = self._ids(_ANCHOR)
        start, *rest = self._decode([anchor, *([*anchor, token] for token in self.rows.tolist())])
        return [text.removeprefix(start) if text.startswith(start) else "" for text in rest]

    def _decode(self, sequences: list[list[int]]) -> list[str]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if isinstance(backend, Tokenizer):
            return list(backend.decode_batch(sequences, skip_special_tokens=False))
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return [str(self.tokenizer.decode(ids, **options)) for ids in sequences]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def _by_text(self) -> dict[str, list[int]]:
        tokens: dict[str, list[int]] = {}
        for token in self.rows.tolist():
            tokens.setdefault(self.texts[token], []).append(token)
        return tokens

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def _parts_of_characters(self) -> frozenset[int]:
        pairs = zip(self.rows.tolist(), self._decoded, strict=True)
        return frozenset(token for token, text in pairs if "\ufffd" in text)

    def kind(self, token: int) -> str:
        """`word start`, `continuation`, `digits`, `punctuation`, or `byte or special`."""
        text = self.texts[token]
        bare = text.strip()
        odd = token not in self.pieces or token in self._special
        if odd or token in self._parts_of_characters:
            return "byte or special"
        if bare.isdigit():
            return "digits"
        if not any(c.isalnum() for c in bare):
            return "punctuation"
        return "word start" if text[0].isspace() else "continuation"

    def id_of(self, text: str, *, of: str = "this model") -> int:
        """The id of the token whose text is `text`, as in the middle of a text.

        Args:
            of: the model's name, for the message.

        Raises:
            InputError: no token has that text.
        """
        tokens = self._by_text.get(text, [])
        if len(tokens) > 1:
            # A letter and the byte that spells it read alike: the tokenizer makes the letter.
            start = self._ids(_ANCHOR)
            made = [*self._ids(_ANCHOR + text)[len(start) :], *self._ids(text)]
            shortest = sorted(tokens, key=lambda token: len(self.pieces[token]))
            return next((token for token in made if token in tokens), shortest[0])
        if not tokens:
            raise InputError(self._no_token(text, of))
        return tokens[0]

    def _no_token(self, text: str, of: str) -> str:
        ids = self._ids(text) if text else []
        pieces = ", ".join(repr(self._text(token)) for token in ids)
        what = f"is read as {pieces} by" if len(ids) == 1 else f"is {len(ids)} tokens of"
        return (
            f"{text!r} {what} {of}"
            + (f" ({pieces})" if len(ids) > 1 else "")
            + "; name a text that is exactly one token (a leading space matters)."
        )

    def _text(self, token: int) -> str:
        return self.texts[token] if token < self.n_rows else self.pieces.get(token, "?")
