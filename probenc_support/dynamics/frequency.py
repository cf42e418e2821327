"""How often each token occurs in the text that a model was trained on (section 5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from probenc_support import corpora
from probenc_support.errors import InputError
from probenc_support.models import checkpoints, recipes
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.regression.arrays import Array


@dataclass(frozen=True)
class Frequencies:
    """How often each token occurs in a text."""

    counts: NDArray[np.int64]
    """[V] by token id."""
    source: str
    """What was counted, in words."""
    tokens: NDArray[np.int64]
    """[n_seen] ids of real tokens that occur: those that are fitted."""
    n_unseen: int
    """Real tokens that never occur; -log 0 is infinite, so they are left out of every fit."""

    @property
    def y(self) -> Array:
        """[n_seen] -log frequency of the tokens that occur, in nats."""
        seen = self.counts[self.tokens].astype(np.float64)
        return cast(Array, np.log(float(self.counts.sum())) - np.log(seen))

    @property
    def log_unigram(self) -> Array:
        """[V] log frequency with half a count added to every row, so that none is infinite."""
        smoothed = self.counts.astype(np.float64) + 0.5
        return cast(Array, np.log(smoothed) - np.log(smoothed.sum()))


def frequencies(
    run: TrainingRun, source: str = "training", *, n_rows: int, tokens: Iterable[int]
) -> Frequencies:
    """Token frequencies for a run.

    Args:
        source: `training` (the exact counts that training here leaves), path of an .npy table of
            counts by token id, or a corpus.
        n_rows: V, rows of E. A shorter table counts zero for the rest, which are padding rows.
        tokens: ids of real tokens.

    Raises:
        InputError: no such table, or one that does not fit the model.
    """
    counts, words = _counts(run, source, n_rows)
    real = np.fromiter(tokens, dtype=np.int64)
    if counts[real].sum() == 0:
        raise InputError(f"The counts of {source} are zero for all tokens of {run.name}.")
    seen = real[counts[real] > 0]
    return Frequencies(counts, words, seen, len(real) - len(seen))


def _counts(run: TrainingRun, source: str, n_rows: int) -> tuple[NDArray[np.int64], str]:
    if source == "training":
        path = Path(run.source) / "token_counts.npy"
        if not (run.local and path.is_file()):
            raise InputError(
                f"The counts of the text that {run.name} was trained on are not known here: give "
                "a table of counts by token id (counts=path.npy) or a corpus (counts=docstrings)."
            )
        return read_counts(path, n_rows), "the text that the model was trained on, exactly"
    if source.endswith(".npy"):
        return read_counts(Path(source).expanduser(), n_rows), f"the table {Path(source).name}"
    limit = corpora.COUNT_LIMIT
    counts = corpora.token_counts(source, run.tokenizer(), n_rows, limit=limit)
    first = f"the first {limit:,} tokens of " if counts.sum() == limit else ""
    return counts, f"{first}the corpus {corpora.label(source)}"


def read_counts(path: Path, n_rows: int) -> NDArray[np.int64]:
    """A table of token counts, padded with zeros to [n_rows] int64.

    Raises:
        InputError: no such file, no vector of counts, or more rows than the model has.
    """
    if not path.is_file():
        raise InputError(f"There is no table of counts {path}; give the path of an .npy file.")
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no table of counts that NumPy can read.") from error
    if table.ndim != 1 or not np.issubdtype(table.dtype, np.number):
        raise InputError(f"{path} has shape {table.shape}; give one count for each token id.")
    if not np.isfinite(table).all() or (table < 0).any() or (table != np.floor(table)).any():
        raise InputError(f"{path} holds values that are no counts (negative or not whole).")
    if len(table) > n_rows:
        raise InputError(
            f"{path} counts {len(table)} tokens and the model has {n_rows} rows: it belongs to "
            "another tokenizer."
        )
    return np.pad(table.astype(np.int64), (0, n_rows - len(table)))


def counts_so_far(run: TrainingRun) -> NDArray[np.int64] | None:
    """[n_steps, V] how often each token was read until each checkpoint; None where it is not known,
    as of a model that was not trained here."""
    path = Path(run.source) / "token_counts_by_checkpoint.npy"
    record = checkpoints.record(run)
    if not record or not path.is_file():
        return None
    rows = recipes.Recipe(**record["recipe"]).checkpoints
    table = np.load(path, allow_pickle=False)
    return cast(NDArray[np.int64], table[[rows.index(step) for step in run.steps]])
