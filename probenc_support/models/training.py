"""Trains small models from scratch, with checkpoints at the steps that Pythia kept.

Optimiser, schedule shape and the names of the checkpoints follow Pythia (Biderman et al. 2023,
arXiv 2304.01373), and so does the architecture unless the recipe names another: AdamW, warm-up and
cosine decay, checkpoints at steps 0, 1, 2, 4, ... 512 and evenly from there on. Nano keeps every
second step up to 64 as well, since what is learnt first is decided there.
"""

import argparse
import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.models import (
    architectures,
    interventions,
    objectives,
    optimisers,
    readings,
    runtime,
)
from probenc_support.models.recipes import RECIPES, VERSION, Recipe
from probenc_support.models.training_text import (
    CHARACTERS_PER_TOKEN,
    Text,
    documents_of,
    hash_of,
    held_out,
    prepare,
)
from probenc_support.progress import Progress

_HEAD_LOGITS = {"cpu": 2**22, "cuda": 2**28}
"""Logits that are held at a time, since those of all positions would be the largest array of a
step. On a CPU, so few stay in its cache."""


def new_model(recipe: Recipe, seed: int) -> PreTrainedModel:
    """A model with random weights as its architecture draws them, in float32.

    Raises:
        InputError: see `architectures.new`.
    """
    with _seeded(seed):
        return architectures.new(recipe)


