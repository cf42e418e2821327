"""What else can be read from E, and when: the rivals of token frequency.

That R^2 of frequency rises early says little by itself: R^2 asks for a direction, and any property
that ends in E may show one early. So the same regression is made, at the same checkpoints, for
other properties of the same tokens, each as a share of what could be known of it by then.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from probenc_support.dynamics import ceilings, cooccurrence, halfway_steps
from probenc_support.dynamics.frequency import Frequencies
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.vocabulary import Vocabulary
from probenc_support.regression import Design

Array = NDArray[np.float64]


FREQUENCY = "frequency"


SPACE = "leading space"


BYTES = "length in bytes"


COOCCURRENCE = "co-occurrence"


RANDOM = "random target"


RIVALS = (SPACE, BYTES, COOCCURRENCE)
"""Properties that text has; the random target is a control of its own."""


LEAST_CEILING = 0.05
"""A ceiling counts as no less, so that what chance gives is not divided by next to nothing."""


LEAST_FINAL = 0.1
"""A rival whose R^2 ends below this was not learnt, so nothing can be half-way to it."""


@dataclass(frozen=True)
class Property:
    """Something that a token has, in one number or several."""

    name: str
    values: Array
    """[n_seen, m] each column to be regressed on E; R^2 is averaged over them."""
    ceiling: Array
    """[n_steps] R^2 that is possible at each checkpoint, 0 to 1; 1 where it is not known."""


# --------------------------------------------------------------------------------------- properties


def leading_space(texts: Sequence[str]) -> Array:
    """[n] 1 for a token that begins with white space, else 0."""
    return np.array([float(text[:1].isspace()) for text in texts])


def length_in_bytes(texts: Sequence[str]) -> Array:
    """[n] bytes of each token's text in UTF-8."""
    return np.array([float(len(text.encode(errors="surrogatepass"))) for text in texts])


def random_targets(E: Array, r2: float, *, n: int = 20, seed: int = 0) -> Array:
    """[V, n] targets as linear in E [V, d] as another one, but of no meaning.

    Each is a random linear functional of E (normal, independent of direction) and as much noise,
    made orthogonal to E, as brings the R^2 of its regression on E to `r2` exactly.

    Args:
        r2: 0 to 1, not adjusted.
    """
    rng = np.random.default_rng(seed)
    centred = E - E.mean(0)
    signal = centred @ rng.normal(size=(E.shape[1], n))
    noise = rng.normal(size=(len(E), n))
    noise -= noise.mean(0)
    basis, _ = np.linalg.qr(centred)
    noise -= basis @ (basis.T @ noise)
    signal, noise = (part / np.linalg.norm(part, axis=0) for part in (signal, noise))
    return cast(Array, np.sqrt(r2) * signal + np.sqrt(1.0 - r2) * noise)


def without(values: Array, y: Array) -> Array:
    """Columns of values [n, m] less their regression on y [n]: what frequency does not tell."""
    centred = y - y.mean()
    deviation = values - values.mean(0)
    return cast(Array, deviation - np.outer(centred, centred @ deviation) / (centred @ centred))


def properties(
    run: TrainingRun,
    known: Frequencies,
    *,
    counts: NDArray[np.int64] | None = None,
    read: cooccurrence.TextRead | None = None,
    seed: int = 0,
) -> list[Property]:
    """Frequency, its rivals and the random targets, as far as they can be had for a run.

    Args:
        counts: [n_steps, V] see `dynamics.counts_so_far`; None: no ceiling is known, and R^2 counts
            as it is.
        read: the training text, see `cooccurrence.text_read`; None: co-occurrence is not known.
    """
    tokens = known.tokens
    final = run.embedding(run.steps[-1]).double().numpy()
    texts = Vocabulary(run.tokenizer(), len(final)).texts
    own = [texts[token] for token in tokens]
    r2 = Design.of(final[tokens]).fit_many(known.y).r2[0]
    columns = {
        SPACE: leading_space(own)[:, None],
        BYTES: length_in_bytes(own)[:, None],
        RANDOM: random_targets(final[tokens], float(r2), seed=seed),
    }
    columns = {name: values for name, values in columns.items() if np.ptp(values, axis=0).all()}
    flat = np.ones(len(run.steps))
    by_then = None if counts is None else counts[:, tokens]
    ceiling = flat if by_then is None else ceilings.countable(known.y, by_then)
    found = [Property(FREQUENCY, known.y[:, None], ceiling)]
    for name, values in columns.items():
        # Text tells nothing of the random targets: of what they are made of, part is there at once.
        known_part = None if name == RANDOM else by_then
        ceiling = flat if known_part is None else ceilings.showable(values, known_part > 0)
        found.append(Property(name, values, ceiling))
    if read is not None:
        factors = cooccurrence.factors(read, len(final), tokens)
        found.insert(-1, Property(COOCCURRENCE, factors.vectors[tokens], factors.ceiling))
    return found


# --------------------------------------------------------------------------------------------- race


