"""The part of E along which frequency is read, apart from the rest of E (section 5)."""

import numpy as np
import torch
from torch import Tensor

from probenc_support.dynamics import resampling
from probenc_support.dynamics.convergence import relative
from probenc_support.dynamics.frequency import Frequencies
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.regression.arrays import Array

FREQUENCY_PART = "frequency part of E"
"""What of E goes with -log frequency over the tokens; see `split_distances`."""


REST = "rest of E"
"""What of E does not."""


def split_distances(
    run: TrainingRun, known: Frequencies, *, n_replicates: int = 400, seed: int = 0
) -> dict[str, Array]:
    """Distance from the final E, like `Convergence.distance`, in the two parts of E by frequency.

    Like is compared with like here, distance with distance. Of the difference D [n_seen, d]
    between E and its final value, centred over tokens (one vector added to every row means
    nothing), the frequency part is the projection on y = -log f, so y (y'D) / y'y with y centred;
    the rest is what remains.

    Returns:
        `FREQUENCY_PART` and `REST`: [1 + n_replicates, n_steps]; the first row is the estimate,
        the others are over tokens drawn with replacement.
    """
    times = resampling.with_the_sample(len(known.tokens), n_replicates, seed=seed)
    weights, tokens = torch.from_numpy(times), torch.from_numpy(known.tokens)
    final = run.embedding(run.steps[-1])[tokens]
    squares = [_split(run.embedding(s)[tokens] - final, known.y, weights) for s in run.steps]
    parts = np.stack(squares, axis=2)
    return {
        name: relative(part, part[:, :1])
        for name, part in zip((FREQUENCY_PART, REST), parts, strict=True)
    }


def _split(D: Tensor, y: Array, weights: Tensor) -> Array:
    """[2, B] squared size of the frequency part and of the rest of D [n, d], rows weighted."""
    D, target = D.double(), torch.from_numpy(y - y.mean())
    n = weights.sum(1)
    mean, mean_y = weights @ D / n[:, None], weights @ target / n
    cross = (weights * target) @ D - n[:, None] * mean_y[:, None] * mean
    part = cross.square().sum(1) / (weights @ target.square() - n * mean_y.square())
    whole = weights @ D.square().sum(1) - n * mean.square().sum(1)
    return torch.stack([part, (whole - part).clamp(min=0)]).numpy()
