"""What rules on several models read, on planted runs: sizes, other kinds, one thing apart."""

import math
from pathlib import Path
from typing import Any

import pytest

from probenc_support import claims
from probenc_support.claims import Run, Verdict, beyond_one_model, relatives, rule_book
from probenc_support.claims.beyond_one_model import FIT

ACROSS = "06_across_models"
CLAIMS = {claim.id: claim for claim in rule_book.CLAIMS}

GOOD = {
    "spread_minus_log_a": 1.5,
    "r2_adj": 0.9,
    "r2_heldout_tokens": 0.85,
    "r2_log_frequency": 0.6,
    "r2_above_untrained": 0.1,
    "r2_untrained_a": 0.2,
    "r2_log_frequency_untrained": 0.01,
}
"""A model on which C1 holds."""

OTHERS = {"bert": "masked", "nano-masked": "masked", "nano-seq2seq": "encoder-decoder",
          "heard": "speech"}  # fmt: skip


def run(model: str, notebook: str = FIT, **metrics: float) -> Run:
    return Run(model, notebook, metrics, {}, Path("page.ipynb"))


def fitted(model: str, **other: float) -> Run:
    return run(model, **{**GOOD, **other})


def judged(claim: str, metrics: dict[str, float]) -> Verdict:
    return claims.judge(CLAIMS[claim], "all-models", {ACROSS: metrics}).verdict


def key(model: str) -> str:
    return model.replace("-", "_")


def kinds_of(**other: dict[str, float]) -> dict[str, float]:
    """What N1 reads of a causal twin and four other models, some of them changed."""
    names = [relatives.CAUSAL_TWIN, *OTHERS]
    runs = [fitted(name, **other.get(key(name), {})) for name in names]
    return beyond_one_model.other_kinds(runs, {**OTHERS, relatives.CAUSAL_TWIN: "causal"})


def test_the_claim_on_a_good_model_holds_so_that_the_plant_is_one() -> None:
    assert claims.judge(CLAIMS["C1"], "m", {FIT: GOOD}).verdict is Verdict.HOLDS


def test_other_kinds_are_counted_by_the_rule_of_c1() -> None:
    found = kinds_of()
    assert found == {
        "n_masked": 2, "c1_share_masked": 1.0, "n_encoder_decoder": 2,
        "c1_share_encoder_decoder": 1.0, "r2_log_frequency_untrained_most": 0.01,
        "r2_adj_twin_masked_less_causal": 0.0,
        "r2_adj_twin_encoder_decoder_less_causal": 0.0,
    }  # fmt: skip
    assert judged("N1", found) is Verdict.HOLDS


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        # One of two models of a kind is enough: a share of one half.
        ({"heard": {"r2_adj": 0.7}}, Verdict.HOLDS),
        ({"heard": {"r2_adj": 0.7}, "nano_seq2seq": {"r2_heldout_tokens": 0.1}}, Verdict.IN_PART),
        ({"bert": {"r2_adj": 0.7}, "nano_masked": {"r2_adj": 0.7}}, Verdict.IN_PART),
        # Fits, and nothing of them learnt.
        (
            {name.replace("-", "_"): {"r2_above_untrained": 0.0} for name in OTHERS},
            Verdict.DOES_NOT_HOLD,
        ),
        # An untrained network in which frequency can be read: the control succeeds.
        ({"bert": {"r2_log_frequency_untrained": 0.4}}, Verdict.DOES_NOT_HOLD),
        # A model whose probabilities do not differ was not tested, so one of its kind is too few.
        ({"heard": {"spread_minus_log_a": 0.1}}, Verdict.NOT_TESTED),
    ],
)
def test_the_verdict_on_other_kinds_follows_its_rule(
    changed: dict[str, dict[str, float]], verdict: Verdict
) -> None:
    assert judged("N1", kinds_of(**changed)) is verdict


def test_causal_models_alone_say_nothing_of_other_kinds() -> None:
    found = beyond_one_model.other_kinds([fitted("a"), fitted("b")], {"a": "causal", "b": "causal"})
    assert found == {"n_masked": 0, "n_encoder_decoder": 0}
    assert judged("N1", found) is Verdict.NOT_TESTED
    assert beyond_one_model.kinds_in_words(found).startswith("No masked model has run; no enc")


def test_words_on_other_kinds_have_the_numbers() -> None:
    words = beyond_one_model.kinds_in_words(kinds_of(heard={"r2_adj": 0.7}))
    assert "C1 holds on 2 of 2 masked models" in words
    assert "C1 holds on 1 of 2 encoder-decoder and speech models" in words
    assert words.count("(R² of the twin +0.000 against causal)") == 2