@dataclass(frozen=True)
class Lane:
    """How well one property can be read from E, checkpoint by checkpoint."""

    name: str
    steps: list[int]
    r2_adj: Array
    """[n_steps] mean over the property's columns."""
    beyond: Array
    """[n_steps] the same with frequency taken out of the property; NaN for frequency itself."""
    ceiling: Array
    draws: Array
    """[B, n_steps] `r2_adj` over tokens drawn with replacement, the same draws for all lanes."""

    @property
    def share(self) -> Array:
        """[n_steps] R^2 as a share of what is possible by then."""
        return self._share(self.r2_adj)

    @property
    def halfway(self) -> float:
        """The step at which the share is half-way to its end; NaN where nothing was learnt."""
        if not self.learnt:
            return float("nan")
        return halfway_steps.halfway(self.steps, self.share)

    @property
    def halfway_draws(self) -> Array:
        """[B] the same over the draws of tokens."""
        return np.array([halfway_steps.halfway(self.steps, self._share(row)) for row in self.draws])

    @property
    def halfway_plain(self) -> float:
        """The step at which R^2 itself, not its share of the ceiling, is half-way to its end."""
        return halfway_steps.halfway(self.steps, self.r2_adj) if self.learnt else float("nan")

    @property
    def halfway_plain_draws(self) -> Array:
        """[B] the same over the draws of tokens."""
        return np.array([halfway_steps.halfway(self.steps, row) for row in self.draws])

    @property
    def halfway_beyond(self) -> float:
        """As `halfway`, with frequency taken out."""
        if not self.beyond[-1] >= LEAST_FINAL:
            return float("nan")
        return halfway_steps.halfway(self.steps, self._share(self.beyond))

    @property
    def learnt(self) -> bool:
        """Whether there is an end to be half-way to."""
        return bool(self.r2_adj[-1] >= LEAST_FINAL)

    def _share(self, r2: Array) -> Array:
        return r2 / np.maximum(self.ceiling, LEAST_CEILING)


def race(
    run: TrainingRun,
    known: Frequencies,
    entered: Sequence[Property],
    *,
    n_replicates: int = 400,
    seed: int = 0,
) -> list[Lane]:
    """Regresses every property on E at every checkpoint of a run.

    In the draws the slopes are kept, as in `dynamics.bootstrap_r2_adj`.
    """
    rng = np.random.default_rng(seed)
    n = len(known.tokens)
    drawn = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(n_replicates)]
    weights = np.array([np.ones(n, dtype=np.int64), *drawn], dtype=np.float64)
    Y = np.concatenate([each.values for each in entered], axis=1)
    Y = (Y - Y.mean(0)) / Y.std(0)
    bare = without(Y, known.y)
    beyond = np.full(Y.shape[1], False) | (bare.std(0) > 1e-9)
    totals = weights @ Y**2 - (weights @ Y) ** 2 / n
    tokens = torch.from_numpy(known.tokens)
    curves, rest = [], []
    for step in run.steps:
        rows = run.embedding(step)[tokens]
        design = Design.of(rows)
        fits = design.fit_many(Y)
        residuals = (Y - fits.intercepts - rows.double().numpy() @ fits.slopes) ** 2
        scale = (n - 1) / (n - rows.shape[1] - 1)
        curves.append(1.0 - (weights @ residuals) / totals * scale)
        found = np.full(Y.shape[1], np.nan)
        found[beyond] = design.fit_many(bare[:, beyond]).r2_adj
        rest.append(found)
    r2, bare_r2 = np.stack(curves, axis=1), np.stack(rest)
    ends = np.cumsum([0, *(each.values.shape[1] for each in entered)])
    return [
        Lane(
            each.name,
            run.steps,
            r2[0, :, low:high].mean(1),
            bare_r2[:, low:high].mean(1),
            each.ceiling,
            r2[1:, :, low:high].mean(2),
        )
        for each, low, high in zip(entered, ends[:-1], ends[1:], strict=True)
    ]


def table(lanes: Iterable[Lane]) -> pd.DataFrame:
    """Columns property, step, r2_adj, beyond_frequency, ceiling, share."""
    parts = [
        pd.DataFrame(
            {
                "property": lane.name,
                "step": lane.steps,
                "r2_adj": lane.r2_adj,
                "beyond_frequency": lane.beyond,
                "ceiling": lane.ceiling,
                "share": lane.share,
            }
        )
        for lane in lanes
    ]
    return pd.concat(parts, ignore_index=True)


HEADINGS = {
    "step": "half-way step (mean)",
    "low": "interval from",
    "high": "to",
    "step_beyond_frequency": "the same with frequency taken out",
    "r2_adj_final": "R² at the end",
}
"""Columns of `halves` as a reader sees them."""


def halves(races: Sequence[Sequence[Lane]]) -> pd.DataFrame:
    """Half-way step of each property's share, mean over runs; indexed by property.

    Columns step, low, high (95 % of the draws of tokens, of the mean over runs),
    step_beyond_frequency, r2_adj_final. NaN where a property was not learnt.
    """
    rows = {}
    for lanes in zip(*races, strict=True):
        draws = np.mean([lane.halfway_draws for lane in lanes], axis=0)
        known = draws[np.isfinite(draws)] if all(lane.learnt for lane in lanes) else draws[:0]
        low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
        rows[lanes[0].name] = {
            "step": np.mean([lane.halfway for lane in lanes]),
            "low": low,
            "high": high,
            "step_beyond_frequency": np.mean([lane.halfway_beyond for lane in lanes]),
            "r2_adj_final": np.mean([lane.r2_adj[-1] for lane in lanes]),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def metrics(found: pd.DataFrame) -> dict[str, float]:
    """Numbers to collect from `halves`: `halfway_share_<property>` with its interval, and
    `r2_final_<property>`; what is not known is left out."""
    collected: dict[str, float] = {}
    for name, row in found.iterrows():
        key = re.sub(r"\W", "_", str(name))
        collected[f"r2_final_{key}"] = float(row["r2_adj_final"])
        for column, end in (("step", ""), ("low", "_low"), ("high", "_high")):
            if np.isfinite(row[column]):
                collected[f"halfway_share_{key}{end}"] = float(row[column])
    return collected
