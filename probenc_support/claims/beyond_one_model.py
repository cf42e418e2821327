"""What rules on several models read: the sizes of one architecture, other kinds, one thing apart.

The rules are in `rules_across_models`; they were written before any of these numbers was known.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from probenc_support.claims.judging import Run, Verdict, judge, metrics_by_model
from probenc_support.claims.relatives import CAUSAL_TWIN, CONTRASTS, SIZES, TWINS, Contrast
from probenc_support.claims.rules_of_paper import C1

FIT = "01_log_linear_fit"
"""The notebook that C1 is judged by."""

GROUPS = {"masked": ("masked",), "encoder_decoder": ("encoder-decoder", "speech")}
"""Kinds of model that are not causal, by what they are together in the names of metrics."""

ENDS = ("_low", "_high")
"""What the names of an interval's ends end with."""


def other_kinds(runs: Sequence[Run], kinds: Mapping[str, str]) -> dict[str, float]:
    """What N1 is judged by: on how many models of other kinds C1 holds, and what their twins fit.

    Args:
        runs: of all models.
        kinds: by model, see `kinds_of_models.described`.
    """
    fits = _fits(runs)
    tested = {model: judge(C1, model, {FIT: fits[model]}).verdict for model in fits}
    tested = {model: verdict for model, verdict in tested.items() if verdict != Verdict.NOT_TESTED}
    found: dict[str, float] = {}
    for name, members in GROUPS.items():
        own = [verdict for model, verdict in tested.items() if kinds.get(model) in members]
        found[f"n_{name}"] = len(own)
        if own:
            found[f"c1_share_{name}"] = sum(v is Verdict.HOLDS for v in own) / len(own)
    others = {kind for members in GROUPS.values() for kind in members}
    untrained = [
        fits[model]["r2_log_frequency_untrained"]
        for model in tested
        if kinds.get(model) in others and "r2_log_frequency_untrained" in fits[model]
    ]
    if untrained:
        found["r2_log_frequency_untrained_most"] = max(untrained)
    for name, twin in TWINS.items():
        if {CAUSAL_TWIN, twin} <= fits.keys():
            difference = fits[twin]["r2_adj"] - fits[CAUSAL_TWIN]["r2_adj"]
            found[f"r2_adj_twin_{name}_less_causal"] = difference
    return found


def sizes(runs: Sequence[Run]) -> dict[str, float]:
    """What C3b is judged by: the fits of one architecture in several sizes, the worst of each.

    Intervals are those of the model that has the worst value.
    """
    fits = {model: metrics for model, metrics in _fits(runs).items() if model in SIZES}
    found: dict[str, float] = {"n_sizes": len(fits)}
    if not fits:
        return found
    for metric in ("r2_adj", "r2_heldout", "r2_above_untrained"):
        source = "r2_heldout_tokens" if metric == "r2_heldout" else metric
        found |= _least(fits.values(), source, f"{metric}_sizes_least")
    own = [metrics["r2_adj"] for metrics in fits.values()]
    found["r2_adj_sizes_range"] = max(own) - min(own)
    shares = [
        metrics["r2_untrained_a"] / metrics["r2_adj"]
        for metrics in fits.values()
        if "r2_untrained_a" in metrics and metrics["r2_adj"] > 0
    ]
    if len(shares) == len(fits):
        found["untrained_share_sizes_most"] = max(shares)
    return found


def _least(all_metrics: Iterable[Mapping[str, float]], metric: str, name: str) -> dict[str, float]:
    """The least value of a metric, with its interval; none where a model lacks it."""
    rows = list(all_metrics)
    if not all(metric in row for row in rows):
        return {}
    worst = min(rows, key=lambda row: row[metric])
    return {f"{name}{end}": worst[f"{metric}{end}"] for end in ("", *ENDS) if metric + end in worst}


def _fits(runs: Sequence[Run]) -> dict[str, Mapping[str, float]]:
    """Metrics of the notebook of the fit, by model."""
    table = metrics_by_model(runs)
    return {m: of_model[FIT] for m, of_model in table.items() if "r2_adj" in of_model.get(FIT, {})}


def one_thing_apart(
    runs: Sequence[Run],
    notebook: str,
    metrics: Sequence[str],
    contrasts: Iterable[Contrast] = CONTRASTS,
) -> pd.DataFrame:
    """How metrics differ between models that differ in one thing.

    Returns:
        One row a contrast and metric: `differs`, `first`, `second`, `metric`, `value_first`,
        `value_second`, `difference` with `low` and `high`, its 95 % interval, where both runs give
        theirs (ends of independent intervals, added in squares), else NaN. None where a model of
        the contrast, or its metric, is not there.
    """
    table = metrics_by_model(runs)
    rows = []
    for contrast in contrasts:
        pair = [table.get(m, {}).get(notebook, {}) for m in (contrast.first, contrast.second)]
        for metric in metrics:
            if all(metric in one for one in pair):
                names = (contrast.differs, contrast.first, contrast.second, metric)
                rows.append((*names, *_difference(metric, *pair)))
    columns = ["differs", "first", "second", "metric", "value_first", "value_second"]
    return pd.DataFrame(rows, columns=[*columns, "difference", "low", "high"])


def _difference(
    metric: str, first: Mapping[str, float], second: Mapping[str, float]
) -> tuple[float, float, float, float, float]:
    a, b = first[metric], second[metric]
    if not all(metric + end in one for end in ENDS for one in (first, second)):
        return a, b, b - a, math.nan, math.nan
    below = math.hypot(b - second[f"{metric}_low"], first[f"{metric}_high"] - a)
    above = math.hypot(second[f"{metric}_high"] - b, a - first[f"{metric}_low"])
    return a, b, b - a, b - a - below, b - a + above


def in_words(differences: pd.DataFrame) -> str:
    """One sentence on what moved a metric most, of one metric's rows of `one_thing_apart`."""
    if differences.empty:
        return "No two models that differ in one thing have run, so nothing is said of causes."
    rows = differences.to_dict("records")
    most = max(rows, key=lambda row: abs(row["difference"]))
    ends = f" [{most['low']:.3f}, {most['high']:.3f}]" if math.isfinite(most["low"]) else ""
    sure = (differences["low"] > 0) | (differences["high"] < 0)
    return (
        f"Of {len(differences)} pairs of models that differ in one thing, the largest change of "
        f"{most['metric']} is {most['difference']:+.3f}{ends}: {most['differs']} "
        f"({most['second']} against {most['first']}). In {int(sure.sum())} of them the interval "
        "leaves zero out; intervals are those of the texts, and each model was trained once."
    )


def kinds_in_words(found: Mapping[str, float]) -> str:
    """What `other_kinds` found, in a sentence."""
    told = []
    for name, members in GROUPS.items():
        count = int(found[f"n_{name}"])
        kind = " and ".join(members)
        if not count:
            told.append(f"no {kind} model has run")
            continue
        held = round(found[f"c1_share_{name}"] * count)
        difference = found.get(f"r2_adj_twin_{name}_less_causal")
        twin = "" if difference is None else f" (R² of the twin {difference:+.3f} against causal)"
        told.append(f"C1 holds on {held} of {count} {kind} models{twin}")
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def sizes_in_words(found: Mapping[str, float]) -> str:
    """What `sizes` found, in a sentence."""
    if found["n_sizes"] < 2:
        return "Fewer than two sizes have run, so nothing is compared."
    return (
        f"Over {found['n_sizes']:.0f} sizes the adjusted R² is "
        f"{found['r2_adj_sizes_least']:.3f} at least, and {found['r2_adj_sizes_range']:.3f} more "
        "where it is best."
    )
