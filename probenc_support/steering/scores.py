"""How far edits end from the scale that was wanted, and how sure that is.

What is scored is a sample of tokens on a sample of documents, and both are drawn anew for an
interval (a two-way bootstrap). The sums of a token's probability over each document, before and
after an edit, are all that a draw needs, so a thousand draws cost a matrix product.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.steering import closed_form, neighbours
from probenc_support.steering.closed_form import Effects

LIKELY = -10.0
"""log a above which a token counts as likely: once in 22,000 positions."""


CLASSES: Mapping[str, str] = {
    "never_seen": "never seen in the detecting text",
    "seen": "seen there",
    "likely": "likely: a > exp(-10)",
}
"""Classes of tokens; the last two overlap."""


_PARAMETERS = {"ood": "eval_corpus", "near": "near_corpus"}


def judging_texts(named: Mapping[str, str], calibration: Sequence[str]) -> dict[str, str]:
    """The corpora that judge, by domain (`ood`, `near`), without those that are not given.

    Args:
        named: corpus or an empty text, by domain.
        calibration: corpora that a direction is fitted on.

    Raises:
        InputError: one is a calibration corpus as well, or stands for both domains.
    """
    given = {domain: corpus for domain, corpus in named.items() if corpus}
    for domain, corpus in given.items():
        if corpus in calibration:
            raise InputError(
                f"{corpus!r} is both {_PARAMETERS[domain]} and a calibration corpus; what a "
                "direction was fitted on cannot judge it, so take it out of one of them."
            )
    if len(set(given.values())) < len(given):
        raise InputError(
            f"{given['near']!r} is both eval_corpus and near_corpus; leave near_corpus empty."
        )
    return given


def two_samples(log_a: Tensor, tokens: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Two samples of n tokens, each spread over the ranking, that have none in common.

    What is chosen on the second is judged on the first. The second is smaller where no more are
    left.

    Args:
        log_a: [V] nats; tokens: [m] ids to draw from.

    Raises:
        InputError: the first would take all tokens.
    """
    judged = neighbours.spread_over_ranks(log_a, tokens, n)
    rest = tokens[~torch.isin(tokens, judged)]
    if not len(rest):
        raise InputError(
            f"n_tokens is {n}, and there are {len(tokens)} tokens: leave some to choose on, "
            "half of them for instance."
        )
    return judged, neighbours.spread_over_ranks(log_a, rest, n)


