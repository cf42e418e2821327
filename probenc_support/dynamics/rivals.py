"""What else can be read from E, and when: the rivals of token frequency.

That R^2 of frequency rises early says little by itself: R^2 asks for a direction, and any property
that ends in E may show one early. So the same regression is made, at the same checkpoints, for
other properties of the same tokens, each as a share of what could be known of it by then.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.dynamics import halfway_steps, resampling
from probenc_support.dynamics.frequency import Frequencies
from probenc_support.dynamics.halfway_steps import Estimate
from probenc_support.dynamics.properties import Property, without
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.regression import Design, adjusted
from probenc_support.regression.arrays import Array

LEAST_CEILING = 0.05
"""A ceiling counts as no less, so that what chance gives is not divided by next to nothing."""


LEAST_FINAL = 0.1
"""A rival whose R^2 ends below this was not learnt, so nothing can be half-way to it."""


@dataclass(frozen=True)
class Probe:
    """A linear probe of E for one property, made anew at every checkpoint."""

    name: str
    """Of the property."""
    steps: list[int]
    r2_adj: Array
    """[n_steps] mean over the property's columns."""
    beyond: Array
    """[n_steps] the same with frequency taken out of the property; NaN for frequency itself."""
    ceiling: Array
    """[n_steps] see `Property.ceiling`."""
    draws: Array
    """[B, n_steps] `r2_adj` over tokens drawn with replacement, the same draws for all probes."""

    @property
    def learnt(self) -> bool:
        """Whether there is an end to be half-way to."""
        return bool(self.r2_adj[-1] >= LEAST_FINAL)

    @property
    def share(self) -> Array:
        """[n_steps] R^2 as a share of what is possible by then."""
        return self._share(self.r2_adj)

    def _share(self, r2: Array) -> Array:
        return r2 / np.maximum(self.ceiling, LEAST_CEILING)

    @property
    def halfway(self) -> float:
        """The step at which the share is half-way to its end; NaN where nothing was learnt."""
        return halfway_steps.halfway(self.steps, self.share) if self.learnt else math.nan

    @property
    def halfway_draws(self) -> Array:
        """[B] the same over the draws of tokens."""
        return halfway_steps.halfway_draws(self.steps, self._share(self.draws))

    @property
    def halfway_plain(self) -> float:
        """The step at which R^2 itself, not its share of the ceiling, is half-way to its end."""
        return halfway_steps.halfway(self.steps, self.r2_adj) if self.learnt else math.nan

    @property
    def halfway_plain_draws(self) -> Array:
        """[B] the same over the draws of tokens."""
        return halfway_steps.halfway_draws(self.steps, self.draws)

    @property
    def halfway_beyond(self) -> float:
        """As `halfway`, with frequency taken out."""
        if not self.beyond[-1] >= LEAST_FINAL:
            return math.nan
        return halfway_steps.halfway(self.steps, self._share(self.beyond))


def probe(
    run: TrainingRun,
    known: Frequencies,
    properties: Sequence[Property],
    *,
    n_replicates: int = 400,
    seed: int = 0,
) -> list[Probe]:
    """Regresses every property on E at every checkpoint of a run, which is read once for all.

    In the draws the slopes are kept, as in `dynamics.bootstrap_r2_adj`.
    """
    weights = resampling.with_the_sample(len(known.tokens), n_replicates, seed=seed)
    values = np.concatenate([each.values for each in properties], axis=1)
    targets = _Targets.of(values, known.y)
    tokens = torch.from_numpy(known.tokens)
    total = weights @ targets.Y**2 - (weights @ targets.Y) ** 2 / len(tokens)
    fits = [targets.fit(run.embedding(step)[tokens], weights, total) for step in run.steps]
    r2_adj = np.stack([of_all for of_all, _ in fits], axis=1)
    beyond = np.stack([of_rest for _, of_rest in fits])
    ends = np.cumsum([0, *(each.values.shape[1] for each in properties)])
    return [
        Probe(
            each.name,
            run.steps,
            r2_adj[0, :, low:high].mean(1),
            beyond[:, low:high].mean(1),
            each.ceiling,
            r2_adj[1:, :, low:high].mean(2),
        )
        for each, low, high in zip(properties, ends[:-1], ends[1:], strict=True)
    ]


