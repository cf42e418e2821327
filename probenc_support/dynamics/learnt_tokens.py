"""Which tokens' frequencies E tells at which checkpoint: by class of frequency, and one by one."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from probenc_support.dynamics.run_dynamics import Dynamics
from probenc_support.regression.arrays import Array


def by_frequency(measured: Dynamics, *, n_groups: int = 5) -> pd.DataFrame:
    """Mean fitted and true -log frequency of tokens from the most to the least frequent, by step.

    Columns: step, group (1: most frequent), true, fitted, rms_error; nats.
    """
    y = measured.frequencies.y
    groups = np.array_split(np.argsort(y, kind="stable"), n_groups)
    rows = [
        (
            fit.step,
            number,
            float(y[members].mean()),
            float(fit.predicted[members].mean()),
            float(np.sqrt(np.mean((fit.predicted[members] - y[members]) ** 2))),
        )
        for fit in measured.fits
        for number, members in enumerate(groups, start=1)
    ]
    return pd.DataFrame(rows, columns=["step", "group", "true", "fitted", "rms_error"])


def learnt_at(measured: Dynamics, *, within: float = 1.0) -> Array:
    """[n_seen] first step from which on a token's fitted -log frequency stays within `within` nats
    of the truth; NaN for a token that ends further away."""
    errors = np.stack([np.abs(fit.predicted - measured.frequencies.y) for fit in measured.fits])
    right = errors <= within
    stays = np.logical_and.accumulate(right[::-1])[::-1]
    steps = np.array(measured.steps, dtype=np.float64)[stays.argmax(0)]
    return cast(Array, np.where(stays.any(0), steps, np.nan))


def examples(measured: Dynamics, texts: Sequence[str], *, n: int = 12) -> pd.DataFrame:
    """Tokens spread evenly over the ranks of frequency, with their fitted values step by step.

    Args:
        texts: [V] readable text of each token.
    """
    y = measured.frequencies.y
    ranks = np.argsort(y, kind="stable")
    # Powers may come out a rounding below the whole number that they are.
    chosen = ranks[(np.geomspace(1, len(ranks), n) * (1 + 1e-9)).astype(int) - 1]
    chosen = chosen[np.sort(np.unique(chosen, return_index=True)[1])]
    table = pd.DataFrame(
        {
            "token": [texts[measured.frequencies.tokens[i]] for i in chosen],
            "id": measured.frequencies.tokens[chosen],
            "count": measured.frequencies.counts[measured.frequencies.tokens[chosen]],
            "true": y[chosen],
            "learnt_at": learnt_at(measured)[chosen],
        }
    )
    for fit in measured.fits:
        table[f"step {fit.step}"] = fit.predicted[chosen]
    return table
