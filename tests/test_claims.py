"""The rules that make verdicts: what is met, what undoes a finding, what was not tested."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st

from probenc_support import claims
from probenc_support.claims import (
    Claim,
    Criterion,
    Kind,
    Run,
    State,
    Verdict,
    judge,
    overall,
    rule_book,
    rules_of_paper,
)
from probenc_support.claims.rule_book import CLAIMS
from probenc_support.notebook import verdicts

ROOT = Path(__file__).resolve().parents[1]
HIGH = Criterion("01_x", "fit", "a fit", at_least=0.8)
LOW = Criterion("01_x", "error", "an error", at_most=0.2)
CONTROL = Criterion("01_x", "shuffled", "the fit shuffled", at_most=0.1)
OTHER = Criterion("02_y", "size", "a size", at_least=2.0)
CLAIM = Claim("X", "title", Kind.PAPER, "words", criteria=(HIGH, LOW), controls=(CONTROL,))


def verdict(claim: Claim = CLAIM, **metrics: float) -> Verdict:
    return judge(claim, "model", {"01_x": metrics}).verdict


def test_every_combination_has_the_verdict_that_the_page_states() -> None:
    assert verdict(fit=0.9, error=0.1, shuffled=0.0) is Verdict.HOLDS
    assert verdict(fit=0.9, error=0.3, shuffled=0.0) is Verdict.IN_PART
    assert verdict(fit=0.9, shuffled=0.0) is Verdict.IN_PART, "one criterion could not be tested"
    assert verdict(fit=0.9, error=0.1) is Verdict.IN_PART, "the control could not be tested"
    assert verdict(fit=0.5, error=0.3, shuffled=0.0) is Verdict.DOES_NOT_HOLD
    assert verdict(fit=0.9, error=0.1, shuffled=0.5) is Verdict.DOES_NOT_HOLD, "control succeeds"
    assert verdict(shuffled=0.0) is Verdict.NOT_TESTED
    assert verdict() is Verdict.NOT_TESTED


def test_an_interval_across_the_threshold_leaves_a_finding_unsure() -> None:
    metrics = {"01_x": {"fit": 0.82, "fit_low": 0.78, "fit_high": 0.86, "error": 0.1}}
    finding = judge(CLAIM, "model", metrics)
    assert [one.state for one in finding.criteria] == [State.UNSURE, State.MET]
    assert finding.verdict is Verdict.IN_PART
    metrics["01_x"]["fit_low"] = 0.8
    assert judge(CLAIM, "model", metrics).criteria[0].state is State.MET


def test_unsure_is_not_half_of_a_claim_whose_other_criterion_is_not_met() -> None:
    unsure = {"fit": 0.82, "fit_low": 0.78, "fit_high": 0.86}
    assert verdict(**unsure, error=0.5, shuffled=0.0) is Verdict.DOES_NOT_HOLD
    wide = {"error": 0.1, "error_low": 0.0, "error_high": 0.3}
    assert verdict(**unsure, **wide, shuffled=0.0) is Verdict.IN_PART
    assert verdict(**unsure, shuffled=0.0) is Verdict.IN_PART


def test_only_the_near_end_of_an_interval_counts() -> None:
    metrics = {"01_x": {"error": 0.15, "error_low": -5.0, "error_high": 0.19}}
    assert judge(CLAIM, "model", metrics).criteria[1].state is State.MET
    metrics["01_x"]["error_high"] = 0.21
    assert judge(CLAIM, "model", metrics).criteria[1].state is State.UNSURE


def test_a_threshold_may_be_a_multiple_of_another_metric() -> None:
    half = Criterion("01_x", "ours", "ours", at_most=0.5, times="theirs")
    claim = Claim("X", "title", Kind.PAPER, "words", criteria=(half,))
    assert verdict(claim, ours=0.4, theirs=1.0) is Verdict.HOLDS
    assert verdict(claim, ours=0.6, theirs=1.0) is Verdict.DOES_NOT_HOLD
    assert verdict(claim, ours=0.4) is Verdict.NOT_TESTED
    assert half.rule == "≤ 0.5 × theirs"


def test_a_precondition_that_is_not_met_means_not_tested() -> None:
    need = Criterion("01_x", "n_models", "models", at_least=5)
    claim = Claim("X", "title", Kind.PAPER, "words", criteria=(HIGH,), needs=(need,))
    assert verdict(claim, fit=0.9, n_models=2) is Verdict.NOT_TESTED
    assert verdict(claim, fit=0.9, n_models=5) is Verdict.HOLDS


numbers = st.one_of(st.none(), st.floats(), st.integers(-2, 2), st.text(max_size=1), st.booleans())


quick = settings(deadline=None, max_examples=30)


@quick
@given(st.dictionaries(st.sampled_from(["fit", "fit_low", "error", "shuffled"]), numbers))
def test_no_content_of_a_file_breaks_the_rules(metrics: dict[str, Any]) -> None:
    finding = judge(CLAIM, "model", {"01_x": metrics})
    for one in finding.criteria:
        assert one.value is None or math.isfinite(one.value)
    assert finding.verdict in Verdict


@quick
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_a_better_measurement_never_has_a_worse_verdict(
    fit: float, error: float, better: float
) -> None:
    order = [Verdict.DOES_NOT_HOLD, Verdict.IN_PART, Verdict.HOLDS]
    before = verdict(fit=fit, error=error, shuffled=0.0)
    after = verdict(fit=fit + better, error=error - better, shuffled=0.0)
    assert order.index(after) >= order.index(before)


def test_the_verdict_over_models() -> None:
    assert overall([Verdict.HOLDS, Verdict.HOLDS, Verdict.NOT_TESTED]) is Verdict.HOLDS
    assert overall([Verdict.HOLDS, Verdict.DOES_NOT_HOLD]) is Verdict.IN_PART
    assert overall([Verdict.NOT_TESTED]) is overall([]) is Verdict.NOT_TESTED


def test_the_books_claims_are_complete() -> None:
    ids = [claim.id for claim in CLAIMS]
    expected = [*(f"C{i}" for i in range(1, 8)), *(f"{k}{i}" for k in "QN" for i in (1, 2, 3))]
    assert set(expected) <= set(ids)
    assert len(ids) == len(set(ids))
    for claim in CLAIMS:
        assert claim.criteria or claim.remark, "an untested claim says what a test needs"
        assert not claim.criteria or claim.controls or claim.needs, f"{claim.id} has no control"
        assert re.fullmatch(r"\w+", claim.id), "it is an anchor"
        assert len(claim.notebooks) <= 1, "so that the notebook's own box can judge it"
        for one in claim.measured:
            assert (one.at_least is None) != (one.at_most is None)
            assert bool(one.beside) == bool(one.beside_says)


TASKS = ("continuation", "agreement", "next_class")
"""Of question Q2b."""


NULL = {
    "untrained network": {
        "01_log_linear_fit": {
            "spread_minus_log_a": 0.05,
            "r2_adj": 0.99,
            "r2_heldout_tokens": 0.99,
            "r2_log_frequency": 0.0,
            "r2_above_untrained": 0.0,
            "r2_untrained_a": 0.99,
            "corr_fitted_mean_hidden": 1.0,
            "class_theory_r2": 0.99,
            "class_theory_r2_random": 0.99,
            "r2_judged": 0.99,
            "r2_gain_half_spread": 0.005,
            "r2_loss_small_vocab": 0.001,
            "r2_transfer": 0.99,
            "r2_transfer_untrained_fit": 0.99,
            "r2_fewest_worst": 0.9,
        },
    },
    "random direction, random order": {
        "02_sparsity": {
            "spread_minus_log_a": 1.5,
            "top3_excess": 0.0,
            "gini_excess": 0.0,
            "n_dims_90_ratio": 1.0,
            "gini_excess_shuffled": 0.0,
            "top3_excess_shuffled": 0.0,
        },
        "03_steering": {
            "spread_minus_log_a": 1.5,
            "r2_log_frequency": 0.0,
            "steer_mae_paper_best_2x_id": 0.4,
            "steer_mae_paper_best_20x_id": 1.6,
            "steer_mae_paper_best_20x_ood": 1.6,
            "steer_mae_min_variance_20x_id": 1.6,
            "steer_mae_robust_20x_ood": 1.6,
            "steer_mae_logit_bias_20x_id": 0.03,
            "steer_mae_random_unit_20x_id": 1.6,
            "hidden_bias_exact": 0,
            "hidden_bias_sd_id": 0.9,
            "hidden_bias_sd_ood": 0.9,
            "hidden_bias_from_ceiling_id": 1.6,
            "hidden_bias_from_ceiling_ood": 1.6,
            "hidden_bias_permuted_sd_id": 0.9,
            "frontier_beyond_ceiling_row_id": 1.6,
            "frontier_beyond_ceiling_row_ood": 1.6,
            "joint_edited_rel_error": 1e-6,
            "joint_worst_together_id": 1.6,
            "joint_worst_separate_id": 1.6,
            "joint_worst_logit_bias_id": 0.03,
            "joint_worst_random_unit_id": 1.6,
        },
        "04_pruning": {
            "spread_minus_log_a": 1.5,
            "kl_paper_30": 2.0,
            "top1_paper_30": 0.4,
            "perplexity_ratio_paper_30": 7.0,
            "kl_random_over_paper_30": 1.0,
            "kl_slope_over_without_30": 1.0,
            "kl_A_kept_over_without_30": 1.0,
            "kl_random_kept_over_without_30": 1.0,
        },
        "09_better_pruning": {
            **{f"accuracy_above_chance_{task}": 0.0 for task in TASKS},
            "accuracy_lost_random_30": 0.0,
            **{f"accuracy_lost_rotated_{task}_30": 0.0 for task in TASKS},
            **{f"accuracy_gain_A_kept_{task}_30": 0.0 for task in TASKS},
            **{f"answer_gain_A_kept_{task}_30": 0.0 for task in TASKS},
            "accuracy_gain_random_kept_30": 0.0,
            "answer_gain_random_kept_30": 0.0,
        },
    },
    "straight line with noise": {
        "05_training_dynamics": {
            "r2_frequency_final": 0.9,
            "halfway_frequency_over_rivals": 1.0,
            "halfway_frequency_over_function": 1.0,
            "loss_fall_at_halfway": 0.4,
            "halfway_random_target_over_frequency": 1.0,
            "ahead_of_line": 0,
            "r2_frequency_step0": 0.0,
        },
    },
    "frequency that the rest does not need": {
        "07_early_frequency": {
            "n_seeds": 3,
            "r2_blocked_most": 0.0,
            "r2_control_final": 0.9,
            "steps_gain_blocked_over_control": 1.5,
            "steps_given_blocked_over_control": 1.0,
            "steps_given_blocked_over_rescued": 1.0,
            "halfway_states_blocked_over_control": 1.0,
            "steps_given_placebo_over_bias": 1.0,
        },
    },
    "untrained network, judged by what it will be trained on": {
        "10_undertrained_tokens": {
            "n_unseen": 300,
            "auroc_along_A": 0.5,
            "auroc_along_A_less_rival": 0.0,
            "auroc_along_A_untrained": 0.5,
            "auroc_random_direction_mean": 0.5,
        },
    },
    "an embedding that shows contexts": {
        "08_texts_and_order": {
            "n_seeds": 3,
            "r2_rare_first_over_control": 1.0,
            "r2_common_first_over_control": 1.0,
            "r2_shuffled_over_control": 0.0,
            "r2_aliases_05_over_control": 1.0,
            "halfway_rare_first_over_control": 1.0,
            "halfway_common_first_over_control": 1.0,
            "halfway_shuffled_over_control": 4.0,
            "halfway_aliases_05_over_control": 1.0,
            "r2_second_beyond_first_gain": 0.0,
            "r2_step0_largest": 0.0,
            "r2_parent_over_whole": 1.0,
        },
    },
    "a pruned model that falls behind": {
        "11_pruned_in_training": {
            "n_seeds": 3,
            "excess_growth_paper_held": 0.5,
            "excess_growth_rotated_held": 0.5,
            "n_domains": 3,
            "excess_growth_rotated_held_most": 0.5,
            "forgot_rotated_held_less_intact_most": 0.5,
            "forgot_paper_held_less_intact": 0.5,
            "forgot_rotated_held_less_intact": 0.5,
            "kl_paper_held_after_over_before": 2.0,
            "kl_rotated_held_after_over_before": 2.0,
            "excess_random_held_after": 1.0,
        },
    },
    "sparsity that a rotation has, too": {
        "12_what_drives_sparsity": {
            "n_seeds": 3,
            **{
                f"{measure}_{name}": value
                for name in ("adamw_over_averaged", "trained_over_fixed_norms")
                for measure, value in {"gini": 1.0, "mean_h": 1.0, "components": 2.0}.items()
            },
            "gini_equivariant": 1.5,
            "mean_h_equivariant": 0.3,
        },
    },
    "models without a law": {
        "06_across_models": {
            "n_models_sparsity": 7,
            "p_best_gini": 0.5,
            "n_sizes": 3,
            "r2_adj_sizes_least": 0.99,
            "r2_heldout_sizes_least": 0.99,
            "r2_adj_sizes_range": 0.0,
            "r2_above_untrained_sizes_least": 0.0,
            "untrained_share_sizes_most": 0.99,
            "n_masked": 2,
            "n_encoder_decoder": 2,
            "c1_share_masked": 0.0,
            "c1_share_encoder_decoder": 0.0,
            "r2_log_frequency_untrained_most": 0.0,
        },
    },
}
"""What a model or a method that knows nothing would leave, by what it is."""


def test_no_claim_holds_for_what_knows_nothing() -> None:
    judged = set()
    for metrics in NULL.values():
        for claim in CLAIMS:
            if claim.notebooks & metrics.keys():
                judged.add(claim.id)
                assert judge(claim, "null", metrics).verdict is not Verdict.HOLDS, claim.id
                finding = judge(claim, "null", metrics)
                states = [one.state for one in (*finding.criteria, *finding.controls)]
                assert State.NOT_MET in states, "a null model fails by more than its precondition"
                assert State.ABSENT not in states, "every metric has a value for the null model"
    assert judged == {claim.id for claim in CLAIMS if claim.criteria}


def test_a_better_fit_of_an_untrained_network_counts_for_nothing() -> None:
    fit = next(claim for claim in CLAIMS if claim.id == "C1")
    untrained = dict(NULL["untrained network"]["01_log_linear_fit"], spread_minus_log_a=2.0)
    assert judge(fit, "null", {"01_log_linear_fit": untrained}).verdict is not Verdict.HOLDS


class Pages:
    """Builds a page with directives of the book, over runs and claims of a test's own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.syspath_prepend(str(ROOT / "book" / "_ext"))
        import probenc_book
        import probenc_html

        self.folder, self.patch, self.book, self.html = folder, patch, probenc_book, probenc_html
        (folder / "config.yaml").write_text(CONFIGURATION, encoding="utf-8")
        patch.setattr(probenc_html, "ROOT", folder)

    def built(self, text: str, runs: list[Run], *added: Claim) -> BeautifulSoup:
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace

        self.patch.setattr(self.book, "CLAIMS", (*CLAIMS, *added))
        for module in (self.book, self.html):
            self.patch.setattr(module, "all_runs", lambda: runs)
        self.html._aged.cache_clear()
        source, built = self.folder / "source", self.folder / "built"
        source.mkdir(exist_ok=True)
        (source / "conf.py").write_text("extensions = ['probenc_book']\n")
        (source / "index.rst").write_text(f"Claims\n======\n\n{text}\n")
        folders = map(str, (source, source, built, built))
        with docutils_namespace():
            app = Sphinx(*folders, "html", warningiserror=True, status=None, freshenv=True)
            for event in ("html-page-context", "build-finished"):
                app.events.listeners[event].clear()
            app.build()
        return BeautifulSoup((built / "index.html").read_text(encoding="utf-8"), "html.parser")


