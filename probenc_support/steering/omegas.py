"""What the paper's edit is judged as, and between which ends: the family of its weightings Omega,
a control that must fail, and edits that no fit is needed for.

The paper weighs dimensions by an Omega that sums to one and lies on the dimensions of largest slope
(section 3). Which weighting it is, is a matter of reading; so a family of them is tried, and the
best member on the detecting corpus stands for the paper.
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
from probenc_support.moments import Moments
from probenc_support.steering import closed_form, directions

SIZES = (1, 3, 10, 30, 100)
"""Numbers of dimensions that are tried, besides all of them."""


WEIGHTS: Mapping[int, str] = {0: "uniform", 1: "in proportion to |A|", 2: "in proportion to A²"}
"""What Omega is in proportion to, by the power of |A|."""


_EXACT = 1e-3
"""Largest distance of v . h from one with which v passes for a hidden bias (float32 states)."""


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

    On one dimension all kinds are the same, so it stands there once.
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
    log_p = lm.head.log_p(text.h, tokens, text.z)
    rows = []
    for omega in family(lm.d):
        g = text.h.double() @ omega.direction(slopes)
        errors = {f"error_{r:g}x": mean_error(log_p, g, math.log(r)) for r in scales}
        shares = [e / abs(math.log(r)) for e, r in zip(errors.values(), scales, strict=True)]
        kind = {"weights": WEIGHTS[omega.power], "power": omega.power, "k": omega.k}
        rows.append({**kind, **errors, "share": sum(shares) / len(shares)})
    return pd.DataFrame(rows)


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


def mean_error(log_p: Tensor, g: Tensor, step: float) -> float:
    """Mean absolute error of log scale, nats, of the linear rule over the tokens in reach.

    Args:
        log_p: [N, K] float64; g: [N] float64, v . h_n; step: the wanted log scale.

    Returns:
        NaN if no token is in reach.
    """
    reachable = closed_form.is_reachable(closed_form.log_mean(log_p), step)
    found = [
        closed_form.achieved(block, step * g[:, None])
        for block in log_p[:, reachable].split(max(1, 2**16 // len(log_p)), dim=1)
    ]
    return float((torch.cat(found) - step).abs().mean()) if int(reachable.sum()) else math.nan


def random_unit(moments: Moments, *, seed: int, n_draws: int = 9) -> Tensor:
    """[d] a random direction with v . mean(h) = 1: the control that moves the logit as much.

    Of `n_draws` directions drawn evenly from the sphere, each scaled so, it is the one of median
    variance v' S v, so that it is neither luckily even nor luckily uneven.

    Args:
        moments: mean and covariance S of the detecting hidden states.
        n_draws: an odd number.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n_draws, len(moments.mean), generator=generator, dtype=torch.float64)
    drawn = drawn / (drawn @ moments.mean)[:, None]
    variances = ((drawn @ moments.cov) * drawn).sum(dim=1)
    return drawn[variances.argsort()[n_draws // 2]]


def hidden_bias(lm: LanguageModel, h: Tensor) -> Tensor | None:
    """[d] the direction with v . h = 1 for every input, where the final norm is a LayerNorm.

    h = gamma x + beta with sum(x) = 0 gives (1 / gamma) . h = sum(beta / gamma) for every input, so
    v = (1 / gamma) / sum(beta / gamma), from the weights alone. The norm is found among the model's
    own, and taken only if v . h is one on the hidden states h [N, d] to 1e-3.

    Returns:
        None where no norm does that: an RMSNorm, or a LayerNorm without bias or with a gain of 0.
    """
    for norm in reversed([m for m in lm.model.modules() if isinstance(m, torch.nn.LayerNorm)]):
        if norm.bias is None or tuple(norm.weight.shape) != (lm.d,):
            continue
        gain, bias = (x.detach().cpu().double() for x in (norm.weight, norm.bias))
        vector = (1 / gain) / (bias / gain).sum()
        if bool(vector.isfinite().all()) and float((h.double() @ vector - 1).abs().max()) < _EXACT:
            return vector
    return None
