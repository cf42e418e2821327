"""What the rule book asks of a notebook's run on a network that has learnt nothing."""

from collections.abc import Mapping

from probenc_support import claims
from probenc_support.claims import rule_book


def check_run_of_a_null_model(notebook: str, metrics: Mapping[str, float]) -> None:
    """Every metric that the rules name is there, and no claim holds.

    Call it in each test that executes a notebook on a tiny model with random weights.
    """
    named = {
        name
        for claim in rule_book.CLAIMS
        for one in claim.measured
        if one.notebook == notebook
        for name in (one.metric, one.times, one.beside)
        if name
    }
    assert named <= metrics.keys(), f"no such metric: {sorted(named - metrics.keys())}"
    for claim in rule_book.CLAIMS:
        if claim.notebooks == {notebook}:
            verdict = claims.judge(claim, "untrained", {notebook: metrics}).verdict
            assert verdict is not claims.Verdict.HOLDS, claim.id
