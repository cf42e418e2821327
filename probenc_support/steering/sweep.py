"""Edits at every scale on several texts: their table, and how far they end from what was wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from torch import Tensor

from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.regression import Interval
from probenc_support.steering.scores import Edit, Judged

SCALES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Wanted factors that are tried."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """What edits of the same tokens do on each of several texts."""

    by_domain: Mapping[str, Judged]
    """By domain of text, such as `local`, the detecting corpus, and `id`, other documents."""

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        domains: Mapping[str, Detection],
        tokens: Tensor,
        edits: Mapping[str, Edit],
        *,
        scales: Sequence[float] = SCALES,
        seed: int = 0,
    ) -> "Sweep":
        """Every edit of tokens [K], one at a time, at every scale, in closed form."""
        return cls(
            {
                domain: Judged.of(lm, text, tokens, edits, scales, seed=seed)
                for domain, text in domains.items()
            }
        )

    @cached_property
    def edits(self) -> pd.DataFrame:
        """`Judged.edits` of all texts, with their `domain`."""
        return pd.concat([one.edits().assign(domain=name) for name, one in self.by_domain.items()])

    @cached_property
    def scores(self) -> pd.DataFrame:
        """`Judged.scores` of all texts, with their `domain`."""
        return pd.concat([one.scores().assign(domain=name) for name, one in self.by_domain.items()])

    @cached_property
    def mae(self) -> "pd.Series[float]":
        """Mean absolute error of log scale, nats, by direction, domain and scale."""
        return self.scores.set_index(["direction", "domain", "scale"])["mae"]

    def errors_at(self, scale: float, domain: str) -> dict[str, float]:
        """Mean absolute error of log scale of each direction on one text."""
        rows = self.scores[(self.scores["scale"] == scale) & (self.scores["domain"] == domain)]
        return dict(zip(rows["direction"], rows["mae"], strict=True))

    def ratios(self, edit: str, other: str, scale: float) -> dict[str, Interval]:
        """Error of one edit over that of another on each text; see `Judged.times`."""
        return {domain: one.times(edit, other, scale) for domain, one in self.by_domain.items()}

    def out_of_reach(self, direction: str) -> pd.DataFrame:
        """Edits whose wanted mean probability passes one half: what came out along a direction.

        Columns `domain`, `token_id`, `scale`, `mean_probability`, `actual_scale` and
        `mean_probability_after`, sorted by the first, third and fourth.
        """
        far = self.edits[(self.edits["direction"] == direction) & ~self.edits["in_reach"]]
        table = far[["domain", "token_id", "scale"]].assign(
            mean_probability=np.exp(far["log_a"]),
            actual_scale=np.exp(far["log_scale"]),
            mean_probability_after=np.exp(far["log_a"] + far["log_scale"]),
        )
        return table.sort_values(["domain", "scale", "mean_probability"])

    def without_step(self, direction: str, domain: str) -> int:
        """How many pairs of a token and a scale in reach have no step along a solved direction."""
        rows = self.edits[(self.edits["direction"] == direction) & (self.edits["domain"] == domain)]
        return int((rows["step"].isna() & rows["in_reach"]).sum())


def by_class(
    lm: LanguageModel,
    domains: Mapping[str, Detection],
    samples: Mapping[str, Tensor],
    edits: Mapping[str, Edit],
    *,
    scale: float = 20.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Errors at one scale by class of token and text: a row a class, edit and text.

    Args:
        samples: ids of the tokens that are edited of each class.
        edits: with the linear rule.

    Returns:
        Columns `class`, `direction`, `scale`, the fields of `Score`, and `domain`.
    """
    tables = [
        Judged.of(lm, text, ids, edits, [scale], seed=seed)
        .scores()
        .assign(**{"class": name, "domain": domain})
        for domain, text in domains.items()
        for name, ids in samples.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    middle = [column for column in table if column not in ("class", "domain")]
    return table[["class", *middle, "domain"]]


def error_metrics(scores: pd.DataFrame, *, scales: Sequence[float] = (20.0,)) -> dict[str, float]:
    """Metrics `steer_mae_<direction>_<scale>x_<domain>`, each with its ends `_low` and `_high`.

    Where the table has classes of tokens, the class follows the domain.

    Args:
        scores: columns `direction`, `scale`, `domain`, `mae`, `low`, `high`, and perhaps `class`.
        scales: those that become metrics.
    """
    metrics: dict[str, float] = {}
    for row in scores[scores["scale"].isin(list(scales))].to_dict("records"):
        name = f"steer_mae_{row['direction']}_{row['scale']:g}x_{row['domain']}"
        name += f"_{row['class']}" if "class" in row else ""
        metrics |= {name: row["mae"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return metrics
