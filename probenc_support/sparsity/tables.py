"""The tables of the section: every dimension of E and every component with what was measured."""

import numpy as np
import pandas as pd
import torch

from probenc_support.regression.arrays import Array
from probenc_support.sparsity.components import Components, Order, Statistics
from probenc_support.sparsity.concentration import top
from probenc_support.sparsity.selection import Selection
from probenc_support.sparsity.significance import AgainstZero


def of_dimensions(
    statistics: Statistics,
    slopes: AgainstZero,
    correlations: AgainstZero,
    *,
    spearman: Array,
    h: torch.Tensor,
    forward: Selection,
) -> pd.DataFrame:
    """A row for each dimension of E.

    Args:
        statistics: of E and -log a.
        slopes: tests of the slopes of the fit.
        correlations: tests of the dimensions' correlations with -log a.
        spearman: [d] rank correlation of every dimension with -log a.
        h: [N, d] hidden states.
        forward: all dimensions in order of forward selection.
    """
    low, high = correlations.documents.interval()
    step = forward_steps(forward, statistics.d)
    return pd.DataFrame(
        {
            "dimension": np.arange(statistics.d),
            "slope": slopes.documents.estimate,
            "stderr": slopes.documents.stderr,
            "p": slopes.documents.p,
            "q": slopes.documents.q,
            "stderr_tokens_hc3": slopes.tokens.stderr,
            "q_tokens": slopes.tokens.q,
            "slope_standardised": statistics.standardised_slopes,
            "pearson": correlations.documents.estimate,
            "pearson_low": low,
            "pearson_high": high,
            "pearson_q": correlations.documents.q,
            "pearson_q_tokens": correlations.tokens.q,
            "spearman": spearman,
            "sd_of_E": statistics.sd,
            "mean_of_E": statistics.mean,
            "mean_hidden": h.double().mean(0).cpu().numpy(),
            "rms_hidden": h.double().square().mean(0).sqrt().cpu().numpy(),
            "forward_step": step,
            "forward_r2": forward.r2[step - 1],
        }
    )


def forward_steps(forward: Selection, d: int) -> Order:
    """[d] step at which forward selection took each dimension, from 1; it must have taken all d."""
    steps = np.empty(d, dtype=np.int64)
    steps[forward.order] = np.arange(1, d + 1)
    return steps


def of_components(
    statistics: Statistics,
    components: Components,
    correlations: AgainstZero,
    *,
    spearman: Array,
    r2_cumulative: Array,
    r2_cumulative_heldout: Array,
) -> pd.DataFrame:
    """A row for each principal component.

    Args:
        statistics: of E and -log a.
        components: of E.
        correlations: tests of the components' correlations with -log a.
        spearman: [d] rank correlation of every component with -log a.
        r2_cumulative: [d] R^2 of the first 1, 2, ... d components; `_heldout`: on tokens left out.
    """
    expressed = components.express(statistics)
    low, high = correlations.documents.interval()
    return pd.DataFrame(
        {
            "component": np.arange(1, statistics.d + 1),
            "variance": components.variances,
            "variance_share": components.variances / components.variances.sum(),
            "slope": expressed.cross / expressed.gram.diagonal(),
            "pearson": correlations.documents.estimate,
            "pearson_low": low,
            "pearson_high": high,
            "p": correlations.documents.p,
            "q": correlations.documents.q,
            "q_tokens": correlations.tokens.q,
            "spearman": spearman,
            "r2_cumulative": r2_cumulative,
            "r2_cumulative_heldout": r2_cumulative_heldout,
        }
    )


def of_largest_slopes(dimensions: pd.DataFrame, k: int = 10) -> pd.DataFrame:
    """The k dimensions of largest slope with their ranks by other measures, from 1, largest first.

    Args:
        dimensions: see `of_dimensions`.
    """
    ranked = dimensions.assign(
        rank_mean_hidden=_ranks(dimensions["mean_hidden"]),
        rank_sd_of_E=_ranks(dimensions["sd_of_E"]),
        rank_pearson=_ranks(dimensions["pearson"]),
    )
    named = ["dimension", "slope", "stderr", "mean_hidden", "pearson"]
    ranks = ["rank_mean_hidden", "rank_sd_of_E", "rank_pearson", "forward_step"]
    return ranked.loc[top(dimensions["slope"].to_numpy(), k), [*named, *ranks]]


def _ranks(values: "pd.Series[float]") -> "pd.Series[int]":
    """Places by size, the largest having 1."""
    return values.abs().rank(ascending=False).astype(int)
