"""The book's Sphinx extension: pages take their numbers from `book/runs` while they are built.

Each number stands in a `<data>` element that names its run, so that a test can compare it with the
file it comes from.
"""

import datetime
import html
import json
import re
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from probenc_base import BookDirective, BookRole
from probenc_benchmarks import Benchmarks, Gains, MeasuredRole
from probenc_html import (
    ROOT,
    RUNS,
    all_runs,
    configuration,
    figure_of,
    foremost,
    in_order,
    kept_mark,
    link_to_figure,
    page_of,
    raw,
)
from probenc_pages import add_to_page, copy_files, launch, leave_out_damaged
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from probenc_support import claims, roster
from probenc_support.claims import comparison, kinds_of_models
from probenc_support.claims.paper_figures import PAPER_FIGURES, Place
from probenc_support.claims.rule_book import CLAIMS
from probenc_support.notebook.verdicts import (
    ABSENT,
    badge,
    evidence,
    marked,
    matrix_of,
    table_of,
    with_interval,
)
from probenc_support.runs import execute, kept, matrix, run_files


class ClaimsDirective(BookDirective):
    """Base of those that show verdicts."""

    def matrix(self) -> str:
        """Claims by models, a sign for each verdict."""
        table = claims.metrics_by_model(all_runs())
        names = in_order(table)
        verdicts = {
            claim.id: {one.model: one.verdict for one in _findings(claim, table, names)}
            for claim in CLAIMS
        }
        heads = {
            claim.id: self.claims_page(f"{claim.id} {html.escape(claim.title)}", claim.id.lower())
            for claim in CLAIMS
        }
        kinds = kinds_of_models.described(all_runs())["kind"].to_dict()
        return matrix_of(heads, verdicts, {name: kinds.get(name, "") for name in names})

    def evidence(self, claim: claims.Claim, findings: list[claims.Finding]) -> str:
        """The table of a claim; of many models the foremost, the others folded away."""
        first = foremost(one.model for one in findings)
        shown = [one for one in findings if one.model in first or one.model == matrix.ACROSS]
        others = [one for one in findings if one not in shown]
        if not shown or not others:
            return evidence(claim, findings)
        many = f"the other {len(others)} models" if len(others) > 1 else "the other model"
        return (
            f"{evidence(claim, shown)}<details class='others'><summary>{claim.id}: {many}"
            f"</summary>{evidence(claim, others)}</details>"
        )


class Claims(ClaimsDirective):
    """Every claim with criteria, numbers by model, controls and verdicts."""

    def content_nodes(self) -> list[nodes.Node]:
        table = claims.metrics_by_model(all_runs())
        names = in_order(table)
        found: list[nodes.Node] = [raw(self.matrix())]
        for claim in CLAIMS:
            section = nodes.section(ids=[claim.id.lower()], names=[claim.id.lower()])
            self.state.document.note_explicit_target(section)
            section += nodes.title("", f"{claim.id}: {claim.title}")
            section += raw(self._claim(claim, table, names))
            found.append(section)
        return found

    def _claim(self, claim: claims.Claim, table: Any, names: list[str]) -> str:
        findings = _findings(claim, table, names)
        verdict = claims.overall(finding.verdict for finding in findings)
        parts = [
            f"<p>{badge(verdict)} <strong>{_source(claim)}</strong> {html.escape(claim.words)}</p>",
            f"<p><strong>The paper's value:</strong> {html.escape(claim.paper)}</p>",
        ]
        if claim.criteria:
            parts.append(self.evidence(claim, findings))
        if claim.remark:
            parts.append(f"<p>{html.escape(claim.remark)}</p>")
        parts.append(self._figures(claim, findings))
        return "".join(parts)

    def _figures(self, claim: claims.Claim, findings: list[claims.Finding]) -> str:
        notebook, name = claim.figure
        found = (
            link_to_figure(self.env.docname, finding.model, notebook, name, finding.model)
            for finding in findings
        )
        links = [link for link in found if link]
        return f"<p>See the figure: {', '.join(links)}</p>" if links else ""


def _source(claim: claims.Claim) -> str:
    where = f" (section {claim.section})" if claim.section else ""
    return html.escape(f"{claim.kind}{where}:")


def _findings(claim: claims.Claim, table: Any, names: list[str]) -> list[claims.Finding]:
    if any(one.notebook == "06_across_models" for one in (*claim.criteria, *claim.needs)):
        names = [matrix.ACROSS] if matrix.ACROSS in table else []
    found = [claims.judge(claim, name, table[name]) for name in names]
    # A model without the notebook says nothing about the claim; it takes no column.
    return [one for one in found if any(e.value is not None for e in one.criteria)]


