"""What is measured over the checkpoints of one training run (section 5).

At each checkpoint, -log frequency of the tokens in the training text is regressed on the rows of
E. Beside it stand the distances of all parameters from their final values, and what the model does
on text: its loss, and how far its predictions are from the frequencies alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from probenc_support.corpora import TokenBlocks
from probenc_support.dynamics import behaviour, convergence, predictions
from probenc_support.dynamics.behaviour import Behaviour
from probenc_support.dynamics.convergence import Distances
from probenc_support.dynamics.frequency import Frequencies, frequencies
from probenc_support.dynamics.frequency_fit import FrequencyFit, fit_frequency, r2_of_text_so_far
from probenc_support.dynamics.function_distance import Final, FunctionDistance, draws_of_means
from probenc_support.dynamics.halfway_steps import share_by
from probenc_support.inference import detect
from probenc_support.models import checkpoints
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.vocabulary import Vocabulary
from probenc_support.regression.arrays import Array


@dataclass(frozen=True)
class Dynamics:
    """Everything that was measured over the checkpoints of one run."""

    run: TrainingRun
    frequencies: Frequencies
    fits: list[FrequencyFit]
    """One a step."""
    convergence: Distances
    """Of all groups of parameters, or of E alone where nothing else was fetched; a `Convergence`
    where the run was not cut short."""
    behaviour: list[Behaviour]
    """One a step at which the text was read; empty where only E was fetched."""
    function: list[FunctionDistance]
    """At the same steps, how far what the model does is from what the final one does."""
    loss_of_unigram: float
    """Loss of the frequencies alone on the same text; NaN where no text was read."""
    r2_text_so_far: Array | None
    """See `r2_of_text_so_far`."""
    repeats: Mapping[int, int] = field(default_factory=dict)
    """Steps that were left out, each with the step whose weights it repeats."""

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints, ascending."""
        return self.run.steps

    @property
    def texts(self) -> list[str]:
        """[V] readable text of each token."""
        return Vocabulary(self.run.tokenizer(), len(self.frequencies.counts)).texts

    @property
    def r2_adj(self) -> Array:
        """[n_steps] adjusted R^2 of -log frequency on E."""
        return np.array([fit.fit.r2_adj for fit in self.fits])

    @property
    def read_steps(self) -> list[int]:
        """Steps at which the model read the text, ascending."""
        return [at.step for at in self.behaviour]

    @property
    def loss(self) -> Array:
        """[n_read] nats, at `read_steps`."""
        return np.array([at.loss for at in self.behaviour])

    @property
    def kl_to_final(self) -> Array:
        """[n_read] mean KL(final || step), in nats."""
        return np.array([at.kl for at in self.function])

    def loss_draws(self, *, n_replicates: int, seed: int) -> Array:
        """[n_replicates, n_read] loss over groups of documents drawn with replacement."""
        sums = np.stack([at.loss_sums for at in self.behaviour])
        sizes = self.behaviour[0].loss_sizes
        return draws_of_means(sums, sizes, n_replicates=n_replicates, seed=seed)

    def kl_draws(self, *, n_replicates: int, seed: int) -> Array:
        """[n_replicates, n_read] `kl_to_final` over the same draws of documents."""
        sums = np.stack([at.kl_sums for at in self.function])
        sizes = self.function[0].sizes
        return draws_of_means(sums, sizes, n_replicates=n_replicates, seed=seed)

    def loss_share(self, step: float) -> float:
        """Share of the loss's whole fall that has happened by a step, interpolated; 0 to 1."""
        return share_by(step, self.read_steps, self.loss)

    def truncated_at(self, distances: Distances) -> "Dynamics":
        """The same run as if it had ended earlier: all that is said relative to the end changes.

        Args:
            distances: from the weights at the earlier end, see `convergence.to_earlier_ends`.
        """
        end = distances.steps[-1]
        return replace(
            self,
            run=self.run.select(distances.steps),
            fits=[fit for fit in self.fits if fit.step <= end],
            behaviour=[at for at in self.behaviour if at.step <= end],
            function=[],
            convergence=distances,
            r2_text_so_far=None,
        )


def measure(
    run: TrainingRun,
    *,
    counts: str = "training",
    blocks: TokenBlocks | None = None,
    embedding_only: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    first_token: str = "auto",
    seed: int = 0,
    read_at: Iterable[int] | None = None,
) -> Dynamics:
    """Everything about one run.

    However many checkpoints there are, the files of each are read once for all of its parameters,
    and a few times for its E; where the text is read, the model is loaded besides, one at a time.

    Args:
        counts: see `frequencies`.
        blocks: the text to read at each checkpoint, see `text_for`; None: none is read.
        embedding_only: fetch only the output embedding of each checkpoint: no text is read, and
            nothing is said about other parameters.
        first_token: see `models.load`.
        read_at: steps at which the text is read, the first and the last besides; None: all.

    Raises:
        InputError: fewer than three checkpoints differ; others are left out, see `repeats`.
    """
    run, repeats = checkpoints.distinct(run, embedding_only=embedding_only)
    tokenizer = run.tokenizer()
    text = None if embedding_only else blocks
    n_rows = len(run.embedding(run.steps[-1]))
    real = Vocabulary(tokenizer, n_rows).rows.tolist()
    known = frequencies(run, counts, n_rows=n_rows, tokens=real)
    ends = {run.steps[0], run.steps[-1]}
    wanted = run.steps if read_at is None else sorted({*read_at, *ends} & set(run.steps))
    options = {"device": device, "dtype": dtype, "first_token": first_token}
    on_text, function = _read(run, wanted, text, known.log_unigram, **options) if text else ([], [])
    return Dynamics(
        run=run,
        frequencies=known,
        fits=[fit_frequency(run.embedding(s), known, step=s, seed=seed) for s in run.steps],
        convergence=convergence.of_parameters(run, embedding_only=embedding_only),
        behaviour=on_text,
        function=function,
        loss_of_unigram=behaviour.unigram_loss(text.ids, known.log_unigram) if text else math.nan,
        r2_text_so_far=r2_of_text_so_far(run, known) if counts == "training" else None,
        repeats=repeats,
    )


def _read(
    run: TrainingRun, steps: Sequence[int], text: TokenBlocks, log_unigram: Array, **options: str
) -> tuple[list[Behaviour], list[FunctionDistance]]:
    """One pass over a text at each of some steps, the last of which all are measured by."""
    on_text: list[Behaviour] = []
    function: list[FunctionDistance] = []
    final: Final | None = None
    for step in reversed(steps):
        lm = run.load(step, probe=False, **options)
        detection = detect(lm, text, progress=False)
        chosen = predictions.positions(detection)
        own = predictions.Predictions.of(lm, detection, chosen)
        on_text.insert(0, behaviour.on_text(lm, detection, own, log_unigram, step=step))
        final = final or Final.of(lm, detection, own, text, chosen)
        function.insert(0, final.compare(lm, own, text, step=step))
        del lm  # so that one model is in memory at a time
    return on_text, function
