"""The part of E along which frequency is read, apart from the rest of E (section 5)."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from probenc_support.dynamics import resampling
from probenc_support.dynamics.convergence import pieces, relative
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
    weights, target, tokens = _drawn(known, n_replicates, seed)
    final = run.embedding(run.steps[-1])[tokens]
    sums = (_sums(run.embedding(s)[tokens] - final, target, weights) for s in run.steps)
    return _distances(sums, target, weights)


def split_to_earlier_ends(
    run: TrainingRun,
    known: Frequencies,
    ends: Sequence[int],
    *,
    n_replicates: int = 0,
    seed: int = 0,
) -> dict[int, dict[str, Array]]:
    """`split_distances` as if the run had stopped at each of some earlier checkpoints, by these.

    E of each checkpoint is read once for all ends. Beside `convergence.AT_ONCE` bytes of it, 16 d
    bytes are held for each draw, end, and checkpoint before that end, so that draws are to be few.

    Args:
        ends: steps of the run, ascending.
    """
    weights, target, tokens = _drawn(known, n_replicates, seed)
    steps = [step for step in run.steps if step <= ends[-1]]
    E = [run.mapped(step, embedding_only=True)["E"] for step in steps]
    lengths = {end: steps.index(end) + 1 for end in ends}
    sums = {end: [torch.zeros(())] * n for end, n in lengths.items()}
    for part, now in pieces(E, tokens):
        for end, n in lengths.items():
            moved = (_sums(at - now[n - 1], target[part], weights[:, part]) for at in now[:n])
            sums[end] = [total + more for total, more in zip(sums[end], moved, strict=True)]
    return {end: _distances(of_end, target, weights) for end, of_end in sums.items()}


def _drawn(known: Frequencies, n_replicates: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of the tokens [1 + n_replicates, n], their centred y [n], and their ids [n]."""
    times = resampling.with_the_sample(len(known.tokens), n_replicates, seed=seed)
    target = torch.from_numpy(known.y - known.y.mean())
    return torch.from_numpy(times), target, torch.from_numpy(known.tokens)


def _sums(D: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """[B, 2 d + 1] weighted sums over the tokens of D [n, d], of D times y, and of its squares."""
    D = D.double()
    sums = (weights @ D, (weights * target) @ D, (weights @ D.square().sum(1))[:, None])
    return torch.cat(sums, dim=1)


def _distances(sums: Iterable[Tensor], target: Tensor, weights: Tensor) -> dict[str, Array]:
    """The two parts from the `_sums` at each step, of which the last is the end."""
    parts = np.stack([_split(at, target, weights) for at in sums], axis=2)
    return {
        name: relative(part, part[:, :1])
        for name, part in zip((FREQUENCY_PART, REST), parts, strict=True)
    }


def _split(sums: Tensor, target: Tensor, weights: Tensor) -> Array:
    """[2, B] squared size of the frequency part and of the rest of a difference, from its sums."""
    d = sums.shape[1] // 2
    of_rows, with_target, squares = sums.split([d, d, 1], dim=1)
    n = weights.sum(1)
    mean, mean_y = of_rows / n[:, None], weights @ target / n
    cross = with_target - n[:, None] * mean_y[:, None] * mean
    part = cross.square().sum(1) / (weights @ target.square() - n * mean_y.square())
    whole = squares[:, 0] - n * mean.square().sum(1)
    return torch.stack([part, (whole - part).clamp(min=0)]).numpy()
