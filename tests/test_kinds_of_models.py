"""Models in words, verdicts by kind, and the sentence that says for which kinds a claim holds."""

import re
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from probenc_support.claims import Run, Verdict, kinds_of_models
from probenc_support.claims.rule_book import CLAIMS
from probenc_support.notebook import results, verdicts

HOLDS, IN_PART, NOT, UNTESTED = map(str, Verdict)

KINDS = {"a": "causal", "b": "causal", "m": "masked", "s": "speech", "t": "encoder-decoder"}


def run(model: str, **facts: Any) -> Run:
    return Run(model, "01_x", {}, facts, Path("page.ipynb"))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": HOLDS, "b": HOLDS}, "2 of 2 causal."),
        ({"a": HOLDS, "b": NOT}, "1 of 2 causal (not: b)."),
        (
            {"s": IN_PART, "m": HOLDS, "b": NOT, "a": IN_PART},
            "none of 2 causal (in part: a; not: b), 1 of 1 masked and none of 1 speech-to-text "
            "(in part: s).",
        ),
        ({"a": UNTESTED, "t": NOT}, "none of 1 encoder-decoder (not: t)."),
        ({"z": HOLDS}, "1 of 1 unknown-kind."),
        ({"a": NOT, "b": NOT}, "none of 2 causal (not: all of them)."),
    ],
)
def test_the_sentence_counts_by_kind(found: dict[str, str], said: str) -> None:
    ordered = dict(sorted(found.items()))
    assert kinds_of_models.sentence(ordered, KINDS) == f"Models on which it holds: {said}"


def test_a_claim_that_no_model_tested_has_a_sentence_too() -> None:
    assert "no model" in kinds_of_models.sentence({"a": UNTESTED}, KINDS)
    assert "no model" in kinds_of_models.sentence({}, KINDS)


def test_of_many_models_the_first_are_named() -> None:
    found = {**dict.fromkeys("cdefgh", NOT), "x": HOLDS}
    words = kinds_of_models.sentence(found, dict.fromkeys(found, "causal"))
    assert words.endswith("1 of 7 causal (not: c, d, e, f and 2 more).")


def test_every_tested_model_is_counted_once_and_named_unless_it_holds() -> None:
    found = {"a": HOLDS, "b": IN_PART, "m": NOT, "s": HOLDS, "t": UNTESTED}
    words = kinds_of_models.sentence(found, KINDS)
    counts = [int(n) for n in re.findall(r"of (\d+)", words)]
    assert sum(counts) == sum(verdict != UNTESTED for verdict in found.values())
    assert "in part: b" in words
    assert "not: m" in words


def test_sentences_are_those_of_the_claims_that_have_verdicts() -> None:
    told = kinds_of_models.sentences({"C5": {"a": HOLDS}, "C1": {"a": NOT}}, CLAIMS, KINDS)
    assert [claim.id for claim, _ in told] == ["C1", "C5"], "in the order of the rule book"


def test_models_of_one_kind_and_family_stand_together_and_gaps_are_told() -> None:
    runs = [
        run("whisper", kind="speech", family="whisper", tied=True, norm="LayerNorm", n_layers=6),
        run("bare"),
        run("llama-a", kind="causal", family="llama", tied=False, quantisation="Q4_1"),
        run("bert", kind="masked", family="bert"),
        run("gpt", kind="causal", family="gpt2"),
        run("llama-b", kind="causal", family="llama", tied=True, quantisation=""),
    ]
    table = kinds_of_models.described(runs)
    assert list(table.index) == ["gpt", "llama-a", "llama-b", "bert", "whisper", "bare"]
    assert set(table.loc["bare"]) == {kinds_of_models.UNKNOWN}
    assert table.at["llama-a", "tied"] == "untied"
    assert table.at["llama-a", "quantisation"] == "Q4_1"
    assert table.at["llama-b", "quantisation"] == "not quantised"
    assert table.at["whisper", "n_layers"] == "6"


def test_the_matrix_has_a_column_a_model_under_its_kind_and_reads_without_colour() -> None:
    found = {
        "C1": {"a": Verdict.HOLDS, "m": Verdict.NOT_TESTED, "s": Verdict.DOES_NOT_HOLD},
        "N1": {"all-models": Verdict.IN_PART},
    }
    shown = verdicts.matrix_of({"C1": "C1 <b>fit</b>", "N1": "N1"}, found, KINDS)
    page = BeautifulSoup(shown, "html.parser")
    kinds, names = page.select("thead tr")
    spans = [(th.get_text(), int(th["colspan"])) for th in kinds.select("[colspan]")]
    assert spans == [("causal", 2), ("masked", 1), ("encoder-decoder", 1), ("speech-to-text", 1)]
    assert [th.get_text() for th in names.find_all("th")] == ["a", "b", "m", "t", "s"]
    first, second = page.select("tbody tr")
    assert [td.get_text() for td in first.find_all("td")] == [
        "½", "✓", "–", "?", "–", "✗",
    ]  # fmt: skip
    assert [td.get_text() for td in second.find_all("td")] == ["½", *"–" * 5]
    marks = page.select("tbody td:not(.all) .mark")
    assert [mark["aria-label"] for mark in marks] == [HOLDS, UNTESTED, NOT]
    assert len(set(verdicts.SIGNS.values())) == len(Verdict)
    legend = page.select_one(".legend").get_text(" ")
    assert all(str(verdict) in legend for verdict in Verdict)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["LayerNorm", "Linear"], "LayerNorm"),
        (["LayerNorm", "RMSNorm"], "RMSNorm"),
        (["RMSNorm", "bare"], "LayerNorm without bias"),
        (["Linear"], ""),
    ],
)
def test_the_norm_before_the_head_is_told(classes: list[str], said: str) -> None:
    import torch

    made = {
        "LayerNorm": lambda: torch.nn.LayerNorm(4),
        "bare": lambda: torch.nn.LayerNorm(4, bias=False),
        "RMSNorm": lambda: torch.nn.RMSNorm(4),
        "Linear": lambda: torch.nn.Linear(4, 4),
    }
    assert results.final_norm(torch.nn.Sequential(*(made[name]() for name in classes))) == said


def test_a_run_says_what_its_model_is(tiny_lm: Any) -> None:
    facts = results.model_facts(tiny_lm)
    assert facts["kind"] == "causal"
    assert facts["family"] == tiny_lm.model.config.model_type
    assert facts["norm"] == "LayerNorm" or facts["family"] in ("llama", "cohere", "granite")
    assert facts["n_layers"] >= 1
    table = kinds_of_models.described([run("x", **facts)])
    assert kinds_of_models.UNKNOWN not in set(table.loc["x"])
