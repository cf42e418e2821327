"""Training dynamics (paper section 5): when the output embedding learns token frequency, and when
the rest of the model reaches its final weights.

At each checkpoint, -log frequency of the tokens in the training text is regressed on the rows of
E. Beside it stand the distances of all parameters from their final values, and what the model does
on text: its loss, and how far its predictions are from the frequencies alone.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from scipy import stats
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probenc_support import corpora, models, training
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.inference import Detection, detect
from probenc_support.regression import Design, LinearFit

Array = NDArray[np.float64]

EMBEDDING = "output embedding"
"""The group of parameters that is E."""
BODY = "all other parameters"
WHOLE = "all parameters"

_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "head.weight")
_INPUTS = ("embed_in.weight", "embed_tokens.weight", "wte.weight")
_LAYER = re.compile(r"\b(?:layers|h|blocks|layer)\.(\d+)\.")
_BUFFERS = re.compile(r"(masked_bias|inv_freq|attention\.bias|attn\.bias)$")


# ------------------------------------------------------------------------------------ checkpoints


@dataclass(frozen=True)
class TrainingRun:
    """A model with the checkpoints of its training, here or on the hub."""

    name: str
    """Short, for legends."""
    source: str
    """Folder with one subfolder a revision, or hub id."""
    revisions: dict[int, str]
    """Revision of each step, in order of the steps."""
    local: bool

    @property
    def steps(self) -> list[int]:
        """Steps, ascending."""
        return list(self.revisions)

    def folder(self, step: int) -> Path:
        """Folder with the whole checkpoint, downloaded if need be."""
        return models.fetch(self.source, revision=self.revisions[step])

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the last checkpoint.

        Raises:
            InputError: there is none beside the weights.
        """
        from transformers import AutoTokenizer

        last = self.revisions[self.steps[-1]]
        folder = (
            Path(self.source) / last
            if self.local
            else models.download(self.source, last, models.CONFIG_PATTERNS)
        )
        try:
            with models.quiet():
                return cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(folder))
        except Exception as error:
            raise InputError(f"{folder} holds no tokenizer that can be read.") from error

    def load(self, step: int, *, device: str = "auto", dtype: str = "auto") -> models.LanguageModel:
        """The model as it was at a step."""
        return models.load(self.source, revision=self.revisions[step], device=device, dtype=dtype)

    def weights(self, step: int) -> dict[str, Tensor]:
        """All trained tensors of a checkpoint by name, float32; buffers are left out."""
        found: dict[str, Tensor] = {}
        for path in models.weight_files(self.folder(step)):
            found |= {name: tensor.float() for name, tensor in _tensors(path)}
        if not found:
            raise InputError(f"{self.name} has no weights at step {step}.")
        return found

    def embedding(self, step: int) -> Tensor:
        """E [V, d] of a checkpoint, float32; of a safetensors file, only its bytes are fetched."""
        if not self.local:
            return _hub_embedding(self.source, self.revisions[step])
        for path in models.weight_files(self.folder(step)):
            if path.suffix == ".safetensors":
                with path.open("rb") as stream:
                    if (found := read_embedding(stream)) is not None:
                        return found
        return head_of(self.weights(step))

    def select(self, steps: Iterable[int]) -> "TrainingRun":
        """The same run with some of its checkpoints only."""
        wanted = set(steps)
        kept = {step: name for step, name in self.revisions.items() if step in wanted}
        return TrainingRun(self.name, self.source, kept, self.local)


def training_run(name: str, *, seed: int = 0, device: str = "auto") -> TrainingRun:
    """The checkpoints of a model: trained here, in a folder, or on the hub.

    Args:
        name: roster name, hub id, or folder whose subfolders are revisions (`step0`, `step1`, ...).
        seed: of models that are trained here; others have the run that they have.

    Raises:
        InputError: no such model, or it has fewer than three checkpoints.
    """
    entry = models.ROSTER.get(name)
    source = entry.source if entry else name
    path = Path(name).expanduser()
    if source.startswith("trained:"):
        path = training.trained(source.partition(":")[2], seed=seed, device=device)
        return _run(f"{name}, seed {seed}", str(path), models.revisions(path), local=True)
    if path.is_dir():
        return _run(path.resolve().name, str(path), models.revisions(path), local=True)
    if entry is None and "/" not in name:
        models.fetch(name)
    return _run(name, source, _hub_revisions(source), local=False)


