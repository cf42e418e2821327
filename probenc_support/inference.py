"""The one expensive pass over a detecting corpus: hidden states, log-partition, log probabilities.

A pass is made and added up in shards of a fixed number of positions, so that memory grows neither
with N x V nor with N: what is a mean over positions is one over all of them, and hidden states are
held of a sample where there are many. Probabilities are accumulated so that none underflows. The
shards are kept in the user's cache by what went into them; after a kill the pass goes on with the
next, and several processes make one together.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import resource
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from probenc_support import cache as caches
from probenc_support import shards
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel, hidden_states, tensor_parallel
from probenc_support.models import targets as targets_of
from probenc_support.models.language_model import check_ids, overflow
from probenc_support.moments import Moments
from probenc_support.precision import HALF, wide
from probenc_support.progress import Progress
from probenc_support.shards import Shard, Shards

MAX_GROUPS = 128
"""Most groups of text in which average probabilities are kept apart, for the bootstrap."""


MIN_DOCUMENTS = 8
"""With fewer documents than this, runs of blocks are drawn in their place."""


_VERSION = 5
"""Increase it when the arithmetic of the pass changes, so that cached passes are made again."""


_LIBRARIES = ("torch", "transformers", "tokenizers")
"""Libraries whose release a pass may depend on."""


_NOT_ARITHMETIC = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Entries of a configuration that say where a model came from, not what it computes."""


SAMPLE = 65536
"""Most positions whose hidden states a `Detection` holds unless it is told otherwise."""


_SEED = 0
"""Of the draw of these positions."""


_BATCH_POSITIONS = {"cpu": 1024, "cuda": 16384}


_SHARD_POSITIONS = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True, eq=False)
class Detection:
    """What one pass over a detecting corpus leaves (paper, section 2.1).

    N positions; logarithms are natural (nats). What has one entry for each token has those of
    `tokens`, in this order, as `Head.rows` does; names that end in `_rows` are indexed by token id
    over all V rows of the head, padding included. What is a mean or a number of positions is over
    all N. What has one entry for each position has those of `places`, m of them: all N, or an even
    random draw where there are more than were to be kept.
    """

    h: Tensor
    """[m, d] float32 hidden states that the head reads."""
    z: Tensor
    """[m] float64 log-partition, logsumexp over all rows of E h + b."""
    tokens: Tensor
    """[n] int64, ascending: ids of the tokens."""
    log_a_rows: Tensor
    """[V] float64 log of the average probability, log mean_n P(w|n)."""
    mean_log_p_rows: Tensor
    """[V] float64 average log-probability, mean_n log P(w|n); above log_a by no more than rounding
    (Jensen)."""
    log_a_groups_rows: Tensor
    """[G, V] float32 log of the average probability within each group of text."""
    group_sizes: Tensor
    """[G] int64 positions in each group of text, N in all."""
    mean_target_log_p: float
    """Mean log-probability of the targets, over all positions that have one; NaN if none has."""
    places: Tensor
    """[m] int64, ascending: which of the N positions of the text are kept; see `kept_places`."""
    group: Tensor
    """[m] int64 group of each position: its document, or a few small ones together; see
    `groups_of_text`. Of a sample, a small group may have no position."""
    block: Tensor
    """[m] int64 block of each position."""
    targets: Tensor
    """[m] int64 token of the text that is predicted: of a causal model the next one, and -1 at the
    last position of a block; of a masked one the token that is masked."""
    target_log_p: Tensor
    """[m] float64 log-probability of the target, NaN where there is none."""
    seconds: float
    """Wall time of the pass when it was made."""
    peak_memory_mb: float
    """Largest resident memory of the process (GPU: allocated memory) when it was made."""
    from_cache: bool
    """Whether the whole pass was read from the cache."""
    all_moments: Moments | None = None
    """Of the hidden states at all N positions, where these are more than are kept; else None."""

    @cached_property
    def log_a(self) -> Tensor:
        """[n] float64 log of the average probability of each token."""
        return self.log_a_rows[self.tokens]

    @cached_property
    def mean_log_p(self) -> Tensor:
        """[n] float64 average log-probability of each token; see `mean_log_p_rows`."""
        return self.mean_log_p_rows[self.tokens]

    @cached_property
    def log_a_groups(self) -> Tensor:
        """[G, n] float32 log of each token's average probability within each group of text."""
        every = len(self.tokens) == self.log_a_groups_rows.shape[1]
        return self.log_a_groups_rows if every else self.log_a_groups_rows[:, self.tokens]

    @property
    def y(self) -> Tensor:
        """[n] float64, -log a of each token: what the paper regresses on E."""
        return -self.log_a

    @property
    def n_groups(self) -> int:
        """G."""
        return int(self.log_a_groups_rows.shape[0])

    @property
    def n_positions(self) -> int:
        """N."""
        return int(self.group_sizes.sum())

    @property
    def n_kept(self) -> int:
        """m, the positions whose hidden states are held; N where these are all."""
        return len(self.h)

    @property
    def keeps_all(self) -> bool:
        """Whether the hidden states at all N positions are held."""
        return self.n_kept == self.n_positions

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance of the hidden states at all N positions."""
        return self.all_moments or Moments.of(self.h)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of the target, at least 1."""
        return float(torch.exp(-torch.tensor(self.mean_target_log_p, dtype=torch.float64)))

    def y_of_groups(self, groups: Tensor) -> Tensor:
        """-log a over some groups only (indices may repeat: a bootstrap sample): [n] float64."""
        log_n = self.group_sizes[groups].double().log()
        summed = torch.logsumexp(self.log_a_groups[groups].double() + log_n[:, None], dim=0)
        return torch.logsumexp(log_n, dim=0) - summed


