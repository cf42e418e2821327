"""What the precision in which a row is stored leaves of an edit.

A row E_w + t v that is stored in bfloat16 is rounded to 8 binary digits, each entry by up to half
of its last digit, so that u_n = t v . h_n is off by the rounding errors times h_n. These act like
independent draws from a range as wide as the last digit, whose variance is a twelfth of its square:
the mean square of the error of u_n is the sum over dimensions of (last digit)^2 / 12 times the mean
square of h. It grows with the length of the row, so a long edit is rounded coarsely, however exact
it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from probenc_support import models
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.steering.closed_form import achieved, is_reachable, log_mean

PRECISIONS = (torch.bfloat16, torch.float16)
"""In which models are stored, besides float32."""


@dataclass(frozen=True)
class Rounded:
    """Edits of some tokens whose rows are stored in one precision."""

    predicted: float
    """Root mean square of the error of u_n over tokens and positions, from the last digits alone"""
    measured: float
    """The same of the rows as stored"""
    mae: float
    """Mean absolute error of log scale over tokens in reach, nats"""
    unrounded: float
    """The same of the rows before rounding"""


def last_digit(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Distance between neighbouring numbers of a precision at each of `values`, as float64."""
    facts = torch.finfo(dtype)
    size = values.double().abs().clamp(min=facts.smallest_normal)
    return facts.eps * torch.exp2(torch.floor(torch.log2(size)))


def rounded(
    lm: LanguageModel,
    text: Detection,
    tokens: Tensor,
    vector: Tensor,
    dtype: torch.dtype,
    *,
    scale: float = 20.0,
) -> Rounded:
    """Edits of each of `tokens` [K] along `vector` [d] to `scale`, in closed form.

    The rows before the edit are rounded, too. Where the model multiplies its logits, it is the
    stored weight that is rounded, not E.
    """
    times, step = models.logit_scale(lm.model.config), math.log(scale)

    def stored(rows: Tensor) -> Tensor:
        return (rows / times).to(dtype).double() * times

    before = stored(lm.E[tokens].cpu().double())
    wanted = before + step * vector
    change, h = stored(wanted) - before, text.h.double()
    off = (change - step * vector) @ h.T
    digits = last_digit(wanted / times, dtype) * times
    log_p = lm.head.log_p(text.h, tokens, text.z)
    reach = is_reachable(log_mean(log_p), step)
    rows = [h @ change.T, (step * (h @ vector))[:, None].expand_as(log_p)]
    errors = [float((achieved(log_p, u)[reach] - step).abs().mean()) for u in rows]
    return Rounded(
        predicted=float((digits**2 / 12 @ (h**2).mean(dim=0)).mean().sqrt()),
        measured=float((off**2).mean().sqrt()),
        mae=errors[0],
        unrounded=errors[1],
    )


def metrics(stored: pd.DataFrame) -> dict[str, float]:
    """`rounded_<precision>_<direction>_mae`, `_measured`, `_predicted` of each row of `table`."""
    return {
        f"rounded_{row['precision']}_{row['direction']}_{what}": float(row[what])
        for row in stored.to_dict("records")
        for what in ("mae", "measured", "predicted")
    }


def table(
    lm: LanguageModel,
    text: Detection,
    tokens: Tensor,
    directions: Mapping[str, Tensor],
    *,
    precisions: Sequence[torch.dtype] = PRECISIONS,
) -> pd.DataFrame:
    """A row a direction and precision: `direction`, `precision`, and the fields of `Rounded`."""
    return pd.DataFrame(
        [
            {
                "direction": name,
                "precision": str(dtype).removeprefix("torch."),
                **vars(rounded(lm, text, tokens, vector, dtype)),
            }
            for name, vector in directions.items()
            for dtype in precisions
        ]
    )
