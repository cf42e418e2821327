"""Text to judge a run by, which it was not trained on, and the checkpoints at which it is read."""

from collections.abc import Sequence
from pathlib import Path

from probenc_support import corpora
from probenc_support.corpora import TokenBlocks
from probenc_support.models import checkpoints, training_text
from probenc_support.models.checkpoints import TrainingRun


def text_for(
    run: TrainingRun, corpus: str, *, n_positions: int = 16384, sequence_length: int = 256
) -> TokenBlocks:
    """Blocks of a corpus to judge a run by.

    Of a model that was trained here, no document that shares a paragraph with its training text is
    taken: of that text itself, what was held out, and what lies after it. Blocks are no longer than
    those that it was trained on.

    Raises:
        InputError: see `corpora.blocks`; or it is not known on what the model was trained.
    """
    record = checkpoints.record(run)
    if record:
        sequence_length = min(sequence_length, record["recipe"]["sequence_length"])
    return corpora.blocks(
        corpus,
        run.tokenizer(),
        n_positions=n_positions,
        sequence_length=sequence_length,
        exclude=[training_text.sources(Path(run.source))] if record else [],
    )


def shortened(blocks: TokenBlocks, length: int = 64) -> TokenBlocks:
    """The first tokens of each block: as many documents as before, at a part of the cost, for text
    that is read at every checkpoint."""
    documents = None if blocks.documents is None else blocks.documents[:, :length]
    return corpora.from_ids(
        blocks.ids[:, :length],
        corpus=blocks.corpus,
        sources=blocks.sources,
        n_left_out=blocks.n_left_out,
        documents=documents,
    )


def thinned(steps: Sequence[int], ratio: float = 1.25) -> list[int]:
    """Steps of which each (plus one) is at least `ratio` times the one before; first and last are
    always among them. What costs a pass of the model is measured at these."""
    kept = [steps[0]]
    for step in steps[1:-1]:
        if step + 1 >= ratio * (kept[-1] + 1):
            kept.append(step)
    return [*kept, steps[-1]]
