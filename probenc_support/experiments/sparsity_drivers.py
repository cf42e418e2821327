"""What drives sparsity: small networks that differ in optimiser, norm, gains, or ties alone.

A network whose optimiser and norms know no axes has an embedding that is as likely as each of its
rotations, since its initial weights are. Its raw dimensions cannot be sparse beyond what a rotation
gives. So whatever raw sparsity there is comes from what tells the axes apart: an optimiser that
treats each entry by itself, gains of norms, the mean that a LayerNorm subtracts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from probenc_support import corpora, sparsity
from probenc_support.dynamics import text_for
from probenc_support.dynamics.halfway_steps import Estimate
from probenc_support.errors import InputError
from probenc_support.experiments import over_seeds
from probenc_support.inference import Detection, detect
from probenc_support.models import checkpoints, load, training
from probenc_support.models.language_model import LanguageModel
from probenc_support.models.optimisers import ADAMW, AVERAGED, SGD
from probenc_support.models.recipes import Recipe
from probenc_support.regression import Design
from probenc_support.regression.arrays import Array
from probenc_support.sparsity import concentration, controls

N_ROTATIONS = 20
"""Random rotations in which dimensions are selected once more."""

LAYER_NORM, RMS_NORM = "LayerNorm", "RMSNorm"

_ARCHITECTURES = {LAYER_NORM: "stablelm", RMS_NORM: "llama"}
"""Which differ in their norms alone."""

_RATES = {ADAMW: 2.0, AVERAGED: 2.0, SGD: 25.0}
"""Learning rates over the base's. AdamW's is twice as large as is best for the loss, since the scan
shows raw sparsity there; SGD's is the one of 0.1 and 0.3 with the lower loss, and diverges from 1
on."""

_CALLED = {ADAMW: "AdamW", AVERAGED: "averaged", SGD: "SGD"}
"""Optimisers, in tables and figures."""

_STEPS = 0.5
"""Steps over the base's."""


@dataclass(frozen=True)
class Measures:
    """How sparse an encoding is. Those over what a control gives are one where there is no
    sparsity."""

    r2_adj: float
    """Adjusted R^2 of -log a on E."""
    gini: float
    """Gini coefficient of the slopes, over its mean after random rotations of E."""
    dimensions: float
    """Dimensions that forward selection takes for 90 % of R^2, over the same after rotations."""
    mean_h: float
    """Participation ratio of mean h, over its mean after rotations: below 1 where few dimensions
    hold it."""
    components: float
    """`share`, over that along a random direction of E. The more of E's variance lies along its
    first components, the larger is that and the smaller is this, which is at most one over it."""
    share: float
    """Share of R^2 of the first three components, 0 to 1."""
    outliers: float
    """Largest mean square of a dimension of h, over the mean of all d."""

    @classmethod
    def of(cls, lm: LanguageModel, detection: Detection, *, seed: int = 0) -> "Measures":
        """Of a model and what was detected with it; `seed` is of the controls."""
        rng = np.random.default_rng(seed)
        design = Design.of(lm.head.rows.cpu())
        statistics = sparsity.Statistics.of(design, detection.y)
        fit = design.fit(detection.y)
        turned = controls.rotations(statistics, N_ROTATIONS, rng)
        selected = np.mean([sparsity.dims_for_share(one) for one in turned])
        components = sparsity.Components.of(statistics)
        first = concentration.share_of_first(components.express(statistics).correlation, 3)
        along_random = controls.random_direction_shares(components.variances, 2000, rng)
        mean_h = detection.moments.mean.cpu().numpy()
        squares = detection.moments.cov.diagonal().cpu().numpy() + mean_h**2
        return cls(
            r2_adj=fit.r2_adj,
            gini=_over_rotated(concentration.gini, fit.slopes, rng),
            dimensions=sparsity.dims_for_share(statistics) / float(selected),
            mean_h=_over_rotated(concentration.participation_ratio, mean_h, rng),
            components=float(first / along_random[:, :3].sum(1).mean()),
            share=float(first),
            outliers=float(squares.max() / squares.mean()),
        )