def evenly(n: int, count: int) -> Tensor:
    """[count] int64 of 0 to n - 1, evenly spread, both ends among them; [0] for a count of one.

    Computed in integers, since evenly spaced floats, once rounded, may differ between processors.
    """
    gaps = max(1, count - 1)
    return (2 * torch.arange(count) * (n - 1) + gaps) // (2 * gaps)


def kept_places(n: int, sample: int = SAMPLE) -> Tensor:
    """[m] int64, ascending: which of n positions a pass keeps the hidden states of.

    All where these are no more than `sample`; else so many, drawn without replacement, each as
    likely as any other. The draw is the same whenever the two numbers are.
    """
    if n <= sample:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randperm(n, generator=generator)[:sample].sort().values


@torch.inference_mode()
def detect(
    lm: LanguageModel,
    blocks: TokenBlocks,
    *,
    positions: str = "all",
    sample: int = SAMPLE,
    cache: bool = True,
    progress: bool = True,
) -> Detection:
    """Runs the model over a corpus once and keeps what the analyses need.

    Processes that make the same pass at the same time share the work, on one machine or on several
    that share the cache.

    Args:
        positions: `all`, or `last`: only the last position of each block (the paper's few-example
            setting: one context, one distribution).
        sample: most positions whose hidden states are held; see `kept_places`.
        cache: read and write the user's cache.
        progress: show a bar of text on stderr while it lasts: positions a second, time left.

    Raises:
        InputError: `positions` is neither, `sample` is below 1, or the cache cannot be written.
    """
    if sample < 1:
        raise InputError(f"sample is {sample}; at least one position must be kept.")
    plan = _Plan.of(lm, blocks, positions)
    sums = _Sums(plan, kept_places(plan.groups.numel(), sample))
    with Progress("pass", blocks.n_positions, "positions", shown=progress) as so_far:
        if not cache:
            for shard in plan.shards:
                sums.add(plan.compute(shard, so_far))
            return sums.detection(from_cache=False)
        files = plan.files(so_far)
        files.make(range(len(plan.shards)))
        sums.know_moments(files)
        for number in range(len(plan.shards)):
            sums.add(files.read(number))
        sums.keep_moments(files)
    _settle(files)
    return sums.detection(from_cache=files.made == 0)


@dataclass(frozen=True)
class Prepared:
    """Part of a pass that was made ahead of time."""

    n_shards: int
    """Shards of the whole pass."""
    n_own: int
    """Shards of this part."""
    n_made: int
    """How many of these were made now; the others were there, or another process made them."""
    n_there: int
    """Shards of the whole pass that are in the cache now."""
    seconds: float
    """Wall time, with waiting for shards of this part that another process made."""