CONFIGURATION = "models:\n  second-by-name:\n  a-model:\n"


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pages:
    return Pages(tmp_path, monkeypatch)


def run_of(model: str, notebook: str = "01_x", **metrics: float) -> Run:
    return Run(model, notebook, metrics, {}, Path("page"))


def test_a_claim_that_is_added_gets_its_own_page(pages: Pages) -> None:
    """As CONTRIBUTING.md says: an entry in the rule book is all that it takes."""
    added = Claim("X9", "new & <odd>", Kind.READERS, "Is it new?", criteria=(HIGH,), needs=(LOW,))
    run = run_of("some-model", fit=0.9, fit_low=0.7, fit_high=1.0, error=0.1)
    page = pages.built(".. claims::\n\n.. verdict:: X9\n\n.. verdict-strip::", [run], added)
    section = page.find(id="x9")
    assert section
    assert "X9: new & <odd>" in section.get_text()
    assert "Its readers ask" in section.get_text()
    badges = [badge for badge in page.select(".verdict") if badge.get_text() == "holds in part"]
    assert len(badges) >= 5, "in the summary, in its section, in its box, twice in the strip"
    assert page.find("data", attrs={"data-metric": "fit_low"})


def strip_of(page: BeautifulSoup) -> list[list[str]]:
    """Cells of the strip, its heads first."""
    rows = page.select(".verdict-strip tr")
    return [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in rows]