def sizes_of(*metrics: dict[str, Any]) -> dict[str, float]:
    runs = [fitted(name, **one) for name, one in zip(relatives.SIZES, metrics, strict=False)]
    return beyond_one_model.sizes([*runs, fitted("another", r2_adj=0.1)])


def test_the_worst_size_counts_with_its_own_interval() -> None:
    found = sizes_of(
        {"r2_adj": 0.95, "r2_adj_low": 0.9, "r2_adj_high": 0.99},
        {"r2_adj": 0.88, "r2_adj_low": 0.86, "r2_adj_high": 0.90, "r2_untrained_a": 0.44},
        {"r2_heldout_tokens": 0.8},
    )
    assert found["n_sizes"] == 3
    least = [found[f"r2_adj_sizes_least{end}"] for end in ("", "_low", "_high")]
    assert least == [0.88, 0.86, 0.90]
    assert found["r2_heldout_sizes_least"] == 0.8
    assert found["r2_adj_sizes_range"] == pytest.approx(0.07)
    assert found["untrained_share_sizes_most"] == pytest.approx(0.5)
    assert judged("C3b", found) is Verdict.HOLDS


@pytest.mark.parametrize(
    ("metrics", "verdict"),
    [
        (({}, {}), Verdict.NOT_TESTED),
        (({"r2_adj": 0.7}, {}, {}), Verdict.IN_PART),
        (({"r2_above_untrained": 0.0}, {}, {}), Verdict.IN_PART),
        (({}, {"r2_adj": 1.0}, {"r2_adj": 0.85}), Verdict.IN_PART),
        (({}, {}, {"r2_untrained_a": 0.6}), Verdict.DOES_NOT_HOLD),
    ],
)
def test_the_verdict_on_sizes_follows_its_rule(
    metrics: tuple[dict[str, float], ...], verdict: Verdict
) -> None:
    assert judged("C3b", sizes_of(*metrics)) is verdict


def test_no_size_and_one_size_are_told() -> None:
    assert beyond_one_model.sizes([]) == {"n_sizes": 0}
    assert "nothing is compared" in beyond_one_model.sizes_in_words({"n_sizes": 1})
    assert "Over 3 sizes" in beyond_one_model.sizes_in_words(sizes_of({}, {}, {}))


def pair(first: dict[str, float], second: dict[str, float]) -> Any:
    contrast = relatives.Contrast("one thing", "a", "b")
    runs = [run("a", "02_sparsity", **first), run("b", "02_sparsity", **second)]
    return beyond_one_model.one_thing_apart(runs, "02_sparsity", ["gini_excess"], [contrast])


def ends(value: float, half: float) -> dict[str, float]:
    names = ("gini_excess", "gini_excess_low", "gini_excess_high")
    return dict(zip(names, (value, value - half, value + half), strict=True))


def test_a_difference_has_the_interval_of_two_independent_ones() -> None:
    (row,) = pair(ends(0.1, 0.03), ends(0.3, 0.04)).to_dict("records")
    assert row["difference"] == pytest.approx(0.2)
    assert (row["low"], row["high"]) == pytest.approx((0.2 - 0.05, 0.2 + 0.05))
    (row,) = pair({"gini_excess": 0.1}, ends(0.3, 0.04)).to_dict("records")
    assert math.isnan(row["low"])
    assert pair({}, ends(0.3, 0.04)).empty
    assert "nothing is said" in beyond_one_model.in_words(pair({}, {}))


def test_the_words_name_the_largest_change_and_count_the_sure_ones() -> None:
    sure = beyond_one_model.in_words(pair(ends(0.1, 0.03), ends(0.3, 0.04)))
    assert "+0.200 [0.150, 0.250]: one thing (b against a). In 1 of them" in sure
    unsure = beyond_one_model.in_words(pair(ends(0.1, 0.3), ends(0.3, 0.4)))
    assert "In 0 of them" in unsure


def test_relatives_are_models_that_the_long_matrix_runs() -> None:
    import yaml

    path = Path(__file__).resolve().parents[1] / "config.full.yaml"
    models = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
    named = {relatives.CAUSAL_TWIN, *relatives.TWINS.values(), *relatives.SIZES}
    named |= {model for one in relatives.CONTRASTS for model in (one.first, one.second)}
    assert named <= models.keys()
    assert all("05_training_dynamics" in models[size]["notebooks"] for size in relatives.SIZES)
