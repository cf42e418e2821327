"""Several tokens moved at once, in a run: steps solved together against steps of their own.

Steps that are solved one token at a time ignore that every token which rises takes probability from
the others, and that all of these move, too. How wrong that is depends on how much probability
moves, so it is measured for a few tokens at mixed scales, and for ever more tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from probenc_support import models
from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.precision import wide
from probenc_support.steering.checking import mean_probabilities
from probenc_support.steering.closed_form import log_mean, sums_by_group
from probenc_support.steering.editing import edited_rows
from probenc_support.steering.joint import joint_log_p, solve_jointly
from probenc_support.steering.scores import effect
from probenc_support.steering.solving import solve_steps
from probenc_support.steering.two_way import TwoWay

SCALES = (5.0, 0.2, 2.0, 0.5, 3.0, 1 / 3, 5.0, 0.2, 2.0, 0.5)
"""Wanted of ten tokens."""

NUMBERS = (1, 3, 10, 30, 100)
"""How many tokens are moved at once."""

_COLUMNS = (
    "rule", "domain", "worst", "low", "high", "mean", "ratio", "ratio_low", "ratio_high",
)  # fmt: skip

_MOST = 0.9
"""Mean probability that the tokens may have together after the edit."""


def reachable_scales(log_a: Tensor, scales: Sequence[float] = SCALES) -> Tensor:
    """[K] scales for tokens of mean log-probability log_a [K], those above one drawn nearer to one
    where all together would pass nine tenths."""
    wanted = torch.tensor(scales[: len(log_a)], dtype=torch.float64)
    for _ in range(60):
        if float((wanted.log() + log_a).exp().sum()) < _MOST:
            break
        wanted = torch.where(wanted > 1, wanted.sqrt(), wanted)
    return wanted


@dataclass(frozen=True, eq=False)
class Solved:
    """Steps of K tokens along one direction."""

    vector: Tensor | None
    """[d]; None: a plain bias on each logit"""
    steps: Tensor
    """[K] float64"""
    solved: bool = True
    """Whether these steps reach the scales by their own account; else they are the logarithms of
    the scales, the linear rule, since the direction has no steps that do."""

    def u(self, h: Tensor) -> Tensor:
        """[N, K] how far logits move at hidden states h [N, d]."""
        return torch.outer(effect(self.vector, h), self.steps)


def rules(
    lm: LanguageModel,
    detection: Detection,
    tokens: Tensor,
    scales: Tensor,
    vector: Tensor,
    further: Mapping[str, Tensor | None],
) -> dict[str, Solved]:
    """Ways of finding the steps, all on the detecting text; see `Solved.solved`.

    `no_edit`; `separate`, each token's step as if it were alone, along `vector`; `together`; and
    together along further directions, by their names.

    Args:
        tokens: [K] int64; scales: [K]; vector: [d].
        further: [d]; None: a plain bias on each logit.
    """
    log_p = lm.head.log_p(detection.h, tokens, detection.z)
    made = {"no_edit": Solved(vector, torch.zeros_like(scales))}
    made["separate"] = _separate(log_p, detection.h, vector, scales.log())
    for name, along in {"together": vector, **further}.items():
        made[name] = _together(log_p, detection.h, along, scales.log())
    return made


def _separate(log_p: Tensor, h: Tensor, vector: Tensor, wanted: Tensor) -> Solved:
    steps = solve_steps(log_p, h.double() @ vector, wanted[:, None])[:, 0]
    found = steps.isfinite()
    return Solved(vector, torch.where(found, steps, wanted), bool(found.all()))


def _together(log_p: Tensor, h: Tensor, vector: Tensor | None, wanted: Tensor) -> Solved:
    try:
        return Solved(vector, solve_jointly(log_p, effect(vector, h), wanted))
    except InputError:
        return Solved(vector, wanted, solved=False)


def worst_errors(
    lm: LanguageModel,
    domains: Mapping[str, Detection],
    tokens: Tensor,
    scales: Tensor,
    made: Mapping[str, Solved],
    *,
    n_draws: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Errors of log scale in nats when all tokens are moved at once: a row a rule and text.

    Columns `rule`, `domain`, `worst` (of the token that is farthest off) with `low` and `high`, the
    middle 95 % of draws of documents, `mean` over tokens, and of `together` `ratio`, its worst
    error over that of `separate`, with `ratio_low` and `ratio_high`, paired by draw; else NaN.
    """
    rows = []
    for domain, text in domains.items():
        log_p = lm.head.log_p(text.h, tokens, text.z)
        before = sums_by_group(log_p.exp(), text.group).T
        draws = TwoWay.of(len(tokens), before.shape[1], n_draws=n_draws, seed=seed)
        worst, drawn = {}, {}
        for name, solved in made.items():
            moved_log_p = joint_log_p(log_p, solved.u(text.h))
            after = sums_by_group(moved_log_p.exp(), text.group).T
            error = ((after.sum(dim=1) / before.sum(dim=1)).log() - scales.log()).abs()
            moved = draws.log_sums(after) - draws.log_sums(before)
            drawn[name] = (moved - scales.log()).abs().amax(dim=1)
            worst[name] = float(error.max())
            row = {"rule": name, "domain": domain, "worst": worst[name]}
            row |= _ends("", drawn[name]) | {"mean": float(error.mean())}
            if name == "together":
                alone = worst["separate"]
                row["ratio"] = worst[name] / alone if alone else math.nan
                row |= _ends("ratio_", drawn[name] / drawn["separate"])
            rows.append(row)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _ends(prefix: str, drawn: Tensor) -> dict[str, float]:
    """The middle 95 % of draws [B]."""
    low, high = drawn.quantile(torch.tensor([0.025, 0.975]).to(drawn)).tolist()
    return {f"{prefix}low": low, f"{prefix}high": high}