def _run(name: str, source: str, revisions: Sequence[str], *, local: bool) -> TrainingRun:
    by_step: dict[int, str] = {}
    for revision in revisions:
        if found := re.search(r"step[-_]?(\d+)", revision):
            by_step.setdefault(int(found[1]), revision)
    if len(by_step) < 3:
        raise InputError(
            f"{name} has {len(by_step)} checkpoints named step<n>, and training dynamics need "
            "three or more: name a model that is trained here (pythia-nano), a Pythia or OLMo "
            "model of the hub, or a folder with one subfolder for each step."
        )
    return TrainingRun(name, source, dict(sorted(by_step.items())), local)


def _hub_revisions(hub_id: str) -> list[str]:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(hub_id)
    except Exception as error:
        raise InputError(models.hub_message(error, hub_id, "")) from error
    # A run in several stages counts its steps anew in each: the first stage is the long one.
    names = [branch.name for branch in refs.branches]
    return [name for name in names if name.startswith("stage1-")] or names


def choose_steps(run: TrainingRun, wanted: str = "auto", *, most: int = 24) -> TrainingRun:
    """A run with the checkpoints that are wanted.

    Args:
        wanted: `all`; `auto` (all, or about `most` at equal ratios where there are more); or
            steps, such as `0,1,64,512`.

    Raises:
        InputError: no such step, fewer than three, or something else than steps.
    """
    if wanted == "all" or (wanted == "auto" and len(run.steps) <= most):
        return run
    if wanted == "auto":
        marks = np.geomspace(1, run.steps[-1] + 1, most) - 1
        steps = np.array(run.steps)
        return run.select({int(steps[np.abs(steps - mark).argmin()]) for mark in marks})
    try:
        steps_wanted = {int(part) for part in wanted.split(",")}
    except ValueError:
        raise InputError(
            f"checkpoints is {wanted!r}; give auto, all, or steps such as 0,1,64,512."
        ) from None
    if missing := sorted(steps_wanted - set(run.steps)):
        raise InputError(
            f"{run.name} has no checkpoint at step {missing[0]}; it has "
            f"{', '.join(map(str, run.steps[:20]))}{', ...' if len(run.steps) > 20 else ''}."
        )
    if len(steps_wanted) < 3:
        raise InputError("Training dynamics need three checkpoints or more.")
    return run.select(steps_wanted)


# ------------------------------------------------------------------------------- reading of tensors


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Trained tensors of a weight file, one by one."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if not _BUFFERS.search(name):
                        yield name, file.get_tensor(name)
        else:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            yield from ((name, t) for name, t in state.items() if not _BUFFERS.search(name))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(
            f"{path} is damaged or incomplete: remove its folder and fetch it again."
        ) from error


def head_of(tensors: dict[str, Tensor]) -> Tensor:
    """E [V, d] among the tensors of a checkpoint: the head, or the tied input embedding.

    Raises:
        InputError: neither is there.
    """
    for endings in (_HEADS, _INPUTS):
        for name, tensor in tensors.items():
            if name.endswith(endings):
                return tensor.float()
    raise InputError(f"No output embedding among the tensors {', '.join(list(tensors)[:5])}, ...")


def read_embedding(stream: BinaryIO) -> Tensor | None:
    """E [V, d] float32 out of an open safetensors file; only the header and its bytes are read.

    Args:
        stream: any seekable binary file, for instance one of the hub that fetches ranges.

    Returns:
        None where the file holds no output embedding (a shard of several).
    """
    (length,) = struct.unpack("<Q", stream.read(8))
    header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    for endings in (_HEADS, _INPUTS):
        for name, entry in header.items():
            if name.endswith(endings):
                start, stop = entry["data_offsets"]
                stream.seek(8 + length + start)
                return _decode(name, entry, stream.read(stop - start))
    return None


def _decode(name: str, entry: dict[str, Any], data: bytes) -> Tensor:
    """One tensor of a safetensors file, by a file of one tensor in memory."""
    alone = json.dumps({name: {**entry, "data_offsets": [0, len(data)]}}).encode()
    buffer = BytesIO()
    buffer.write(struct.pack("<Q", len(alone)) + alone + data)
    return load_safetensors(buffer.getvalue())[name].float()


