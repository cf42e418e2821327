"""Training dynamics (paper section 5): when the output embedding learns token frequency, and when
the rest of the model reaches its final weights.

At each checkpoint, -log frequency of the tokens in the training text is regressed on the rows of
E. Beside it stand the distances of all parameters from their final values, and what the model does
on text: its loss, and how far its predictions are from the frequencies alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probenc_support.corpora import TokenBlocks
from probenc_support.dynamics.behaviour import Behaviour, behaviour, unigram_loss
from probenc_support.dynamics.convergence import (
    EMBEDDING,
    Convergence,
    convergence,
    split_distances,
)
from probenc_support.dynamics.frequency import (
    Frequencies,
    FrequencyFit,
    bootstrap_r2_adj,
    fit_frequency,
    frequencies,
    r2_of_text_so_far,
)
from probenc_support.dynamics.function_distance import Final, FunctionDistance, draws_of_means
from probenc_support.dynamics.halfway_steps import Halfway, crossing, first_at, halfway_of
from probenc_support.errors import InputError
from probenc_support.inference import detect
from probenc_support.models import checkpoints
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.vocabulary import Vocabulary

Array = NDArray[np.float64]


FREQUENCY = "frequency in E"


LOSS = "loss"


KL = "KL to the final model"


@dataclass(frozen=True)
class Ahead:
    """Distance of E from its final value (1 to 0) when the frequency fit is half-way."""

    training: float
    """In training."""
    straight: float
    """On the straight line between the same end points, see `straight_line`."""


@dataclass(frozen=True)
class Dynamics:
    """Everything that was measured over the checkpoints of one run."""

    run: TrainingRun
    frequencies: Frequencies
    fits: list[FrequencyFit]
    """One a step."""
    convergence: Convergence
    """Of all groups of parameters, or of E alone where nothing else was fetched."""
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
        return self.run.steps

    @property
    def r2_adj(self) -> Array:
        """[n_steps] adjusted R^2 of -log frequency on E."""
        return np.array([fit.fit.r2_adj for fit in self.fits])

    @property
    def read_steps(self) -> list[int]:
        """Steps at which the model read the text, ascending."""
        return [found.step for found in self.behaviour]

    @property
    def loss(self) -> Array:
        """[n_read] nats, at `read_steps`."""
        return np.array([found.loss for found in self.behaviour])

    @property
    def kl_to_final(self) -> Array:
        """[n_read] mean KL(final || step), in nats."""
        return np.array([found.kl for found in self.function])

    def by_step(self) -> pd.DataFrame:
        """One row a step."""
        table = pd.DataFrame(
            {
                "step": self.steps,
                "r2_adj_frequency": self.r2_adj,
                "spearman_frequency": [fit.spearman for fit in self.fits],
                "r2_adj_shuffled": [float(fit.r2_adj_shuffled.mean()) for fit in self.fits],
                "r2_adj_shuffled_largest": [float(f.r2_adj_shuffled.max()) for f in self.fits],
            }
        )
        if self.r2_text_so_far is not None:
            table["r2_text_so_far"] = self.r2_text_so_far
        for name in ("loss", "r2_adj_log_a", "kl_unigram", "kl_average_unigram"):
            if self.behaviour:
                values = {found.step: getattr(found, name) for found in self.behaviour}
                table[name] = table["step"].map(values)
        if self.function:
            table["kl_to_final"] = table["step"].map({f.step: f.kl for f in self.function})
        return table

    def by_state(self) -> pd.DataFrame:
        """CKA with the final model's hidden states: columns step, state, cka."""
        rows = [
            (found.step, name, value)
            for found in self.function
            for name, value in found.cka.items()
        ]
        return pd.DataFrame(rows, columns=["step", "state", "cka"])

    def by_group(self) -> pd.DataFrame:
        """One row a step and group of parameters."""
        found = self.convergence
        tables = [
            pd.DataFrame(
                {
                    "step": found.steps,
                    "group": group,
                    "distance": found.distance(group),
                    "change_a_step": found.change[group],
                    "cosine": found.cosine[group],
                }
            )
            for group in found.groups
        ]
        return pd.concat(tables, ignore_index=True)

    def emergence(self, *, n_replicates: int = 400, seed: int = 0) -> list[Halfway]:
        """Half-way steps of the frequency fit, the loss, and every group of parameters."""
        options = {"n_replicates": n_replicates, "seed": seed}
        draws = bootstrap_r2_adj(self.fits, self.frequencies.y, **options)
        found = [halfway_of(FREQUENCY, self.steps, self.r2_adj, draws)]
        if self.behaviour:
            found.append(halfway_of(LOSS, self.read_steps, self.loss, self.loss_draws(**options)))
        if self.function:
            draws = self.kl_draws(**options)
            found.append(halfway_of(KL, self.read_steps, self.kl_to_final, draws))
        for group in self.convergence.groups:
            distance = self.convergence.distance(group)
            draws = self.convergence.bootstrap(group, **options)
            found.append(halfway_of(group, self.steps, distance, draws))
        for name, curves in split_distances(self.run, self.frequencies, **options).items():
            found.append(halfway_of(name, self.steps, curves[0], curves[1:]))
        return found

    def loss_draws(self, *, n_replicates: int, seed: int) -> Array:
        """[n_replicates, n_read] loss over groups of documents drawn with replacement."""
        sums = np.stack([found.loss_sums for found in self.behaviour])
        sizes = self.behaviour[0].loss_sizes
        return draws_of_means(sums, sizes, n_replicates=n_replicates, seed=seed)

    def kl_draws(self, *, n_replicates: int, seed: int) -> Array:
        """[n_replicates, n_read] `kl_to_final` over the same draws of documents."""
        sums = np.stack([found.kl_sums for found in self.function])
        sizes = self.function[0].sizes
        return draws_of_means(sums, sizes, n_replicates=n_replicates, seed=seed)

    def r2_when_loss_fell(self, share: float) -> float:
        """Adjusted R^2 of frequency when the loss has fallen by a share (0 to 1) of its way."""
        level = self.loss[0] + share * (self.loss[-1] - self.loss[0])
        step = crossing(self.read_steps, self.loss, level)
        return float(np.interp(np.log1p(step), np.log1p(self.steps), self.r2_adj))

    def ahead_of(self, line: pd.DataFrame) -> "Ahead":
        """How far E has still to go when the frequency fit is half-way, on two ways to the end.

        Args:
            line: see `straight_line`, between this run's first and last E.
        """
        level = 0.5 * (self.r2_adj[0] + self.r2_adj[-1])
        ways = (
            (self.convergence.distance(EMBEDDING), self.r2_adj),
            (line["distance"].to_numpy(), line["r2_adj"].to_numpy()),
        )
        return Ahead(*(first_at(level, r2_adj, distance) for distance, r2_adj in ways))

    def loss_share(self, step: float) -> float:
        """Share of the loss's whole fall that has happened by a step, interpolated; 0 to 1."""
        return share_by(step, self.read_steps, self.loss)


