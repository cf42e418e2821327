"""What a steered model says: continuations, and how often the steered tokens are in them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support import generation, models
from probenc_support.errors import InputError
from probenc_support.generation import Samples
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.regression import Interval
from probenc_support.steering import editing, joint


@dataclass(frozen=True)
class Plan:
    """How tokens are steered together for one sample of text."""

    scale: float
    """Wanted factor on the mean probability of each."""
    direction: str
    """Name of the direction along which their rows move."""
    exact: bool
    """Whether the steps are solved; else the linear rule, a step of the log of `scale`."""


PLANS: Mapping[str, Plan] = {
    "0.2x": Plan(0.2, "min_variance", True),
    "5x": Plan(5.0, "min_variance", True),
    "paper_best_5x": Plan(5.0, "paper_best", False),
    "random_unit_5x": Plan(5.0, "random_unit", False),
}
"""The samples of section 3, beside two of the intact model."""

INTACT = ("intact", "intact again")
"""Two samples of the intact model: how far two samples of one model are apart is the ceiling."""


@dataclass(frozen=True, eq=False)
class SteeredSample:
    """What a model says while it is steered."""

    text: Samples
    steps: Tensor
    """[K] how far the tokens' rows went."""
    linear: bool
    """Whether they went by the linear rule, asked for or for want of a solution."""
    on_intact_text: float
    """Factor on the probability of the tokens together on text that the intact model wrote."""


@dataclass(frozen=True, eq=False)
class Generated:
    """Continuations of the same prompts by the intact and by steered models."""

    tokens: Tensor
    """[K] the steered tokens."""
    intact: Mapping[str, Samples]
    """By the names of `INTACT`."""
    steered: Mapping[str, SteeredSample]
    """By the name of the plan."""

    @property
    def texts(self) -> dict[str, Samples]:
        """All samples by name."""
        return {**self.intact, **{name: one.text for name, one in self.steered.items()}}

    def ratios(self, *, seed: int = 0) -> dict[str, Interval]:
        """Occurrences of the tokens in each sample over those in the intact ones (their mean)."""
        counts = {
            name: torch.isin(text.ids, self.tokens).sum(dim=1).double()
            for name, text in self.texts.items()
        }
        base = torch.stack([counts[name] for name in self.intact]).mean(dim=0)
        return {name: frequency_ratio(count, base, seed=seed) for name, count in counts.items()}

    def table(self, ratios: Mapping[str, Interval]) -> pd.DataFrame:
        """A row a sample: `sample`, `steps` (`solved`, `log r` or nothing), `occurrences`,
        `ratio` with `low` and `high`, and the scale `on intact text`."""
        rows = []
        for name, text in self.texts.items():
            ratio, one = ratios[name], self.steered.get(name)
            rows.append(
                {
                    "sample": name,
                    "steps": "" if one is None else "log r" if one.linear else "solved",
                    "occurrences": int(torch.isin(text.ids, self.tokens).sum()),
                    "ratio": ratio.estimate,
                    "low": ratio.low,
                    "high": ratio.high,
                    "on intact text": 1.0 if one is None else one.on_intact_text,
                }
            )
        return pd.DataFrame(rows)

    def metrics(self, ratios: Mapping[str, Interval]) -> dict[str, float]:
        """Metrics `steer_frequency_ratio_<plan>`, with its ends `_low` and `_high`, and
        `steer_scale_on_intact_text_<plan>`."""
        values: dict[str, float] = {}
        for name, one in self.steered.items():
            values |= ratios[name].metrics(f"steer_frequency_ratio_{name}")
            values[f"steer_scale_on_intact_text_{name}"] = one.on_intact_text
        return values


def generate(
    lm: LanguageModel,
    prompts: Tensor,
    tokens: Tensor,
    *,
    detection: Detection,
    directions: Mapping[str, Tensor | None],
    n_tokens: int,
    plans: Mapping[str, Plan] = PLANS,
    seed: int = 0,
) -> Generated:
    """Continuations of prompts [n, T]: two of the intact model, and one for each plan.

    Args:
        tokens: [K] steered together; `detection`: where their steps are solved.
        directions: [d] by name; all that the plans name.
        n_tokens: of each continuation.
        seed: of the first sample; each further one takes the next.
    """
    intact = {
        name: generation.sample(lm, prompts, n_tokens=n_tokens, seed=seed + i)
        for i, name in enumerate(INTACT)
    }
    places, steered = drawn_at(lm, intact[INTACT[0]]), {}
    for i, (name, plan) in enumerate(plans.items(), start=len(intact)):
        vector = directions[plan.direction]
        assert vector is not None, f"{plan.direction} moves no row"
        text, steps = steered_sample(
            lm, prompts, tokens, plan.scale, detection=detection, direction=vector,
            exact=plan.exact, n_tokens=n_tokens, seed=seed + i,
        )  # fmt: skip
        linear = bool((steps == math.log(plan.scale)).all())
        there = scale_there(lm, places, tokens, vector, steps)
        steered[name] = SteeredSample(text, steps, linear, there)
    return Generated(tokens, intact, steered)