class VerdictStrip(BookDirective):
    """The verdicts at a glance: one row a claim that some run has tested, one sign a model, of many
    models the foremost.

    A dash stands where a model has not run the notebook that tests the claim.
    """

    def content_nodes(self) -> list[nodes.Node]:
        table = claims.metrics_by_model(all_runs())
        names = in_order(table)
        judged = ((claim, _findings(claim, table, names)) for claim in CLAIMS)
        rows = [self._row(claim, found, names) for claim, found in judged if found]
        if not rows:
            return [raw("<p>No model has run yet, so there are no verdicts.</p>")]
        first = foremost(names)
        rest = f" ({len(names)})" if len(names) > len(first) else ""
        heads = ["claim or question", f"all models{rest}", *map(html.escape, first)]
        strip = table_of(heads, rows, label="Verdicts by claim and model")
        many = f"<p>{self._all_models(len(names))}</p>" if rest else ""
        return [raw(f'<div class="verdict-strip">{strip}{many}{self._legend()}</div>')]

    def _all_models(self, number: int) -> str:
        return self.link(
            Path("book/across.html"),
            f"Every claim by each of the {number} models",
            "claims-by-models",
        )

    def _row(
        self, claim: claims.Claim, findings: list[claims.Finding], names: list[str]
    ) -> list[str]:
        by_model = {finding.model: _sign(finding.verdict) for finding in findings}
        return [
            self.claims_page(f"{claim.id} {html.escape(claim.title)}", claim.id.lower()),
            _sign(claims.overall(finding.verdict for finding in findings)),
            *(by_model.get(name, NOT_RUN) for name in foremost(names)),
        ]

    def _legend(self) -> str:
        signs = [f"{_sign(verdict)} {verdict}" for verdict in claims.Verdict]
        shown = " ".join(f"<span>{one}</span>" for one in [*signs, f"{NOT_RUN} not run"])
        rules = self.claims_page("The rules that decide")
        return f'<p class="legend">{shown} <span>{rules}</span></p>'


NOT_RUN = "\N{EM DASH}"
"""In the strip; there `ABSENT` would be hard to tell from a minus."""


def _sign(verdict: claims.Verdict) -> str:
    """A verdict as a small sign, drawn by the style sheet; its words are there for those who hear
    the page, and in the tooltip."""
    return (
        f'<span class="verdict sign verdict-{verdict.name.lower()}" title="{verdict}">'
        f'<span class="words">{verdict}</span></span>'
    )


class RunFigure(BookDirective):
    """A figure by its notebook and name, out of the executed notebook of the first model that has
    it. The content opens the caption; the caption ends with the run that the figure is from."""

    required_arguments = 2
    optional_arguments = 0

    def content_nodes(self) -> list[nodes.Node]:
        notebook, name = self.arguments
        found = {run.model for run in all_runs() if run.notebook == notebook}
        for model in [*in_order(found), *({matrix.ACROSS} & found)]:
            if figure := figure_of(model, notebook, name):
                target = page_of(model, notebook).with_suffix(".html")
                page = self.link(target, html.escape(model), name)
                lead = html.escape(" ".join(self.content))
                before, opening, caption = re.split("(<figcaption[^>]*>)", figure, maxsplit=1)
                caption = caption.replace("</figcaption>", f" From the run of {page}.</figcaption>")
                return [raw(f"{before}{opening}<strong>{lead}</strong> {caption}")]
        return [raw("<p>No run has left this figure yet.</p>")]


class Changes(BookDirective):
    """Verdicts by the rules of the first edition, and now, with the reason of each change."""

    def content_nodes(self) -> list[nodes.Node]:
        earlier = json.loads((ROOT / "book" / "earlier_verdicts.json").read_text("utf-8"))
        table = claims.metrics_by_model(all_runs())
        rows = []
        for claim in (one for one in CLAIMS if one.changed):
            findings = _findings(claim, table, in_order(table))
            now = {finding.model: badge(finding.verdict) for finding in findings}
            before = {m: badge(claims.Verdict(v)) for m, v in earlier.get(claim.id, {}).items()}
            rows.append(
                [
                    f'<a href="#{claim.id.lower()}">{claim.id}</a> {html.escape(claim.title)}',
                    "<br>".join(f"{html.escape(name)}: {one}" for name, one in before.items()),
                    "<br>".join(f"{html.escape(name)}: {one}" for name, one in now.items()),
                    html.escape(claim.changed),
                ]
            )
        heads = ["claim", "verdicts before", "verdicts now", "what changed in the rule, and why"]
        return [raw(table_of(heads, rows, label="Verdicts before and now"))]


