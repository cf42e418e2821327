"""Blocks of tokens, with the document that each token comes from."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


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
    digest = hashlib.sha256(ids.view(-1).numpy().data).hexdigest()
    return TokenBlocks(ids, corpus, digest, sources, n_left_out, documents)
