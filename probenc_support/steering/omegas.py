"""The family of weightings Omega with which the paper's edit is tried, and the choice of one.

The paper weighs dimensions by an Omega that sums to one and lies on the dimensions of largest slope
(section 3). It leaves open on how many dimensions, and in which proportion. So several weightings
are tried, and the one with the least error on the detecting corpus stands for the paper.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.steering import closed_form, directions

SIZES = (1, 3, 10, 30, 100)
"""Numbers of dimensions that are tried, besides all of them."""

WEIGHTS: Mapping[int, str] = {0: "uniform", 1: "in proportion to |A|", 2: "in proportion to A²"}
"""What Omega is in proportion to, by the power of |A|."""


@dataclass(frozen=True)
class Omega:
    """A weighting of the paper's edit."""

    k: int
    """Dimensions of steepest slope on which it lies."""
    power: int
    """It is in proportion to |A|^power there; see `WEIGHTS`."""

    def direction(self, slopes: Tensor) -> Tensor:
        """[d] the edit a nat, -Omega / A, for slopes A [d]; see `steering.paper_direction`."""
        return directions.paper_direction(slopes, self.k, power=self.power)

    @property
    def words(self) -> str:
        """Such as `uniform on the 10 steepest dimensions`."""
        where = f"the {self.k} steepest dimensions" if self.k > 1 else "the steepest dimension"
        return f"{WEIGHTS[self.power]} on {where}" if self.k > 1 else f"all on {where}"


def family(d: int) -> list[Omega]:
    """All weightings that are tried for width d: each kind on 1, 3, 10, 30, 100 and d dimensions.

    On one dimension all kinds are the same, so there is one weighting of that size.
    """
    sizes = sorted({k for k in SIZES if k < d} | {d})
    return [Omega(k, power) for power in WEIGHTS for k in sizes if k > 1 or power == 0]


def family_errors(
    lm: LanguageModel,
    text: Detection,
    tokens: Tensor,
    slopes: Tensor,
    *,
    scales: Sequence[float] = (2.0, 20.0),
) -> pd.DataFrame:
    """Errors of every member of the family on one text: a row a member.

    Args:
        tokens: [K] tokens that are edited, one at a time. For a choice, none that is judged later.
        slopes: [d] the fitted A.

    Returns:
        Columns `weights`, `power`, `k`; for each scale `error_<scale>x`, the mean absolute error of
        log scale in nats over tokens in reach; and `share`, the mean over scales of these errors
        divided by the log scale.
    """
    members = family(lm.d)
    log_p = lm.head.log_p(text.h, tokens, text.z)
    g = text.h.double() @ torch.stack([omega.direction(slopes) for omega in members], dim=1)
    table = pd.DataFrame(
        {
            "weights": [WEIGHTS[omega.power] for omega in members],
            "power": [omega.power for omega in members],
            "k": [omega.k for omega in members],
        }
    )
    shares = []
    for scale in scales:
        errors = closed_form.mean_errors(log_p, g, math.log(scale)).numpy()
        table[f"error_{scale:g}x"] = errors
        shares.append(errors / abs(math.log(scale)))
    return table.assign(share=sum(shares) / len(shares))


def best_member(errors: pd.DataFrame) -> Omega:
    """The member with the least `share` of `family_errors`.

    Raises:
        InputError: no member has a finite error.
    """
    usable = errors[errors["share"].map(math.isfinite)]
    if usable.empty:
        raise InputError("No member of the paper's family of edits could be scored on this text.")
    first = usable.sort_values("share", kind="stable").iloc[0]
    return Omega(int(first["k"]), int(first["power"]))


def errors_of(errors: pd.DataFrame, omega: Omega) -> dict[str, float]:
    """The errors of one weighting in `family_errors`, by column such as `error_20x`."""
    (row,) = (row for row in errors.to_dict("records") if Omega(row["k"], row["power"]) == omega)
    return {str(name): value for name, value in row.items() if str(name).startswith("error_")}
