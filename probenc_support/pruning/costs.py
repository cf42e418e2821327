"""What every method of pruning costs at every share of dimensions removed, beside the others.

All methods are scored at the same positions, so that a ratio of two costs is paired by document.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from probenc_support.pruning import intervals
from probenc_support.pruning.bases import Basis, levels
from probenc_support.pruning.divergence import Divergences, Reference
from probenc_support.regression import Interval

MEASURES = ("kl", "js", "top1", "nll_increase")
"""Columns of `Costs.table` that have an interval."""


@dataclass(frozen=True, eq=False)
class Method:
    """A way of pruning, and the shares of dimensions at which it is scored."""

    bases: Sequence[Basis]
    """One basis, or one for each draw of a random order."""
    shares: Sequence[float]
    """Shares of dimensions removed, ascending."""


class Costs:
    """Divergences of several methods at the same positions."""

    def __init__(self, group: Tensor) -> None:
        """group: [N] document of each position."""
        self.group = group
        self._scored: dict[tuple[str, float], list[Divergences]] = {}

    @classmethod
    def of(cls, reference: Reference, methods: Mapping[str, Method], group: Tensor) -> "Costs":
        """Scores methods at the positions of a reference, all in one sweep.

        Raises:
            InputError: a share removes all dimensions, or shares do not ascend.
        """
        costs = cls(group)
        wanted = {
            f"{name} {draw}": (basis, levels(method.shares, basis.d))
            for name, method in methods.items()
            for draw, basis in enumerate(method.bases)
        }
        swept = reference.sweeps(wanted)
        for name, method in methods.items():
            draws = [swept[f"{name} {draw}"] for draw in range(len(method.bases))]
            for level, share in enumerate(method.shares):
                costs.add(name, share, [draw.at(level) for draw in draws])
        return costs

    def add(self, method: str, share: float, draws: Divergences | Sequence[Divergences]) -> None:
        """Adds a method at one share: what it costs, or what each of its random draws does."""
        self._scored[method, share] = [draws] if isinstance(draws, Divergences) else list(draws)

    def kl(self, method: str, share: float = 0.3) -> Tensor:
        """[R, N] KL divergence of each draw of a method at each position, nats."""
        return torch.cat([draw.kl for draw in self._scored[method, share]])

    def nll_increase(self, method: str, share: float = 0.3) -> Tensor:
        """[N] loss of the next token above the intact head's, nats, of a method with one draw."""
        (draw,) = self._scored[method, share]
        return draw.nll_increase[0]

    def ratio(self, method: str, other: str, share: float = 0.3) -> Interval:
        """Mean KL of one method over that of another, paired by document."""
        return intervals.ratio_interval(self.kl(method, share), self.kl(other, share), self.group)

    def table(self) -> pd.DataFrame:
        """One row a method and share; columns as of `intervals.table`, and `method`."""
        rows = [
            intervals.table(draws, [share], self.group).assign(method=method)
            for (method, share), draws in self._scored.items()
        ]
        return pd.concat(rows, ignore_index=True)


def metrics(table: pd.DataFrame, shares: Sequence[float]) -> dict[str, float]:
    """Flat metrics, for instance `kl_paper_30`, from rows of `Costs.table` at some shares.

    KL and the top token come with the ends of their intervals.
    """
    named: dict[str, float] = {}
    for row in table[table["share"].isin(shares)].to_dict("records"):
        tail = f"{row['method']}_{round(100 * row['share'])}"
        named |= {f"{measure}_{tail}": row[measure] for measure in MEASURES}
        for measure in ("kl", "top1"):
            named |= {f"{measure}_{tail}_{end}": row[f"{measure}_{end}"] for end in ("low", "high")}
    return named


def at_share(table: pd.DataFrame, share: float = 0.3) -> pd.DataFrame:
    """Rows of `Costs.table` at one share by method, the least KL first."""
    return table[table["share"] == share].set_index("method").sort_values("kl")


def largest_shares(
    table: pd.DataFrame, methods: Sequence[str], *, max_kl: float, min_top1: float
) -> dict[str, float]:
    """Largest share of dimensions that each method removes within bounds; 0.0 for none.

    All smaller shares of the table must keep within the bounds too.

    Args:
        max_kl: mean KL divergence, nats.
        min_top1: share of positions whose most probable token stays.
    """
    reach = {}
    for method in methods:
        rows = table[table["method"] == method].sort_values("share")
        within = ((rows["kl"] <= max_kl) & (rows["top1"] >= min_top1)).cummin()
        reach[method] = float(rows["share"][within].max()) if within.any() else 0.0
    return reach
