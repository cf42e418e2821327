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
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probenc_support import cache as caches
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel, check_ids, hidden_states, overflow
from probenc_support.precision import wide, wide_device

MAX_GROUPS = 128
"""Most groups of text in which average probabilities are kept apart, for the bootstrap."""

MIN_DOCUMENTS = 8
"""With fewer documents than this, runs of blocks are drawn in their place."""

_VERSION = 4
"""Raise it when the arithmetic of the pass changes, so that cached passes are made again."""

_LIBRARIES = ("torch", "transformers", "tokenizers")
"""Libraries whose release a pass may depend on."""

_NOT_ARITHMETIC = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
"""Entries of a configuration that say where a model came from, not what it computes."""

_CHUNK_BYTES = {"cpu": 32e6, "cuda": 2e9}
_BATCH_POSITIONS = {"cpu": 1024, "cuda": 16384}
_SHARD_POSITIONS = {"cpu": 2048, "cuda": 32768}
_TINY = 1e-30
"""Sums of probabilities below this are made again in log space: float32 ends at 1e-38."""


@dataclass(frozen=True, eq=False)
class Detection:
    """What one pass over a detecting corpus leaves (paper, section 2.1).

    Indexed by token id over all V rows of the head; N positions; logarithms are natural (nats).
    """

    h: Tensor
    """[N, d] float32 hidden states that the head reads."""
    z: Tensor
    """[N] float64 log-partition, logsumexp over all rows of E h + b."""
    log_a: Tensor
    """[V] float64 log of the average probability, log mean_n P(w|n)."""
    mean_log_p: Tensor
    """[V] float64 average log-probability, mean_n log P(w|n); never above log_a (Jensen)."""
    log_a_groups: Tensor
    """[G, V] float32 log of the average probability within each group of text."""
    group: Tensor
    """[N] int64 group of each position: its document, or a few small ones together; see
    `groups_of_text`."""
    block: Tensor
    """[N] int64 block of each position."""
    targets: Tensor
    """[N] int64 next token in the text, -1 at the last position of a block."""
    target_log_p: Tensor
    """[N] float64 log-probability of the next token, NaN where there is none."""
    seconds: float
    """Wall time of the pass when it was made."""
    peak_memory_mb: float
    """Largest resident memory of the process (GPU: allocated memory) when it was made."""
    from_cache: bool
    """Whether the whole pass was read from the cache."""

    @property
    def y(self) -> Tensor:
        """[V] float64, -log a: what the paper regresses on E."""
        return -self.log_a

    @property
    def n_positions(self) -> int:
        """N."""
        return int(self.z.shape[0])

    @property
    def group_sizes(self) -> Tensor:
        """[G] int64 positions in each group."""
        return torch.bincount(self.group, minlength=self.log_a_groups.shape[0])

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability of the next token, at least 1."""
        return float(torch.exp(-self.target_log_p[self.targets >= 0].mean()))

    def y_of_groups(self, groups: Tensor) -> Tensor:
        """-log a over some groups only (indices may repeat: a bootstrap sample): [V] float64."""
        log_n = self.group_sizes[groups].double().log()
        summed = torch.logsumexp(self.log_a_groups[groups].double() + log_n[:, None], dim=0)
        return torch.logsumexp(log_n, dim=0) - summed


# ------------------------------------------------------------------------------------ the hot loop


class HeadSums:
    """Accumulates over positions: sums of probabilities and of logits of all V tokens.

    One buffer of chunk x V is filled by a matrix product and reused; every other step is a sweep
    over it. Sums of probabilities run in linear space in the model's precision; the few columns
    whose sum comes near the smallest float are made again in log space.
    """

    def __init__(self, E: Tensor, b: Tensor | None = None, *, chunk: int = 0) -> None:
        """
        Args:
            E: [V, d] output embedding, float32 or float64.
            b: [V] head bias.
            chunk: positions a matrix product; 0: as many as fit the buffer's size.
        """
        V = E.shape[0]
        size = _CHUNK_BYTES.get(E.device.type, 32e6)
        self.E, self.b = E, b
        self.chunk = chunk or max(16, int(size / (V * E.element_size())))
        self._buffer = E.new_empty(0)
        self.reset()

    def reset(self) -> None:
        """Forgets all positions."""
        V, device = self.E.shape[0], wide_device(self.E.device)
        self.n = 0
        self._log_sum = torch.full((V,), -torch.inf, dtype=torch.float64, device=device)
        self._log_p_sum = torch.zeros(V, dtype=torch.float64, device=device)

    def add(self, h: Tensor) -> Tensor:
        """Adds positions with hidden states h [n, d]; returns their log-partition [n] float64."""
        return torch.cat([self._add(part) for part in h.split(self.chunk)])

    def _add(self, h: Tensor) -> Tensor:
        if self._buffer.numel() == 0:
            self._buffer = self.E.new_empty((self.chunk, self.E.shape[0]))
        logits = torch.mm(h, self.E.T, out=self._buffer[: len(h)])
        if self.b is not None:
            logits += self.b
        top = logits.amax(dim=1)
        logit_sum = wide(logits.sum(dim=0))
        weights = logits.sub_(top[:, None]).exp_()
        mass = weights.sum(dim=1)
        z = self._log_partition(h, weights, top, mass)
        p_sum = torch.mv(weights.T, 1 / mass)
        self._log_sum = torch.logaddexp(self._log_sum, self._log(p_sum, h, z))
        self._log_p_sum += logit_sum - z.sum()
        self.n += len(h)
        return z

    def _log_partition(self, h: Tensor, weights: Tensor, top: Tensor, mass: Tensor) -> Tensor:
        """[n] float64 logsumexp, from weights exp(logit - top) [n, V] and their sums `mass` [n].

        Where one token has more than half of the probability, its logit is made again in float64.
        So what is left for the others, 1 - p = 1 - exp(logit - z), keeps its digits when the logit
        is: the rounding of the matrix product would shift logit and z apart.
        """
        z = wide(top) + wide(mass).log()
        sure = torch.nonzero(mass < 2).flatten()
        best = weights[sure].argmax(dim=1)
        logit = torch.linalg.vecdot(wide(h[sure]), wide(self.E[best]))
        if self.b is not None:
            logit += wide(self.b[best])
        z[sure.to(z.device)] += logit - wide(top[sure])
        return z

    def _log(self, p_sum: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """log of the sums of probabilities, exact also where they underflow."""
        log_sum = wide(p_sum).log()
        low = torch.nonzero(p_sum < _TINY).flatten()
        for columns in low.split(4096):
            logits = wide(h) @ wide(self.E[columns]).T
            if self.b is not None:
                logits += wide(self.b[columns])
            log_sum[columns.to(z.device)] = torch.logsumexp(logits - z[:, None], dim=0)
        return log_sum

    @property
    def log_a(self) -> Tensor:
        """[V] float64 log of the average probability."""
        return self._log_sum - math.log(self.n)

    @property
    def mean_log_p(self) -> Tensor:
        """[V] float64 average log-probability."""
        return self._log_p_sum / self.n


def evenly(n: int, count: int) -> Tensor:
    """[count] int64 of 0 to n - 1, evenly spread, both ends among them; [0] for a count of one.

    In integers: a line of floats, rounded, has other entries on another processor.
    """
    gaps = max(1, count - 1)
    return (2 * torch.arange(count) * (n - 1) + gaps) // (2 * gaps)


def logits_of(E: Tensor, b: Tensor | None, h: Tensor) -> Tensor:
    """[n, V] logits of hidden states h [n, d]; E: [V, d], b: [V] or None."""
    return h @ E.T if b is None else torch.addmm(b, h, E.T)


@torch.inference_mode()
def log_average_probability(E: Tensor, b: Tensor | None, h: Tensor) -> Tensor:
    """log a for given hidden states, without a pass of the body.

    Args:
        E: [V, d]; b: [V] or None; h: [n, d], n positions of any choice.

    Returns:
        [V] float64, nats, on the CPU.
    """
    sums = HeadSums(E, b)
    sums.add(h.to(E))
    return sums.log_a.cpu()


# ---------------------------------------------------------------------------------------- the pass


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
        progress: a line to stderr now and then: positions a second, time left.

    Raises:
        InputError: `positions` is neither, or the cache cannot be written.
    """
    if positions not in ("all", "last"):
        raise InputError(f"positions is {positions!r}; use all or last.")
    plan = _Plan.of(lm, blocks, positions)
    if not cache:
        parts = [plan.compute(shard, progress) for shard in plan.shards(progress)]
        return plan.assemble(parts, from_cache=False)
    folder = caches.cache_dir() / "passes" / plan.key
    with caches.locked(f"pass-{plan.key}"):
        return _detect_cached(plan, folder, progress)