@torch.inference_mode()
def prepare(
    lm: LanguageModel,
    blocks: TokenBlocks,
    *,
    positions: str = "all",
    part: tuple[int, int] = (1, 1),
    progress: bool = True,
) -> Prepared:
    """Makes the i-th of n parts of a pass in the cache, where `detect` then finds it.

    Args:
        positions: see `detect`.
        part: i and n, with i from 1. Every n-th shard belongs to a part; where there are fewer
            shards than parts, some parts have none.
        progress: see `detect`.

    Raises:
        InputError: see `detect`; or there is no such part.
    """
    i, n = part
    if not 1 <= i <= n:
        raise InputError(f"There is no part {i} of {n}; use 1 to {n}.")
    started = time.perf_counter()
    plan = _Plan.of(lm, blocks, positions)
    own = range(i - 1, len(plan.shards), n)
    size = sum(len(plan.shards[k]) for k in own) * plan.length
    with Progress("pass", size, "positions", shown=progress) as so_far:
        files = plan.files(so_far)
        files.make(own)
    _settle(files)
    return Prepared(
        n_shards=len(plan.shards),
        n_own=len(own),
        n_made=files.made,
        n_there=sum(files.path(k).exists() for k in range(len(plan.shards))),
        seconds=time.perf_counter() - started,
    )


@torch.inference_mode()
def follow(lm: LanguageModel, blocks: TokenBlocks, *, positions: str = "all") -> None:
    """Computes a process's part of the layers for a pass that the first process of its group makes.

    It ends when the first process tells so, see `models.tensor_parallel`.

    Args:
        lm: divided among the processes of the group; blocks, positions: those of the first.

    Raises:
        InputError: see `detect`.
    """
    plan = _Plan.of(lm, blocks, positions)
    by_start = {shard.start: shard for shard in plan.shards}
    while (start := tensor_parallel.told()) is not None:
        plan.states(by_start[start])


def _settle(files: Shards) -> None:
    """Notes that a pass was used, and drops the oldest ones where all of them take too much."""
    with caches.writing(files.folder):
        files.folder.mkdir(parents=True, exist_ok=True)
        os.utime(files.folder)
    if files.made:
        caches.shrink("passes", keep=files.folder)


def _identity(lm: LanguageModel) -> list[Any]:
    """All that a model's numbers depend on: weights, configuration, libraries, first token.

    The tokenizer needs no entry: it decides the ids of the text, which are hashed beside this.
    """
    config = lm.model.config.to_dict()
    kept = {name: value for name, value in config.items() if name not in _NOT_ARITHMETIC}
    return [
        lm.weights_hash,
        json.dumps(kept, sort_keys=True, default=str),
        str(getattr(lm.model.config, "_attn_implementation", "")),
        str(lm.dtype),
        *lm.kind.facts,
        [importlib.metadata.version(name) for name in _LIBRARIES],
    ]


def states_of_blocks(
    lm: LanguageModel,
    blocks: TokenBlocks,
    detection: Detection,
    chosen: Tensor,
    *,
    positions: str = "all",
) -> Tensor:
    """[n, d] float32 hidden states of whole blocks, on the CPU: out of a pass of the model over all
    of them, or read again where the pass keeps a sample.

    Args:
        chosen: [k] int64 numbers of blocks, ascending; positions: as of the pass.
    """
    if detection.keeps_all:
        return detection.h[torch.isin(detection.block, chosen)]
    return read(lm, blocks.ids[chosen], positions=positions).float().cpu()


def groups_of_blocks(
    lm: LanguageModel,
    blocks: TokenBlocks,
    detection: Detection,
    chosen: Tensor,
    *,
    positions: str = "all",
) -> Tensor:
    """[n] int64 group of each position of whole blocks; the arguments are those of
    `states_of_blocks`."""
    if detection.keeps_all:
        return detection.group[torch.isin(detection.block, chosen)]
    n_predicted = lm.kind.n_predicted(blocks.ids.shape[1])
    return groups_of_text(blocks, positions, n_predicted=n_predicted)[chosen].flatten()