def by_number(
    lm: LanguageModel,
    domains: Mapping[str, Detection],
    tokens: Tensor,
    vector: Tensor,
    *,
    scale: float = 2.0,
) -> pd.DataFrame:
    """`worst_errors` of the first 1, 3, 10, ... tokens, all wanted `scale` times as likely, with
    steps solved for each token by itself and for all together.

    Args:
        domains: the first is the detecting text.
        tokens: the likeliest first.

    Returns:
        Columns as of `worst_errors`, `tokens`, how many, and `probability`, what they have together
        before the edit. Numbers whose tokens would have more than nine tenths together after it are
        left out.
    """
    detection = next(iter(domains.values()))
    parts = []
    for number in sorted({min(n, len(tokens)) for n in NUMBERS}):
        some = tokens[:number]
        share = float(detection.log_a_rows[some].exp().sum())
        if scale * share >= _MOST:
            break
        scales = torch.full((number,), scale, dtype=torch.float64)
        made = rules(lm, detection, some, scales, vector, {})
        errors = worst_errors(lm, domains, some, scales, made, n_draws=20)
        parts.append(errors.assign(tokens=number, probability=share))
    return pd.concat(parts, ignore_index=True)


def edited_model_error(
    lm: LanguageModel, ids: Tensor, tokens: Tensor, scales: Tensor, vector: Tensor
) -> float:
    """Largest relative error of the factors of a really edited model: all rows replaced at once.

    Steps are solved together on the text `ids` [B, T] (where there are none, the linear rule gives
    them); then the rows of the model's output embedding are replaced, and it runs over the text by
    its own forward pass.
    """
    states = models.hidden_states(lm, ids).flatten(0, 1)
    h, z = wide(states), lm.head.log_partition(states)
    log_p = lm.head.log_p(h, tokens, z)
    try:
        steps = solve_jointly(log_p, h @ vector.to(h), scales.log())
    except InputError:
        steps = scales.log()
    with edited_rows(lm, tokens, torch.outer(steps, vector.to(steps))):
        after = mean_probabilities(lm, ids, tokens)
    wanted = log_mean(log_p).exp().cpu() * scales
    return float((after / wanted - 1).abs().max())


def metrics(
    made: Mapping[str, Solved], errors: pd.DataFrame, growth: pd.DataFrame
) -> dict[str, float]:
    """Flat metrics, for instance `joint_worst_together_id` with its ends, from both tables.

    Besides: `joint_solved_together`, whether there were such steps, and, for instance,
    `joint_doubled_10_together_id`, the mean error where ten words are wanted twice as likely.
    """
    named = {f"joint_solved_{name}": float(rule.solved) for name, rule in made.items()}
    for row in errors.to_dict("records"):
        tail = f"{row['rule']}_{row['domain']}"
        named |= {f"joint_worst_{tail}": row["worst"], f"joint_mean_{tail}": row["mean"]}
        named |= {f"joint_worst_{tail}_{end}": row[end] for end in ("low", "high")}
        ratios = [row[column] for column in _COLUMNS if column.startswith("ratio")]
        if all(map(math.isfinite, ratios)):
            tail = f"over_separate_{row['domain']}"
            named |= {
                f"joint_{tail}": row["ratio"],
                f"joint_{tail}_low": row["ratio_low"],
                f"joint_{tail}_high": row["ratio_high"],
            }
    for row in growth[growth["rule"].isin(["separate", "together"])].to_dict("records"):
        named[f"joint_doubled_{row['tokens']}_{row['rule']}_{row['domain']}"] = row["mean"]
    return named