def test_the_strip_has_a_row_a_claim_and_a_column_a_model(pages: Pages) -> None:
    second = Claim("Y", "only of some", Kind.OURS, "words", criteria=(OTHER,))
    runs = [
        run_of("unknown", fit=0.9, error=0.1, shuffled=0.0),
        run_of("a-model", fit=0.9, error=0.3, shuffled=0.0),
        run_of("a-model", "02_y", size=3.0),
        run_of("second-by-name", fit=0.5, error=0.3, shuffled=0.0),
    ]
    page = pages.built(".. verdict-strip::", runs, CLAIM, second)
    assert strip_of(page) == [
        ["claim or question", "all models", "second-by-name", "a-model", "unknown"],
        ["X title", "holds in part", "does not hold", "holds in part", "holds"],
        ["Y only of some", "holds", "—", "holds", "—"],
    ]
    for row, claim in zip(page.select(".verdict-strip tbody tr"), (CLAIM, second), strict=True):
        assert row.th.a["href"].endswith(f"claims.html#{claim.id.lower()}")
    assert "Every claim by each" not in page.get_text(), "all of them are here"
    legend = page.select_one(".legend").get_text(" ")
    assert all(str(one) in legend for one in Verdict)
    assert "— not run" in legend


def test_a_strip_of_many_models_shows_the_configured_ones_and_leads_to_all(pages: Pages) -> None:
    runs = [run_of(f"model-{i}", fit=0.9, error=0.1, shuffled=0.0) for i in range(9)]
    runs.append(run_of("a-model", fit=0.9, error=0.3, shuffled=0.0))
    page = pages.built(".. verdict-strip::", runs, CLAIM)
    assert strip_of(page) == [
        ["claim or question", "all models (10)", "a-model"],
        ["X title", "holds in part", "holds in part"],
    ]
    (link,) = [
        a for a in page.select(".verdict-strip a") if "each of the 10 models" in a.get_text()
    ]
    assert link["href"].endswith("book/across.html#claims-by-models")
    strangers = pages.built(".. verdict-strip::", runs[:9], CLAIM)
    assert strip_of(strangers)[0][2:] == ["model-0", "model-1", "model-2"]