def _hub_embedding(hub_id: str, revision: str) -> Tensor:
    from huggingface_hub import HfFileSystem

    try:
        files = HfFileSystem()
        root = f"{hub_id}@{revision}"
        paths = sorted(files.glob(f"{root}/*.safetensors"))
        for path in paths:
            with files.open(path, "rb", block_size=2**20) as stream:
                if (found := read_embedding(stream)) is not None:
                    return found
    except Exception as error:
        raise InputError(models.hub_message(error, hub_id, revision)) from error
    # An early checkpoint may exist as a pickle only, of which no part can be had.
    folder = models.fetch(hub_id, revision=revision)
    return head_of({n: t for f in models.weight_files(folder) for n, t in _tensors(f)})


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
    return corpora.token_counts(source, run.tokenizer(), n_rows), f"the corpus {source}"


def read_counts(path: Path, n_rows: int) -> NDArray[np.int64]:
    """A table of token counts, padded with zeros to [n_rows] int64.

    Raises:
        InputError: no such file, no vector of counts, or more rows than the model has.
    """
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


# ----------------------------------------------------------------------------------- frequency fits


@dataclass(frozen=True)
class FrequencyFit:
    """The fit of -log frequency on E at one checkpoint."""

    step: int
    fit: LinearFit
    spearman: float
    """Rank correlation of fitted and true values."""
    r2_adj_shuffled: Array
    """[n_shuffles] adjusted R^2 for counts in random order: the control."""
    predicted: NDArray[np.float32]
    """[n_seen] fitted values, in nats."""


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
    predicted = fit.predict(rows)
    rng = np.random.default_rng(seed)
    shuffled = np.stack([rng.permutation(y) for _ in range(n_shuffles)], axis=1)
    return FrequencyFit(
        step=step,
        fit=fit,
        spearman=float(stats.spearmanr(predicted, y).statistic),
        r2_adj_shuffled=design.fit_many(shuffled).r2_adj,
        predicted=predicted.astype(np.float32),
    )


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


def group_of(name: str, *, tied: bool = False) -> str:
    """Which part of the model a tensor belongs to: input embedding, a layer, final norm, or E."""
    if name.endswith(_HEADS) or (tied and name.endswith(_INPUTS)):
        return EMBEDDING
    if found := _LAYER.search(name):
        return f"layer {int(found[1]) + 1}"
    if name.endswith(_INPUTS) or re.search(r"\b(wpe|position|embed_)", name):
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
        return cast(Array, np.sqrt(squares / squares[0]))

    def bootstrap(self, group: str, *, n_replicates: int = 400, seed: int = 0) -> Array:
        """[n_replicates, n_steps] the distance over rows drawn with replacement."""
        rng = np.random.default_rng(seed)
        rows = self.to_final[group]
        n = rows.shape[1]
        draws = np.empty((n_replicates, len(rows)))
        for i in range(n_replicates):
            weights = np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64)
            draws[i] = rows @ weights
        return cast(Array, np.sqrt(draws / draws[:, :1]))


def convergence(run: TrainingRun, *, until: int | None = None) -> Convergence:
    """Distances of the parameters from those at the last step, or at the step `until`.

    Four checkpoints are in memory at a time.
    """
    steps = [step for step in run.steps if until is None or step <= until]
    first, final = run.weights(steps[0]), run.weights(steps[-1])
    members = _groups(final)
    sums = {group: _Sums() for group in members}
    before = first
    for step in steps:
        now = run.weights(step)
        for group, names in members.items():
            for name in names:
                sums[group].add(first[name], before[name], now[name], final[name])
            sums[group].next()
        before = now
    sums[BODY] = _Sums.join([sums[group] for group in members if group != EMBEDDING])
    sums[WHOLE] = _Sums.join([sums[group] for group in members])
    spans = np.diff(steps, prepend=steps[0]).astype(np.float64)
    return Convergence(
        groups=list(sums),
        steps=steps,
        to_final={group: np.stack(found.rows) for group, found in sums.items()},
        change={group: found.change(spans) for group, found in sums.items()},
        cosine={group: found.cosine() for group, found in sums.items()},
    )