@dataclass(frozen=True)
class _Targets:
    """What is regressed on E: every column, and what frequency does not tell of it."""

    Y: Array
    """[n, m] columns with mean 0 and variance 1."""
    rest: Array
    """[n, k] those columns of which something is left without frequency."""
    left: NDArray[np.bool_]
    """[m] which columns these are."""

    @classmethod
    def of(cls, values: Array, y: Array) -> "_Targets":
        Y = (values - values.mean(0)) / values.std(0)
        rest = without(Y, y)
        left = rest.std(0) > 1e-9
        return cls(Y, rest[:, left], left)

    def fit(self, rows: Tensor, weights: Array, total: Array) -> tuple[Array, Array]:
        """Adjusted R^2 on rows of E [n, d]: [B, m] for weights [B, n] of the tokens, by whose sums
        of squares [B, m] the residuals are divided, and [m] without frequency."""
        n, m = self.Y.shape
        fits = Design.of(rows).fit_many(np.concatenate([self.Y, self.rest], axis=1))
        predicted = rows.double().numpy() @ fits.slopes[:, :m] + fits.intercepts[:m]
        r2 = 1.0 - (weights @ (self.Y - predicted) ** 2) / total
        beyond = np.full(m, np.nan)
        beyond[self.left] = fits.r2_adj[m:]
        return adjusted(r2, n, rows.shape[1]), beyond


def by_step(probes: Sequence[Sequence[Probe]], runs: Sequence[str]) -> pd.DataFrame:
    """The probes of several runs, one row a property, step and run.

    Columns property, step, r2_adj, beyond_frequency, ceiling, share, run.
    """
    tables = [
        pd.DataFrame(
            {
                "property": each.name,
                "step": each.steps,
                "r2_adj": each.r2_adj,
                "beyond_frequency": each.beyond,
                "ceiling": each.ceiling,
                "share": each.share,
                "run": name,
            }
        )
        for name, of_run in zip(runs, probes, strict=True)
        for each in of_run
    ]
    return pd.concat(tables)


HEADINGS = {
    "step": "half-way step (mean)",
    "low": "interval from",
    "high": "to",
    "step_beyond_frequency": "the same with frequency taken out",
    "r2_adj_final": "R² at the end",
}
"""Columns of `halfway_table` as a reader sees them."""


def halfway_table(probes: Sequence[Sequence[Probe]]) -> pd.DataFrame:
    """Half-way step of each property's share, mean over runs; indexed by property.

    Columns step, low, high (95 % of the draws of tokens, of the mean over runs),
    step_beyond_frequency, r2_adj_final. NaN where a property was not learnt.
    """
    rows = {}
    for of_property in zip(*probes, strict=True):
        step = Estimate.unknown()
        if all(each.learnt for each in of_property):
            steps = [each.halfway for each in of_property]
            step = Estimate.mean_of_runs(steps, [each.halfway_draws for each in of_property])
        rows[of_property[0].name] = {
            **asdict(step),
            "step_beyond_frequency": np.mean([each.halfway_beyond for each in of_property]),
            "r2_adj_final": np.mean([each.r2_adj[-1] for each in of_property]),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename(columns={"value": "step"})


def metrics(table: pd.DataFrame) -> dict[str, float]:
    """Numbers to collect from `halfway_table`: `halfway_share_<property>` with its interval, and
    `r2_final_<property>`; what is not known is left out."""
    collected: dict[str, float] = {}
    for name, row in table.iterrows():
        key = re.sub(r"\W", "_", str(name))
        collected[f"r2_final_{key}"] = float(row["r2_adj_final"])
        step = Estimate(*row[["step", "low", "high"]])
        collected |= step.metrics(f"halfway_share_{key}")
    return collected
