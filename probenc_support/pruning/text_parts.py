"""The text of a pruning run, in parts that do not overlap: to fit, to choose, and to judge."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probenc_support import corpora, inference
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel
from probenc_support.pruning.divergence import Reference

N_VALIDATION = 1024
"""Positions read to choose on; every other one is used."""


MIN_BLOCKS = 8
"""Blocks of text that all parts together need."""


@dataclass(frozen=True)
class Parts:
    """Token blocks of one corpus of which no two share a document or a paragraph."""

    fitted: TokenBlocks
    """What slopes, covariances and factors are fitted on."""
    judging: TokenBlocks
    """What the numbers come from."""
    choosing: TokenBlocks
    """What powers, steps and contests are chosen on."""
    further: list[TokenBlocks]
    """Further text to tune on; none, or one."""

    @property
    def all(self) -> list[TokenBlocks]:
        """Every part."""
        return [self.fitted, self.judging, self.choosing, *self.further]


def parts_of_text(
    lm: LanguageModel,
    corpus: str,
    *,
    n_fitted: int,
    n_judging: int,
    n_further: int = 0,
    sequence_length: int,
) -> Parts:
    """Cuts a corpus into parts of whole blocks, of at least so many positions.

    Args:
        n_fitted: positions to fit on; n_judging: to judge on; n_further: to tune on besides.

    Raises:
        InputError: the text is too short, two parts share text, or more positions are to judge than
            a pass keeps, all of which judge.
    """
    sizes = [n_fitted, n_judging, N_VALIDATION] + [n_further] * (n_further > 0)
    sizes = [-(-n // sequence_length) * sequence_length for n in sizes]
    if sizes[1] > inference.SAMPLE:
        raise InputError(
            f"{n_judging:,} positions are too many to judge on, since a pass keeps the hidden "
            f"states of {inference.SAMPLE:,}: give a smaller n_evaluation, of which four times as "
            "many are read."
        )
    apart = corpora.parts(
        corpus,
        lm.tokenizer,
        sizes=sizes,
        sequence_length=sequence_length,
        context_length=lm.context_length,
    )
    corpora.check_apart(*apart)
    n_blocks = sum(len(part.ids) for part in apart)
    if n_blocks < MIN_BLOCKS:
        raise InputError(
            f"The corpus {corpora.label(corpus)} has {n_blocks} blocks of {sequence_length} tokens "
            f"and pruning needs {MIN_BLOCKS} to fit, choose and evaluate on different text; give "
            "a longer text."
        )
    fitted, judging, choosing, *further = apart
    return Parts(fitted, judging, choosing, further)


def read_elsewhere(
    lm: LanguageModel, corpus: str, apart: Parts, *, n_positions: int = 1024
) -> tuple[Reference, Tensor]:
    """Positions of another corpus to judge on, and the document of each, [N] int64.

    Half as many blocks are read as of `apart.judging`, with no text of any part among them.

    Args:
        n_positions: of those that are read, so many or a few more are used, evenly spread.

    Raises:
        InputError: no such corpus, or too little text.
    """
    n_blocks, length = apart.judging.ids.shape
    blocks = corpora.blocks(
        corpus,
        lm.tokenizer,
        n_positions=max(1, n_blocks // 2) * length,
        sequence_length=length,
        context_length=lm.context_length,
        exclude=apart.all,
    )
    there = inference.detect(lm, blocks)
    used = thinned(there.n_positions, n_positions)
    return Reference(lm.head, there.h[used], there.targets[used]), there.group[used]


def thinned(n: int, wanted: int) -> Tensor:
    """Every k-th of the positions that a pass over n positions keeps by default, [m] int64, with
    the k that leaves `wanted` of them or few more."""
    kept = min(n, inference.SAMPLE)
    return torch.arange(0, kept, max(1, kept // wanted))