@torch.inference_mode()
def read(lm: LanguageModel, ids: Tensor, *, positions: str = "all") -> Tensor:
    """[n, d] hidden states of token blocks ids [B, T], at all predicting positions or the last.

    Raises:
        InputError: they are not finite, which half precision may do.
    """
    batch = max(1, _BATCH_POSITIONS.get(lm.E.device.type, 1024) // ids.shape[1])
    parts = [hidden_states(lm, part) for part in ids.split(batch)]
    last = slice(-1, None) if positions == "last" else slice(None)
    states = torch.cat([hidden[:, last].flatten(0, 1) for hidden in parts])
    # Once for all of them, since a GPU is waited for here.
    if not bool(states.isfinite().all()):
        raise InputError(overflow(lm))
    return states


def groups_of_text(
    blocks: TokenBlocks, positions: str = "all", *, n_predicted: int | None = None
) -> Tensor:
    """What is drawn with replacement where the text is the sample: its documents.

    Positions of one document depend on each other, so that an interval from drawing blocks or
    positions is too narrow. Where there are more than `MAX_GROUPS` documents, small ones that
    follow one another form one group; with fewer than `MIN_DOCUMENTS`, or where the documents are
    not known, blocks stand in their place.

    Args:
        n_predicted: positions of a block that the model predicts, its last ones; None: all.

    Returns:
        [n_blocks, n] int64, from 0, never decreasing; n is `n_predicted`, or 1 for `last`.
    """
    width = n_predicted or blocks.ids.shape[1]
    shape = (len(blocks.ids), 1 if positions == "last" else width)
    if draws_documents(blocks, positions):
        assert blocks.documents is not None
        unit = blocks.documents[:, -shape[1] :].flatten()
    else:
        unit = torch.arange(shape[0]).repeat_interleave(shape[1])
    _, sizes = unit.unique_consecutive(return_counts=True)
    group = torch.arange(len(sizes))
    if len(sizes) > MAX_GROUPS:
        first = sizes.cumsum(0) - sizes
        group = (first * MAX_GROUPS // len(unit)).unique_consecutive(return_inverse=True)[1]
    return group.repeat_interleave(sizes).reshape(shape)


def draws_documents(blocks: TokenBlocks, positions: str = "all") -> bool:
    """Whether intervals come from drawing documents, and not from drawing blocks."""
    if blocks.documents is None:
        return False
    used = blocks.documents[:, -1] if positions == "last" else blocks.documents
    # They never decrease, so that equal ones lie together, and no copy need be sorted.
    return len(used.unique_consecutive()) >= MIN_DOCUMENTS


class _Plan:
    """How one pass is cut into groups and shards, and how a shard is computed."""

    def __init__(self, lm: LanguageModel, blocks: TokenBlocks, positions: str) -> None:
        self.lm, self.blocks, self.positions = lm, blocks, positions
        self.n_blocks, self.length = blocks.ids.shape
        predicted = lm.kind.n_predicted(self.length)
        self.groups = groups_of_text(blocks, positions, n_predicted=predicted)
        self.group_sizes = torch.bincount(self.groups.flatten())
        self.kind = lm.E.device.type
        size = max(1, _SHARD_POSITIONS.get(self.kind, 2048) // self.length)
        starts = range(0, self.n_blocks, size)
        self.shards = [range(start, min(start + size, self.n_blocks)) for start in starts]
        """Runs of blocks of about `_SHARD_POSITIONS` positions each."""

    @classmethod
    def of(cls, lm: LanguageModel, blocks: TokenBlocks, positions: str) -> "_Plan":
        """Refuses blocks that the model cannot read, and positions that there are not."""
        if positions not in ("all", "last"):
            raise InputError(f"positions is {positions!r}; use all or last.")
        if blocks.ids.shape[1] > lm.context_length:
            raise InputError(
                f"sequence_length {blocks.ids.shape[1]} is longer than the context of {lm.name}, "
                f"{lm.context_length}; give {lm.context_length} or less."
            )
        check_ids(lm, blocks.ids)
        return cls(lm, blocks, positions)

    @property
    def key(self) -> str:
        """Names the pass by everything that its numbers depend on."""
        facts = [
            _VERSION, _identity(self.lm), self.blocks.hash, list(self.blocks.ids.shape),
            self.positions, self.kind, self.group_sizes.tolist(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def files(self, progress: Progress) -> Shards:
        """The shards in the user's cache; tells `progress` what is computed and what was there."""
        return Shards(
            caches.cache_dir() / "passes" / self.key,
            lambda number: self.compute(self.shards[number], progress),
            lambda number: progress.skip(len(self.shards[number]) * self.length),
        )

    def compute(self, shard: range, progress: Progress) -> Shard:
        """The pass over some blocks."""
        started = time.perf_counter()
        if tensor_parallel.is_divided(self.lm.model):
            tensor_parallel.tell(shard.start)
        states = self.states(shard)
        rows = torch.arange(shard.start, shard.stop)
        part = self._facts(rows)
        part["groups"], sizes = part["group"].unique_consecutive(return_counts=True)
        kept, sums = _compact(states, self.lm.dtype), self.lm.head.sums()
        # Those of a float64 model are rounded to be kept, and summed as they are.
        exact = kept if kept.dtype in HALF else states
        z = sums.add(exact, sizes.tolist())
        part["h"], part["z"] = kept.cpu(), z.cpu()
        part["h_sum"] = sums.h_sum.cpu()
        part["log_sum_groups"] = sums.log_sum_groups.float().cpu()
        part["log_sum"] = sums.log_sum.cpu()
        part["target_log_p"] = self._target_log_p(states, part["z"], part["targets"])
        progress.advance(rows.numel() * self.length)
        part["seconds"] = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        part["peak_memory_mb"] = torch.tensor(peak_memory_mb(self.lm.device), dtype=torch.float64)
        return {name: value.contiguous() for name, value in part.items()}

    def states(self, shard: range) -> Tensor:
        """[n, d] hidden states of some blocks."""
        ids = self.blocks.ids[shard.start : shard.stop]
        return read(self.lm, ids, positions=self.positions)

    def _facts(self, rows: Tensor) -> dict[str, Tensor]:
        """Block, group and predicted token of each position of some blocks."""
        ids = self.blocks.ids[rows]
        targets = targets_of(self.lm, ids)
        if self.positions == "last":
            targets = targets[:, -1:]
        block = rows[:, None].expand_as(targets).flatten()
        group = self.groups[rows].flatten()
        return {"block": block, "group": group, "targets": targets.flatten()}

    def _target_log_p(self, h: Tensor, z: Tensor, targets: Tensor) -> Tensor:
        """[n] float64 log-probability of the next token, NaN where there is none."""
        known = targets.clamp(min=0).to(h.device)
        logits = wide(h.to(self.lm.E) * self.lm.E[known]).sum(dim=1)
        if self.lm.b is not None:
            logits = logits + wide(self.lm.b[known])
        return torch.where(targets >= 0, logits.cpu() - z, torch.nan)


def _compact(h: Tensor, dtype: torch.dtype) -> Tensor:
    """Hidden states in the half precision `dtype` of a model's body where that loses nothing, since
    the body gave them so; in float32 otherwise."""
    if dtype in HALF:
        half = h.to(dtype)
        if torch.equal(half.to(h.dtype), h):
            return half
    return h.float()


_ROWS = ("h", "z", "group", "block", "targets", "target_log_p")
"""What a shard has for each of its positions, by the names of `Detection`."""


_AT_ONCE = 32
"""Sums of so many shards are added in one step."""


class _Sums:
    """What the shards of a pass leave together; they are added in the order of the text.

    Besides one shard it holds the positions that are kept, and a few times V numbers.
    """

    def __init__(self, plan: _Plan, places: Tensor) -> None:
        self.plan, self.places = plan, places
        self.n = 0
        self.every = len(places) == plan.groups.numel()
        self.rows: dict[str, Tensor] = {}
        self.log_sums: list[Tensor] = []
        self.h_sum = torch.zeros(plan.lm.d, dtype=torch.float64)
        self.z_sum = torch.zeros((), dtype=torch.float64)
        self.log_sum_groups = torch.full((len(plan.group_sizes), plan.lm.V), -torch.inf)
        self.target_log_p_sum, self.n_targets = torch.zeros((), dtype=torch.float64), 0
        self.moments: Moments | None = None
        self.moments_known = self.every
        self.seconds = self.peak_memory_mb = 0.0

    def add(self, part: Shard) -> None:
        """Adds the next shard."""
        self._keep(part)
        known = part["targets"] >= 0
        self.target_log_p_sum += part["target_log_p"][known].sum()
        self.n_targets += int(known.sum())
        # A part of a file would hold the whole of it in memory.
        self.log_sums.append(part["log_sum"].clone())
        if len(self.log_sums) == _AT_ONCE:
            self.log_sums[:] = [torch.logsumexp(torch.stack(self.log_sums), dim=0)]
        self.h_sum += part["h_sum"]
        self.z_sum += part["z"].sum()
        groups = part["groups"]
        self.log_sum_groups[groups] = torch.logaddexp(
            self.log_sum_groups[groups], part["log_sum_groups"]
        )
        if not self.moments_known:
            own = Moments.of(part["h"].to(self.plan.lm.device))
            self.moments = Moments.pool([*filter(None, [self.moments]), own])
        self.seconds += float(part["seconds"])
        self.peak_memory_mb = max(self.peak_memory_mb, float(part["peak_memory_mb"]))

    def _keep(self, part: Shard) -> None:
        """Takes the positions out of a shard that are kept of the pass."""
        stop = self.n + len(part["z"])
        start_row, stop_row = torch.searchsorted(self.places, torch.tensor([self.n, stop])).tolist()
        inside = self.places[start_row:stop_row] - self.n
        for name in _ROWS:
            given = part[name].float() if name == "h" else part[name]
            if name not in self.rows:
                self.rows[name] = given.new_empty((len(self.places), *given.shape[1:]))
            self.rows[name][start_row:stop_row] = given if self.every else given[inside]
        self.n = stop

    def know_moments(self, files: Shards) -> None:
        """Reads the moments of all positions where an earlier process left them."""
        kept = None if self.moments_known else shards.read(files.folder / _MOMENTS)
        if kept is not None:
            self.moments = Moments(int(kept["n"]), kept["mean"], kept["cov"])
            self.moments_known = True

    def keep_moments(self, files: Shards) -> None:
        """Leaves them for the next, since they cost d^2 a position."""
        if self.moments is not None and not self.moments_known:
            here = self.moments.to(torch.device("cpu"))
            n, mean, cov = here.n, here.mean, here.cov
            shards.write(files.folder / _MOMENTS, {"n": torch.tensor(n), "mean": mean, "cov": cov})

    def detection(self, *, from_cache: bool) -> Detection:
        """What all shards leave, once they are added."""
        sizes = self.plan.group_sizes
        known = self.rows["target_log_p"][self.rows["targets"] >= 0]
        mean = known.mean() if self.every else self.target_log_p_sum / self.n_targets
        logits = self.plan.lm.head.logits_of_mean(self.h_sum / self.n)
        return Detection(
            **self.rows,
            tokens=self.plan.lm.tokens.cpu(),
            log_a_groups_rows=self.log_sum_groups.sub_(sizes.double().log().float()[:, None]),
            log_a_rows=torch.logsumexp(torch.stack(self.log_sums), dim=0) - math.log(self.n),
            mean_log_p_rows=logits.cpu() - self.z_sum / self.n,
            group_sizes=sizes,
            mean_target_log_p=float(mean),
            places=self.places,
            seconds=self.seconds,
            peak_memory_mb=self.peak_memory_mb,
            from_cache=from_cache,
            all_moments=self.moments and self.moments.to(torch.device("cpu")),
        )


_MOMENTS = "moments.safetensors"
"""Name of the file with the moments of all positions of a pass, beside its shards."""


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far, in megabytes: of this process, or on a GPU of torch's allocator."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