def test_of_many_models_the_evidence_is_folded_and_none_is_lost(pages: Pages) -> None:
    runs = [run_of(f"model-{i}", fit=0.9, error=0.1, shuffled=0.0) for i in range(9)]
    runs.append(run_of("a-model", fit=0.9, error=0.3, shuffled=0.0))
    page = pages.built(".. verdict:: X", runs, CLAIM)
    (folded,) = page.select("details.others")
    assert folded.summary.get_text() == "X: the other 9 models"
    heads = [th.get_text() for th in folded.select("thead th")][2:]
    assert heads == [f"model-{i}" for i in range(9)]
    shown = page.select_one(".claim-box > .wide thead").get_text(" ")
    assert "a-model" in shown
    assert "model-0" not in shown
    few = pages.built(".. verdict:: X", runs[-2:], CLAIM)
    assert not few.select("details.others")


def test_claims_by_models_and_by_kinds_stand_on_a_page(pages: Pages) -> None:
    facts = {"a-model": "causal", "m": "masked", "n": "masked"}
    runs = [
        Run(name, "01_log_linear_fit", {**NULL["untrained network"]["01_log_linear_fit"],
            "spread_minus_log_a": 1.0}, {"kind": kind, "family": "x"}, Path("page"))
        for name, kind in facts.items()
    ]  # fmt: skip
    page = pages.built(".. verdict-matrix::\n\n.. claim-sentences::", runs)
    assert [th.get_text() for th in page.select(".verdict-matrix thead tr:last-child th")] == [
        "a-model", "m", "n",
    ]  # fmt: skip
    rows = {row.th.a.get_text(): row for row in page.select(".verdict-matrix tbody tr")}
    assert len(rows) == len(CLAIMS)
    items = {item.a.get_text().split()[0]: item.get_text() for item in page.select(".by-kind li")}
    assert items["C1"].endswith(
        "Models on which it holds: none of 1 causal (not: a-model) and none of 2 masked "
        "(not: all of them)."
    )
    assert "C4" not in items, "no model ran its notebook"


