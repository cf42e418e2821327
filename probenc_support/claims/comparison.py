"""What the runs of all models say together: one table, ranks, and correlations with size."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import stats

from probenc_support.claims import rule_book
from probenc_support.claims.judging import Claim, Run, judge, metrics_by_model
from probenc_support.errors import InputError

PROPERTIES = ("n_parameters", "d_model", "n_vocab", "vocab_per_dimension", "tied")
"""What a model is, as far as the runs say; columns of `properties`."""


PROPERTY_HEADINGS = {
    "n_parameters": "parameters",
    "d_model": "width d",
    "n_vocab": "tokens V",
    "vocab_per_dimension": "V / d",
    "tied": "tied (1: yes)",
}
"""What these are called for a reader."""


PROPERTY_FORMATS = {
    "parameters": "{:,.0f}",
    "width d": "{:,.0f}",
    "tokens V": "{:,.0f}",
    "V / d": "{:.1f}",
    "tied (1: yes)": "{:.0f}",
}
"""How their values are written, by heading."""


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
    by_model: dict[str, dict[str, float]] = {}
    for run in runs:
        known = {**run.provenance, **run.metrics}
        of_model = by_model.setdefault(run.model, {})
        for name in PROPERTIES:
            if isinstance(known.get(name), int | float):
                of_model.setdefault(name, float(known[name]))
    for of_model in by_model.values():
        if {"n_vocab", "d_model"} <= of_model.keys():
            of_model["vocab_per_dimension"] = of_model["n_vocab"] / of_model["d_model"]
    return pd.DataFrame.from_dict(by_model, orient="index").reindex(columns=list(PROPERTIES))


def measured(table: pd.DataFrame, measure: Measure) -> pd.Series:
    """One measure by model, models without it left out."""
    key = (measure.notebook, measure.metric)
    if key not in table.index:
        return pd.Series(dtype=float)
    return table.loc[[key], :].iloc[0].dropna().rename(measure.metric)


def measures_of(table: pd.DataFrame) -> list[tuple[Measure, pd.Series]]:
    """The measures of `MEASURES` that some model has, each with its values by model."""
    values = [(measure, measured(table, measure)) for measure in MEASURES]
    return [(measure, by_model) for measure, by_model in values if len(by_model)]


def with_intervals(table: pd.DataFrame) -> list[tuple[Measure, pd.DataFrame]]:
    """As `measures_of`, with columns `value`, `low`, `high` by model (NaN: no interval)."""
    found = []
    for measure, values in measures_of(table):
        ends = {
            end: measured(table, replace(measure, metric=f"{measure.metric}_{end}"))
            for end in ("low", "high")
        }
        columns = {"value": values, **{end: at.reindex(values.index) for end, at in ends.items()}}
        found.append((measure, pd.DataFrame(columns)))
    return found


def ranks(table: pd.DataFrame, measures: Iterable[Measure] = MEASURES) -> pd.DataFrame:
    """Rank of each model in each measure that has a better end, 1 the best; NaN: not measured."""
    rows = {
        measure.label: measured(table, measure).rank(ascending=not measure.more_is_better)
        for measure in measures
        if measure.more_is_better is not None and len(measured(table, measure)) > 0
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=table.columns)


def with_ranks(table: pd.DataFrame) -> pd.DataFrame:
    """The measures by model as text, with the rank in brackets where there is one; – where a model
    has none. Rows are labels of `MEASURES`, columns models."""
    ranked: dict[Hashable, dict[Hashable, float]] = ranks(table).to_dict("index")

    def cell(measure: Measure, model: str) -> str:
        value = measured(table, measure).get(model, math.nan)
        if not math.isfinite(value):
            return "–"
        rank = f" ({ranked[measure.label][model]:.0f})" if measure.label in ranked else ""
        return f"{value:.3f}{rank}"

    rows = {m.label: [cell(m, model) for model in table.columns] for m in MEASURES}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(table.columns))


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
    tests = rank_correlations(table, facts[list(NAMED_BEFOREHAND)], [GINI])
    smallest = [2 / math.factorial(n) * len(tests) for n in tests["n_models"]]
    return tests.assign(p_smallest=smallest)


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


def verdicts_by_claim(
    runs: Sequence[Run], *, without: str, of: Iterable[Claim] = rule_book.CLAIMS
) -> dict[str, dict[str, str]]:
    """The verdict on each claim that has rules, by model, of models that ran its notebook.

    Args:
        without: a notebook whose claims are left out, as that which compares the models is no run
            of any of them.
        of: the claims.
    """
    by_model = metrics_by_model(runs)
    return {
        claim.id: {
            model: str(judge(claim, model, of_model).verdict)
            for model, of_model in by_model.items()
            if claim.notebooks <= of_model.keys()
        }
        for claim in of
        if claim.criteria and without not in claim.notebooks
    }


def strongest(correlations: pd.DataFrame, n_models: int) -> str:
    """One sentence on the rank correlations.

    Args:
        correlations: see `rank_correlations`; of n_models models.
    """
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


def sparsity_answer(gini: pd.Series, tests: pd.DataFrame) -> str:
    """What the models at hand say about Q1, in words that depend on the numbers.

    Args:
        gini: Gini coefficient of the slopes' sizes above that after a rotation, by model.
        tests: the rank correlations that were named beforehand, see `hypotheses`.
    """
    if len(gini) < 2:
        return "Fewer than two models have a sparsity run, so there is nothing to compare."
    least, most = str(gini.idxmin()), str(gini.idxmax())
    sentence = (
        f"The slopes are most concentrated in {most} (excess {gini[most]:.3f}) and least in "
        f"{least} ({gini[least]:.3f}). "
    )
    if tests.empty:
        return sentence + (
            f"{len(gini)} models differ in size, width, vocabulary, training text and tying all at "
            "once, so nothing here says which of these drives it: the question stays open."
        )
    best = tests.sort_values("p_holm", kind="stable").iloc[0]
    firm = "Concentration goes with" if best["p_holm"] <= 0.05 else "Nearest, within chance, is"
    return sentence + (
        f"{firm} {best['property']} (rho {best['rho']:.2f} over {best['n_models']} models, "
        f"corrected p {best['p_holm']:.3f})."
    )