class Verdict(ClaimsDirective):
    """One claim's evidence, for its part page."""

    required_arguments = 1
    optional_arguments = 0

    def content_nodes(self) -> list[nodes.Node]:
        claim = next(one for one in CLAIMS if one.id == self.arguments[0])
        runs = claims.metrics_by_model(all_runs())
        findings = _findings(claim, runs, in_order(runs))
        verdict = claims.overall(finding.verdict for finding in findings)
        words = f"<p>{badge(verdict)} <strong>{claim.id}</strong>: {html.escape(claim.words)}</p>"
        table = self.evidence(claim, findings) if findings else ""
        page = self.link(
            Path("book/claims.html"), "All claims, and how they are judged", claim.id.lower()
        )
        return [raw(f'<div class="claim-box">{words}{table}<p>{page}</p></div>')]


class Runs(BookDirective):
    """All runs of a notebook, one row a model; each line of the content is `metric: heading`.

    Of few models and many measures, a row is a measure, so that the table needs no scrolling.
    """

    required_arguments = 1
    optional_arguments = 0

    def content_nodes(self) -> list[nodes.Node]:
        notebook = self.arguments[0]
        columns = [[part.strip() for part in line.split(":", 1)] for line in self.content if line]
        found = {run.model: run for run in all_runs() if run.notebook == notebook}
        names = [name for name in [*in_order(found), matrix.ACROSS] if name in found]
        rows = [
            [
                self.link(page_of(name, notebook).with_suffix(".html"), name)
                + kept_mark(found[name]),
                *(
                    with_interval(name, notebook, metric, found[name].metrics)
                    for metric, _ in columns
                ),
            ]
            for name in names
        ]
        if not rows:
            return [raw("<p>No model has run this notebook yet.</p>")]
        heads = ["model", *(html.escape(heading) for _, heading in columns)]
        if len(columns) > max(4, 2 * len(rows)):
            heads, *rows = ([*line] for line in zip(*[["measure", *heads[1:]], *rows], strict=True))
        return [raw(table_of(heads, rows, label=f"Runs of {notebook}"))]


class KeptRuns(BookDirective):
    """The kept runs of a notebook, for the page of its other models: each with kind and date."""

    required_arguments = 1
    optional_arguments = 0

    def content_nodes(self) -> list[nodes.Node]:
        runs = [one for one in all_runs() if one.notebook == self.arguments[0]]
        found = {run.model: run for run in runs if kept.is_kept(run.page)}
        facts = kinds_of_models.described(all_runs())
        rows = [
            [
                self.link(page_of(name, self.arguments[0]).with_suffix(".html"), name)
                + kept_mark(found[name]),
                *(html.escape(_told(facts.at[name, column])) for column in SAID_OF_A_MODEL),
            ]
            for name in in_order(found)
        ]
        if not rows:
            return [raw("<p>No page of another model is kept.</p>")]
        heads = ["model", *(kinds_of_models.DESCRIPTIONS[name] for name in SAID_OF_A_MODEL)]
        return [raw(table_of(heads, rows, label="Kept runs"))]


SAID_OF_A_MODEL = ("kind", "family", "norm", "tied", "quantisation")
"""What is told of a model beside its kept page."""


def _told(fact: str) -> str:
    return kinds_of_models.KINDS.get(fact, fact)


class VerdictMatrix(ClaimsDirective):
    """Claims by models, a sign for each verdict."""

    def content_nodes(self) -> list[nodes.Node]:
        return [raw(self.matrix())]


class ClaimSentences(BookDirective):
    """One sentence a claim: for which kinds of model it holds."""

    def content_nodes(self) -> list[nodes.Node]:
        runs = [run for run in all_runs() if run.model != matrix.ACROSS]
        verdicts = comparison.verdicts_by_claim(runs, without="06_across_models")
        kinds = kinds_of_models.described(runs)["kind"].to_dict()
        told = kinds_of_models.sentences(verdicts, CLAIMS, kinds)
        items = "".join(
            f"<li>{self.claims_page(f'{claim.id} {html.escape(claim.title)}', claim.id.lower())}: "
            f"{html.escape(words)}</li>"
            for claim, words in told
        )
        return [raw(f"<ul class='by-kind'>{items}</ul>")]


class Costs(BookDirective):
    """What each run of this book cost: time, memory, where."""

    def content_nodes(self) -> list[nodes.Node]:
        rows = []
        for file in sorted((ROOT / RUNS).glob("*/*.benchmark.tsv")):
            if not (row := run_files.read_row(file)):
                continue
            memory = f"{float(row['max_rss']):,.0f} MB" if row["max_rss"][0].isdigit() else ABSENT
            step = file.name.removesuffix(".benchmark.tsv")
            rows.append([step, file.parent.name, row["h:m:s"], memory])
        for run in (one for one in all_runs() if kept.is_kept(one.page)):
            facts = run.provenance
            took = str(datetime.timedelta(seconds=round(float(facts.get("duration_s", 0)))))
            memory = f"{float(facts.get('peak_memory_mb', 0)):,.0f} MB"
            rows.append([run.notebook, f"{run.model}{kept_mark(run)}", took, memory])
        if not rows:
            return [raw("<p>No times were kept for the runs of this copy.</p>")]
        return [
            raw(table_of(["step", "model", "time", "peak memory"], rows, label="Cost of the runs"))
        ]