def token_classes(log_a: Tensor, counts: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Ids of each of `CLASSES` that has any, out of `tokens` [m].

    Args:
        log_a: [V] of the detecting text, nats.
        counts: [V] how often each token occurs in it.
    """
    seen = counts[tokens] > 0
    members = {
        "never_seen": tokens[~seen],
        "seen": tokens[seen],
        "likely": tokens[log_a[tokens] > LIKELY],
    }
    return {name: ids for name, ids in members.items() if len(ids)}


@dataclass(frozen=True, eq=False)
class Edit:
    """A way to edit a row."""

    vector: Tensor | None
    """[d] float64 direction along which the row moves. None: no row is edited; the token's logit
    itself is moved by the step at every position, which is the ceiling."""
    steps: Tensor | None = None
    """[K, S] how far each token goes; None: the linear rule, the log of the wanted scale."""

    def effect(self, h: Tensor) -> Tensor:
        """[N] float64 by how much a step of 1 moves the logit at hidden states h [N, d]."""
        return effect(self.vector, h)


def effect(vector: Tensor | None, h: Tensor) -> Tensor:
    """[N] float64 v . h_n for hidden states h [N, d], or ones for a plain logit bias (None)."""
    if vector is None:
        return torch.ones(len(h), dtype=torch.float64, device=h.device)
    return h.double() @ vector


# ----------------------------------------------------------------------------------------- interval


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: Tensor) -> "Interval":
        """From draws [B]. What is drawn anew errs a little more than what was measured, and where
        the draws lie above the value altogether the interval is stretched to hold it."""
        usable = draws[draws.isfinite()].numpy()
        if not len(usable) or not math.isfinite(value):
            return cls(value, math.nan, math.nan)
        low, high = np.quantile(usable, [0.025, 0.975])
        return cls(value, min(float(low), value), max(float(high), value))

    def metrics(self, name: str) -> dict[str, float]:
        """As three flat metrics."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True, eq=False)
class TwoWay:
    """Draws with replacement of tokens and of documents: how often each is in each draw."""

    tokens: Tensor
    """[B, K] float64"""
    groups: Tensor
    """[B, G] float64"""

    @classmethod
    def of(cls, n_tokens: int, n_groups: int, *, n_draws: int = 500, seed: int = 0) -> "TwoWay":
        """The same seed and sizes give the same draws, so that edits are compared pair by pair."""
        rng = np.random.default_rng(seed)
        counts = (
            torch.from_numpy(rng.multinomial(n, np.full(n, 1.0 / n), size=n_draws)).double()
            for n in (n_tokens, n_groups)
        )
        return cls(*counts)

    def log_sums(self, sums: Tensor) -> Tensor:
        """[B, K] log of each draw's sum over documents, from sums by document [K, G]."""
        return (self.groups @ sums.T).log()

    def errors(self, before: Tensor, after: Tensor, wanted: float, scored: Tensor) -> Tensor:
        """[B] mean absolute error of log scale in each draw, nats.

        Args:
            before: [B, K] `log_sums` of the old probabilities.
            after: [K, G] sums of the new probabilities by document.
            wanted: log scale.
            scored: [K] bool, tokens that count.
        """
        error = (self.log_sums(after[scored]) - before[:, scored] - wanted).abs()
        weight = self.tokens[:, scored]
        return (weight * error).sum(dim=1) / weight.sum(dim=1)


# ------------------------------------------------------------------------------------------ judging


@dataclass(frozen=True)
class Score:
    """How far one kind of edit of many tokens ended from one wanted scale."""

    mae: float
    """Mean absolute error of log scale, nats; NaN if no token was in reach"""
    low: float
    """2.5 % quantile of it over draws of tokens and documents"""
    high: float
    """97.5 % quantile"""
    bias: float
    """Mean error: below zero where the edits moved too little (for scales above one)"""
    n: int
    """Tokens scored"""
    n_out_of_reach: int
    """Tokens left out, since their wanted mean probability would pass one half"""

    @property
    def interval(self) -> Interval:
        """The error and its interval."""
        return Interval(self.mae, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Judged:
    """What edits of K tokens, one at a time, do on one text at S wanted scales."""

    tokens: Tensor
    """[K] int64"""
    scales: Tensor
    """[S] float64 wanted factors"""
    log_a: Tensor
    """[K] float64 log mean probability on this text before the edit"""
    steps: Mapping[str, Tensor]
    """[K, S] how far each token went, by edit"""
    effects: Mapping[str, Effects]
    """By edit"""
    before: Tensor
    """[K, G] float64 sums of the old probabilities by document"""
    draws: TwoWay

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        text: Detection,
        tokens: Tensor,
        edits: Mapping[str, Edit],
        scales: Tensor | Sequence[float],
        *,
        n_draws: int = 500,
        seed: int = 0,
    ) -> "Judged":
        """Every edit at every scale, in closed form; documents are `text.group`."""
        scales = torch.as_tensor(scales, dtype=torch.float64)
        log_p = lm.head.log_p(text.h, tokens, text.z)
        linear = scales.log().expand(len(tokens), -1)
        steps = {name: linear if e.steps is None else e.steps for name, e in edits.items()}
        found = {
            name: closed_form.effects(log_p, edit.effect(text.h), steps[name], group=text.group)
            for name, edit in edits.items()
        }
        before = closed_form.sums_by_group(log_p.exp(), text.group).T
        draws = TwoWay.of(len(tokens), before.shape[1], n_draws=n_draws, seed=seed)
        return cls(tokens, scales, closed_form.log_mean(log_p), steps, found, before, draws)

    @cached_property
    def _log_before(self) -> Tensor:
        return self.draws.log_sums(self.before)

    def reachable(self, scale: float) -> Tensor:
        """[K] bool: tokens whose wanted mean probability is at most one half."""
        return closed_form.is_reachable(self.log_a, math.log(scale))

    def _at(self, scale: float) -> int:
        return int((self.scales / scale).log().abs().argmin())

    def _scored(self, edit: str, scale: float) -> Tensor:
        """[K] bool: tokens in reach for which there is a step."""
        found = self.effects[edit].log_scale[:, self._at(scale)]
        return self.reachable(scale) & ~found.isnan()

    def error_draws(self, edit: str, scale: float) -> Tensor:
        """[B] mean absolute error of log scale in draws of tokens and documents, nats."""
        sums = self.effects[edit].sums[:, self._at(scale)]
        scored = self._scored(edit, scale)
        return self.draws.errors(self._log_before, sums, math.log(scale), scored)

    def score(self, edit: str, scale: float) -> Score:
        """Error of one edit at one of the scales."""
        scored = self._scored(edit, scale)
        error = self.effects[edit].log_scale[scored, self._at(scale)] - math.log(scale)
        left_out = int((~self.reachable(scale)).sum())
        if not len(error):
            return Score(math.nan, math.nan, math.nan, math.nan, 0, left_out)
        own = Interval.of(float(error.abs().mean()), self.error_draws(edit, scale))
        return Score(own.value, own.low, own.high, float(error.mean()), len(error), left_out)

    def times(self, edit: str, other: str, scale: float) -> Interval:
        """Error of one edit over that of another, with an interval paired by token and document."""
        ratio = self.score(edit, scale).mae / self.score(other, scale).mae
        draws = self.error_draws(edit, scale) / self.error_draws(other, scale)
        return Interval.of(ratio, draws)

    def scores(self) -> pd.DataFrame:
        """A row an edit and scale: `direction`, `scale`, and the fields of `Score`."""
        rows = [
            {"direction": name, "scale": scale, **vars(self.score(name, scale))}
            for name in self.effects
            for scale in self.scales.tolist()
        ]
        return pd.DataFrame(rows)

    def edits(self) -> pd.DataFrame:
        """A row an edit, token and scale; logarithms, errors and divergences in nats."""
        K, S = len(self.tokens), len(self.scales)
        log_scales = self.scales.log().repeat(K)
        frames = []
        for name, found in self.effects.items():
            columns: dict[str, Any] = {
                "direction": name,
                "token_id": self.tokens.repeat_interleave(S),
                "scale": self.scales.repeat(K),
                "log_a": self.log_a.repeat_interleave(S),
                "step": self.steps[name].flatten(),
                "log_scale": found.log_scale.flatten(),
                "kl": found.kl.flatten(),
                "js": found.js.flatten(),
            }
            frames.append(pd.DataFrame(columns))
        table = pd.concat(frames, ignore_index=True)
        wanted = log_scales.repeat(len(frames)).numpy()
        log_a = torch.tensor(table["log_a"].to_numpy())
        table["in_reach"] = closed_form.is_reachable(log_a, torch.from_numpy(wanted)).numpy()
        table["error"] = table["log_scale"] - wanted
        return table


def by_class(
    lm: LanguageModel,
    text: Detection,
    samples: Mapping[str, Tensor],
    edits: Mapping[str, Edit],
    scale: float = 20.0,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Errors at one scale by class of token: a row a class and edit.

    Args:
        samples: ids of the tokens that are edited of each class.
        edits: with the linear rule.

    Returns:
        Columns `class`, `direction`, `scale`, and the fields of `Score`.
    """
    frames = [
        Judged.of(lm, text, ids, edits, [scale], seed=seed).scores().assign(**{"class": name})
        for name, ids in samples.items()
    ]
    table = pd.concat(frames, ignore_index=True)
    return table[["class", *(column for column in table if column != "class")]]
