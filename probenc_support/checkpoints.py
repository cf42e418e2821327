"""The checkpoints of a training run: in a folder, on the hub, or of a model that is trained here.

What is read is as little as will do: for the output embedding of a checkpoint on the hub, the
bytes of that one tensor.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file as save_safetensors
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probenc_support import cache, models, names, training
from probenc_support.errors import InputError

HEADS = ("lm_head.weight", "embed_out.weight", "output.weight", "head.weight")
"""How the names of an output embedding end, in the families of the roster."""
HEAD_BIASES = ("lm_head.bias", "embed_out.bias", "output.bias", "head.bias")
INPUTS = ("embed_in.weight", "embed_tokens.weight", "wte.weight")
"""How the names of an input embedding end."""

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip
_BUFFERS = re.compile(r"(masked_bias|inv_freq|attention\.bias|attn\.bias)$")


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
            if path.suffix == ".safetensors" and (found := dict(_tensors(path, head_only=True))):
                return head_of(found)
        return head_of(self.weights(step))

    def select(self, steps: Iterable[int]) -> "TrainingRun":
        """The same run with some of its checkpoints only."""
        wanted = set(steps)
        kept = {step: name for step, name in self.revisions.items() if step in wanted}
        return TrainingRun(self.name, self.source, kept, self.local)


def training_run(
    name: str, *, revision: str = "", seed: int = 0, device: str = "auto"
) -> TrainingRun:
    """The checkpoints of a model: trained here, in a folder, or on the hub.

    Args:
        name: roster name, hub id, or folder whose subfolders are revisions (`step0`, `step1`, ...).
        revision: must be empty, as all revisions are read.
        seed: of models that are trained here; others have the run that they have.

    Raises:
        InputError: no such model, it has fewer than three checkpoints, or a revision is named.
    """
    if revision:
        raise InputError(
            f"revision is {revision!r}, but all checkpoints of {name} are read: leave it empty and "
            "choose steps by the parameter checkpoints."
        )
    entry, named_seed = models.roster_entry(name)
    seed = seed + named_seed
    source = entry.source if entry else name
    here = names.model_path(name)
    if source.startswith("trained:"):
        path = training.trained(source.removeprefix("trained:"), seed=seed, device=device)
        short = name.partition("-seed")[0]
        return _run(f"{short}, seed {seed}", str(path), models.revisions(path), local=True)
    if here is not None and here.is_dir():
        path = here.resolve()
        return _run(path.name, str(path), models.revisions(path), local=True)
    if entry is None and "/" not in name:
        models.fetch(name)
    if entry is not None and not entry.checkpoints:
        return _run(name, source, [], local=False)
    return _run(name, source, _hub_revisions(source), local=False)


def record(run: TrainingRun) -> dict[str, Any]:
    """What training here left about a run (see `training.record`); empty for any other run."""
    here = run.local and (Path(run.source) / "training.json").is_file()
    return training.record(Path(run.source)) if here else {}


def seeds(name: str, first: int, count: int) -> list[int]:
    """Seeds of the runs that there are of a model: as many as one wants where it is trained here,
    else the one that was trained elsewhere."""
    entry, _ = models.roster_entry(name)
    here = entry is not None and entry.source.startswith("trained:")
    return list(range(first, first + count)) if here else [first]


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
        message = models.hub_message(error, hub_id, "")
        if "cannot be reached" in message:
            message = (
                f"The hub cannot be reached, so the checkpoints of {hub_id} cannot be listed: "
                "connect, or give a folder with one subfolder for each step."
            )
        raise InputError(message) from error
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


def _tensors(path: Path, *, head_only: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Trained tensors of a weight file, one by one; or E alone, if the file has it."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                if head_only:
                    names = [name] if (name := _head_name(names)) else []
                for name in names:
                    if not _BUFFERS.search(name):
                        yield name, file.get_tensor(name)
        else:
            state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            yield from ((name, t) for name, t in state.items() if not _BUFFERS.search(name))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(
            f"{path} is damaged or incomplete: remove its folder and fetch it again."
        ) from error


def _head_name(names: Iterable[str]) -> str | None:
    """The tensor that is E: the head, or in a tied model the input embedding."""
    known = list(names)
    for endings in (HEADS, INPUTS):
        for name in known:
            if name.endswith(endings):
                return name
    return None


def head_of(tensors: dict[str, Tensor]) -> Tensor:
    """E [V, d] float32 among the tensors of a checkpoint: the head, or the tied input embedding.

    Raises:
        InputError: neither is there.
    """
    if name := _head_name(tensors):
        return tensors[name].float()
    raise InputError(f"No output embedding among the tensors {', '.join(list(tensors)[:5])}, ...")


def read_embedding(stream: BinaryIO) -> Tensor | None:
    """E [V, d] out of an open safetensors file; only the header and its own bytes are read.

    Args:
        stream: any seekable binary file, for instance one of the hub that fetches ranges.

    Returns:
        None where the file holds no output embedding (a shard of several).
    """
    (length,) = struct.unpack("<Q", stream.read(8))
    header: dict[str, Any] = json.loads(stream.read(length))
    name = _head_name(header)
    if name is None:
        return None
    start, stop = header[name]["data_offsets"]
    stream.seek(8 + length + start)
    data = bytearray(stream.read(stop - start))
    return torch.frombuffer(data, dtype=_DTYPES[header[name]["dtype"]]).reshape(
        header[name]["shape"]
    )


def _hub_embedding(hub_id: str, revision: str) -> Tensor:
    """E of a checkpoint on the hub, kept in the cache in the precision that it has there."""
    name = f"E-of-{hub_id.replace('/', '--')}"
    path = cache.cache_dir() / "models" / name / f"{revision}.safetensors"
    if not path.is_file():
        E = _fetched_embedding(hub_id, revision)
        with cache.atomic_path(path) as temporary:
            save_safetensors({HEADS[0]: E.contiguous()}, temporary)
    return head_of(dict(_tensors(path)))


def _fetched_embedding(hub_id: str, revision: str) -> Tensor:
    from huggingface_hub import HfFileSystem

    try:
        files = HfFileSystem()
        for path in sorted(files.glob(f"{hub_id}@{revision}/*.safetensors")):
            with files.open(path, "rb", block_size=2**20) as stream:
                if (found := read_embedding(stream)) is not None:
                    return found
    except Exception as error:
        raise InputError(models.hub_message(error, hub_id, revision)) from error
    # An early checkpoint may exist as a pickle only, of which no part can be had.
    folder = models.fetch(hub_id, revision=revision)
    return head_of({n: t for f in models.weight_files(folder) for n, t in _tensors(f)})