@contextlib.contextmanager
def _seeded(*seed: int) -> Iterator[None]:
    """Random numbers that depend on `seed` only; the generators are left as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(_number(*seed))
        yield


def _number(*seed: int) -> int:
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


def learning_rate(recipe: Recipe, step: int) -> float:
    """Rate of the step after `step`: linear warm-up, then half a cosine down to a tenth."""
    warm = max(1.0, recipe.warmup * recipe.steps)
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm if warm > 1 else recipe.learning_rate
    progress = (step - warm) / max(1.0, recipe.steps - warm)
    return recipe.learning_rate * (0.55 + 0.45 * math.cos(math.pi * progress))


def _backward(
    model: PreTrainedModel,
    ids: Tensor,
    objective: objectives.Objective = objectives.causal,
    seed: tuple[int, ...] = (0,),
) -> float:
    """Adds the gradients of the mean loss of `ids` [B, T]; returns the loss in nats.

    The head goes through the positions in pieces, so that the logits of all are never held.

    Args:
        seed: of what the objective draws.
    """
    device, half = ids.device.type, ids.device.type == "cuda"
    # On the CPU, so that every device draws the same.
    generator = torch.Generator().manual_seed(_number(*seed))
    with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
        hidden, targets = objective(model, ids, generator)
    leaf = hidden.detach().requires_grad_()
    rows = max(1, _HEAD_LOGITS.get(device, 2**22) // model.config.vocab_size)
    total = torch.zeros((), device=ids.device)
    for states, wanted in zip(leaf.split(rows), targets.split(rows), strict=True):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            logits = model.get_output_embeddings()(states)
        loss = functional.cross_entropy(logits.float(), wanted, reduction="sum") / len(targets)
        loss.backward()
        total += loss.detach()
    hidden.backward(leaf.grad)
    return float(total)


@dataclass
class _Run:
    """A training run in progress."""

    recipe: Recipe
    seed: int
    text: Text
    folder: Path
    device: torch.device
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    optimiser: torch.optim.Optimizer
    intervention: interventions.Intervention
    step: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def objective(self) -> objectives.Objective:
        """What it learns to predict."""
        return objectives.of(self.recipe, self.tokenizer)

    def advance(self) -> None:
        """One optimiser step."""
        begun = time.perf_counter()
        rows = self.text.order(self.recipe, self.seed, self.step)
        ids = torch.from_numpy(self.text.train[rows]).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        with _seeded(self.seed, self.step):
            loss = _backward(self.model, ids, self.objective, (self.seed, self.step, 1))
        if not math.isfinite(loss):
            raise InputError(
                f"The loss of {self.recipe.name} is {loss} at step {self.step}: train with a "
                "smaller learning rate."
            )
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.intervention.before_step(self.model)
        self.optimiser.step()
        self.intervention.after_step(self.model, self.optimiser)
        self.optimiser.zero_grad()
        self.losses.append(loss)
        self.step += 1
        self.seconds += time.perf_counter() - begun

    def keep(self) -> None:
        """Writes the weights as a folder `step<n>`, then what else a resumed run needs."""
        with cache.atomic_path(self.folder / f"step{self.step}") as folder:
            with runtime.quiet():
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        state = {
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds,
        }
        # Through memory: torch's own writer raises an error that does not name a full disk.
        buffer = BytesIO()
        torch.save(state, buffer)
        with cache.atomic_path(self.folder / "state.pt") as path:
            path.write_bytes(buffer.getbuffer())

    def resume(self) -> None:
        """Goes on from the last state that was kept, if there is one."""
        path = self.folder / "state.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        folder = self.folder / f"step{state['step']}"
        with runtime.quiet():
            loaded: Any = type(self.model).from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
        kept, report = loaded
        runtime.check_loaded(report, folder)
        self.model.load_state_dict(kept.state_dict())
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.losses = int(state["step"]), list(state["losses"])
        self.seconds = float(state["seconds"])

    def finish(self) -> None:
        """Writes the record of the complete run, and drops the optimiser's state."""
        seen = [self.text.counts(self.recipe, self.seed, s) for s in self.recipe.checkpoints]
        self._save("token_counts", seen[-1])
        self._save("token_counts_by_checkpoint", np.stack(seen))
        self._save("sources", np.array(sorted(self.text.sources), dtype=np.uint64))
        record = {
            "recipe": self.recipe.settings,
            "seed": self.seed,
            "corpus": self.text.corpus,
            "text_hash": self.text.hash,
            "n_parameters": self.model.num_parameters(),
            "tokens": self.recipe.tokens,
            "epochs": self.recipe.steps * self.recipe.batch_size / len(self.text.train),
            "seconds": self.seconds,
            "device": _device_name(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "losses": self.losses,
        }
        with cache.atomic_path(self.folder / "training.json") as path:
            path.write_text(json.dumps(record), encoding="utf-8")
        (self.folder / "state.pt").unlink(missing_ok=True)

    def _save(self, name: str, table: NDArray[Any]) -> None:
        with cache.atomic_path(self.folder / f"{name}.npy") as path:
            np.save(path, table)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextlib.contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a GPU: only kernels that give the same sums each time (where torch has them)."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cuda", warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def train(
    recipe: Recipe,
    *,
    folder: Path,
    corpus: str = "docstrings",
    seed: int = 0,
    device: str = "auto",
    intervention: interventions.Intervention | None = None,
    progress: bool = True,
) -> Path:
    """Trains a model, or goes on where an interrupted run of it stopped.

    The weights depend on recipe, text, seed, and on the machine's arithmetic (number of threads,
    processor), but not on interruptions: a run that was killed at any step and started again ends
    with the same weights. Beside the checkpoints `step<n>` lie `training.json` (the record, losses
    included), `token_counts.npy` ([V], exact), the same up to each checkpoint
    (`token_counts_by_checkpoint.npy`, [n_checkpoints, V]) and fingerprints of the documents that
    were trained on (`sources.npy`, see `corpora.fingerprints`).

    Args:
        recipe: one of `RECIPES`, or one's own.
        folder: where the checkpoints go, laid out like the revisions of Pythia on the hub.
        corpus: see `corpora.text`.
        seed: of initial weights and order of the text; the tokenizer does not depend on it.
        intervention: one of the caller's own, which the recipe's `intervention` tells from every
            other; None: that which the recipe names.

    Raises:
        InputError: unusable corpus or seed, a full disk (the checkpoints so far are kept), or a
            folder that holds another run.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}; it must be zero or more.")
    where = runtime.resolve_device(device)
    text = prepare(recipe, corpus)
    _check_same(folder, recipe, text, seed)
    if (folder / "training.json").is_file():
        return folder
    text = readings.of(recipe, text, seed)
    model = new_model(recipe, seed)
    model.to(device=where)  # type: ignore[call-arg]
    model.train()
    tokenizer = objectives.tokenizer_of(recipe, text.tokenizer)
    intervention = intervention or interventions.of(recipe, text, seed)
    intervention.begin(model)
    optimiser = optimisers.of(model, recipe)
    run = _Run(recipe, seed, text, folder, where, model, tokenizer, optimiser, intervention)
    with cache.locked(f"training-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"):
        if not (folder / "training.json").is_file():
            _to_the_end(run, progress)
    return folder


def _to_the_end(run: _Run, progress: bool) -> None:
    run.resume()
    recipe = run.recipe
    a_step = recipe.batch_size * recipe.sequence_length
    what = f"training {recipe.name} (seed {run.seed})"
    bar = Progress(what, recipe.tokens, "tokens", shown=progress)
    with _deterministic(run.device), bar as so_far:
        so_far.skip(run.step * a_step)
        if run.step == 0:
            run.keep()
        while run.step < recipe.steps:
            run.advance()
            if run.step in recipe.checkpoints:
                run.keep()
            loss = np.mean(run.losses[-10:])
            so_far.advance(a_step, f"step {run.step} of {recipe.steps}, loss {loss:.2f} nats")
    run.finish()


def _check_same(folder: Path, recipe: Recipe, text: Text, seed: int) -> None:
    """Refuses a folder of another run, since resuming there would mix two models."""
    mine = {"recipe": recipe.settings, "text": text.hash, "seed": seed, "version": VERSION}
    path = folder / "recipe.json"
    if not path.is_file():
        there = folder.iterdir() if folder.is_dir() else ()
        if any(not path.name.startswith(".tmp-") for path in there):
            raise InputError(
                f"{folder} holds files that no training run of this project wrote: name another "
                "folder, which may be new or empty."
            )
        with cache.atomic_path(path) as temporary:
            temporary.write_text(json.dumps(mine), encoding="utf-8")
    if json.loads(path.read_text(encoding="utf-8")) != mine:
        raise InputError(
            f"{folder} holds another training run (its recipe, text or seed differs, or it was "
            "made by another version): name another folder, or remove it."
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def trained(
    name: str | Recipe,
    *,
    seed: int = 0,
    corpus: str = "docstrings",
    device: str = "auto",
    intervention: interventions.Intervention | None = None,
) -> Path:
    """Folder of a trained model, laid out by revisions (`step0`, `step1`, ...); trains if missing.

    Args:
        name: of a recipe, or a recipe of one's own.
        intervention: see `train`.

    Raises:
        InputError: no such recipe, or see `train`.
    """
    recipe = named(name) if isinstance(name, str) else name
    documents = documents_of(corpus, recipe.tokens * CHARACTERS_PER_TOKEN)
    digest = hash_of(documents, held_out(corpus, documents))
    settings = json.dumps(recipe.settings, sort_keys=True) + digest + f"v{VERSION}"
    key = hashlib.sha256(settings.encode()).hexdigest()[:12]
    folder = cache.cache_dir() / "training" / f"{recipe.name}-seed{seed}-{key}"
    if (folder / "training.json").is_file():
        return folder
    return train(
        recipe, folder=folder, corpus=corpus, seed=seed, device=device, intervention=intervention
    )


def named(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        InputError: there is none of that name.
    """
    if name not in RECIPES:
        raise InputError(f"No model {name!r} can be trained here; name {', '.join(RECIPES)}.")
    return RECIPES[name]


def record(folder: Path) -> dict[str, Any]:
    """The record of a complete run: recipe, seed, corpus, losses, seconds and device.

    Raises:
        InputError: the folder holds no complete run, or its record cannot be read.
    """
    path = folder / "training.json"
    if not path.is_file():
        raise InputError(f"{folder} holds no complete training run of this project.")
    try:
        facts: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} cannot be read as the record of a training run; remove it, or train again."
        ) from error
    return facts


