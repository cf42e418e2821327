"""How long an edit must be: the most even direction of each length, and what it errs.

Of all v with v . mean(h) = 1 and a given length, the one whose effect varies least is
v = (S + lambda I)^-1 m / (m' (S + lambda I)^-1 m), with m and S the mean and covariance of the
hidden states: lambda is the multiplier of the length. From lambda = 0, the direction of least
variance, to infinity, the shortest one, this is a path, and on the text that it is fitted to no
direction of a length varies less.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.moments import Moments
from probenc_support.regression import Interval
from probenc_support.steering.candidates import row_length
from probenc_support.steering.closed_form import mean_errors
from probenc_support.steering.directions import mean_hidden
from probenc_support.steering.scores import Edit, Judged, effect
from probenc_support.steering.side_effects import neighbours_kept

RIDGES = (0.0, *(10.0 ** (n / 2) for n in range(-16, 9)))
"""lambda along the path, in units of the mean variance of the hidden states."""

PATH = "most even"
"""Name of the path in tables."""

NEAR = 0.1
"""Nats beyond the ceiling that count as near it: ten per cent of the wanted factor."""

_HALVINGS = 60


def path(moments: Moments, ridges: Sequence[float] = RIDGES) -> Tensor:
    """[M, d] `directions.min_variance` with each of M ridges, from one eigendecomposition."""
    values, axes = moments.axes
    along = axes.T @ moments.mean
    added = torch.tensor(list(ridges), dtype=torch.float64) * float(moments.cov.diagonal().mean())
    weights = along / (values + added.to(values.device)[:, None])
    return (weights / (weights @ along)[:, None]) @ axes.T


def of_length(moments: Moments, length: float) -> Tensor:
    """[d] the most even direction that is no longer than `length`.

    Where all with v . mean(h) = 1 are longer, it is the shortest of them, cut to the length.
    """
    shortest = mean_hidden(moments.mean)
    least = float(shortest.norm())
    if length <= least:
        return shortest * (length / least)
    low, high = -30.0, 30.0  # of log10 lambda: the length falls from one to the other
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(path(moments, [10.0**middle]).norm()) > length:
            low = middle
        else:
            high = middle
    return path(moments, [10.0**high])[0]


def long_as_a_row(moments: Moments, head: Head, *, scale: float = 20.0) -> Tensor:
    """[d] the most even direction whose edit to `scale` is no longer than a centred row of E is on
    average."""
    return of_length(moments, row_length(head) / abs(math.log(scale)))


def errors_by_length(
    lm: LanguageModel,
    domains: Mapping[str, Detection],
    tokens: Tensor,
    moments: Moments,
    points: Mapping[str, Tensor],
    *,
    scale: float = 20.0,
    n_neighbours: int = 10,
    most: int = 20,
) -> pd.DataFrame:
    """Length, evenness and error of directions along the path, and of other ones beside it.

    Args:
        tokens: [K], edited one at a time; of `most` of them the neighbours are compared.
        moments: of the text that the path is fitted to.
        points: other directions [d], by name.

    Returns:
        A row a direction and text: `direction`, `PATH` along the path; `ridge`, NaN beside it;
        `length` of the edit over the mean length of a centred row; `domain`; `mean` and `sd` of
        v . h there;
        `error`, mean absolute error of log scale of tokens in reach, nats; `beyond`, the same less
        that of a plain logit bias; `kept`, the share of a row's nearest neighbours that it keeps.
    """
    vectors = torch.cat([path(moments), *(vector[None] for vector in points.values())])
    step = math.log(scale)
    some = tokens[:: max(1, len(tokens) // most)]
    facts = pd.DataFrame(
        {
            "direction": [PATH] * len(RIDGES) + list(points),
            "ridge": [*RIDGES, *(math.nan for _ in points)],
            "length": abs(step) * vectors.norm(dim=1).numpy() / row_length(lm.head),
            "kept": neighbours_kept(lm, some, step * vectors, n=n_neighbours).mean(dim=1).numpy(),
        }
    )
    tables = []
    for domain, text in domains.items():
        g = text.h.double() @ vectors.T
        log_p = lm.head.log_p(text.h, tokens, text.z)
        errors = mean_errors(log_p, torch.cat([g, effect(None, text.h)[:, None]], dim=1), step)
        tables.append(
            facts.assign(
                domain=domain,
                mean=g.mean(dim=0).numpy(),
                sd=g.std(dim=0, correction=0).numpy(),
                error=errors[:-1].numpy(),
                beyond=(errors[:-1] - errors[-1]).numpy(),
            )
        )
    return pd.concat(tables, ignore_index=True)


def beyond_ceiling(
    lm: LanguageModel,
    text: Detection,
    tokens: Tensor,
    vector: Tensor,
    *,
    scale: float = 20.0,
    seed: int = 0,
) -> Interval:
    """Error of an edit less that of a plain logit bias, nats, paired by token and document."""
    edits = {"edit": Edit(vector), "bias": Edit(None)}
    judged = Judged.of(lm, text, tokens, edits, [scale], seed=seed)
    errors = [judged.score(name, scale).mae for name in edits]
    draws = [judged.error_draws(name, scale).numpy() for name in edits]
    return Interval.percentile(errors[0] - errors[1], draws[0] - draws[1])


def metrics(table: pd.DataFrame) -> dict[str, float]:
    """What the table says in numbers.

    `frontier_kept_<direction>` beside the path, the neighbours kept; `frontier_length_shortest` and
    `frontier_kept_shortest` of the path's short end. For each domain `frontier_least_<domain>`, the
    least error beyond the ceiling on the path, with the length, the neighbours kept and the mean of
    v . h there; and `frontier_length_near_<domain>`, the shortest length with an error of at most
    `NEAR` beyond the ceiling, where there is one.

    Args:
        table: see `errors_by_length`.
    """
    along = table[table["direction"] == PATH]
    short = along.nsmallest(1, "length").iloc[0]
    beside = table[table["direction"] != PATH].drop_duplicates("direction")
    found = {f"kept_{row['direction']}": row["kept"] for row in beside.to_dict("records")}
    found |= {"length_shortest": short["length"], "kept_shortest": short["kept"]}
    for domain, rows in along.groupby("domain", sort=False):
        best = rows.nsmallest(1, "beyond").iloc[0]
        found |= {
            f"least_{domain}": best["beyond"],
            f"least_{domain}_length": best["length"],
            f"least_{domain}_kept": best["kept"],
            f"least_{domain}_mean": best["mean"],
        }
        near = rows[rows["beyond"] <= NEAR]
        if len(near):
            found[f"length_near_{domain}"] = near["length"].min()
    return {f"frontier_{name}": float(value) for name, value in found.items()}
