"""Sentences of the page on changed texts and orders, in words that depend on the numbers."""

import math
from collections.abc import Mapping

import pandas as pd

from probenc_support.experiments.texts_and_order import HEADINGS, Comparison


def runs(comparison: Comparison) -> str:
    """What was trained."""
    first = next(iter(comparison.arms.values()))[0]
    recipe = first.recipe
    seeds = comparison.n_seeds
    said = (
        f"{len(comparison.arms)} arms of {seeds} run(s) each; a run has {recipe.steps:,} steps and "
        f"reads {recipe.tokens:,} tokens, and {len(first.steps)} checkpoints of it are kept. "
    )
    return said + (
        "Intervals are Student's over the seeds, and wide, since the seeds are few."
        if seeds > 1
        else "One seed gives no interval, and the claim is not judged."
    )


def table(by_arm: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.by_arm` as a page shows it: values with their intervals, headings in words."""
    shown = by_arm.copy()
    for name, digits in (("r2", 3), ("halfway", 1)):
        ends = by_arm[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        shown[name] = [_with_ends(*row, digits=digits) for row in ends]
    for name, digits in (("ids", 0), ("entropy", 2), ("spread", 2), ("loss", 2)):
        shown[name] = [f"{value:,.{digits}f}" for value in by_arm[name]]
    return shown[list(HEADINGS)].rename(columns=HEADINGS)


def _with_ends(value: float, low: float, high: float, *, digits: int) -> str:
    if not math.isfinite(value):
        return "–"
    said = f"{value:.{digits}f}"
    return said + (f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) else "")


def parents(metrics: Mapping[str, float]) -> str:
    """Whether E of split tokens holds what their whole tokens count."""
    if "r2_parent_over_whole" not in metrics:
        return "The arm of equal aliases was not run, or splits too few tokens for a regression."
    return (
        f"Of {metrics['n_parents']:,.0f} tokens that are split, $R^2$ of the whole token's count "
        f"is {_number(metrics, 'r2_parent_whole')} from $E$ where they are whole and "
        f"{_number(metrics, 'r2_parent_split')} from their aliases, a share of "
        f"{_number(metrics, 'r2_parent_over_whole')}. Of the alias's own count it is "
        f"{_number(metrics, 'r2_own_of_split')}, and of what the whole token's count says beyond "
        f"that, {_number(metrics, 'r2_parent_beyond_own')}."
    )


def two_texts(metrics: Mapping[str, float]) -> str:
    """Which of two texts E follows."""
    if "r2_second_beyond_first_gain" not in metrics:
        return "The arm of two texts was not run, or its halves share too few tokens."
    both, first, second = (
        _number(metrics, f"r2_two_texts_{part}") for part in ("so_far", "first", "second")
    )
    return (
        f"Over {metrics['n_tokens_of_both']:,.0f} tokens that occur in both halves, $R^2$ of the "
        f"counts is {both} for both halves together, {first} for the first and {second} for the "
        "second. What the second half's counts say beyond the first's has an $R^2$ of "
        f"{_number(metrics, 'r2_second_beyond_first')}, against "
        f"{_number(metrics, 'r2_second_beyond_first_unread')} from the $E$ of a run that went on "
        "with the first text: reading the second adds "
        f"{_number(metrics, 'r2_second_beyond_first_gain')}. What the first half's counts say "
        f"beyond the second's has {_number(metrics, 'r2_first_beyond_second')} after the second "
        f"text, and {_number(metrics, 'r2_first_beyond_second_unread')} where the first went on."
    )


def _number(metrics: Mapping[str, float], name: str) -> str:
    ends = (metrics.get(f"{name}{end}", math.nan) for end in ("_low", "_high"))
    return _with_ends(metrics[name], *ends, digits=2)