def main(arguments: argparse.Namespace) -> int:
    """Trains what the command line asks for, and prints where it lies.

    Args:
        arguments: see `commands.arguments.add_train`.
    """
    recipe = named(arguments.model)
    if arguments.steps is not None and arguments.steps < 1:
        raise InputError(f"--steps is {arguments.steps}; a run has at least one step.")
    if arguments.seeds < 1:
        raise InputError(f"--seeds is {arguments.seeds}; train at least one.")
    if arguments.steps is not None and not arguments.out:
        raise InputError(
            "A run of another length gives another model, which needs a folder of its own: name "
            "one by --out."
        )
    if arguments.out and arguments.seeds > 1:
        raise InputError(
            "--out names one folder, which can hold one seed only; leave out --out or --seeds."
        )
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        options = {"corpus": arguments.corpus, "seed": seed, "device": arguments.device}
        if arguments.out:
            recipe = replace(recipe, steps=arguments.steps or recipe.steps)
            folder = train(recipe, folder=Path(arguments.out).expanduser(), **options)
        else:
            folder = trained(recipe.name, **options)
        print(_summary(folder))
    return 0


def _summary(folder: Path) -> str:
    facts = record(folder)
    speed = facts["tokens"] / facts["seconds"]
    return (
        f"{facts['recipe']['name']} (seed {facts['seed']}): {facts['n_parameters']:,} parameters, "
        f"{facts['tokens']:,} tokens in {_duration(facts['seconds'])} ({speed:,.0f} tokens/s on "
        f"{facts['device']}), last loss {np.mean(facts['losses'][-10:]):.2f} nats; {folder}"
    )
