"""The tokens at the two ends of a direction, and the probability that each token stands at."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from probenc_support.regression import Matrix, as_tensor
from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Components


def percentile_of_probability(y: Matrix) -> Array:
    """[n] percentile of each token's probability among all, 0 to 100, for y = -log a [n]."""
    ranks = stats.rankdata(as_tensor(y).cpu().numpy())
    return np.asarray(100.0 * (1.0 - (ranks - 0.5) / len(ranks)))


def along_components(
    components: Components, E: Matrix, r: Array, chosen: Iterable[int]
) -> dict[str, Array]:
    """Coordinates [n] of the rows of E [n, d] on some components, by their names.

    Each is turned so that -log a grows along it.

    Args:
        r: [d] correlation of every component with -log a.
        chosen: components, counted from 0; one that is named twice comes once.
    """
    return {
        f"component {k + 1}": components.score(E, k) * np.sign(r[k]) for k in dict.fromkeys(chosen)
    }


def at_ends(
    coordinates: Mapping[str, Array],
    y: Matrix,
    tokens: Matrix,
    text: Callable[[int], str],
    *,
    k: int = 12,
) -> pd.DataFrame:
    """The k tokens of least and of greatest coordinate on each of several directions.

    Args:
        coordinates: [n] of all tokens by the direction's name; -log a grows along each.
        y: [n] -log a of the tokens, in nats.
        tokens: [n] their ids.
        text: the text of a token, given its id.

    Returns:
        Rows from the end inwards, with `along`, `end` (`probable`: the least; `improbable`),
        `token_id`, `text`, `coordinate` and `minus_log_a`.
    """
    minus_log_a, ids = as_tensor(y).cpu().numpy(), as_tensor(tokens).tolist()
    rows = []
    for name, values in coordinates.items():
        order = np.argsort(values, kind="stable")
        for end, chosen in (("probable", order[:k]), ("improbable", order[::-1][:k])):
            rows += [
                (name, end, ids[i], text(ids[i]), float(values[i]), float(minus_log_a[i]))
                for i in chosen
            ]
    columns = ["along", "end", "token_id", "text", "coordinate", "minus_log_a"]
    return pd.DataFrame(rows, columns=columns)


def readable(ends: pd.DataFrame) -> pd.DataFrame:
    """A row for each end of each direction of `at_ends`: `along`, `end`, all of its `tokens` in
    quotes, and their mean -log a."""
    quoted = ends.assign(text=ends["text"].map(repr)).groupby(["along", "end"], sort=False)
    columns = {
        "tokens": quoted["text"].agg(" ".join),
        "mean −log a (nats)": quoted["minus_log_a"].mean(),
    }
    return pd.DataFrame(columns).reset_index()