def _groups(tensors: dict[str, Tensor]) -> dict[str, list[str]]:
    """Names of the tensors of each group, groups from the input to the output."""
    tied = not any(name.endswith(_HEADS) for name in tensors)
    members: dict[str, list[str]] = {}
    for name in sorted(tensors):
        members.setdefault(group_of(name, tied=tied), []).append(name)
    return {group: members[group] for group in sorted(members, key=_depth)}


def _depth(group: str) -> tuple[int, int]:
    order = ("input embedding", "other", "layer", "final norm", EMBEDDING)
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


# --------------------------------------------------------------------------------------- behaviour


@dataclass(frozen=True)
class Behaviour:
    """What a checkpoint does on text."""

    step: int
    loss: float
    """Mean negative log-probability of the next token, in nats."""
    block_losses: Array
    """[n_blocks] the same for each block."""
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
    n_positions: int = 4096,
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
    n_blocks = int(found.block.max()) + 1
    sums = torch.zeros(n_blocks, dtype=torch.float64).index_add_(0, found.block, losses)
    sizes = torch.bincount(found.block[known], minlength=n_blocks)
    chosen = torch.linspace(0, found.n_positions - 1, min(n_positions, found.n_positions)).long()
    fit = Design.of(lm.E[lm.tokens.to(lm.E.device)]).fit(found.y[lm.tokens])
    return Behaviour(
        step=step,
        loss=float(losses.sum() / known.sum()),
        block_losses=(sums / sizes).numpy(),
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
    target = log_u.to(E)
    total = 0.0
    for part in h.to(E).split(max(1, 2**23 // len(E))):
        logits = part @ E.T
        log_p = torch.log_softmax(logits if b is None else logits + b, dim=1)
        total += float((log_p.exp() * (log_p - target)).sum(dtype=torch.float64))
    return total / len(h)


def unigram_loss(ids: Tensor, log_unigram: Array) -> float:
    """Loss on blocks [n, T] of a model that always predicts the frequencies, in nats."""
    return float(-torch.from_numpy(log_unigram)[ids[:, 1:]].mean())


def held_out(run: TrainingRun, corpus: str, n_positions: int) -> TokenBlocks | None:
    """Blocks of the training corpus that a run left out of training; None where none are known."""
    path = Path(run.source) / "held_out.npy"
    if not (run.local and path.is_file()):
        return None
    record = training.record(Path(run.source))
    if record["corpus"] != corpus:
        return None
    ids = torch.from_numpy(np.load(path, allow_pickle=False))
    count = max(1, min(len(ids), n_positions // ids.shape[1]))
    return corpora.from_ids(ids[:count], corpus=f"{corpus}, held out")


# --------------------------------------------------------------------------------------- emergence


def halfway(steps: Sequence[int], curve: Array) -> float:
    """The step at which a curve first is half-way from its first to its last value.

    Between checkpoints, the curve is taken as straight over log(1 + step), since checkpoints are
    spread so. NaN for a curve that ends where it began.
    """
    return float(crossing(steps, curve, 0.5 * (curve[0] + curve[-1])))


def crossing(steps: Sequence[int], curve: Array, level: float) -> float:
    """The first step at which a curve passes a level, interpolated over log(1 + step); or NaN."""
    if not np.isfinite(curve).all() or curve[0] == curve[-1]:
        return math.nan
    passed = (curve - level) * math.copysign(1.0, curve[-1] - curve[0]) >= 0
    if not passed.any():
        return math.nan
    i = int(passed.argmax())
    if i == 0:
        return float(steps[0])
    share = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
    low, high = np.log1p(steps[i - 1]), np.log1p(steps[i])
    return float(np.expm1(low + share * (high - low)))


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
    low, high = (
        np.nanquantile(values, [0.025, 0.975]) if not np.isnan(values).all() else (math.nan,) * 2
    )
    return Halfway(name, halfway(steps, curve), float(low), float(high))


FREQUENCY = "frequency in E"
LOSS = "loss"


@dataclass(frozen=True)
class Dynamics:
    """Everything that was measured over the checkpoints of one run."""

    run: TrainingRun
    frequencies: Frequencies
    fits: list[FrequencyFit]
    """One a step."""
    convergence: Convergence | None
    """None where only E was fetched."""
    behaviour: list[Behaviour]
    """One a step; empty where only E was fetched."""
    loss_of_unigram: float
    """Loss of the frequencies alone on the same text; NaN where no text was read."""

    @property
    def steps(self) -> list[int]:
        return self.run.steps

    @property
    def r2_adj(self) -> Array:
        """[n_steps] adjusted R^2 of -log frequency on E."""
        return np.array([fit.fit.r2_adj for fit in self.fits])

    @property
    def loss(self) -> Array:
        """[n_steps] nats."""
        return np.array([found.loss for found in self.behaviour])

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
        for name in ("loss", "r2_adj_log_a", "kl_unigram", "kl_average_unigram"):
            if self.behaviour:
                table[name] = [getattr(found, name) for found in self.behaviour]
        return table

    def by_group(self) -> pd.DataFrame:
        """One row a step and group of parameters."""
        found = self.convergence
        if found is None:
            return pd.DataFrame(columns=["step", "group", "distance", "change_a_step", "cosine"])
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
            found.append(halfway_of(LOSS, self.steps, self.loss, self._losses(**options)))
        if self.convergence:
            found += [
                halfway_of(
                    group,
                    self.convergence.steps,
                    self.convergence.distance(group),
                    self.convergence.bootstrap(group, **options),
                )
                for group in self.convergence.groups
            ]
        return found

    def _losses(self, *, n_replicates: int, seed: int) -> Array:
        """[n_replicates, n_steps] loss over blocks of text drawn with replacement."""
        rng = np.random.default_rng(seed)
        table = np.stack([found.block_losses for found in self.behaviour], axis=1)
        draws = rng.integers(len(table), size=(n_replicates, len(table)))
        return cast(Array, table[draws].mean(1))

    def loss_share(self, step: float) -> float:
        """Share of the loss's whole fall that has happened by a step, interpolated; 0 to 1."""
        fallen = (self.loss[0] - self.loss) / (self.loss[0] - self.loss[-1])
        return float(np.interp(np.log1p(step), np.log1p(self.steps), fallen))


def comes_first(
    found: Sequence[Halfway], *, others: Sequence[str] = (LOSS, EMBEDDING, BODY)
) -> bool:
    """C7's rule: frequency is half-way before all the others, the intervals lying apart.

    Raises:
        InputError: one of the others was not measured.
    """
    by_name = {half.name: half for half in found}
    if missing := [name for name in others if name not in by_name]:
        raise InputError(f"The half-way step of {missing[0]} was not measured.")
    return all(by_name[FREQUENCY].high < by_name[name].low for name in others)


def measure(
    run: TrainingRun,
    *,
    counts: str = "training",
    blocks: Callable[[PreTrainedTokenizerBase], TokenBlocks] | None = None,
    weights: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
) -> Dynamics:
    """Everything about one run.

    Args:
        counts: see `frequencies`.
        blocks: makes the text to read at each checkpoint; None: none is read.
        weights: whether the convergence of all parameters is wanted. With `blocks=None` and
            `weights=False`, only the output embedding of each checkpoint is fetched.
    """
    tokenizer = run.tokenizer()
    text = blocks(tokenizer) if blocks else None
    n_rows = len(run.embedding(run.steps[-1]))
    real = {i for i in tokenizer.get_vocab().values() if 0 <= i < n_rows}
    known = frequencies(run, counts, n_rows=n_rows, tokens=sorted(real))
    fits, shown = [], []
    for step in run.steps:
        if text is None:
            E = run.embedding(step)
        else:
            lm = run.load(step, device=device, dtype=dtype)
            passed = detect(lm, text, progress=False)
            shown.append(behaviour(lm, passed, known.log_unigram, step=step))
            E = lm.E.cpu()
        fits.append(fit_frequency(E, known, step=step, seed=seed))
    return Dynamics(
        run=run,
        frequencies=known,
        fits=fits,
        convergence=convergence(run) if weights else None,
        behaviour=shown,
        loss_of_unigram=unigram_loss(text.ids, known.log_unigram) if text else math.nan,
    )


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
    chosen = ranks[np.geomspace(1, len(ranks), n).astype(int) - 1]
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
