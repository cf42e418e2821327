"""The one expensive pass over a detecting corpus: hidden states, log-partition, log probabilities.

Memory is bounded by chunk x V, never N x V. Probabilities are accumulated so that none
underflows. The pass is kept in the user's cache by what went into it, and resumes after a kill.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probenc_support import cache as caches
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel, hidden_states
from probenc_support.models import targets as targets_of
from probenc_support.models.language_model import check_ids, overflow
from probenc_support.precision import wide
from probenc_support.progress import Progress

MAX_GROUPS = 128
"""Most groups of text in which average probabilities are kept apart, for the bootstrap."""


MIN_DOCUMENTS = 8
"""With fewer documents than this, runs of blocks are drawn in their place."""


_VERSION = 4
"""Increase it when the arithmetic of the pass changes, so that cached passes are made again."""


_LIBRARIES = ("torch", "transformers", "tokenizers")
"""Libraries whose release a pass may depend on."""


_NOT_ARITHMETIC = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Entries of a configuration that say where a model came from, not what it computes."""


_BATCH_POSITIONS = {"cpu": 1024, "cuda": 16384}


_SHARD_POSITIONS = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True, eq=False)
class Detection:
    """What one pass over a detecting corpus leaves (paper, section 2.1).

    N positions; logarithms are natural (nats). What has one entry for each token has those of
    `tokens`, in this order, as `Head.rows` does; names that end in `_rows` are indexed by token id
    over all V rows of the head, padding included.
    """

    h: Tensor
    """[N, d] float32 hidden states that the head reads."""
    z: Tensor
    """[N] float64 log-partition, logsumexp over all rows of E h + b."""
    tokens: Tensor
    """[n] int64, ascending: ids of the tokens."""
    log_a_rows: Tensor
    """[V] float64 log of the average probability, log mean_n P(w|n)."""
    mean_log_p_rows: Tensor
    """[V] float64 average log-probability, mean_n log P(w|n); never above log_a (Jensen)."""
    log_a_groups_rows: Tensor
    """[G, V] float32 log of the average probability within each group of text."""
    group: Tensor
    """[N] int64 group of each position: its document, or a few small ones together; see
    `groups_of_text`."""
    block: Tensor
    """[N] int64 block of each position."""
    targets: Tensor
    """[N] int64 token of the text that is predicted: of a causal model the next one, and -1 at the
    last position of a block; of a masked one the token that is masked."""
    target_log_p: Tensor
    """[N] float64 log-probability of the target, NaN where there is none."""
    seconds: float
    """Wall time of the pass when it was made."""
    peak_memory_mb: float
    """Largest resident memory of the process (GPU: allocated memory) when it was made."""
    from_cache: bool
    """Whether the whole pass was read from the cache."""

    @cached_property
    def log_a(self) -> Tensor:
        """[n] float64 log of the average probability of each token."""
        return self.log_a_rows[self.tokens]

    @cached_property
    def mean_log_p(self) -> Tensor:
        """[n] float64 average log-probability of each token; never above log_a (Jensen)."""
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
        return int(self.z.shape[0])

    @property
    def group_sizes(self) -> Tensor:
        """[G] int64 positions in each group."""
        return torch.bincount(self.group, minlength=self.n_groups)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of the target, at least 1."""
        return float(torch.exp(-self.target_log_p[self.targets >= 0].mean()))

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


@torch.inference_mode()
def detect(
    lm: LanguageModel,
    blocks: TokenBlocks,
    *,
    positions: str = "all",
    cache: bool = True,
    progress: bool = True,
) -> Detection:
    """Runs the model over a corpus once and keeps what the analyses need.

    Args:
        positions: `all`, or `last`: only the last position of each block (the paper's few-example
            setting: one context, one distribution).
        cache: read and write the user's cache.
        progress: show a bar of text on stderr while it lasts: positions a second, time left.

    Raises:
        InputError: `positions` is neither, or the cache cannot be written.
    """
    if positions not in ("all", "last"):
        raise InputError(f"positions is {positions!r}; use all or last.")
    plan = _Plan.of(lm, blocks, positions)
    with Progress("pass", blocks.n_positions, "positions", shown=progress) as so_far:
        if not cache:
            parts = [plan.compute(shard, so_far) for shard in plan.shards()]
            return plan.assemble(parts, from_cache=False)
        folder = caches.cache_dir() / "passes" / plan.key
        with caches.locked(f"pass-{plan.key}"):
            return _detect_cached(plan, folder, so_far)


def _detect_cached(plan: "_Plan", folder: Path, progress: Progress) -> Detection:
    """Reads the parts that are there and whole, makes the others, each written atomically."""
    parts, made = [], 0
    for number, shard in enumerate(plan.shards()):
        path = folder / f"{number:05d}.safetensors"
        part = _read(path)
        if part is None:
            part = plan.compute(shard, progress)
            _write(path, part)
            made += 1
        else:
            progress.skip(len(shard) * plan.length)
        parts.append(part)
    with caches.writing(folder):
        os.utime(folder)
    if made:
        caches.shrink("passes", keep=folder)
    return plan.assemble(parts, from_cache=made == 0)


def _checksum(part: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(part):
        digest.update(name.encode())
        digest.update(part[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, part: dict[str, Tensor]) -> None:
    with caches.atomic_path(path) as temporary:
        save_file(part, temporary, metadata={"sha256": _checksum(part)})


def _read(path: Path) -> dict[str, Tensor] | None:
    """A part of a pass, or None where there is none or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            part = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            whole = (file.metadata() or {}).get("sha256") == _checksum(part)
    except (OSError, SafetensorError, ValueError):
        whole, part = False, {}
    if not whole and path.exists():
        print(f"{path.name} in the cache is damaged; making it again.", file=sys.stderr)
    return part if whole else None


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