class Roster(BookDirective):
    """The models that the package knows by name."""

    def content_nodes(self) -> list[nodes.Node]:
        rows = [
            [
                f"<code>{html.escape(entry.name)}</code>",
                html.escape(entry.source),
                f"{entry.parameters / 1e6:,.1f} M",
                f"{entry.memory_gb:.1f} GB",
                "yes" if entry.in_paper else "",
                f"<code>{html.escape(entry.checkpoints)}</code>" if entry.checkpoints else "",
            ]
            for entry in roster.ROSTER.values()
        ]
        heads = [
            "name",
            "source",
            "parameters",
            "weights in float32",
            "in the paper",
            "checkpoints",
        ]
        return [raw(table_of(heads, rows, label="Roster"))]


class CiteBox(BookDirective):
    """How to cite the book, from CITATION.cff."""

    def content_nodes(self) -> list[nodes.Node]:
        record = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
        released = str(record["date-released"])
        entry = (
            f"@software{{probenc{released[:4]},\n  title = {{{record['title']}}},\n"
            f"  author = {{{{{record['authors'][0]['name']}}}}},\n  year = {{{released[:4]}}},\n"
            f"  version = {{{record['version']}}},\n  url = {{{configuration()['repository']}}}\n}}"
        )
        block = nodes.literal_block(entry, entry, language="text", classes=["citation-box"])
        return [block]


class PaperFigures(BookDirective):
    """Every figure of the paper, and where the book answers it."""

    def content_nodes(self) -> list[nodes.Node]:
        names = in_order(run.model for run in all_runs())
        rows = [
            [
                html.escape(figure.shows),
                html.escape(", ".join(figure.models)) or ABSENT,
                "<br>".join(self._place(place, names) for place in figure.places),
                html.escape(figure.missing),
            ]
            for figure in PAPER_FIGURES
        ]
        heads = ["figure of the paper", "its models", "here", "what is not here, and why"]
        return [raw(table_of(heads, rows, label="Figures of the paper"))]

    def _place(self, place: Place, names: list[str]) -> str:
        page = self.env.docname
        links = [link_to_figure(page, name, place.notebook, place.figure, name) for name in names]
        where = ", ".join(link for link in links if link) or "not run"
        return f"{html.escape(place.shows)}: {where}"


class LaunchLinks(BookDirective):
    """Colab and Binder links for every notebook."""

    def content_nodes(self) -> list[nodes.Node]:
        rows = [[name, *launch(name)] for name in execute.notebooks()]
        return [raw(table_of(["notebook", "Colab", "Binder"], rows, label="Launch buttons"))]


class MetricRole(BookRole):
    """``{metric}`MODEL NOTEBOOK METRIC [FORMAT]` ``: one number of a run, in a sentence."""

    absent = "(not run)"

    def shown(self) -> str | None:
        model, notebook, metric, *form = self.text.split()
        for run in all_runs():
            if (run.model, run.notebook) == (model, notebook) and metric in run.metrics:
                value = run.metrics[metric]
                shown = format(value, f"z{form[0]}") if form else ""  # no -0.00
                return marked(model, notebook, metric, value, shown)
        return None


class JudgedRole(BookRole):
    """``{judged}`C1` ``: the verdict on a claim over all models, in a sentence."""

    def shown(self) -> str:
        claim = next(one for one in CLAIMS if one.id == self.text)
        table = claims.metrics_by_model(all_runs())
        found = _findings(claim, table, in_order(table))
        return badge(claims.overall(finding.verdict for finding in found))


def setup(app: Sphinx) -> dict[str, Any]:
    # Figures' captions hold mathematics that Sphinx does not see.
    app.set_html_assets_policy("always")
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive)
    app.add_role("metric", MetricRole())
    app.add_role("judged", JudgedRole())
    app.add_role("measured", MeasuredRole())
    app.connect("config-inited", leave_out_damaged)
    app.connect("html-page-context", add_to_page)
    app.connect("build-finished", copy_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


DIRECTIVES: dict[str, type[SphinxDirective]] = {
    "claims": Claims,
    "changes": Changes,
    "claim-sentences": ClaimSentences,
    "kept-runs": KeptRuns,
    "verdict-matrix": VerdictMatrix,
    "verdict-strip": VerdictStrip,
    "run-figure": RunFigure,
    "verdict": Verdict,
    "runs": Runs,
    "costs": Costs,
    "roster": Roster,
    "benchmarks": Benchmarks,
    "gains": Gains,
    "cite-box": CiteBox,
    "launch-links": LaunchLinks,
    "figures-of-the-paper": PaperFigures,
}