def _over_rotated(of: Callable[[Array], float], vector: Array, rng: np.random.Generator) -> float:
    """A measure of a vector [d] over its mean after random rotations."""
    return of(vector) / float(np.mean([of(v) for v in controls.rotated_slopes(vector, 1000, rng)]))


NAMES = {
    "r2_adj": "adjusted R²",
    "gini": "Gini, over rotated",
    "dimensions": "dimensions for 90 %, over rotated",
    "mean_h": "participation of mean h, over rotated",
    "components": "first 3 components, over random",
    "share": "share of first 3 components",
    "outliers": "largest mean square of h, over mean",
}
"""Headings of the measures."""


# ------------------------------------------------------------------------------------- one by one

SCAN: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "learning rate / 4": {"learning_rate": 0.25},
    "learning rate x 4": {"learning_rate": 4.0},
    "beta2 0.999": {"beta2": 0.999},
    "epsilon 1e-4": {"epsilon": 1e-4},
    "weight decay 0.1": {"weight_decay": 0.1},
    "weight decay 1": {"weight_decay": 1.0},
    "half as wide": {"d": 0.5, "heads": 0.5, "learning_rate": 2.0},
    "twice as wide": {"d": 2, "heads": 2, "learning_rate": 0.5},
    "three times as deep": {"layers": 3, "learning_rate": 0.5},
    "half the steps, learning rate x 2": {"steps": 0.5, "learning_rate": 2.0},
    "the same, tied": {"steps": 0.5, "learning_rate": 2.0, "tied": True},
    "a quarter of the steps": {"steps": 0.25},
}
"""Settings of which one is changed at a time. Those of `_SCALED` are over the base's."""

_SCALED = ("learning_rate", "d", "heads", "layers", "steps")


def scan(base: Recipe, seed: int, *, steps: int = 0, **options: Any) -> pd.DataFrame:
    """One row a setting of `SCAN`, from one seed: columns as of `measure`, which has the options.

    Args:
        steps: of the run with the base's settings; 0: the base's.
    """
    base = replace(base, steps=steps or base.steps)
    rows = {}
    for name, changes in SCAN.items():
        own = {
            key: type(getattr(base, key))(getattr(base, key) * value) if key in _SCALED else value
            for key, value in changes.items()
        }
        rows[name] = measure(short(replace(base, **own)), seed, **options)
    return pd.DataFrame.from_dict(rows, orient="index")


# -------------------------------------------------------------------------------- all combinations


@dataclass(frozen=True)
class Cell:
    """One combination of what is varied."""

    optimiser: str
    norm: str
    gains: bool
    """Whether the norms' gains and biases are trained; else they stay one and zero."""
    tied: bool

    @property
    def name(self) -> str:
        """Such as `AdamW, RMSNorm fixed, tied`."""
        return self.name_but_ties + (", tied" if self.tied else "")

    @property
    def name_but_ties(self) -> str:
        """Such as `AdamW, RMSNorm fixed`."""
        return f"{_CALLED[self.optimiser]}, {self.norm}{'' if self.gains else ' fixed'}"

    @property
    def equivariant(self) -> bool:
        """Whether nothing in it knows the axes, so that its Gini ratio is 1 but for chance."""
        return self.optimiser != ADAMW and self.norm == RMS_NORM and not self.gains

    def recipe(self, base: Recipe, *, steps: int = 0) -> Recipe:
        """The base, so changed; `steps`: of the run, 0: half as many as the base's."""
        return short(
            replace(
                base,
                architecture=_ARCHITECTURES[self.norm],
                optimiser=self.optimiser,
                learning_rate=base.learning_rate * _RATES[self.optimiser],
                intervention="" if self.gains else "norms-fixed",
                tied=self.tied,
            ),
            steps=steps or round(base.steps * _STEPS),
        )


FACTORS = tuple(field.name for field in fields(Cell))

CELLS = tuple(
    Cell(*levels)
    for levels in product(
        (ADAMW, AVERAGED, SGD), (LAYER_NORM, RMS_NORM), (True, False), (False, True)
    )
)
"""All combinations."""