def _detect_cached(plan: "_Plan", folder: Path, progress: bool) -> Detection:
    """Reads the parts that are there and whole, makes the others, each written atomically."""
    parts, made = [], 0
    for number, shard in enumerate(plan.shards(progress)):
        path = folder / f"{number:05d}.safetensors"
        part = _read(path)
        if part is None:
            part = plan.compute(shard, progress)
            _write(path, part)
            made += 1
        else:
            plan.skipped(part)
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

    The tokenizer is in the hash of the text's ids.
    """
    config = lm.model.config.to_dict()
    kept = {name: value for name, value in config.items() if name not in _NOT_ARITHMETIC}
    return [
        lm.weights_hash,
        json.dumps(kept, sort_keys=True, default=str),
        str(getattr(lm.model.config, "_attn_implementation", "")),
        str(lm.dtype),
        lm.first_token,
        [importlib.metadata.version(name) for name in _LIBRARIES],
    ]


@torch.inference_mode()
def read(lm: LanguageModel, ids: Tensor, *, positions: str = "all") -> Tensor:
    """[n, d] hidden states of token blocks ids [B, T], at all positions or the last of each.

    Raises:
        InputError: they are not finite, which half precision may do.
    """
    batch = max(1, _BATCH_POSITIONS.get(lm.E.device.type, 1024) // ids.shape[1])
    found = []
    for part in ids.split(batch):
        hidden = hidden_states(lm, part)
        if not bool(hidden.isfinite().all()):
            raise InputError(overflow(lm))
        found.append((hidden[:, -1:] if positions == "last" else hidden).flatten(0, 1))
    return torch.cat(found)


def groups_of_text(blocks: TokenBlocks, positions: str = "all") -> Tensor:
    """What is drawn with replacement where the text is the sample: its documents.

    Positions of one document depend on each other, so that an interval from drawing blocks or
    positions is too narrow. Where there are more than `MAX_GROUPS` documents, small ones that
    follow one another form one group; with fewer than `MIN_DOCUMENTS`, or where the documents are
    not known, blocks stand in their place.

    Returns:
        [n_blocks, n] int64, from 0, never decreasing; n is the sequence length, or 1 for `last`.
    """
    shape = (len(blocks.ids), 1 if positions == "last" else blocks.ids.shape[1])
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
        self.groups = groups_of_text(blocks, positions)
        self.kind = lm.E.device.type
        self.progress = Progress("pass", blocks.n_positions, "positions")

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

    def shards(self, progress: bool) -> Iterator[range]:
        """Runs of blocks of about `_SHARD_POSITIONS` positions each."""
        self.progress.start(enabled=progress)
        size = max(1, _SHARD_POSITIONS.get(self.kind, 2048) // self.length)
        for start in range(0, self.n_blocks, size):
            yield range(start, min(start + size, self.n_blocks))

    def skipped(self, part: dict[str, Tensor]) -> None:
        """Counts a part that was read from the cache."""
        self.progress.skip(part["block"].unique().numel() * self.length)

    def compute(self, shard: range, progress: bool) -> dict[str, Tensor]:
        """The pass over some blocks."""
        started = time.perf_counter()
        rows = torch.arange(shard.start, shard.stop)
        kept = read(self.lm, self.blocks.ids[rows], positions=self.positions)
        part = self._facts(rows)
        sums = HeadSums(self.lm.E, self.lm.b)
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
        self.progress.advance(rows.numel() * self.length)
        part["seconds"] = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
        part["peak_memory_mb"] = torch.tensor(peak_memory_mb(self.lm.device), dtype=torch.float64)
        return {name: value.contiguous() for name, value in part.items()}

    def _facts(self, rows: Tensor) -> dict[str, Tensor]:
        """Block, group and next token of each position of some blocks."""
        ids = self.blocks.ids[rows]
        targets = torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -1)], dim=1)
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
        return Detection(
            **joined,
            log_a_groups=_log_a_groups(parts, torch.bincount(joined["group"])),
            log_a=torch.logsumexp(torch.stack([p["log_sum"] for p in parts]), dim=0) - math.log(n),
            mean_log_p=torch.stack([p["log_p_sum"] for p in parts]).sum(dim=0) / n,
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


class Progress:
    """A line to stderr now and then: how far, how fast, how long still."""

    def __init__(self, what: str, total: int, unit: str, *, every: float = 10.0) -> None:
        self.what, self.total, self.unit, self.every = what, total, unit, every
        self.start(enabled=False)

    def start(self, *, enabled: bool) -> None:
        """Starts the clock."""
        self.enabled = enabled
        self.done = self.skipped = 0
        self.started = self.said = time.perf_counter()

    def skip(self, count: int) -> None:
        """Counts work that was done before: it tells nothing about the speed."""
        self.done += count
        self.skipped += count

    def advance(self, count: int) -> None:
        """Counts work, and says so every few seconds."""
        self.done += count
        now = time.perf_counter()
        if self.enabled and now - self.said >= self.every:
            self.said = now
            rate = (self.done - self.skipped) / (now - self.started)
            left = (self.total - self.done) / rate
            print(
                f"{self.what}: {self.done:,} of {self.total:,} {self.unit}, {rate:,.0f} a second, "
                f"{left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )
