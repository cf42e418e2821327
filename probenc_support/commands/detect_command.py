"""`detect`: makes passes ahead of time, whole or in parts, where the notebooks then find them."""

import argparse

from probenc_support import corpora, inference, models
from probenc_support.corpora import TokenBlocks
from probenc_support.models import LanguageModel, tensor_parallel


def run(options: argparse.Namespace, part: tuple[int, int]) -> None:
    """Makes the pass over each corpus, or a part of it; prints a line for each.

    Corpora after the first are read without what shares text with it, as notebooks 01 and 02 do.
    Where `torchrun` started several processes, the model is divided among them, and the first
    prints.

    Args:
        options: of the command line; part: i and n of the i-th of n parts, 1 and 1 for the whole.

    Raises:
        InputError: the model or a text cannot be had, or the cache cannot be written.
    """
    divided = tensor_parallel.size() > 1
    lm = models.load(
        options.model, revision=options.revision, device=options.device,
        dtype=options.dtype, first_token=options.first_token,
        divided=divided,
    )  # fmt: skip
    first: list[TokenBlocks] = []
    for corpus in options.corpus:
        blocks = corpora.blocks(
            corpus,
            lm.tokenizer,
            n_positions=options.n_positions,
            sequence_length=options.sequence_length,
            context_length=lm.context_length,
            exclude=first,
        )
        first = first or [blocks]
        if not tensor_parallel.leads():
            inference.follow(lm, blocks, positions=options.positions)
            continue
        print(f"{blocks.corpus}: {_made(lm, blocks, options.positions, part)}")
        if divided:
            tensor_parallel.tell(None)
    if divided:
        tensor_parallel.close()


def _made(lm: LanguageModel, blocks: TokenBlocks, positions: str, part: tuple[int, int]) -> str:
    """What was made, in words."""
    if part == (1, 1):
        found = inference.detect(lm, blocks, positions=positions)
        rate = found.n_positions / found.seconds
        return (
            f"{found.n_positions:,} positions, perplexity {found.perplexity:.2f}; "
            f"{found.seconds:.1f} s, {rate:,.0f} positions a second"
            + (" (read from the cache)" if found.from_cache else "")
        )
    made = inference.prepare(lm, blocks, positions=positions, part=part)
    return (
        f"part {part[0]} of {part[1]}: {made.n_made} of its {made.n_own} shards were made in "
        f"{made.seconds:.1f} s, the others were there; of all {made.n_shards} shards of the pass "
        f"{made.n_there} are in the cache"
    )