def frequent_words(
    lm: LanguageModel, log_a: Tensor, n: int = 8, *, at_most: float = 0.01
) -> Tensor:
    """[n] ids of the likeliest whole words (a space and letters) below a mean probability.

    Where a vocabulary has fewer words among its 2,000 likeliest tokens, its likeliest tokens.

    Args:
        log_a: [V] nats.
    """
    ranked = lm.tokens[torch.argsort(log_a[lm.tokens], descending=True)]
    ranked = ranked[log_a[ranked].exp() < at_most]
    texts = [lm.token_text(i) for i in ranked[:2000].tolist()]
    is_word = [len(text) > 1 and text[0] == " " and text[1:].isalpha() for text in texts]
    words = ranked[: len(texts)][torch.tensor(is_word)]
    return words[:n] if len(words) >= n else ranked[:n]


def steered_sample(
    lm: LanguageModel,
    prompts: Tensor,
    tokens: Tensor,
    scale: float,
    *,
    detection: Detection,
    direction: Tensor,
    exact: bool,
    n_tokens: int,
    seed: int,
) -> tuple[Samples, Tensor]:
    """Continuations of prompts [n, T] while tokens [K] are steered to one scale together.

    Args:
        direction: [d]; exact: solve for the steps on `detection`, all tokens together. Where that
            cannot be done, and without it, the linear rule holds, step = log scale.

    Returns:
        The sample, and the steps [K].
    """
    wanted: dict[str | int, float] = {int(token): scale for token in tokens}
    for solve in (True, False) if exact else (False,):
        try:
            with editing.steer(
                lm, wanted, detection=detection, direction=direction, exact=solve
            ) as steered:
                drawn = generation.sample(lm, prompts, n_tokens=n_tokens, seed=seed)
                return drawn, steered.steps
        except InputError:
            if not solve:
                raise
    raise AssertionError("the linear rule either succeeds or raises")


def drawn_at(lm: LanguageModel, sample: Samples) -> tuple[Tensor, Tensor]:
    """Hidden states [n T_new, d] and log-partition [n T_new] at the positions at which the tokens
    of a sample were drawn, by the model as it stands."""
    h = models.continued(lm, sample.prompts, sample.ids)[:, :-1].flatten(0, 1)
    return h.cpu(), lm.head.log_partition(h.to(lm.E)).cpu()


def scale_there(
    lm: LanguageModel, at: tuple[Tensor, Tensor], tokens: Tensor, direction: Tensor, steps: Tensor
) -> float:
    """Factor on the probability of tokens [K] together, at the positions of `drawn_at`.

    Nothing feeds back here: the text is what another (the intact) model wrote.

    Args:
        direction: [d]; steps: [K] how far each token's row goes along it.
    """
    h, z = at
    log_p = lm.head.log_p(h, tokens, z)
    u = (h.double() @ direction)[:, None] * steps
    return float(joint.joint_log_p(log_p, u).exp().sum() / log_p.exp().sum())


def frequency_ratio(
    counts: Tensor, base: Tensor, *, n_draws: int = 2000, seed: int = 0
) -> Interval:
    """Occurrences in one set of texts over those in another, with an interval over prompts.

    Args:
        counts: [n] occurrences by prompt; base: [n] of the intact model, same prompts.
    """
    rng = np.random.default_rng(seed)
    drawn = torch.from_numpy(rng.integers(len(base), size=(n_draws, len(base))))
    ratio = float(counts.sum() / base.sum()) if base.sum() else math.nan
    ratios = counts[drawn].sum(dim=1) / base[drawn].sum(dim=1).clamp(min=0.5)
    return Interval.percentile(ratio, ratios.numpy())
