"""Text to token blocks, and counts of its tokens.

A corpus is a built-in name, a data set of the hub, or a file or folder. `blocks` cuts the start of
one into blocks for a model, and `parts` cuts several that share no document; `documents` and
`stream` give its text.
"""

from probenc_support.corpora.apart import check_apart, fingerprints
from probenc_support.corpora.blocks_of_text import blocks, parts
from probenc_support.corpora.counts import COUNT_LIMIT, token_counts
from probenc_support.corpora.encoding import encode
from probenc_support.corpora.texts import (
    built_in,
    documents,
    label,
    stream,
    text,
)
from probenc_support.corpora.token_blocks import TokenBlocks, from_ids

__all__ = [
    "COUNT_LIMIT",
    "TokenBlocks",
    "blocks",
    "built_in",
    "check_apart",
    "documents",
    "encode",
    "fingerprints",
    "from_ids",
    "label",
    "parts",
    "stream",
    "text",
    "token_counts",
]
