"""The rules that make verdicts: what is met, what undoes a finding, what was not tested."""

import json
import math
import re
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from probenc_support import claims
from probenc_support.claims import CLAIMS, Claim, Criterion, State, Verdict, judge, overall

ROOT = Path(__file__).resolve().parents[1]
HIGH = Criterion("01_x", "fit", "a fit", at_least=0.8)
LOW = Criterion("01_x", "error", "an error", at_most=0.2)
CONTROL = Criterion("01_x", "shuffled", "the fit shuffled", at_most=0.1)
CLAIM = Claim("X", "1", "words", "none", criteria=(HIGH, LOW), controls=(CONTROL,))


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


def test_only_the_near_end_of_an_interval_counts() -> None:
    metrics = {"01_x": {"error": 0.15, "error_low": -5.0, "error_high": 0.19}}
    assert judge(CLAIM, "model", metrics).criteria[1].state is State.MET
    metrics["01_x"]["error_high"] = 0.21
    assert judge(CLAIM, "model", metrics).criteria[1].state is State.UNSURE


def test_a_threshold_may_be_a_multiple_of_another_metric() -> None:
    half = Criterion("01_x", "ours", "ours", at_most=0.5, times="theirs")
    claim = Claim("X", "1", "words", "none", criteria=(half,))
    assert verdict(claim, ours=0.4, theirs=1.0) is Verdict.HOLDS
    assert verdict(claim, ours=0.6, theirs=1.0) is Verdict.DOES_NOT_HOLD
    assert verdict(claim, ours=0.4) is Verdict.NOT_TESTED
    assert half.rule == "≤ 0.5 × theirs"


def test_a_precondition_that_is_not_met_means_not_tested() -> None:
    need = Criterion("01_x", "n_models", "models", at_least=5)
    claim = Claim("X", "1", "words", "none", criteria=(HIGH,), needs=(need,))
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
        for one in (*claim.criteria, *claim.controls, *claim.needs):
            assert (one.at_least is None) != (one.at_most is None)


def test_claims_name_metrics_and_figures_that_the_notebooks_leave() -> None:
    for claim in CLAIMS:
        notebook, figure = claim.figure
        if notebook:
            text = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
            assert f'name=\\"{figure}\\"' in text, f"{claim.id}: {notebook} has no figure {figure}"


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
        assert not re.search(r"\d\.\d", claim.words)
