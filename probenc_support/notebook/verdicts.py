"""Verdicts as a reader sees them: boxes at the end of a notebook, tables on the book's pages.

Each number stands in a `<data>` element that names its run, so that a test of the built book can
compare it with the file that it comes from.
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from probenc_support import claims
from probenc_support.claims import Claim, Criterion, Evidence, Finding, kinds_of_models
from probenc_support.claims.rule_book import CLAIMS
from probenc_support.notebook.results import Results

ABSENT = "–"


def show(results: Results, among: Iterable[Claim] = CLAIMS) -> None:
    """Shows the verdicts of the claims that a notebook tests, by the metrics measured so far."""
    from IPython.display import HTML, display

    own = results.parameters
    model = own.results_dir.name
    for claim in among:
        if own.notebook in claim.notebooks:
            finding = claims.judge(claim, model, {own.notebook: results.measured})
            display(HTML(box(finding)))  # type: ignore[no-untyped-call]


def box(finding: Finding) -> str:
    """One claim, its verdict for one model, and thresholds beside numbers, as HTML."""
    claim = finding.claim
    words = (
        f"<p>{badge(finding.verdict)} <strong>{claim.id}, {html.escape(claim.title)}.</strong> "
        f"{html.escape(claim.words)}</p>"
    )
    return f'<div class="claim-box">{words}{evidence(claim, [finding])}</div>'


def evidence(claim: Claim, findings: Sequence[Finding]) -> str:
    """The table of a claim: criteria, controls and preconditions, one column a model."""
    rows = []
    for kind in ("needs", "criteria", "controls"):
        label = {"needs": "precondition: ", "criteria": "", "controls": "control: "}[kind]
        for place, criterion in enumerate(getattr(claim, kind)):
            shown = [_shown(one.model, getattr(one, kind)[place]) for one in findings]
            rows.append([f"{label}{_measures(criterion)}", _needed(criterion), *shown])
    rows.append(["verdict", "", *(badge(one.verdict) for one in findings)])
    heads = ["measured", "needed", *(html.escape(one.model) for one in findings)]
    return table_of(heads, rows, label=f"Evidence for {claim.id}")


def _measures(criterion: Criterion) -> str:
    return f"{html.escape(criterion.says)} <code>{criterion.metric}</code>"


def _needed(criterion: Criterion) -> str:
    return f'{html.escape(criterion.rule)} <span class="stated">set {criterion.stated}</span>'


def _shown(model: str, one: Evidence) -> str:
    criterion = one.criterion
    if one.value is None:
        return ABSENT
    metrics = {criterion.metric: one.value}
    if one.low is not None and one.high is not None:
        metrics |= {f"{criterion.metric}_low": one.low, f"{criterion.metric}_high": one.high}
    number = with_interval(model, criterion.notebook, criterion.metric, metrics)
    shown = (
        f'<span class="state state-{one.state.name.lower()}">{number} <em>{one.state}</em></span>'
    )
    if one.beside is not None:
        beside = marked(model, criterion.notebook, criterion.beside, one.beside)
        shown += f' <span class="beside">({html.escape(criterion.beside_says)}: {beside})</span>'
    return shown


def badge(verdict: claims.Verdict) -> str:
    """A verdict as a coloured word."""
    return f'<span class="verdict verdict-{verdict.name.lower()}">{verdict}</span>'


def shown_number(value: float) -> str:
    """Three digits after the point; fewer for large numbers, an exponent for very small ones."""
    if value != 0 and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.1e}"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def marked(model: str, notebook: str, metric: str, value: float, shown: str = "") -> str:
    """One number, marked with the file that it comes from."""
    return (
        f'<data class="metric" value="{value!r}" data-model="{html.escape(model)}" '
        f'data-notebook="{notebook}" data-metric="{html.escape(metric)}">'
        f"{shown or shown_number(value)}</data>"
    )


def with_interval(model: str, notebook: str, metric: str, metrics: Mapping[str, Any]) -> str:
    """A metric of a run, with the ends of its interval where the run gives them."""
    value = metrics.get(metric)
    if not isinstance(value, int | float):
        return ABSENT
    shown = marked(model, notebook, metric, value)
    ends = {end: metrics.get(f"{metric}_{end}") for end in ("low", "high")}
    known = {end: at for end, at in ends.items() if isinstance(at, int | float)}
    if len(known) == 2:
        low, high = (marked(model, notebook, f"{metric}_{end}", at) for end, at in known.items())
        shown += f' <span class="interval">[{low}, {high}]</span>'
    return shown


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]], *, label: str) -> str:
    """A table that scrolls sideways where it is too wide; first cell of a row is its head."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{html.escape(label)}">'
        f'<table class="table numbers"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


SIGNS = {
    claims.Verdict.HOLDS: "\N{CHECK MARK}",
    claims.Verdict.IN_PART: "\N{VULGAR FRACTION ONE HALF}",
    claims.Verdict.DOES_NOT_HOLD: "\N{BALLOT X}",
    claims.Verdict.NOT_TESTED: "?",
}
"""A verdict as one character, so that no colour is needed to read a matrix."""


def mark(verdict: claims.Verdict) -> str:
    """A verdict as a coloured character, with its word for who hears the page."""
    return (
        f'<span class="verdict mark verdict-{verdict.name.lower()}" role="img" '
        f'aria-label="{verdict}" title="{verdict}">{SIGNS[verdict]}</span>'
    )


def matrix_of(
    heads: Mapping[str, str],
    verdicts: Mapping[str, Mapping[str, claims.Verdict]],
    kinds: Mapping[str, str],
) -> str:
    """Claims by models as a table that scrolls sideways, models of one kind side by side.

    Args:
        heads: HTML of the first cell of each row, by claim; their order is that of the rows.
        verdicts: by claim and model. A model that has none did not run the claim's notebook; a row
            whose one model is no column (a claim on all models together) has its verdict alone.
        kinds: by model, in the order of the columns within a kind.
    """
    groups = kinds_of_models.by_kind(kinds, kinds)
    names = [name for members in groups.values() for name in members]
    over = "".join(
        f'<th scope="colgroup" colspan="{len(members)}">'
        f"{html.escape(kinds_of_models.KINDS.get(kind, kind))}</th>"
        for kind, members in groups.items()
    )
    columns = "".join(f'<th scope="col"><span>{html.escape(name)}</span></th>' for name in names)
    rows = []
    for claim, head in heads.items():
        found = verdicts.get(claim, {})
        cells = "".join(f"<td>{mark(found[n]) if n in found else ABSENT}</td>" for n in names)
        verdict = mark(claims.overall(found.values()))
        rows.append(f'<tr><th scope="row">{head}</th><td class="all">{verdict}</td>{cells}</tr>')
    legend = " ".join(f"<span>{mark(one)} {one}</span>" for one in claims.Verdict)
    return (
        '<div class="wide" role="region" tabindex="0" aria-label="Verdicts by claim and model">'
        f'<table class="table numbers verdict-matrix"><thead><tr><th rowspan="2" scope="col">claim '
        f'or question</th><th rowspan="2" scope="col" class="all">all</th>{over}</tr>'
        f"<tr>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<p class="legend">{legend} <span>{ABSENT} not run</span></p>'
    )