def test_a_kept_run_is_marked_where_its_numbers_stand(pages: Pages, tmp_path: Path) -> None:
    page = tmp_path / "book" / "kept" / "m" / "01_x.ipynb"
    page.parent.mkdir(parents=True)
    page.write_text("{}")
    page.with_name("01_x.kept.json").write_text("{}")
    facts = {"started": "2026-01-31T10:00Z", "kind": "speech", "family": "whisper"}
    runs = [Run("m", "01_x", {"fit": 1.0}, facts, page), run_of("a-model", fit=0.5)]
    built = pages.built(".. runs:: 01_x\n\n   fit: a fit\n\n.. kept-runs:: 01_x", runs)
    (first, second) = built.select("table")
    heads = [row.th.get_text() for row in first.select("tbody tr")]
    # No notebook of this name is there, so it cannot be the present one.
    assert heads == ["a-model", "m earlier version, 2026-01-31"]
    assert "no longer there" in first.select_one(".kept.aged")["title"]
    assert [td.get_text() for td in second.select("tbody td")][:2] == ["speech-to-text", "whisper"]
    assert second.a["href"].endswith("book/kept/m/01_x.html")


def test_the_strip_tells_verdicts_apart_by_their_shape(pages: Pages) -> None:
    """The style sheet draws a sign of its own for every verdict, none of them by colour alone."""
    page = pages.built(".. verdict-strip::", [run_of("a-model", fit=0.9, error=0.1)], CLAIM)
    classes = {" ".join(sign["class"]) for sign in page.select(".legend .sign")}
    assert classes == {f"verdict sign verdict-{one.name.lower()}" for one in Verdict}
    style = (ROOT / "book" / "_static" / "probenc.css").read_text(encoding="utf-8")
    signs = dict(re.findall(r'\.sign\.verdict-(\w+)::before \{ content: "([^"]+)"', style))
    assert signs.keys() == {one.name.lower() for one in Verdict}
    assert len(set(signs.values())) == len(signs)


