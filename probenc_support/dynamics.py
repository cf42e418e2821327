"""Training dynamics (paper section 5): when the output embedding learns token frequency, and when
the rest of the model reaches its final weights.

At each checkpoint, -log frequency of the tokens in the training text is regressed on the rows of
E. Beside it stand the distances of all parameters from their final values, and what the model does
on text: its loss, and how far its predictions are from the frequencies alone.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from probenc_support import ceilings, checkpoints, corpora, models, training
from probenc_support.checkpoints import TrainingRun
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.function_distance import Final, FunctionDistance, draws_of_means
from probenc_support.inference import Detection, detect, evenly, logits_of
from probenc_support.precision import wide, wide_device
from probenc_support.regression import Design, LinearFit, out_of_fold
from probenc_support.vocabulary import Vocabulary
from probenc_support.weights import HeadNames

Array = NDArray[np.float64]

EMBEDDING = "output embedding"
"""The group of parameters that is E."""
BODY = "all other parameters"
WHOLE = "all parameters"

_LAYER = re.compile(r"\b(?:layers|h|blocks|layer)\.(\d+)\.")


# -------------------------------------------------------------------------------------- frequencies


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
    rows = training.Recipe(**record["recipe"]).checkpoints
    table = np.load(path, allow_pickle=False)
    return cast(NDArray[np.int64], table[[rows.index(step) for step in run.steps]])


def r2_of_text_so_far(run: TrainingRun, known: Frequencies) -> Array | None:
    """[n_steps] how well the counts of the text read until each checkpoint tell -log frequency.

    What a model could know at best, had it counted, see `ceilings.countable`. None where only the
    total is known.
    """
    counts = counts_so_far(run)
    return None if counts is None else ceilings.countable(known.y, counts[:, known.tokens])


# ----------------------------------------------------------------------------------- frequency fits


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


# -------------------------------------------------------------------------------------- parameters


def group_of(name: str, names: HeadNames) -> str:
    """Which part of the model a tensor belongs to: input embedding, a layer, final norm, or E.

    Args:
        names: what the architecture calls its embeddings, see `TrainingRun.head_names`.
    """
    if name in names.head or (names.tied and name in names.inputs):
        return EMBEDDING
    if name in names.bias:
        return "head bias"
    if found := _LAYER.search(name):
        return f"layer {int(found[1]) + 1}"
    if name in names.inputs or re.search(r"\b(wpe|position|embed_)", name):
        return "input embedding"
    return "final norm" if re.search(r"norm|ln_f", name) else "other"


@dataclass(frozen=True)
class Convergence:
    """How far the parameters of each group are from their final values, at each step."""

    groups: list[str]
    """Names in the model's order; `all other parameters` and `all parameters` come last."""
    steps: list[int]
    to_final: dict[str, Array]
    """[n_steps, n_rows] squared distance of each row of a group's matrices from its final value
    (of each entry, for norms and biases). The last step is zero."""
    change: dict[str, Array]
    """[n_steps] ||W_t - W_before|| / ||W_t|| a step; not a number at the first checkpoint."""
    cosine: dict[str, Array]
    """[n_steps] cosine of W_t - W_0 and W_final - W_0, in [-1, 1]; NaN at the first checkpoint."""

    def distance(self, group: str) -> Array:
        """[n_steps] ||W_t - W_final|| / ||W_0 - W_final||: 1 at the first step, 0 at the last."""
        squares = self.to_final[group].sum(1)
        return _relative(squares, squares[0])

    def bootstrap(self, group: str, *, n_replicates: int = 400, seed: int = 0) -> Array:
        """[n_replicates, n_steps] the distance over rows drawn with replacement."""
        rng = np.random.default_rng(seed)
        rows = self.to_final[group]
        n = rows.shape[1]
        draws = np.empty((n_replicates, len(rows)))
        for i in range(n_replicates):
            weights = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)
            draws[i] = rows @ weights
        return _relative(draws, draws[:, :1])


