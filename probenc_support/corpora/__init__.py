"""Text to token blocks, and counts of its tokens.

A corpus is a built-in name, a data set of the hub, or a file or folder. `blocks` cuts the start of
one into blocks for a model; `documents` and `stream` give its text."""

from probenc_support.corpora.apart import apart_from, check_apart, fingerprints
from probenc_support.corpora.blocks_of_text import blocks, parts
from probenc_support.corpora.counts import COUNT_LIMIT, token_counts
from probenc_support.corpora.encoding import encode, encode_documents
from probenc_support.corpora.texts import (
    SUFFIXES,
    built_in,
    divisions,
    documents,
    label,
    stream,
    text,
)
from probenc_support.corpora.token_blocks import TokenBlocks, from_ids

__all__ = [
    "COUNT_LIMIT",
    "SUFFIXES",
    "TokenBlocks",
    "apart_from",
    "blocks",
    "built_in",
    "check_apart",
    "divisions",
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
