"""Comparing models: against SciPy, against planted relations, and with too few models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from probenc_support import claims
from probenc_support.claims import Run, comparison, rule_book
from probenc_support.errors import InputError
from probenc_support.notebook import comparison_figures


def run(model: str, notebook: str, provenance: dict | None = None, **metrics: float) -> Run:
    return Run(model, notebook, metrics, provenance or {}, Path("page.ipynb"))


def models(n: int, *, planted: bool) -> list[Run]:
    """`n` models whose Gini coefficient grows with the width, or goes with nothing."""
    rng = np.random.default_rng(1)
    gini = np.linspace(0.3, 0.6, n) if planted else rng.permutation(np.linspace(0.3, 0.6, n))
    found = []
    for i in range(n):
        facts = {"n_parameters": 10 ** (6 + i), "tied": bool(i % 2)}
        size = {"d_model": 64 * (i + 1), "n_vocab": 50_000}
        found.append(run(f"m{i}", "01_log_linear_fit", facts, r2_adj=0.8 + 0.01 * i, **size))
        found.append(run(f"m{i}", "02_sparsity", facts, gini_excess=float(gini[i])))
    return found


quick = settings(deadline=None, max_examples=15)


@quick
@given(
    st.lists(st.integers(-5, 5), min_size=5, max_size=5).filter(lambda x: len(set(x)) > 1),
    st.randoms(use_true_random=False),
)
def test_the_p_value_is_that_of_all_orderings(x: list[int], random: object) -> None:
    y = list(x)
    random.shuffle(y)  # type: ignore[attr-defined]
    rho, p = comparison.spearman(np.array(x), np.array(y))
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic)

    def statistic(b: np.ndarray) -> float:
        return stats.spearmanr(x, b).statistic

    oracle = stats.permutation_test(
        (y,), statistic, permutation_type="pairings", n_resamples=np.inf, alternative="two-sided"
    )
    exact = np.mean(np.abs(oracle.null_distribution) >= abs(rho) - 1e-9)
    assert p == pytest.approx(exact)


@quick
@given(st.lists(st.floats(0, 1), max_size=20))
def test_holm_agrees_with_statsmodels(p: list[float]) -> None:
    ours = comparison.holm(np.array(p))
    if p:
        np.testing.assert_allclose(ours, multipletests(p, method="holm")[1])
    else:
        assert len(ours) == 0


def test_a_planted_relation_is_found_and_chance_is_not() -> None:
    for planted in (True, False):
        runs = models(7, planted=planted)
        table, facts = comparison.all_metrics(runs), comparison.properties(runs)
        found = comparison.rank_correlations(table, facts, [comparison.GINI])
        width = found[found["property"] == "d_model"].iloc[0]
        assert (width["p_holm"] < 0.05) == planted
        answer = comparison.sparsity_answer(comparison.measured(table, comparison.GINI), found)
        assert ("goes with" in answer) == planted


def test_what_is_named_beforehand_can_pass_with_as_few_models_as_it_asks_for() -> None:
    from probenc_support.claims import rules_across_models

    for n, planted, verdict in ((5, True, "holds"), (5, False, "does not hold"), (4, True, None)):
        runs = models(n, planted=planted)
        table, facts = comparison.all_metrics(runs), comparison.properties(runs)
        found = comparison.hypotheses(table, facts)
        if verdict is None:
            assert found.empty
            continue
        assert found["p_holm"].min() >= found["p_smallest"].max() - 1e-12
        metrics = {"n_models_sparsity": n, "p_best_gini": found["p_holm"].min()}
        finding = claims.judge(rules_across_models.Q1, "all-models", {"06_across_models": metrics})
        assert finding.verdict == verdict


def test_of_equally_strong_correlations_the_first_of_the_table_is_named() -> None:
    """Which one an unstable sort puts first depends on the processor."""
    names = [f"measure {i}" for i in range(40)]
    found = pd.DataFrame({"measure": names, "property": names, "n_models": 6, "rho": 0.5})
    gini = pd.Series([0.4, 0.5], index=["a", "b"])
    for seed in range(50):
        found["p_holm"] = np.random.default_rng(seed).choice([0.5, 1.0], len(names))
        first = f"measure {found['p_holm'].idxmin()}"
        assert f"The strongest: {first} with" in comparison.strongest(found, 6)
        assert f"within chance, is {first} (" in comparison.sparsity_answer(gini, found)


def test_few_models_give_no_correlation_and_the_words_say_so() -> None:
    runs = models(comparison.MIN_MODELS - 1, planted=True)
    table, facts = comparison.all_metrics(runs), comparison.properties(runs)
    found = comparison.rank_correlations(table, facts)
    assert found.empty
    assert "No correlation" in comparison.strongest(found, len(facts))
    gini = comparison.measured(table, comparison.GINI)
    assert "stays open" in comparison.sparsity_answer(gini, found)
    assert "nothing to compare" in comparison.sparsity_answer(gini[:1], found)


def test_the_table_holds_every_metric_once() -> None:
    runs = models(3, planted=True)
    table = comparison.all_metrics(runs)
    assert sum(len(one.metrics) for one in runs) == int(table.notna().to_numpy().sum())
    assert table.loc[("02_sparsity", "gini_excess"), "m2"] == runs[5].metrics["gini_excess"]


def test_properties_come_from_metrics_and_provenance_and_may_be_missing() -> None:
    runs = [*models(2, planted=True), run("bare", "02_sparsity", gini_excess=0.5)]
    facts = comparison.properties(runs)
    assert facts.loc["m1", "vocab_per_dimension"] == pytest.approx(50_000 / 128)
    assert facts.loc["m1", "tied"] == 1
    assert facts.loc["bare"].isna().all()


def test_ranks_put_the_better_end_first_and_leave_gaps() -> None:
    runs = [
        run("a", "01_log_linear_fit", r2_adj=0.9),
        run("b", "01_log_linear_fit", r2_adj=0.8),
        run("a", "04_pruning", kl_paper_30=0.7),
        run("b", "04_pruning", kl_paper_30=0.1),
        run("c", "04_pruning", kl_paper_30=0.3),
    ]
    ranks = comparison.ranks(comparison.all_metrics(runs))
    assert ranks.loc["fit: adjusted R²"].dropna().to_dict() == {"a": 1, "b": 2}
    assert ranks.loc["pruning 30 %, paper: KL (nats)"].to_dict() == {"a": 3, "b": 1, "c": 2}


def test_no_run_is_one_clear_sentence() -> None:
    with pytest.raises(InputError, match="no run to compare"):
        comparison.all_metrics([])


def test_the_table_of_measures_holds_values_ranks_and_gaps() -> None:
    runs = [
        run("a", "01_log_linear_fit", r2_adj=0.9),
        run("b", "01_log_linear_fit", r2_adj=0.8),
        run("b", "02_sparsity", gini_excess=0.25),
    ]
    table = comparison.all_metrics(runs)
    shown = comparison.with_ranks(table)
    assert shown.loc["fit: adjusted R²"].to_dict() == {"a": "0.900 (1)", "b": "0.800 (2)"}
    assert shown.loc[comparison.GINI.label].to_dict() == {"a": "–", "b": "0.250"}, "no better end"
    assert [measure.metric for measure, _ in comparison.measures_of(table)] == [
        "r2_adj", "gini_excess",
    ]  # fmt: skip


def test_verdicts_are_those_of_the_rules_and_leave_out_what_compares_models() -> None:
    def claim(name: str, notebook: str) -> claims.Claim:
        original = next(c for c in rule_book.CLAIMS if c.criteria)
        criterion = claims.Criterion(notebook, "x", "x", at_least=0.5)
        return replace(original, id=name, criteria=(criterion,), controls=(), needs=())

    own, other = claim("own", "06_across_models"), claim("other", "01_log_linear_fit")
    runs = [run(m, "01_log_linear_fit", x=x) for m, x in (("a", 0.9), ("b", 0.1))]
    found = comparison.verdicts_by_claim(runs, without="06_across_models", of=[own, other])
    by_model = claims.metrics_by_model(runs)
    direct = {m: str(claims.judge(other, m, by_model[m]).verdict) for m in ("a", "b")}
    assert found == {"other": direct}
    assert direct["a"] != direct["b"]


def test_a_model_that_did_not_run_a_claims_notebook_has_no_verdict_on_it() -> None:
    found = comparison.verdicts_by_claim(
        [run("a", "01_log_linear_fit", r2_adj=0.9), run("b", "02_sparsity", gini_excess=0.1)],
        without="06_across_models",
    )
    assert found["C1"].keys() == {"a"}
    assert found["C4"].keys() == {"b"}


def test_intervals_stand_beside_values_where_runs_give_them() -> None:
    runs = [
        run("a", "01_log_linear_fit", r2_adj=0.9, r2_adj_low=0.8, r2_adj_high=0.95),
        run("b", "01_log_linear_fit", r2_adj=0.7),
    ]
    ((measure, values),) = comparison.with_intervals(comparison.all_metrics(runs))
    assert measure.metric == "r2_adj"
    assert values.loc["a"].tolist() == [0.9, 0.8, 0.95]
    assert values.loc["b", "value"] == 0.7
    assert values.loc["b", ["low", "high"]].isna().all()


def described(n: int) -> pd.DataFrame:
    """Models of two kinds and three families."""
    facts = {
        "kind": ["causal", "masked"] * n,
        "family": ["llama", "bert", "gpt2"] * n,
    }
    names = [f"m{i}" for i in range(n)]
    return pd.DataFrame({key: value[:n] for key, value in facts.items()}, index=names)


def test_small_multiples_have_a_row_a_model_with_its_name_value_and_interval() -> None:
    runs = [
        run(f"m{i}", "01_log_linear_fit", r2_adj=0.1 * i, r2_adj_low=0.1 * i - 0.05,
            r2_adj_high=0.1 * i + 0.02) for i in range(9)
    ]  # fmt: skip
    runs.append(run("m3", "02_sparsity", gini_excess=0.25))
    measured = comparison.with_intervals(comparison.all_metrics(runs))
    first, second = comparison_figures.by_model(measured, described(9))
    names = [label.get_text() for label in first.axes[0].get_yticklabels()]
    assert names == [f"m{i}" for i in range(9)]
    marks = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in first.axes[0].get_lines()
        if len(line.get_xdata()) == 1
    }
    assert marks == {f"m{i}": (pytest.approx(0.1 * i), i) for i in range(9)}
    bars = [line.get_xdata() for line in first.axes[0].get_lines() if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(bars, [[0.1 * i - 0.05, 0.1 * i + 0.02] for i in range(9)])
    assert [label.get_text() for label in second.axes[0].get_yticklabels()] == ["m3"]
    words = comparison_figures.in_words(*measured[1])
    assert words.endswith("m3 0.25.")


def test_family_is_told_by_colour_and_kind_by_marker() -> None:
    looks = comparison_figures.looks(described(6))
    assert looks["m0"]["color"] == looks["m3"]["color"], "both llama"
    assert len({looks[f"m{i}"]["color"] for i in range(3)}) == 3
    assert looks["m0"]["marker"] == looks["m2"]["marker"] != looks["m1"]["marker"]
    key = comparison_figures.key(described(6))
    assert all(word in key for word in ("llama", "bert", "gpt2", "causal", "masked"))


def test_names_beside_points_lead_to_them_and_stay_apart() -> None:
    models_ = described(9)
    size = pd.Series(128.0, index=models_.index)
    size["m8"] = 64.0
    values = pd.Series(np.linspace(0.2, 0.21, 9), index=models_.index)
    values["m7"] = np.nan
    panel = comparison_figures.against(size, values, models_, xlabel="width", ylabel="y")
    (axes,) = panel.axes
    assert {text.get_text(): text.xy for text in axes.texts} == {
        name: (size[name], values[name]) for name in models_.index if name != "m7"
    }
    heights = [text.xyann[1] for text in axes.texts]
    assert np.diff(heights).min() > 0.05


quick_heights = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@quick
@given(quick_heights)
def test_spaced_heights_are_the_nearest_that_are_apart(heights: list[float]) -> None:
    from scipy.optimize import minimize

    wanted, gap = np.sort(heights), 0.07
    found = comparison_figures.spaced(wanted, gap)
    assert (np.diff(found) >= gap - 1e-9).all()
    assert -1e-9 <= found[0] <= found[-1] <= 1 + 1e-9
    apart = {"type": "ineq", "fun": lambda x: np.diff(x) - gap}
    bounds = [(0, 1)] * len(wanted)
    best = minimize(
        lambda x: ((x - wanted) ** 2).sum(), found, bounds=bounds,
        constraints=[apart] if len(wanted) > 1 else [],
    )  # fmt: skip
    assert ((found - wanted) ** 2).sum() <= best.fun + 1e-6


def test_more_names_than_there_is_room_for_are_spread_evenly() -> None:
    np.testing.assert_allclose(comparison_figures.spaced(np.zeros(30)), np.linspace(0, 1, 30))
