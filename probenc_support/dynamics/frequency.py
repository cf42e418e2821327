"""Token frequency in a corpus, and its log-linear fit on the output embedding (section 5)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from probenc_support import corpora
from probenc_support.dynamics import ceilings
from probenc_support.errors import InputError
from probenc_support.models import checkpoints, recipes
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.regression import Design, LinearFit, out_of_fold

Array = NDArray[np.float64]


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


def r2_of_text_so_far(run: TrainingRun, known: Frequencies) -> Array | None:
    """[n_steps] how well the counts of the text read until each checkpoint tell -log frequency.

    What a model could know at best, had it counted, see `ceilings.countable`. None where only the
    total is known.
    """
    counts = counts_so_far(run)
    return None if counts is None else ceilings.countable(known.y, counts[:, known.tokens])


@dataclass(frozen=True)
class FrequencyFit:
    """The fit of -log frequency on E at one checkpoint."""

    step: int
    fit: LinearFit
    spearman: float
    """Rank correlation of the true values with those fitted without the token (five folds)."""
    r2_adj_shuffled: Array
    """[n_shuffles] adjusted R^2 for counts in random order: the control."""
    predicted: NDArray[np.float32]
    """[n_seen] fitted values, in nats, of the fit to all tokens."""


def fit_frequency(
    E: Tensor, frequencies: Frequencies, *, step: int = 0, n_shuffles: int = 20, seed: int = 0
) -> FrequencyFit:
    """Regression of -log frequency on E [V, d], over the tokens that occur.

    Raises:
        InputError: fewer tokens occur than E has dimensions, or all equally often.
    """
    rows = E[torch.from_numpy(frequencies.tokens)]
    design = Design.of(rows)
    y = frequencies.y
    fit = design.fit(y)
    rng = np.random.default_rng(seed)
    shuffled = np.stack([rng.permutation(y) for _ in range(n_shuffles)], axis=1)
    fitted = out_of_fold(design, y, n_folds=5, seed=seed)
    return FrequencyFit(
        step=step,
        fit=fit,
        spearman=float(stats.spearmanr(fitted, y).statistic),
        r2_adj_shuffled=design.fit_many(shuffled).r2_adj,
        predicted=fit.predict(rows).astype(np.float32),
    )


def straight_line(
    first: Tensor, final: Tensor, frequencies: Frequencies, *, n: int = 21
) -> pd.DataFrame:
    """The frequency fit along the straight line from the first E [V, d] to the final one.

    A control for the measure itself: R^2 depends on the direction of what was learnt more than on
    its size, so it rises early on any path. Only where training is ahead of this line has frequency
    come before the rest of E. Columns: distance (1 to 0, as `Convergence.distance`), r2_adj.
    """
    shares = np.linspace(0.0, 1.0, n)
    y, tokens = frequencies.y, torch.from_numpy(frequencies.tokens)
    first, final = first[tokens].double(), final[tokens].double()
    r2_adj = [Design.of(first + s * (final - first)).fit_many(y).r2_adj[0] for s in shares]
    return pd.DataFrame({"distance": 1.0 - shares, "r2_adj": r2_adj})


def bootstrap_r2_adj(
    fits: Sequence[FrequencyFit], y: Array, *, n_replicates: int = 400, seed: int = 0
) -> Array:
    """[n_replicates, n_steps] adjusted R^2 over tokens drawn with replacement.

    The draws are common to all checkpoints, and the slopes are kept: with many times more tokens
    than dimensions, what varies is which tokens are judged.
    """
    rng = np.random.default_rng(seed)
    n, d = len(y), len(fits[0].fit.slopes)
    residuals = np.stack([(y - f.predicted) ** 2 for f in fits], axis=1)
    replicates = np.empty((n_replicates, len(fits)))
    for i in range(n_replicates):
        weights = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)
        total = weights @ y**2 - (weights @ y) ** 2 / n
        replicates[i] = 1.0 - (weights @ residuals) / total * (n - 1) / (n - d - 1)
    return replicates
