"""What the runs of all models say together: one table, ranks, and correlations with size."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import stats

from probenc_support.claims.judging import Run
from probenc_support.errors import InputError

PROPERTIES = ("n_parameters", "d_model", "n_vocab", "vocab_per_dimension", "tied")
"""What a model is, as far as the runs say; columns of `properties`."""


MIN_MODELS = 5
"""Fewest models for a rank correlation: with four, no ordering is rarer than 1 in 12."""


NAMED_BEFOREHAND = ("d_model", "vocab_per_dimension")
"""What sparsity may go with, by the two hypotheses of Q1 that were named before any result; with
five models an exact p value is at least 1 in 60, so that two can pass a level of 5 % after Holm."""


@dataclass(frozen=True)
class Measure:
    """One metric worth comparing between models."""

    notebook: str
    metric: str
    label: str
    """What it is, for an axis."""
    more_is_better: bool | None
    """For ranks; None: neither."""


GINI = Measure("02_sparsity", "gini_excess", "sparsity: Gini of |slope| above a rotation's", None)


MEASURES = (
    Measure("01_log_linear_fit", "r2_adj", "fit: adjusted R²", True),
    Measure("01_log_linear_fit", "r2_transfer", "fit: R² on another corpus", True),
    Measure("01_log_linear_fit", "second_order_theory_r2", "theory without parameters: R²", True),
    Measure("02_sparsity", "r2_top3_pcs", "sparsity: R² of three components", None),
    GINI,
    Measure("03_steering", "steer_mae_paper_20x_local", "steering 20x, paper: error", False),
    Measure(
        "03_steering",
        "steer_mae_min_variance_20x_local",
        "steering 20x, least variance: error",
        False,
    ),
    Measure("04_pruning", "kl_paper_30", "pruning 30 %, paper: KL (nats)", False),
    Measure("04_pruning", "kl_rotated_30", "pruning 30 %, rotated: KL (nats)", False),
    Measure("05_training_dynamics", "r2_frequency_final", "dynamics: R² of frequency", True),
)
"""Shown as small multiples; the table of all metrics holds every other one, too."""


def all_metrics(runs: Sequence[Run]) -> pd.DataFrame:
    """Every metric of every run: rows (notebook, metric), one column a model.

    Raises:
        InputError: there is no run.
    """
    if not runs:
        raise InputError(
            "There is no run to compare: run the other notebooks first, or name the folder that "
            "holds them by the parameter runs_dir."
        )
    rows = [
        {"notebook": run.notebook, "metric": name, "model": run.model, "value": float(value)}
        for run in runs
        for name, value in run.metrics.items()
    ]
    long = pd.DataFrame(rows)
    wide = long.pivot(index=["notebook", "metric"], columns="model", values="value")
    return wide.sort_index()


def properties(runs: Sequence[Run]) -> pd.DataFrame:
    """What each model is: parameters, width, vocabulary, tied or untied; NaN where no run says."""
    known_of: dict[str, dict[str, float]] = {}
    for run in runs:
        known = {**run.provenance, **run.metrics}
        entry = known_of.setdefault(run.model, {})
        for name in PROPERTIES:
            if isinstance(known.get(name), int | float):
                entry.setdefault(name, float(known[name]))
    for entry in known_of.values():
        if {"n_vocab", "d_model"} <= entry.keys():
            entry["vocab_per_dimension"] = entry["n_vocab"] / entry["d_model"]
    return pd.DataFrame.from_dict(known_of, orient="index").reindex(columns=list(PROPERTIES))


def measured(table: pd.DataFrame, measure: Measure) -> pd.Series:
    """One measure by model, models without it left out."""
    key = (measure.notebook, measure.metric)
    if key not in table.index:
        return pd.Series(dtype=float)
    return table.loc[[key], :].iloc[0].dropna().rename(measure.metric)


def ranks(table: pd.DataFrame, measures: Iterable[Measure] = MEASURES) -> pd.DataFrame:
    """Rank of each model in each measure that has a better end, 1 the best; NaN: not measured."""
    rows = {
        measure.label: measured(table, measure).rank(ascending=not measure.more_is_better)
        for measure in measures
        if measure.more_is_better is not None and len(measured(table, measure)) > 0
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=table.columns)


def rank_correlations(
    table: pd.DataFrame, facts: pd.DataFrame, measures: Iterable[Measure] = MEASURES
) -> pd.DataFrame:
    """Spearman correlation of every measure with every property, over at least `MIN_MODELS` models.

    Returns:
        Columns `measure`, `property`, `n_models`, `rho`, `p` (two-sided; exact over all orderings
        up to eight models) and `p_holm` (corrected for the number of rows); no rows when there are
        too few models.
    """
    rows = []
    for measure in measures:
        values = measured(table, measure)
        for name in facts.columns:
            x = facts[name].reindex(values.index).dropna()
            y = values[x.index]
            if len(x) >= MIN_MODELS and x.nunique() > 1 and y.nunique() > 1:
                rho, p = spearman(x.to_numpy(), y.to_numpy())
                rows.append((measure.label, measure.metric, name, len(x), rho, p))
    columns = ["measure", "metric", "property", "n_models", "rho", "p"]
    correlations = pd.DataFrame(rows, columns=columns)
    correlations["p_holm"] = holm(correlations["p"].to_numpy(dtype=float))
    return correlations


def hypotheses(table: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """The rank correlations of sparsity that Q1 names beforehand, corrected for their number.

    Returns:
        As `rank_correlations`, and `p_smallest`: the least corrected p value that so many models
        could give.
    """
    correlations = rank_correlations(table, facts[list(NAMED_BEFOREHAND)], [GINI])
    n_rows, n_models = len(correlations), correlations["n_models"]
    return correlations.assign(p_smallest=[2 / math.factorial(n) * n_rows for n in n_models])


def spearman(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's rho [-1, 1] and its two-sided p value, exact up to eight observations."""
    a, b = stats.rankdata(x), stats.rankdata(y)
    rho = float(np.corrcoef(a, b)[0, 1])
    if len(x) > 8:
        return rho, float(stats.spearmanr(x, y).pvalue)
    orders = np.array(list(permutations(b)))
    centred = a - a.mean()
    all_rho = (orders - b.mean()) @ centred / (len(a) * a.std() * b.std())
    return rho, float(np.mean(np.abs(all_rho) >= abs(rho) - 1e-12))


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p values for their number."""
    order = np.argsort(p, kind="stable")
    steps = p[order] * (len(p) - np.arange(len(p)))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p) else []
    return corrected


def agreement(verdicts: Mapping[str, str]) -> str:
    """One sentence on verdicts by model."""
    kinds: dict[str, list[str]] = {}
    for model, verdict in verdicts.items():
        kinds.setdefault(verdict, []).append(model)
    return "; ".join(f"{verdict}: {', '.join(models)}" for verdict, models in kinds.items())


def strongest(correlations: pd.DataFrame, n_models: int) -> str:
    """One sentence on the rank correlations."""
    if correlations.empty:
        return (
            f"**No correlation is computed**: {n_models} models are here, {MIN_MODELS} are needed "
            'for one measure; `make book MODELS="..."` adds some.'
        )
    best = correlations.sort_values("p_holm", kind="stable").iloc[0]
    sure = "" if best["p_holm"] <= 0.05 else "not "
    return (
        f"The strongest: {best['measure']} with {best['property']}, rho = {best['rho']:.2f} over "
        f"{best['n_models']} models, corrected p = {best['p_holm']:.3f}: {sure}beyond chance."
    )


def sparsity_answer(gini: pd.Series, correlations: pd.DataFrame) -> str:
    """What the models at hand say about Q1, in words that depend on the numbers.

    Args:
        gini: Gini coefficient of the slopes' sizes above that after a rotation, by model.
        correlations: the rank correlations that were named beforehand.
    """
    if len(gini) < 2:
        return "Fewer than two models have a sparsity run, so there is nothing to compare."
    least, most = str(gini.idxmin()), str(gini.idxmax())
    sentence = (
        f"The slopes are most concentrated in {most} (excess {gini[most]:.3f}) and least in "
        f"{least} ({gini[least]:.3f}). "
    )
    if correlations.empty:
        return sentence + (
            f"{len(gini)} models differ in size, width, vocabulary, training text and tying all at "
            "once, so nothing here says which of these drives it: the question stays open."
        )
    best = correlations.sort_values("p_holm", kind="stable").iloc[0]
    firm = "Concentration goes with" if best["p_holm"] <= 0.05 else "Nearest, within chance, is"
    return sentence + (
        f"{firm} {best['property']} (rho {best['rho']:.2f} over {best['n_models']} models, "
        f"corrected p {best['p_holm']:.3f})."
    )