def _relative(squares: Array, whole: Any) -> Array:
    """Root of the ratio; NaN for parameters that are at the end where they began."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(Array, np.sqrt(squares / whole))


def convergence(run: TrainingRun, *, embedding_only: bool = False) -> Convergence:
    """Distances of the parameters (or of E alone) from those at the last step of the run.

    Four checkpoints are in memory at a time.
    """
    steps = run.steps

    def read(step: int) -> dict[str, Tensor]:
        return {"E": run.embedding(step)} if embedding_only else run.weights(step)

    first, final = read(steps[0]), read(steps[-1])
    members = {EMBEDDING: ["E"]} if embedding_only else _groups(final, run.head_names(steps[-1]))
    sums = {group: _Sums() for group in members}
    before = first
    for step in steps:
        now = read(step)
        for group, names in members.items():
            for name in names:
                sums[group].add(first[name], before[name], now[name], final[name])
            sums[group].next()
        before = now
    if rest := [sums[group] for group in members if group != EMBEDDING]:
        sums[BODY] = _Sums.join(rest)
        sums[WHOLE] = _Sums.join([*rest, sums[EMBEDDING]])
    spans = np.diff(steps, prepend=steps[0]).astype(np.float64)
    return Convergence(
        groups=list(sums),
        steps=steps,
        to_final={group: np.stack(found.rows) for group, found in sums.items()},
        change={group: found.change(spans) for group, found in sums.items()},
        cosine={group: found.cosine() for group, found in sums.items()},
    )


def _groups(tensors: Iterable[str], names: HeadNames) -> dict[str, list[str]]:
    """Names of the tensors of each group, groups from the input to the output."""
    members: dict[str, list[str]] = {}
    for name in sorted(tensors):
        members.setdefault(group_of(name, names), []).append(name)
    return {group: members[group] for group in sorted(members, key=_depth)}


def _depth(group: str) -> tuple[int, int]:
    order = ("input embedding", "other", "layer", "final norm", "head bias", EMBEDDING)
    number = re.search(r"\d+", group)
    kind = "layer" if group.startswith("layer") else group
    return order.index(kind), int(number[0]) if number else 0


class _Sums:
    """Sums of squares and products over the tensors of one group, step by step."""

    def __init__(self) -> None:
        self.rows: list[Array] = []
        self.scalars: list[Array] = []
        self._reset()

    def _reset(self) -> None:
        self._rows: list[Array] = []
        self._scalars: Array = np.zeros(5)

    def add(self, first: Tensor, before: Tensor, now: Tensor, final: Tensor) -> None:
        """Adds one tensor at one step; a vector's entries count as rows."""
        first, before, now, final = (
            t.reshape(len(t), -1) if t.ndim else t.reshape(1, 1)
            for t in (first, before, now, final)
        )
        self._rows.append((now - final).double().square().sum(1).numpy())
        moved, whole = (now - first).double(), (final - first).double()
        self._scalars += np.array(
            [
                float((now - before).double().square().sum()),
                float(now.double().square().sum()),
                float((moved * whole).sum()),
                float(moved.square().sum()),
                float(whole.square().sum()),
            ]
        )

    def next(self) -> None:
        """Ends a step."""
        self.rows.append(np.concatenate(self._rows))
        self.scalars.append(self._scalars)
        self._reset()

    @classmethod
    def join(cls, parts: Sequence["_Sums"]) -> "_Sums":
        """The union of several groups."""
        whole = cls()
        whole.rows = [np.concatenate(rows) for rows in zip(*(p.rows for p in parts), strict=True)]
        whole.scalars = [sum(s, np.zeros(5)) for s in zip(*(p.scalars for p in parts), strict=True)]
        return whole

    def change(self, spans: Array) -> Array:
        table = np.stack(self.scalars)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(table[:, 0] / table[:, 1]) / spans

    def cosine(self) -> Array:
        table = np.stack(self.scalars)
        with np.errstate(invalid="ignore", divide="ignore"):
            return table[:, 2] / np.sqrt(table[:, 3] * table[:, 4])