def test_the_strip_without_a_run_says_so(pages: Pages) -> None:
    page = pages.built(".. verdict-strip::", [])
    assert "No model has run yet" in page.get_text()
    assert not page.select("table, .sign")
    of_nothing_named = pages.built(".. verdict-strip::", [run_of("a-model", "09_z", other=1.0)])
    assert "No model has run yet" in of_nothing_named.get_text()


def leave_figure(pages: Pages, model: str, caption: str, *, lines: bool = False) -> None:
    figure = (
        '<figure class="probenc" id="fig-one">\n<img alt="dots" src="data:,">\n'
        f"<figcaption>{caption}</figcaption></figure><p>not of the figure</p>"
    )
    shown = figure.splitlines(keepends=True) if lines else figure
    cells = [{"outputs": [{"text": "no data"}, {"data": {"text/html": shown}}]}, {"source": ""}]
    path = pages.folder / "book" / "runs" / model / "01_x.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")


@pytest.mark.parametrize("lines", [False, True])
def test_a_figure_is_that_of_the_first_model_that_has_it(pages: Pages, lines: bool) -> None:
    leave_figure(pages, "second-by-name", "None of that name.")
    renamed = pages.folder / "book" / "runs" / "second-by-name" / "01_x.ipynb"
    renamed.write_text(renamed.read_text().replace("fig-one", "fig-other"), encoding="utf-8")
    leave_figure(pages, "a-model", r"Of \( a \).", lines=lines)
    leave_figure(pages, "unknown", "Of another.")
    runs = [run_of(name, fit=1.0) for name in ("unknown", "a-model", "second-by-name")]
    page = pages.built(".. run-figure:: 01_x fig-one\n\n   Dots < lines.", runs)
    (figure,) = page.select("figure.probenc")
    assert figure["id"] == "fig-one"
    assert figure.img["alt"] == "dots"
    assert figure.figcaption.get_text() == r"Dots < lines. Of \( a \). From the run of a-model."
    assert figure.figcaption.a["href"].endswith("book/runs/a-model/01_x.html#fig-one")
    assert "not of the figure" not in page.get_text()