def share_by(step: float, steps: Sequence[int], curve: Array) -> float:
    """Share of a curve's way from its first to its last value that lies behind it at a step."""
    done = (curve[0] - curve) / (curve[0] - curve[-1])
    return float(np.interp(np.log1p(step), np.log1p(steps), done))


def thinned(steps: Sequence[int], ratio: float = 1.25) -> list[int]:
    """Steps of which each (plus one) is at least `ratio` times the one before; first and last are
    always among them. What costs a pass of the model is measured at these."""
    kept = [steps[0]]
    for step in steps[1:-1]:
        if step + 1 >= ratio * (kept[-1] + 1):
            kept.append(step)
    return [*kept, steps[-1]]


def emergence_table(found: Sequence[Dynamics], *, n_replicates: int, seed: int) -> pd.DataFrame:
    """Half-way steps of every run: columns run, what, step, low, high."""
    rows = [
        (each.run.name, half.name, half.step, half.low, half.high)
        for each in found
        for half in each.emergence(n_replicates=n_replicates, seed=seed)
    ]
    return pd.DataFrame(rows, columns=["run", "what", "step", "low", "high"])


def is_earliest(table: pd.DataFrame, *, before: Iterable[str], what: str = FREQUENCY) -> bool:
    """Whether in every run one thing is half-way before all of the others, the intervals apart.

    Args:
        table: see `emergence_table`.
        what: the one thing.
        before: names in its column `what`.

    Raises:
        InputError: one of them was not measured.
    """
    earliest = table[table["what"] == what].set_index("run")
    for name in before:
        other = table[table["what"] == name].set_index("run")
        if other.empty:
            raise InputError(f"The half-way step of {name} was not measured.")
        if not (earliest["high"] < other["low"].reindex(earliest.index)).all():
            return False
    return True


