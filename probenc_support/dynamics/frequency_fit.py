"""The log-linear fit of token frequency on the output embedding of a checkpoint (section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from probenc_support.dynamics import ceilings, resampling
from probenc_support.dynamics.frequency import Frequencies, counts_so_far
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.regression import Design, LinearFit, adjusted, out_of_fold
from probenc_support.regression.arrays import Array


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


def bootstrap_r2_adj(
    fits: Sequence[FrequencyFit], y: Array, *, n_replicates: int = 400, seed: int = 0
) -> Array:
    """[n_replicates, n_steps] adjusted R^2 over tokens drawn with replacement.

    The draws are common to all checkpoints, and the slopes are kept: with many times more tokens
    than dimensions, what varies is which tokens are judged.
    """
    n, d = len(y), len(fits[0].fit.slopes)
    squares = np.stack([(y - f.predicted) ** 2 for f in fits], axis=1)
    replicates = np.empty((n_replicates, len(fits)))
    for replicate, weights in enumerate(resampling.draws(n, n_replicates, seed=seed)):
        total = weights @ y**2 - (weights @ y) ** 2 / n
        replicates[replicate] = adjusted(1.0 - (weights @ squares) / total, n, d)
    return replicates


def r2_of_text_so_far(run: TrainingRun, known: Frequencies) -> Array | None:
    """[n_steps] how well the counts of the text read until each checkpoint tell -log frequency.

    What a model could know at best, had it counted, see `ceilings.of_counts`. None where only the
    total is known.
    """
    counts = counts_so_far(run)
    return None if counts is None else ceilings.of_counts(known.y, counts[:, known.tokens])
