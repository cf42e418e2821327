"""For which kinds of model a claim holds: what the models are, verdicts by kind, one sentence."""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from probenc_support.claims.judging import Claim, Run, Verdict

KINDS = {
    "causal": "causal",
    "masked": "masked",
    "encoder-decoder": "encoder-decoder",
    "speech": "speech-to-text",
}
"""Kinds of model as runs name them, in the order of tables, and how a reader is told them."""


UNKNOWN = "unknown"
"""What stands for a fact that no run of a model says."""


DESCRIPTIONS = {
    "kind": "kind",
    "family": "family",
    "n_layers": "layers",
    "norm": "final norm",
    "tied": "embeddings",
    "quantisation": "stored in",
}
"""What runs say of a model in words, and its heading; columns of `described`."""


def described(runs: Sequence[Run]) -> pd.DataFrame:
    """What each model is, in words, from the provenance of its runs: columns of `DESCRIPTIONS`.

    Rows are models, those of one kind and one family beside each other. `UNKNOWN` stands where no
    run says.
    """
    by_model: dict[str, dict[str, str]] = {}
    for run in runs:
        facts = by_model.setdefault(run.model, {})
        for name in DESCRIPTIONS:
            if name in run.provenance:
                facts.setdefault(name, _in_words(name, run.provenance[name]))
    order = sorted(
        by_model, key=lambda m: (_place(by_model[m].get("kind", "")), by_model[m].get("family", ""))
    )
    rows = [[by_model[m].get(name, UNKNOWN) for name in DESCRIPTIONS] for m in order]
    return pd.DataFrame(rows, index=order, columns=list(DESCRIPTIONS))


def _in_words(name: str, value: object) -> str:
    """A fact of the provenance as a reader is told it; kinds keep the names that runs give them."""
    if name == "tied":
        return "tied" if value else "untied"
    if name == "quantisation":
        return str(value) or "not quantised"
    return str(value) or UNKNOWN


def _place(kind: str) -> int:
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def by_kind(models: Iterable[str], kinds: Mapping[str, str]) -> dict[str, list[str]]:
    """Models by their kind, kinds in the order of `KINDS`, those of no known kind at the end."""
    grouped: dict[str, list[str]] = {}
    for model in sorted(models, key=lambda model: _place(kinds.get(model, UNKNOWN))):
        grouped.setdefault(kinds.get(model, UNKNOWN), []).append(model)
    return grouped


def sentence(verdicts: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """For which kinds of model a claim holds: one sentence, made from the verdicts.

    Args:
        verdicts: as words, by model; models on which it was not tested are not counted.
        kinds: by model, see `described`.
    """
    tested = {model: v for model, v in verdicts.items() if v != Verdict.NOT_TESTED}
    if not tested:
        return "It was tested on no model."
    parts = [
        _of_kind(KINDS.get(kind, f"{kind}-kind"), {model: tested[model] for model in models})
        for kind, models in by_kind(tested, kinds).items()
    ]
    return f"Models on which it holds: {_joined(parts)}."


NAMED = 4
"""So many models, at most, are named beside a count; of more, the first ones."""


def _named(models: Sequence[str], of: int) -> str:
    if len(models) == of > 1:
        return "all of them"
    more = f" and {len(models) - NAMED} more" if len(models) > NAMED else ""
    return ", ".join(models[:NAMED]) + more


def _of_kind(kind: str, verdicts: Mapping[str, str]) -> str:
    held = [model for model, verdict in verdicts.items() if verdict == Verdict.HOLDS]
    others: list[str] = []
    for verdict, words in ((Verdict.IN_PART, "in part"), (Verdict.DOES_NOT_HOLD, "not")):
        if named := [model for model, found in verdicts.items() if found == verdict]:
            others.append(f"{words}: {_named(named, len(verdicts))}")
    told = f"{len(held) or 'none'} of {len(verdicts)} {kind}"
    return told + (f" ({'; '.join(others)})" if others else "")


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentences(
    table: Mapping[str, Mapping[str, str]], claims: Iterable[Claim], kinds: Mapping[str, str]
) -> list[tuple[Claim, str]]:
    """`sentence` for every claim of which some model has a verdict.

    Args:
        table: verdicts by claim and by model, see `comparison.verdicts_by_claim`.
        claims: in the order of the answer.
    """
    return [(claim, sentence(table[claim.id], kinds)) for claim in claims if table.get(claim.id)]