def truncated_at(found: Dynamics, step: int) -> Dynamics:
    """The same run as if it had ended at a step: all that is said relative to the end changes."""
    run = found.run.select(s for s in found.steps if s <= step)
    return replace(
        found,
        run=run,
        fits=[fit for fit in found.fits if fit.step <= step],
        behaviour=[behaved for behaved in found.behaviour if behaved.step <= step],
        function=[],
        convergence=convergence(run, embedding_only=len(found.convergence.groups) == 1),
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
    fits = [fit_frequency(run.embedding(s), known, step=s, seed=seed) for s in run.steps]
    ends = {run.steps[0], run.steps[-1]}
    wanted = run.steps if read_at is None else sorted({*read_at, *ends} & set(run.steps))
    options = {"device": device, "dtype": dtype, "first_token": first_token}
    shown, function = _read(run, wanted, text, known.log_unigram, **options) if text else ([], [])
    return Dynamics(
        run=run,
        frequencies=known,
        fits=fits,
        convergence=convergence(run, embedding_only=embedding_only),
        behaviour=shown,
        function=function,
        loss_of_unigram=unigram_loss(text.ids, known.log_unigram) if text else math.nan,
        r2_text_so_far=r2_of_text_so_far(run, known) if counts == "training" else None,
        repeats=repeats,
    )


def _read(
    run: TrainingRun, steps: Sequence[int], text: TokenBlocks, log_unigram: Array, **options: str
) -> tuple[list[Behaviour], list[FunctionDistance]]:
    """One pass over a text at each of some steps, the last of which all are measured by."""
    shown: list[Behaviour] = []
    function: list[FunctionDistance] = []
    final: Final | None = None
    for step in reversed(steps):
        lm = run.load(step, **options)
        passed = detect(lm, text, progress=False)
        shown.insert(0, behaviour(lm, passed, log_unigram, step=step))
        final = final or Final.of(lm, passed, text)
        function.insert(0, final.compare(lm, passed, text, step=step))
    return shown, function


def by_length(
    found: Sequence[Dynamics], *, before: Sequence[str], n_replicates: int, seed: int
) -> pd.DataFrame:
    """Half-way steps and verdict as if the runs had stopped at every second earlier checkpoint.

    Columns: stopped_at, one for everything in `emergence_table` (mean over runs), frequency_first.
    """
    options = {"n_replicates": n_replicates, "seed": seed}
    rows = []
    # The change so far must be more than the first few steps of the warm-up.
    for step in [s for s in thinned(found[0].steps, 2.5)[:-1] if s >= 8]:
        table = emergence_table([truncated_at(each, step) for each in found], **options)
        halves = table.groupby("what", sort=False)["step"].mean().to_dict()
        first = is_earliest(table, before=before)
        rows.append({"stopped_at": step, **halves, "frequency_first": first})
    return pd.DataFrame(rows, columns=None if rows else ["stopped_at", "frequency_first"])


def by_frequency(found: Dynamics, *, n_groups: int = 5) -> pd.DataFrame:
    """Mean fitted and true -log frequency of tokens from the most to the least frequent, by step.

    Columns: step, group (1: most frequent), true, fitted, rms_error; nats.
    """
    y = found.frequencies.y
    groups = np.array_split(np.argsort(y, kind="stable"), n_groups)
    rows = [
        (
            fit.step,
            number,
            float(y[members].mean()),
            float(fit.predicted[members].mean()),
            float(np.sqrt(np.mean((fit.predicted[members] - y[members]) ** 2))),
        )
        for fit in found.fits
        for number, members in enumerate(groups, start=1)
    ]
    return pd.DataFrame(rows, columns=["step", "group", "true", "fitted", "rms_error"])


def learnt_at(found: Dynamics, *, within: float = 1.0) -> Array:
    """[n_seen] first step from which on a token's fitted -log frequency stays within `within` nats
    of the truth; NaN for a token that ends further away."""
    errors = np.stack([np.abs(fit.predicted - found.frequencies.y) for fit in found.fits])
    right = errors <= within
    stays = np.logical_and.accumulate(right[::-1])[::-1]
    steps = np.array(found.steps, dtype=np.float64)[stays.argmax(0)]
    return cast(Array, np.where(stays.any(0), steps, np.nan))


def examples(found: Dynamics, texts: Sequence[str], *, n: int = 12) -> pd.DataFrame:
    """Tokens spread evenly over the ranks of frequency, with their fitted values step by step.

    Args:
        texts: [V] readable text of each token.
    """
    y = found.frequencies.y
    ranks = np.argsort(y, kind="stable")
    # Powers may come out a rounding below the whole number that they are.
    chosen = ranks[(np.geomspace(1, len(ranks), n) * (1 + 1e-9)).astype(int) - 1]
    chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])]
    table = pd.DataFrame(
        {
            "token": [texts[found.frequencies.tokens[i]] for i in chosen],
            "id": found.frequencies.tokens[chosen],
            "count": found.frequencies.counts[found.frequencies.tokens[chosen]],
            "true": y[chosen],
            "learnt_at": learnt_at(found)[chosen],
        }
    )
    for fit in found.fits:
        table[f"step {fit.step}"] = fit.predicted[chosen]
    return table