@torch.inference_mode()
def read(lm: LanguageModel, ids: Tensor, *, positions: str = "all") -> Tensor:
    """[n, d] hidden states of token blocks ids [B, T], at all predicting positions or the last.

    Raises:
        InputError: they are not finite, which half precision may do.
    """
    batch = max(1, _BATCH_POSITIONS.get(lm.E.device.type, 1024) // ids.shape[1])
    states = []
    for part in ids.split(batch):
        hidden = hidden_states(lm, part)
        if not bool(hidden.isfinite().all()):
            raise InputError(overflow(lm))
        states.append((hidden[:, -1:] if positions == "last" else hidden).flatten(0, 1))
    return torch.cat(states)


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
    _, unit, sizes = unit.unique_consecutive(return_inverse=True, return_counts=True)
    if len(sizes) > MAX_GROUPS:
        first = sizes.cumsum(0) - sizes
        unit = (first * MAX_GROUPS // len(unit))[unit]
    groups: Tensor = unit.unique_consecutive(return_inverse=True)[1]
    return groups.reshape(shape)


def draws_documents(blocks: TokenBlocks, positions: str = "all") -> bool:
    """Whether intervals come from drawing documents, and not from drawing blocks."""
    if blocks.documents is None:
        return False
    used = blocks.documents[:, -1] if positions == "last" else blocks.documents
    return len(used.unique()) >= MIN_DOCUMENTS


class _Plan:
    """How one pass is cut into groups and shards, and how a shard is computed."""

    def __init__(self, lm: LanguageModel, blocks: TokenBlocks, positions: str) -> None:
        self.lm, self.blocks, self.positions = lm, blocks, positions
        self.n_blocks, self.length = blocks.ids.shape
        predicted = lm.kind.n_predicted(self.length)
        self.groups = groups_of_text(blocks, positions, n_predicted=predicted)
        self.kind = lm.E.device.type

    @classmethod
    def of(cls, lm: LanguageModel, blocks: TokenBlocks, positions: str) -> "_Plan":
        """Refuses blocks that the model cannot read."""
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
            self.positions, self.kind, self._group_sizes(),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]

    def _group_sizes(self) -> list[int]:
        return torch.bincount(self.groups.flatten()).tolist()

    def shards(self) -> Iterator[range]:
        """Runs of blocks of about `_SHARD_POSITIONS` positions each."""
        size = max(1, _SHARD_POSITIONS.get(self.kind, 2048) // self.length)
        for start in range(0, self.n_blocks, size):
            yield range(start, min(start + size, self.n_blocks))

    def compute(self, shard: range, progress: Progress) -> dict[str, Tensor]:
        """The pass over some blocks."""
        started = time.perf_counter()
        rows = torch.arange(shard.start, shard.stop)
        kept = read(self.lm, self.blocks.ids[rows], positions=self.positions)
        part = self._facts(rows)
        sums = self.lm.head.sums()
        zs, log_sums, log_p_sums = [], [], []
        part["groups"] = part["group"].unique()
        for group in part["groups"]:
            sums.reset()
            zs.append(sums.add(kept[(part["group"] == group).to(kept.device)]))
            log_sums.append(sums.log_a + math.log(sums.n))
            log_p_sums.append(sums.mean_log_p * sums.n)
        part["h"], part["z"] = kept.float().cpu(), torch.cat(zs).cpu()
        part["log_sum_groups"] = torch.stack(log_sums).float().cpu()
        part["log_sum"] = torch.logsumexp(torch.stack(log_sums), dim=0).cpu()
        part["log_p_sum"] = torch.stack(log_p_sums).sum(dim=0).cpu()
        part["target_log_p"] = self._target_log_p(kept, part["z"], part["targets"])
        progress.advance(rows.numel() * self.length)
        part["seconds"] = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        part["peak_memory_mb"] = torch.tensor(peak_memory_mb(self.lm.device), dtype=torch.float64)
        return {name: value.contiguous() for name, value in part.items()}

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
        logits = wide(h * self.lm.E[known]).sum(dim=1)
        if self.lm.b is not None:
            logits = logits + wide(self.lm.b[known])
        return torch.where(targets >= 0, logits.cpu() - z, torch.nan)

    def assemble(self, parts: list[dict[str, Tensor]], *, from_cache: bool) -> Detection:
        """One `Detection` from the parts of a pass."""
        n = sum(len(part["z"]) for part in parts)
        joined = {
            name: torch.cat([part[name] for part in parts])
            for name in ("h", "z", "group", "block", "targets", "target_log_p")
        }
        log_sum = torch.logsumexp(torch.stack([part["log_sum"] for part in parts]), dim=0)
        return Detection(
            **joined,
            tokens=self.lm.tokens.cpu(),
            log_a_groups_rows=_log_a_groups(parts, torch.bincount(joined["group"])),
            log_a_rows=log_sum - math.log(n),
            mean_log_p_rows=torch.stack([p["log_p_sum"] for p in parts]).sum(dim=0) / n,
            seconds=sum(float(part["seconds"]) for part in parts),
            peak_memory_mb=max(float(part["peak_memory_mb"]) for part in parts),
            from_cache=from_cache,
        )


def _log_a_groups(parts: list[dict[str, Tensor]], sizes: Tensor) -> Tensor:
    """[G, V] float32 from the sums of every part; a group may lie in several."""
    V = parts[0]["log_sum_groups"].shape[1]
    sums = torch.full((len(sizes), V), -torch.inf)
    for part in parts:
        groups = part["groups"]
        sums[groups] = torch.logaddexp(sums[groups], part["log_sum_groups"])
    return sums - sizes.double().log().float()[:, None]


def peak_memory_mb(device: torch.device) -> float:
    """Largest memory so far, in megabytes: of this process, or on a GPU of torch's allocator."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
