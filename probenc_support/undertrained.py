"""Indicators of tokens that training hardly saw, from the output embedding.

A token that never occurs in the training text is never a target: its row is only ever pushed away
from the hidden states. So it should lie far along the direction A that encodes improbability.
Land and Bartolo 2024 (arXiv 2405.05417) look for such tokens by their distance from rows that are
known not to be in use; both are compared here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from probenc_support import roster
from probenc_support.dynamics import Estimate, counts_so_far
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models import checkpoints
from probenc_support.models.vocabulary import Vocabulary
from probenc_support.regression import LinearFit
from probenc_support.regression.arrays import Array

_NEVER_IN_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))
"""Bytes that no UTF-8 text contains. Vocabularies that hold all bytes hold these, too."""


_SPACE = "\u0120"
"""How byte-level BPE writes a space. It writes bytes that UTF-8 never has as letters."""


RIVALS = ("short row", "near the mean row", "near unused rows")
"""Indicators that are read from E alone and know no direction of probability."""


def never_used(vocabulary: Vocabulary) -> Tensor:
    """Ids, ascending, of tokens that no text is encoded into: bytes that UTF-8 does not have.

    They are found where a tokenizer writes bytes as byte-level BPE does, or as `<0xC0>`. A
    vocabulary without them has none.
    """
    by_name = {f"<0x{byte:02X}>" for byte in _NEVER_IN_UTF8}
    by_letter = {chr(byte) for byte in _NEVER_IN_UTF8}
    pieces = set(vocabulary.pieces.values())
    # Where bytes have names, the letters are letters, which texts do contain.
    names = by_name if by_name & pieces else by_letter if _SPACE in pieces else set()
    found = [token for token in vocabulary.rows.tolist() if vocabulary.pieces[token] in names]
    return torch.tensor(found, dtype=torch.int64)


def indicators(
    head: Head, fit: LinearFit, mean_h: Tensor, log_a: Tensor, *, reference: Tensor | None = None
) -> pd.DataFrame:
    """How much each token looks as if training had not seen it, a row a token of the head.

    Columns, larger for less trained:

    - `along A`: A . E_w, the part of fitted -log a that the row makes;
    - `along mean h`: -E_w . mean h, the same by theory, without a fit;
    - `-log a`: the average probability itself, for which a text is needed;
    - `short row`: minus the length of E_w;
    - `near the mean row`: minus the distance of E_w from the mean row;
    - `near unused rows`: cosine, seen from the mean row, of E_w with the mean of the rows
      `reference`, after Land and Bartolo 2024; only where there are any.

    Args:
        fit: of -log a on the rows, for A [d].
        mean_h: [d] mean hidden state; log_a: [n] of the tokens.
        reference: ids of tokens that are known not to be in use.
    """
    E = head.rows.cpu().double()
    centred = E - E.mean(0)
    found = {
        "along A": torch.from_numpy(fit.predict(E)),
        "along mean h": -(E @ mean_h.cpu().double()),
        "-log a": -log_a.double(),
        "short row": -E.norm(dim=1),
        "near the mean row": -centred.norm(dim=1),
    }
    if reference is not None and len(reference):
        unused = (head.E.cpu().double()[reference] - E.mean(0)).mean(0)
        found["near unused rows"] = torch.cosine_similarity(centred, unused[None], dim=1)
    table = pd.DataFrame({name: values.numpy() for name, values in found.items()})
    return table.assign(token=head.tokens.numpy())[["token", *found]]


def auroc(values: Array, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: how often a positive one of two has the larger value; ties half.

    Args:
        values: [n]; positive: [n] bool, some of each kind.
    """
    one, other = values[positive], values[~positive]
    found = stats.mannwhitneyu(one, other, method="asymptotic").statistic
    return float(found / (len(one) * len(other)))


def auroc_draws(
    values: Mapping[str, Array],
    positive: NDArray[np.bool_],
    *,
    n_replicates: int = 400,
    seed: int = 0,
) -> pd.DataFrame:
    """[n_replicates] areas for tokens drawn with replacement, within each kind; a column an
    indicator, all with the same draws.

    Args:
        values: [n] of each indicator.
    """
    rng = np.random.default_rng(seed)
    kinds = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    rows = []
    for _ in range(n_replicates):
        drawn = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        rows.append({name: auroc(each[drawn], positive[drawn]) for name, each in values.items()})
    return pd.DataFrame(rows)


def overlap(one: Array, other: Array, share: float = 0.01) -> float:
    """Share of the largest values of one that are among as many largest of the other, 0 to 1."""
    k = max(1, round(share * len(one)))
    top = [set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (one, other)]
    return len(top[0] & top[1]) / k


@dataclass(frozen=True)
class Judged:
    """The areas under the ROC curve of one run's indicators, unseen tokens against seen ones."""

    areas: dict[str, float]
    """By indicator, 0 to 1."""
    draws: pd.DataFrame
    """[n_replicates] of the same, see `auroc_draws`."""
    n_unseen: int
    """Tokens to find."""
    n_seen: int
    """The others."""


