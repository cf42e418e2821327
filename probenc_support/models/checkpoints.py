"""The checkpoints of a training run: in a folder, on the hub, or of a model that is trained here.

Nothing is read that is not needed: where only the output embedding of a checkpoint on the hub is
asked for, only the bytes of that tensor are fetched.
"""

import hashlib
import json
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save_file as save_safetensors
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probenc_support import cache, names, roster
from probenc_support.errors import InputError
from probenc_support.models import fetching, hub, language_model, loading, runtime, training
from probenc_support.models import weights as files

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip


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
        return fetching.fetch(self.source, revision=self.revisions[step])

    def head_names(self, step: int) -> files.HeadNames:
        """What E and its neighbours are called in the weight files of a checkpoint."""
        return files.head_names(self._configured(step))

    def _configured(self, step: int) -> Path:
        """Folder with a checkpoint's configuration and the index of its weights."""
        revision = self.revisions[step]
        if self.local:
            return Path(self.source) / revision
        return hub.download(self.source, revision, ("config.json", "*.index.json"))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the last checkpoint.

        Raises:
            InputError: there is none beside the weights.
        """
        last = self.revisions[self.steps[-1]]
        folder = (
            Path(self.source) / last
            if self.local
            else hub.download(self.source, last, hub.CONFIG_PATTERNS)
        )
        return runtime.load_tokenizer(folder)

    def load(
        self,
        step: int,
        *,
        device: str = "auto",
        dtype: str = "auto",
        first_token: str = "auto",
        probe: bool = True,
    ) -> language_model.LanguageModel:
        """The model as it was at a step; for the options see `models.load`."""
        return loading.load(
            self.source,
            revision=self.revisions[step],
            device=device,
            dtype=dtype,
            first_token=first_token,
            probe=probe,
        )

    def mapped(self, step: int, *, embedding_only: bool = False) -> dict[str, Tensor]:
        """All trained tensors of a checkpoint by name, in the precision of its files, see
        `weights.read`; buffers are left out.

        Args:
            embedding_only: E alone, by the name `E`; of a safetensors file on the hub, only its
                bytes are fetched.

        Raises:
            InputError: there are none, or their file is damaged.
        """
        if embedding_only and self.local:
            return {"E": files.read_head(self.folder(step), self.head_names(step))}
        if embedding_only:
            folder, revision = self._configured(step), self.revisions[step]
            return {"E": _hub_embedding(self.source, folder, revision)}
        tensors = files.read(self.folder(step))
        if not tensors:
            raise InputError(f"{self.name} has no weights at step {step}.")
        return tensors

    def weights(self, step: int) -> dict[str, Tensor]:
        """What `mapped` gives in float32: of files in half precision, a copy in memory."""
        return {name: tensor.float() for name, tensor in self.mapped(step).items()}

    def embedding(self, step: int) -> Tensor:
        """E [V, d] of a checkpoint, float32."""
        return self.mapped(step, embedding_only=True)["E"].float()

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
    entry, named_seed = roster.roster_entry(name)
    seed = seed + named_seed
    source = entry.source if entry else name
    here = names.model_path(name)
    if source.startswith("trained:"):
        path = training.trained(source.removeprefix("trained:"), seed=seed, device=device)
        short = name.partition("-seed")[0]
        return _run(f"{short}, seed {seed}", str(path), fetching.revisions(path), local=True)
    if here is not None and here.is_dir():
        path = here.resolve()
        return _run(path.name, str(path), fetching.revisions(path), local=True)
    if entry is None and "/" not in name:
        fetching.fetch(name)
    if entry is not None and not entry.checkpoints:
        return _run(name, source, [], local=False)
    return _run(name, source, _hub_revisions(source), local=False)


def training_runs(
    name: str,
    wanted: str = "auto",
    *,
    revision: str = "",
    seed: int = 0,
    n_seeds: int = 1,
    device: str = "auto",
) -> list[TrainingRun]:
    """The runs of a model with the checkpoints that are wanted, one for each seed that there is.

    Args:
        name, revision, device: see `training_run`.
        wanted: see `choose_steps`.
        seed, n_seeds: see `seeds`.

    Raises:
        InputError: see `training_run` and `choose_steps`.
    """
    runs = [
        training_run(name, revision=revision, seed=each, device=device)
        for each in seeds(name, seed, n_seeds)
    ]
    return [choose_steps(run, wanted) for run in runs]


def training_speed(runs: Sequence[TrainingRun]) -> dict[str, float]:
    """Mean seconds and tokens a second of training here, as metrics; empty where a run was trained
    elsewhere."""
    records = [record(run) for run in runs]
    if not all(records):
        return {}
    return {
        "training_seconds": float(np.mean([r["seconds"] for r in records])),
        "training_tokens_per_second": float(np.mean([r["tokens"] / r["seconds"] for r in records])),
    }


def record(run: TrainingRun) -> dict[str, Any]:
    """What training here left about a run (see `training.record`); empty for any other run.

    A file `training.json` without a recipe was not written here, and counts as none.
    """
    if not run.local or not (Path(run.source) / "training.json").is_file():
        return {}
    written = training.record(Path(run.source))
    return written if "recipe" in written else {}


def seeds(name: str, first: int, count: int) -> list[int]:
    """Seeds of the runs that there are of a model: `count` of them from `first` on where it is
    trained here, else one, since a model from elsewhere has the run that it has."""
    entry, _ = roster.roster_entry(name)
    here = entry is not None and entry.source.startswith("trained:")
    return list(range(first, first + count)) if here else [first]


def _run(name: str, source: str, revisions: Sequence[str], *, local: bool) -> TrainingRun:
    by_step: dict[int, str] = {}
    # A run in several stages counts its steps anew in each: the first stage is the long one.
    first_stage = [revision for revision in revisions if revision.startswith("stage1-")]
    for revision in first_stage or revisions:
        if step := re.search(r"(?:step|checkpoint|iter)[-_]?(\d+)", revision):
            by_step.setdefault(int(step[1]), revision)
    if len(by_step) < 3:
        raise InputError(
            f"{name} has {len(by_step)} checkpoints named step<n> or checkpoint-<n>, and training "
            "dynamics need three or more: name a model that is trained here (pythia-nano), a "
            "Pythia or OLMo model of the hub, or a folder with one subfolder for each step."
        )
    return TrainingRun(name, source, dict(sorted(by_step.items())), local)


def _hub_revisions(hub_id: str) -> list[str]:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(hub_id)
    except Exception as error:
        message = hub.hub_message(error, hub_id, "")
        if "cannot be reached" in message:
            message = (
                f"The hub cannot be reached, so the checkpoints of {hub_id} cannot be listed: "
                "connect, or give a folder with one subfolder for each step."
            )
        raise InputError(message) from error
    return [branch.name for branch in refs.branches]


def choose_steps(run: TrainingRun, wanted: str = "auto", *, most: int = 24) -> TrainingRun:
    """A run with the checkpoints that are wanted.

    Args:
        wanted: `all`; `auto` (all of a model that was trained here and of a run with few, else
            about `most` at equal ratios); or steps, such as `0,1,64,512`.

    Raises:
        InputError: no such step, fewer than three, or something else than steps.
    """
    if wanted == "all" or (wanted == "auto" and (len(run.steps) <= most or record(run))):
        return run
    if wanted == "auto":
        # Rounded, so that the last bit does not choose between two steps that are equally near.
        marks = np.geomspace(1, run.steps[-1] + 1, most).round(6) - 1
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


def distinct(
    run: TrainingRun, *, embedding_only: bool = False
) -> tuple[TrainingRun, dict[int, int]]:
    """A run without the checkpoints that repeat the weights of another one.

    In some published runs, branches of several steps all hold the final weights. The weights do not
    show which step they belong to, so one of several equal checkpoints is kept: the last step of
    the run if it is among them, else the earliest.

    Args:
        embedding_only: compare E alone, where nothing else is fetched.

    Returns:
        The run, and for each step that was left out the step whose weights it repeats.

    Raises:
        InputError: fewer than three checkpoints differ.
    """
    equal: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for step in run.steps:
        equal[(_digest(run.mapped(step, embedding_only=True)),)].append(step)
    for key, steps in list(equal.items()):
        if len(steps) > 1 and not embedding_only:
            del equal[key]
            for step in steps:
                equal[(*key, _digest(run.mapped(step)))].append(step)
    repeats: dict[int, int] = {}
    for steps in equal.values():
        kept = run.steps[-1] if run.steps[-1] in steps else steps[0]
        repeats |= {step: kept for step in steps if step != kept}
    if len(run.steps) - len(repeats) < 3:
        names = ", ".join(str(step) for step in sorted(repeats)[:8])
        raise InputError(
            f"{run.name} has {len(run.steps)} checkpoints, but those at steps {names}"
            f"{', ...' if len(repeats) > 8 else ''} repeat the weights of others, and training "
            "dynamics need three that differ: choose others by the parameter checkpoints, or name "
            "another model."
        )
    return run.select(set(run.steps) - set(repeats)), dict(sorted(repeats.items()))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of the values in float32, of which one tensor is in memory at a time."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].float().flatten().numpy().data)
    return digest.hexdigest()


# -------------------------------------------------------------------------------- E from the hub


def read_tensor(stream: BinaryIO, names: Sequence[str]) -> Tensor | None:
    """The first of some tensors out of an open safetensors file; only the header and its own bytes
    are read.

    Args:
        stream: any seekable binary file, for instance one of the hub that fetches ranges.
        names: full names, in order of preference.

    Returns:
        None where the file holds none of them.
    """
    (length,) = struct.unpack("<Q", stream.read(8))
    header: dict[str, Any] = json.loads(stream.read(length))
    name = next((name for name in names if name in header), None)
    if name is None:
        return None
    start, stop = header[name]["data_offsets"]
    stream.seek(8 + length + start)
    data = bytearray(stream.read(stop - start))
    return torch.frombuffer(data, dtype=_DTYPES[header[name]["dtype"]]).reshape(
        header[name]["shape"]
    )


def _hub_embedding(hub_id: str, folder: Path, revision: str) -> Tensor:
    """E of a checkpoint on the hub, kept in the cache in the precision that it has there.

    Args:
        folder: the checkpoint's configuration; its name is the commit, under which E is kept, since
            a branch may move.
    """
    name = f"E-at-commit-of-{hub_id.replace('/', '--')}"
    path = cache.cache_dir() / "models" / name / f"{folder.name}.safetensors"
    if not path.is_file():
        E = _fetched_embedding(hub_id, folder, revision)
        with cache.atomic_path(path) as temporary:
            save_safetensors({"E": E.contiguous()}, temporary)
    return dict(files.tensors(path))["E"]


def _fetched_embedding(hub_id: str, folder: Path, revision: str) -> Tensor:
    from huggingface_hub import HfFileSystem

    names = files.head_names(folder)
    single = files.SINGLE[0]
    indexed = files.index_of(folder, single).is_file()
    parts = files.weight_map(folder, single) if indexed else dict.fromkeys(names.known, single)
    file = next((parts[name] for name in names.known if name in parts), None)
    try:
        remote: Any = HfFileSystem()
        path = f"{hub_id}@{revision}/{file}"
        if file is not None and remote.exists(path):
            with remote.open(path, "rb", block_size=2**20) as stream:
                if (E := read_tensor(stream, names.known)) is not None:
                    return E
    except Exception as error:
        raise InputError(hub.hub_message(error, hub_id, revision)) from error
    # An early checkpoint may exist as a pickle only, of which no part can be had.
    return files.read_head(fetching.fetch(hub_id, revision=revision), names)
