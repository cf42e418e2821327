"""What an edit moves besides the token that it steers."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.precision import wide, wide_device
from probenc_support.steering.closed_form import achieved, effects, top_two
from probenc_support.steering.scores import Edit


@torch.inference_mode()
def change_of_log_a(
    lm: LanguageModel,
    h: Tensor,
    z: Tensor,
    log_a: Tensor,
    token: int,
    u: Tensor,
    *,
    most: int = 512,
) -> Tensor:
    """[V] change of log a of all tokens, from the `most` positions that the edit changes most.

    Args:
        h: [N, d]; z: [N]; log_a: [V] over these positions; u: [N], how far the token's logit moves.

    Returns:
        [V] float64, nats. The edited token's own entry counts every position. The other entries
        leave out positions where the edit changes other tokens by less than at these.
    """
    log_p = lm.head.log_p(h, torch.tensor([token]), z)[:, 0]
    factor = torch.expm1(-torch.log1p(log_p.exp() * torch.expm1(u)))
    worst = factor.abs().topk(min(most, len(h))).indices
    logits = lm.head.logits(h[worst].to(lm.E))
    p = torch.exp(wide(logits) - z[worst, None].to(wide_device(logits.device)))
    lost = (factor[worst].to(p.device) @ p).to(log_a.device) / len(h)
    change = torch.log1p((lost / log_a.exp()).clamp(min=-1 + 1e-12))
    change[token] = achieved(log_p[:, None], u[:, None])[0]
    return change


def neighbours_kept(lm: LanguageModel, tokens: Tensor, changes: Tensor, *, n: int = 5) -> Tensor:
    """Shares of the n nearest neighbours of rows that are still among the n nearest afterwards.

    Args:
        tokens: [m] whose rows are moved, each by itself.
        changes: [M, d] what is added to a row.

    Returns:
        [M, m] float64, 0 to 1. Rows of tokens are compared by cosine, centred.
    """
    rows = lm.head.rows
    centre = rows.mean(dim=0)
    known = torch.nn.functional.normalize(rows - centre, dim=1)
    own = torch.searchsorted(lm.tokens.cpu(), tokens.cpu().contiguous())
    now = (rows[own] - centre) @ known.T  # a row's own length changes no order
    before = _nearest_places(now, n)
    kept = torch.empty(len(changes), len(tokens), dtype=torch.float64)
    for i, change in enumerate(changes):
        after = _nearest_places(now + known @ change.to(known), n)
        # The token itself is the nearest before the edit, and may be anywhere after it.
        shares = [
            len((old & new) - {k}) / n
            for old, new, k in zip(before, after, own.tolist(), strict=True)
        ]
        kept[i] = torch.tensor(shares, dtype=torch.float64)
    return kept


def _nearest_places(cosine: Tensor, n: int) -> list[set[int]]:
    """Places of the n + 1 largest entries of each row."""
    return [set(places) for places in cosine.topk(n + 1, dim=1).indices.tolist()]


def most_moved(
    lm: LanguageModel, text: Detection, token: int, edit: Edit, scale: float, *, n: int = 8
) -> dict[int, float]:
    """The n other tokens whose mean probability changes most when one is edited by the linear rule.

    Returns:
        Factor on its mean probability by token id, the largest change first.
    """
    u = math.log(scale) * edit.effect(text.h)
    change = change_of_log_a(lm, text.h, text.z, text.log_a_rows, token, u)
    ranked = lm.tokens[torch.argsort(change[lm.tokens].abs(), descending=True)].tolist()
    others = [i for i in ranked[: n + 1] if i != token][:n]
    return {i: math.exp(change[i]) for i in others}


def top_token_changed(
    lm: LanguageModel,
    text: Detection,
    tokens: Tensor,
    edits: Mapping[str, Edit],
    scale: float,
    *,
    most: int = 2048,
) -> dict[str, float]:
    """Share of positions and tokens [K] at which an edit changes the most probable token.

    Args:
        edits: with the linear rule, by name.
        most: about so many positions, evenly spread, are looked at.
    """
    every = max(1, len(text.h) // most)
    h, z = text.h[::every], text.z[::every]
    top, log_p = top_two(lm, h, z), lm.head.log_p(h, tokens, z)
    steps = torch.full((len(tokens), 1), math.log(scale), dtype=torch.float64)
    return {
        name: float(
            effects(log_p, edit.effect(h), steps, tokens=tokens, top=top).top_changed.mean()
        )
        for name, edit in edits.items()
    }


def mean_divergences(edits: pd.DataFrame) -> pd.DataFrame:
    """Mean `kl` and `js`, nats, over tokens in reach: a row a direction, domain and scale.

    Args:
        edits: see `Sweep.edits`.
    """
    reach = edits[edits["in_reach"]]
    means = reach.groupby(["direction", "domain", "scale"])[["kl", "js"]].mean()
    return means.reset_index()


def divergence_metrics(
    divergences: pd.DataFrame, directions: Sequence[str], *, scale: float = 20.0
) -> dict[str, float]:
    """Metrics `steer_kl_<direction>_<scale>x_<domain>` and `steer_js_...` of some directions.

    Args:
        divergences: see `mean_divergences`.
    """
    rows = divergences[divergences["scale"] == scale]
    return {
        f"steer_{kind}_{row['direction']}_{scale:g}x_{row['domain']}": row[kind]
        for row in rows[rows["direction"].isin(list(directions))].to_dict("records")
        for kind in ("kl", "js")
    }