def runs_of(model: str, seed: int, n_seeds: int) -> dict[str, NDArray[np.int64] | None]:
    """The models to look at by name, and how often training saw each token: [V] by id.

    Of a model that is trained here, one a seed: `seed`, `seed` + 1, ... after the one that its name
    has; else the model alone, of which it is not known (None).
    """
    entry, named = roster.roster_entry(model)
    if entry is None or not entry.source.startswith("trained:"):
        return {model: None}
    found: dict[str, NDArray[np.int64] | None] = {}
    for each in checkpoints.seeds(model, seed, n_seeds):
        counts = counts_so_far(checkpoints.training_run(model, seed=each))
        found[f"{entry.name}-seed{named + each}"] = None if counts is None else counts[-1]
    return found


def judge(
    table: pd.DataFrame,
    counts: NDArray[np.int64],
    *,
    without: Tensor,
    seen_at_most: int | None = None,
    n_replicates: int = 400,
    seed: int = 0,
) -> Judged:
    """How well each indicator tells the tokens that training never saw from the others.

    Args:
        table: see `indicators`.
        counts: [V] by id, see `runs_of`.
        without: ids that are not judged, since they serve as examples of unused rows.
        seen_at_most: of the tokens that training saw, judge only those that it saw so often or
            more rarely, which are harder to tell; None: all.

    Raises:
        InputError: training saw every token, or none.
    """
    own = _judged(table, counts, without, seen_at_most)
    unseen = counts[own["token"].to_numpy()] == 0
    if unseen.all() or not unseen.any():
        raise InputError(
            f"Of {len(own)} tokens training never saw {int(unseen.sum())}, so that there is "
            "nothing to tell apart."
        )
    values = {str(name): own[name].to_numpy() for name in own if name != "token"}
    return Judged(
        areas={name: auroc(each, unseen) for name, each in values.items()},
        draws=auroc_draws(values, unseen, n_replicates=n_replicates, seed=seed),
        n_unseen=int(unseen.sum()),
        n_seen=int((~unseen).sum()),
    )


def _judged(
    table: pd.DataFrame, counts: NDArray[np.int64], without: Tensor, seen_at_most: int | None
) -> pd.DataFrame:
    kept = ~table["token"].isin(without.tolist())
    if seen_at_most is not None:
        kept &= counts[table["token"].to_numpy()] <= seen_at_most
    return table[kept]


def random_directions(
    head: Head,
    counts: NDArray[np.int64],
    *,
    without: Tensor,
    seen_at_most: int | None = None,
    n_directions: int = 20,
    seed: int = 0,
) -> list[float]:
    """Areas of as many directions by lot, each turned the better way, so that it is 0.5 or more."""
    every = pd.DataFrame({"token": head.tokens.numpy()})
    tokens = _judged(every, counts, without, seen_at_most)["token"].to_numpy()
    E, unseen = head.E.cpu().double()[torch.tensor(tokens)], counts[tokens] == 0
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(E.shape[1], n_directions, generator=generator, dtype=torch.float64)
    values = (E @ directions).numpy()
    areas = [auroc(each, unseen) for each in values.T]
    return [max(area, 1.0 - area) for area in areas]


def over_runs(judged: Sequence[Judged]) -> pd.DataFrame:
    """Mean area over the runs with its 95 % interval, and the range of the runs, by indicator."""
    mean = pd.concat([each.draws for each in judged]).groupby(level=0).mean()
    by_run = pd.DataFrame([each.areas for each in judged])
    return pd.DataFrame(
        {
            "area": by_run.mean(),
            "low": mean.quantile(0.025),
            "high": mean.quantile(0.975),
            "lowest run": by_run.min(),
            "highest run": by_run.max(),
        }
    ).rename_axis("indicator")


def metrics(judged: Sequence[Judged], slug: Callable[[str], str]) -> dict[str, float]:
    """`auroc_<indicator>` with its interval, and `auroc_along_A_less_rival`: the fitted value's
    area less that of the best of `RIVALS`."""
    table = over_runs(judged)
    found: dict[str, float] = {}
    for name in map(str, table.index):
        area, low, high = (float(table[column][name]) for column in ("area", "low", "high"))
        found |= Estimate(area, low, high).metrics(f"auroc_{slug(name)}")
    areas = table["area"]
    best = max((name for name in RIVALS if name in areas.index), key=lambda name: areas[name])
    paired = [(each.draws["along A"] - each.draws[best]).to_numpy() for each in judged]
    less = Estimate.of(float(areas["along A"] - areas[best]), np.mean(paired, axis=0))
    return found | less.metrics("auroc_along_A_less_rival")


def by_count(table: pd.DataFrame, counts: NDArray[np.int64]) -> pd.DataFrame:
    """The fitted value by how often training saw a token: `median`, `low` and `high` (the middle
    90 %) and `tokens`, by class of count."""
    own = counts[table["token"].to_numpy()]
    edges = [0, 1, 2, 4, 8, 16, 64, 256, 1024, np.inf]
    labels = ["0", "1", "2–3", "4–7", "8–15", "16–63", "64–255", "256–1023", "1024 and more"]
    classes = pd.cut(own, edges, right=False, labels=labels)
    values = table["along A"].groupby(classes, observed=True)
    found = {"median": values.median(), "low": values.quantile(0.05), "high": values.quantile(0.95)}
    return pd.DataFrame({**found, "tokens": values.size()}).rename_axis("count")
