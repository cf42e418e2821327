"""Where the fit errs: a table of the tokens, and means of the residuals by group of token."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support.models import LanguageModel
from probenc_support.regression.arrays import Array, Matrix, as_array, as_tensor

NEVER_SEEN = "never seen"
"""Group of the tokens that do not occur in the text."""


def token_table(lm: LanguageModel, ids: Tensor, y: Matrix, fitted: Matrix) -> pd.DataFrame:
    """One row a token: what it is, how often the text has it, and how the fit does.

    Args:
        ids: the token ids of the text, of any shape.
        y: [n] -log a of each of the model's tokens, nats; fitted: [n] what the fit says of it.

    Returns:
        token_id, text, kind, count (in the text), minus_log_a, fitted, residual (measured less
        fitted: above zero, the token is less probable than the fit says).
    """
    tokens = lm.tokens.cpu()
    measured, guess = as_array(as_tensor(y)), as_array(as_tensor(fitted))
    return pd.DataFrame(
        {
            "token_id": tokens.numpy(),
            "text": [lm.token_text(i) for i in tokens.tolist()],
            "kind": [lm.token_kind(i) for i in tokens.tolist()],
            "count": torch.bincount(ids.flatten().cpu(), minlength=lm.V)[tokens].numpy(),
            "minus_log_a": measured,
            "fitted": guess,
            "residual": measured - guess,
        }
    )


def by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Number of tokens, mean and root mean square residual of each kind, largest kind first.

    Tokens that do not occur in the text are a kind of their own, whatever they are.

    Args:
        table: see `token_table`; only its kind, count and residual are read.
    """
    group = table["kind"].where(table["count"] > 0, NEVER_SEEN).rename("group")
    residual = table["residual"]
    means = pd.DataFrame(
        {
            "tokens": residual.groupby(group).size(),
            "mean_residual": residual.groupby(group).mean(),
            "rms_residual": residual.pow(2).groupby(group).mean().pow(0.5),
        }
    )
    return means.sort_values("tokens", ascending=False)


def mean_of_most_probable(table: pd.DataFrame, share: float = 0.05) -> float:
    """Mean residual of this share of the tokens, those with the highest average probability."""
    frequent = table["minus_log_a"] <= table["minus_log_a"].quantile(share)
    return float(table.loc[frequent, "residual"].mean())


def means_of_quantiles(table: pd.DataFrame, n: int = 20) -> Array:
    """Means of measured value and of residual in n classes of tokens of equal size.

    Returns:
        [k, 2] by rising measured value; k is n, or less where many tokens share a value.
    """
    measured = table["minus_log_a"]
    edges = np.unique(np.quantile(measured, np.linspace(0, 1, n + 1))).tolist()
    classes = table.groupby(pd.cut(measured, edges, include_lowest=True), observed=True)
    return np.asarray(classes[["minus_log_a", "residual"]].mean(), dtype=np.float64)


def furthest(table: pd.DataFrame, n: int = 10) -> pd.DataFrame:
    """The n tokens with the lowest residuals and the n with the highest, in this order."""
    ordered = table.sort_values("residual")
    return pd.concat([ordered.head(n), ordered.tail(n)])