def short(recipe: Recipe, *, steps: int = 0) -> Recipe:
    """A recipe whose run keeps its begin, its middle and its end."""
    steps = steps or recipe.steps
    return replace(recipe, steps=steps, early=False, every=max(1, steps // 2), dense=0)


def measure(
    recipe: Recipe,
    seed: int,
    *,
    corpus: str = "docstrings",
    n_positions: int = 16384,
    sequence_length: int = 256,
    device: str = "auto",
    checkpoint: int = -1,
) -> dict[str, float]:
    """Trains a run, where it is not there yet, and measures it on text that is held out.

    Args:
        checkpoint: which of those kept is measured; -1: the end, -2: the middle.

    Returns:
        `loss` in nats on that text, and the `Measures`.
    """
    folder = training.trained(recipe, seed=seed, corpus=corpus, device=device)
    run = checkpoints.training_run(str(folder))
    blocks = text_for(run, corpus, n_positions=n_positions, sequence_length=sequence_length)
    lm = run.load(run.steps[checkpoint], device=device, probe=False)
    detection = detect(lm, blocks, progress=False)
    return {"loss": math.log(detection.perplexity), **asdict(Measures.of(lm, detection))}


def compare(
    base: Recipe,
    seeds: Iterable[int],
    *,
    cells: Sequence[Cell] = CELLS,
    steps: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """One row a cell and seed: columns `optimiser`, `norm`, `gains`, `tied`, `seed`, and those of
    `measure`, which takes the `options`."""
    rows = [
        asdict(cell) | {"seed": seed} | measure(cell.recipe(base, steps=steps), seed, **options)
        for seed in seeds
        for cell in cells
    ]
    return pd.DataFrame(rows)


def cells_of(table: pd.DataFrame) -> list[Cell]:
    """That of each row."""
    return [Cell(*own) for own in table[list(FACTORS)].itertuples(index=False)]


def by_cell(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of what was measured, a row a cell."""
    named = table.assign(cell=[cell.name for cell in cells_of(table)])
    means: pd.DataFrame = named.groupby("cell", sort=False)[["loss", *NAMES]].mean()
    return means


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Measures with two decimals, under their headings; a row each of the table."""
    shown = table.rename(columns=NAMES | {"loss": "loss (nats)"})
    return shown.map(lambda value: f"{value:.2f}" if np.isfinite(value) else "")


def effect(table: pd.DataFrame, measure: str, factor: str, one: Any, other: Any) -> Estimate:
    """How many times as large a measure is at one level of a factor as at another.

    The geometric mean over the pairs of runs that differ in this factor alone, seeds and all other
    factors being the same, with Student's interval over these pairs.

    Args:
        table: see `compare`.
    """
    same = [name for name in (*FACTORS, "seed") if name != factor]
    pairs = table.pivot(index=same, columns=factor, values=measure)
    if one not in pairs or other not in pairs:
        return Estimate.unknown()
    pairs = pairs.dropna(subset=pairs.columns[pairs.columns.isin([one, other])])
    return over_seeds.ratio(pairs[one].to_numpy(), pairs[other].to_numpy())


def half_way(table: pd.DataFrame, half: pd.DataFrame) -> dict[str, Estimate]:
    """Whether the optimisers differ for what the faster one has learnt: AdamW half-way through its
    run over the averaged one at its end, by measure, and `loss` as a difference in nats.

    Args:
        table: of the ends; half: of the middles, see `compare`.
    """
    found = {}
    middles = half[half["optimiser"] == ADAMW].assign(optimiser="half")
    both = pd.concat([table[table["optimiser"] == AVERAGED], middles])
    for name in ("gini", "mean_h", "components"):
        found[name] = effect(both, name, "optimiser", "half", AVERAGED)
    losses = both.pivot(index=[*FACTORS[1:], "seed"], columns="optimiser", values="loss")
    found["loss"] = over_seeds.mean((losses["half"] - losses[AVERAGED]).to_numpy())
    return found


EFFECTS: Mapping[str, tuple[str, Any, Any]] = {
    "adamw_over_averaged": ("optimiser", ADAMW, AVERAGED),
    "adamw_over_sgd": ("optimiser", ADAMW, SGD),
    "trained_over_fixed_norms": ("gains", True, False),
    "layer_over_rms_norm": ("norm", LAYER_NORM, RMS_NORM),
    "tied_over_untied": ("tied", True, False),
}
"""Factor and levels of each comparison, by the name that its metrics have."""

WITHIN: Mapping[str, tuple[str, str, Any]] = {
    "adamw_over_averaged_where_fixed": ("adamw_over_averaged", "gains", False),
    "trained_over_fixed_norms_with_adamw": ("trained_over_fixed_norms", "optimiser", ADAMW),
    "trained_over_fixed_norms_with_averaged": ("trained_over_fixed_norms", "optimiser", AVERAGED),
    "trained_over_fixed_norms_with_sgd": ("trained_over_fixed_norms", "optimiser", SGD),
}
"""Comparisons at one level of another factor: which, and that factor with its level."""


def effects(table: pd.DataFrame) -> dict[str, dict[str, Estimate]]:
    """Every comparison of `EFFECTS` and `WITHIN` that can be made, by its name and the measure."""
    compared = {name: (table, *of) for name, of in EFFECTS.items()}
    for name, (of_all, factor, level) in WITHIN.items():
        compared[name] = (table[table[factor] == level], *EFFECTS[of_all])
    sparse = [name for name in NAMES if name != "r2_adj"]
    found = {
        name: {measured: effect(own, measured, *of) for measured in sparse}
        for name, (own, *of) in compared.items()
    }
    return {name: of for name, of in found.items() if any(e.known for e in of.values())}


def effects_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """`effects` as text, a row a comparison, a column a measure."""
    rows = {
        name.replace("_", " "): {NAMES[m]: str(estimate) for m, estimate in of_measures.items()}
        for name, of_measures in effects(table).items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def named_models(models: Sequence[str]) -> list[tuple[str, str, int]]:
    """Name, corpus and length of a block of each of some models.

    Args:
        models: each these three with spaces between, such as `whisper-base bible 64`.

    Raises:
        InputError: an item is not of this form.
    """
    found = []
    for words in models:
        parts = words.split()
        if len(parts) != 3 or not parts[2].isdigit():
            raise InputError(
                f"other_models has {words!r}; give a model, a corpus and the length of a block, "
                "with spaces between, such as 'smollm2-135m-instruct docstrings 256'."
            )
        found.append((parts[0], parts[1], int(parts[2])))
    return found


def of_models(
    models: Sequence[str], *, n_positions: int, first_token: str = "auto", device: str = "auto"
) -> pd.DataFrame:
    """The measures of models of others, a row each.

    Args:
        models: see `named_models`.

    Raises:
        InputError: an item is not of this form, or the model or corpus cannot be loaded.
    """
    rows = {}
    for name, corpus, length in named_models(models):
        lm = load(name, first_token=first_token, device=device)
        read = corpora.blocks(
            corpus,
            lm.tokenizer,
            n_positions=n_positions,
            sequence_length=length,
            context_length=lm.context_length,
        )
        detection = detect(lm, read, progress=False)
        rows[name] = asdict(Measures.of(lm, detection))
    return pd.DataFrame.from_dict(rows, orient="index")


def metrics(table: pd.DataFrame) -> dict[str, float]:
    """`<measure>_<comparison>` with its interval, the level of each optimiser with gains, such as
    `gini_adamw`, and that of the cells in which nothing knows the axes, such as
    `gini_equivariant`."""
    found: dict[str, float] = {}
    for name, of_measures in effects(table).items():
        for measured, estimate in of_measures.items():
            if estimate.known:
                found |= estimate.metrics(f"{measured}_{name}")
    groups = {
        f"{name.replace('-', '_')}": table[(table["optimiser"] == name) & table["gains"]]
        for name in (ADAMW, AVERAGED, SGD)
    }
    groups["equivariant"] = table[[cell.equivariant for cell in cells_of(table)]]
    for name, own in groups.items():
        for measured in ("loss", *NAMES):
            level = over_seeds.mean(own[measured].to_numpy())
            if level.known:
                found |= level.metrics(f"{measured}_{name}")
    return found
