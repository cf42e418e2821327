"""How much better a model predicts than the frequencies of the tokens alone: its context gain.

Of a position with next token w the gain is log P(w | context) - log f_w, in nats; its mean is the
unigram loss less the model's loss. A model that does not know the frequencies lacks them in its
gain, too. So that what it makes of the context can be told from that, `gain_given_frequency` first
gives every model the frequencies, by the head bias that makes its average prediction equal to f.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.dynamics.halfway_steps import first_at
from probenc_support.head import Head
from probenc_support.models import checkpoints, interventions, training_text
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.recipes import Recipe
from probenc_support.regression.arrays import Array


def gain_by_step(run: TrainingRun) -> Array:
    """[steps] mean gain in nats over what each step of a run here reads, before it learns from it.

    As long as no text is read twice, it is as good as text that is held out, and every arm of a
    seed reads the same.
    """
    record = checkpoints.record(run)
    recipe = Recipe(**record["recipe"])
    text = training_text.prepare(recipe, record["corpus"])
    log_f = interventions.log_frequency(text.counts(recipe, record["seed"])).numpy()
    unigram = [
        -log_f[text.train[text.order(recipe, record["seed"], step)][:, 1:]].mean()
        for step in range(recipe.steps)
    ]
    gain: Array = np.array(unigram) - np.array(record["losses"])
    return gain


def steps_to(gain: Array, level: float = 1.0, *, window: int = 16) -> float:
    """The step at which the mean of the last `window` steps' gains first reaches a level.

    Interpolated between steps; NaN where it never does.

    Args:
        gain: [steps], see `gain_by_step`.
        window: what one step reads is too little for a steady mean.
    """
    steps, means = running_mean(gain, window)
    return first_at(level, means, steps.astype(float))


def running_mean(values: Array, window: int) -> tuple[NDArray[np.int64], Array]:
    """Steps [m] and, at each, the mean of the values [steps] of the last `window` steps.

    A window that is longer than the run is as long as the run.
    """
    window = min(window, len(values))
    means = np.convolve(values, np.full(window, 1.0 / window), mode="valid")
    return np.arange(window, len(values) + 1), means


def calibrated(head: Head, h: Tensor, log_f: Tensor, *, rounds: int = 12) -> Head:
    """The head with the bias that makes its average prediction over h [N, d] equal to f.

    By iterative scaling: the bias of each token is raised by log f_w less the log of its average
    probability, which lowers KL(f || average) in every round.

    Args:
        log_f: [V] log frequencies of all rows.
        rounds: 12 leave a KL(f || average) below 1e-3 nats where it is one nat before.
    """
    b = torch.zeros(head.V, dtype=head.E.dtype) if head.b is None else head.b.clone()
    for _ in range(rounds):
        log_mean = Head(head.E, b).log_mean_p(h)
        b = b + (log_f - log_mean).to(b)
    return Head(head.E, b, head.tokens)


def gain_given_frequency(head: Head, h: Tensor, targets: Tensor, log_f: Tensor) -> Tensor:
    """[n] gain in nats at each position, of a model to which the frequencies have been given.

    The bias depends on the frequencies and on the hidden states, not on the targets.

    Args:
        h: [n, d] hidden states; targets: [n] ids of the tokens that follow.
        log_f: [V] log frequencies of all rows, in the text that the model was trained on.
    """
    given = calibrated(head, h, log_f)
    z = given.log_partition(h)
    b = torch.zeros(given.V) if given.b is None else given.b
    chosen = torch.linalg.vecdot(h.double(), given.E[targets].double()) + b[targets].double()
    gain: Tensor = chosen.cpu() - z.cpu() - log_f[targets]
    return gain