FREQUENCY_PART = "frequency part of E"
REST = "rest of E"


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
    rng = np.random.default_rng(seed)
    n = len(known.tokens)
    draws = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(n_replicates)]
    weights = torch.from_numpy(np.stack([np.ones(n, dtype=np.int64), *draws])).double()
    tokens = torch.from_numpy(known.tokens)
    final = run.embedding(run.steps[-1])[tokens]
    squares = [_split(run.embedding(s)[tokens] - final, known.y, weights) for s in run.steps]
    parts = np.stack(squares, axis=2)
    return {
        name: _relative(part, part[:, :1])
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


# --------------------------------------------------------------------------------------- behaviour


@dataclass(frozen=True)
class Behaviour:
    """What a checkpoint does on text."""

    step: int
    loss: float
    """Mean negative log-probability of the next token, in nats."""
    loss_sums: Array
    """[G] sums of the same over the positions of each group of documents."""
    loss_sizes: Array
    """[G] positions of each group that have a next token."""
    r2_adj_log_a: float
    """Adjusted R^2 of -log a on E over all real tokens (the paper's encoding)."""
    kl_unigram: float
    """Mean over positions of KL(P_n || unigram), in nats: 0 for a model that ignores context and
    predicts the frequencies."""
    kl_average_unigram: float
    """KL(a || unigram) of the average prediction a, in nats; never above `kl_unigram`."""


def behaviour(
    lm: models.LanguageModel,
    found: Detection,
    log_unigram: Array,
    *,
    step: int = 0,
    n_positions: int = 2048,
) -> Behaviour:
    """Loss, encoding of the output probability, and distance from the unigram distribution.

    Args:
        found: one pass of the model over text that it was not trained on.
        log_unigram: [V] log frequencies, see `Frequencies.log_unigram`.
        n_positions: for `kl_unigram`, evenly spread; its cost is one product with the head.
    """
    log_u = torch.from_numpy(log_unigram)
    known = found.targets >= 0
    losses = torch.where(known, -found.target_log_p, 0.0)
    n_groups = len(found.log_a_groups)
    sums = torch.zeros(n_groups, dtype=torch.float64).index_add_(0, found.group, losses)
    sizes = torch.bincount(found.group[known], minlength=n_groups)
    chosen = evenly(found.n_positions, min(n_positions, found.n_positions))
    fit = Design.of(lm.E[lm.tokens.to(lm.E.device)]).fit(found.y[lm.tokens])
    return Behaviour(
        step=step,
        loss=float(losses.sum() / known.sum()),
        loss_sums=sums.numpy(),
        loss_sizes=sizes.double().numpy(),
        r2_adj_log_a=fit.r2_adj,
        kl_unigram=unigram_divergence(lm.E, lm.b, found.h[chosen], log_u),
        kl_average_unigram=float((found.log_a.exp() * (found.log_a - log_u)).sum()),
    )


@torch.inference_mode()
def unigram_divergence(E: Tensor, b: Tensor | None, h: Tensor, log_u: Tensor) -> float:
    """Mean over positions of KL(P_n || u), at least 0, in nats.

    Args:
        E: [V, d]; b: [V] or None; h: [n, d] hidden states; log_u: [V] log probabilities.
    """
    # sum_w P_w (log P_w - log u_w), with log P = logit - z and the sum over u taken for all
    # positions at once; pieces that stay in the processor's cache.
    average = torch.zeros(len(E), dtype=torch.float64, device=wide_device(E.device))
    negative_entropy = 0.0
    for part in h.to(E).split(max(1, 2**20 // len(E))):
        logits = logits_of(E, b, part)
        top = logits.amax(1, keepdim=True)
        weights = (logits - top).exp_()
        mass = weights.sum(1)
        z = wide(top[:, 0]) + wide(mass).log()
        expected = wide(torch.linalg.vecdot(weights, logits)) / wide(mass)
        negative_entropy += float((expected - z).sum())
        average += wide(torch.mv(weights.T, 1 / mass))
    return (negative_entropy - float(average @ log_u.to(average))) / len(h)


def unigram_loss(ids: Tensor, log_unigram: Array) -> float:
    """Loss on blocks [n, T] of a model that always predicts the frequencies, in nats."""
    return float(-torch.from_numpy(log_unigram)[ids[:, 1:]].mean())


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
        exclude=[training.sources(Path(run.source))] if record else [],
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


# --------------------------------------------------------------------------------------- emergence


def halfway(steps: Sequence[int], curve: Array) -> float:
    """The step at which a curve first is half-way from its first to its last value.

    Between checkpoints, the curve is taken as straight over log(1 + step), since checkpoints are
    spread so. NaN for a curve that ends where it began.
    """
    return crossing(steps, curve, 0.5 * (curve[0] + curve[-1]))


def crossing(steps: Sequence[int], curve: Array, level: float) -> float:
    """The first step at which a curve passes a level, interpolated over log(1 + step); or NaN."""
    ends_where_it_began = math.isclose(curve[0], curve[-1], rel_tol=1e-9, abs_tol=1e-12)
    if not np.isfinite(curve).all() or ends_where_it_began:
        return math.nan
    upwards = math.copysign(1.0, curve[-1] - curve[0])
    return math.expm1(_first_at(upwards * level, upwards * curve, np.log1p(steps)))


def _first_at(level: float, curve: Array, along: Array) -> float:
    """The value of `along` where a curve first reaches a level from below, interpolated; or NaN."""
    reached = curve >= level
    if not reached.any():
        return math.nan
    i = int(reached.argmax())
    if i == 0:
        return float(along[0])
    share = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(along[i - 1] + share * (along[i] - along[i - 1]))


@dataclass(frozen=True)
class Halfway:
    """When something was half-way to where it ended."""

    name: str
    step: float
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end of the same."""


def halfway_of(name: str, steps: Sequence[int], curve: Array, replicates: Array) -> Halfway:
    """The half-way step of a curve [n_steps] with the interval of its replicates [B, n_steps]."""
    values = [halfway(steps, replicate) for replicate in replicates]
    known = [value for value in values if not math.isnan(value)] or [math.nan]
    low, high = np.quantile(known, [0.025, 0.975])
    return Halfway(name, halfway(steps, curve), float(low), float(high))


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
        return Ahead(*(_first_at(level, r2_adj, distance) for distance, r2_adj in ways))

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


def comes_first(table: pd.DataFrame, *, before: Iterable[str], what: str = FREQUENCY) -> bool:
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


def stopped(found: Dynamics, step: int) -> Dynamics:
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
        table = emergence_table([stopped(each, step) for each in found], **options)
        halves = table.groupby("what", sort=False)["step"].mean().to_dict()
        first = comes_first(table, before=before)
        rows.append({"stopped_at": step, **halves, "frequency_first": first})
    return pd.DataFrame(rows, columns=None if rows else ["stopped_at", "frequency_first"])


# ------------------------------------------------------------------------------------ single tokens


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
