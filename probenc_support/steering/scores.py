"""How far edits of many tokens end from the scale that was wanted, and how sure that is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.regression import Interval
from probenc_support.steering import closed_form
from probenc_support.steering.closed_form import Effects
from probenc_support.steering.two_way import TwoWay


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
    return h.double() @ vector.to(h.device)


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
    """Tokens that are not scored, since their wanted mean probability would pass one half"""


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
        effects = {
            name: closed_form.effects(log_p, edit.effect(text.h), steps[name], group=text.group)
            for name, edit in edits.items()
        }
        before = closed_form.sums_by_group(log_p.exp(), text.group).T
        draws = TwoWay.of(len(tokens), before.shape[1], n_draws=n_draws, seed=seed)
        return cls(tokens, scales, closed_form.log_mean(log_p), steps, effects, before, draws)

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
        log_scale = self.effects[edit].log_scale[:, self._at(scale)]
        return self.reachable(scale) & ~log_scale.isnan()

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
        mae = float(error.abs().mean())
        interval = Interval.percentile(mae, self.error_draws(edit, scale).numpy())
        return Score(mae, interval.low, interval.high, float(error.mean()), len(error), left_out)

    def times(self, edit: str, other: str, scale: float) -> Interval:
        """Error of one edit over that of another, with an interval paired by token and document."""
        ratio = self.score(edit, scale).mae / self.score(other, scale).mae
        draws = self.error_draws(edit, scale) / self.error_draws(other, scale)
        return Interval.percentile(ratio, draws.numpy())

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
        for name, effects in self.effects.items():
            columns: dict[str, Any] = {
                "direction": name,
                "token_id": self.tokens.repeat_interleave(S),
                "scale": self.scales.repeat(K),
                "log_a": self.log_a.repeat_interleave(S),
                "step": self.steps[name].flatten(),
                "log_scale": effects.log_scale.flatten(),
                "kl": effects.kl.flatten(),
                "js": effects.js.flatten(),
            }
            frames.append(pd.DataFrame(columns))
        table = pd.concat(frames, ignore_index=True)
        wanted = log_scales.repeat(len(frames)).numpy()
        log_a = torch.tensor(table["log_a"].to_numpy())
        table["in_reach"] = closed_form.is_reachable(log_a, torch.from_numpy(wanted)).numpy()
        table["error"] = table["log_scale"] - wanted
        return table