def test_a_figure_without_a_run_says_so(pages: Pages) -> None:
    page = pages.built(".. run-figure:: 01_x fig-one", [run_of("a-model", "02_y", size=1.0)])
    assert "No run has left this figure yet." in page.get_text()


def test_a_box_shows_thresholds_beside_numbers_and_what_they_are_held_against() -> None:
    near = Criterion("01_x", "fit", "a fit", at_least=0.8, beside="null", beside_says="of noise")
    claim = Claim("X", "title", Kind.OURS, "words", criteria=(near,), controls=(CONTROL,))
    metrics = {"01_x": {"fit": 0.9, "fit_low": 0.85, "fit_high": 0.95, "null": 0.25}}
    shown = verdicts.box(judge(claim, "model", metrics))
    assert "≥ 0.8" in shown
    assert "set after" in shown
    for name in ("fit", "fit_low", "fit_high", "null"):
        assert f'data-metric="{name}"' in shown
    assert "control: the fit shuffled" in shown
    assert str(Verdict.IN_PART) in shown


def test_claims_name_figures_that_the_notebooks_leave() -> None:
    for claim in CLAIMS:
        notebook, figure = claim.figure
        if notebook:
            text = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
            assert f'name=\\"{figure}\\"' in text, f"{claim.id}: {notebook} has no figure {figure}"


def test_metrics_of_rules_on_training_stand_in_the_code_that_leaves_them() -> None:
    """Part 05 leaves them only where frequency was learnt, which no tiny model's run does."""
    notebook = ROOT / "notebooks" / "05_training_dynamics.ipynb"
    modules = [*(ROOT / "probenc_support" / "dynamics").glob("*.py"), notebook]
    texts = [path.read_text(encoding="utf-8") for path in modules]
    for one in (one for claim in CLAIMS for one in claim.measured):
        if one.notebook == "05_training_dynamics":
            assert any(re.search(rf"\b{one.metric}\b", text) for text in texts), one.metric


def test_runs_without_a_page_are_not_counted(tmp_path: Path) -> None:
    for model, page in (("whole", True), ("half", False)):
        folder = tmp_path / model
        folder.mkdir()
        (folder / "01_x.metrics.json").write_text(json.dumps({"fit": 1.0}))
        if page:
            (folder / "01_x.ipynb").write_text("{}")
    (found,) = claims.runs(tmp_path)
    assert (found.model, found.notebook, found.metrics) == ("whole", "01_x", {"fit": 1.0})
    assert claims.metrics_by_model([found]) == {"whole": {"01_x": {"fit": 1.0}}}


def test_words_of_the_claims_hold_no_typed_result() -> None:
    """Numbers of ours belong to the runs; only thresholds and the paper's values stand in code."""
    for claim in CLAIMS:
        assert not re.search(r"\d\.\d", claim.words + claim.changed)


def test_bounds_are_those_of_the_rule_book() -> None:
    criteria = {c.metric: c for c in rules_of_paper.C6.criteria}
    assert rule_book.threshold("C6", "kl_paper_30") == criteria["kl_paper_30"].at_most
    assert rule_book.threshold("C6", "top1_paper_30") == criteria["top1_paper_30"].at_least
    for claim, metric in (("C6", "kl_papre_30"), ("C0", "kl_paper_30")):
        with pytest.raises(KeyError, match="no fixed bound"):
            rule_book.threshold(claim, metric)
