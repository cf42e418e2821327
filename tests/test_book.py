"""The built book: links, figures, numbers and comfort of its pages (`make book` first)."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from browser import CHROMIUM, DRIVER, MISSING, Browser, browser
from bs4 import BeautifulSoup
from pages import check_outputs

from probenc_support import claims, names
from probenc_support.claims import kept_runs, rule_book
from probenc_support.runs import execute, kept, matrix

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
RUNS = ROOT / execute.RUNS
KEPT = ROOT / kept.KEPT
PHONE = 375
SPECIAL = {"genindex.html", "search.html", "index.html"}

pytestmark = [
    pytest.mark.book,
    pytest.mark.skipif(
        not (SITE / ".complete").is_file(), reason="there is no built book: run `make book` first"
    ),
]


def pages() -> list[Path]:
    return sorted(path for path in SITE.rglob("*.html") if "_static" not in path.parts)


def run_pages() -> list[Path]:
    folders = (execute.RUNS, kept.KEPT)
    return sorted(page for folder in folders for page in (SITE / folder).glob("*/*.html"))


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@cache
def anchors(page: Path) -> set[str]:
    return {str(tag["id"]) for tag in soup(page).find_all(id=True)}


def local_links(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Each link of a page that stays in the book: as written, its file, its anchor."""
    for tag in soup(page).find_all("a", href=True):
        href = str(tag["href"])
        parts = urlsplit(href)
        if not parts.scheme and not parts.netloc:
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            yield href, target, unquote(parts.fragment)


def test_every_cell_of_the_matrix_has_its_page() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for cell in matrix.cells(config):
        assert (SITE / cell.page.with_suffix(".html")).is_file(), cell.page
    assert (SITE / execute.RUNS / matrix.ACROSS / "06_across_models.html").is_file()


def test_every_run_has_its_page() -> None:
    for run in claims.runs(RUNS, KEPT):
        assert (SITE / run.page.relative_to(ROOT).with_suffix(".html")).is_file(), run.page


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (SITE / "index.html").read_text(encoding="utf-8")
    start = re.search(r"url=([^\"']+)", index)
    todo = [SITE / (start[1] if start else "index.html")]
    seen: set[Path] = set()
    while todo:
        page = todo.pop()
        if page not in seen and page.suffix == ".html" and page.is_file():
            seen.add(page)
            todo += [target for _, target, _ in local_links(page)]
    missing = {page.name for page in pages()} - {page.name for page in seen} - SPECIAL
    assert not missing


def test_every_internal_link_and_anchor_is_good() -> None:
    bad = []
    for page in pages():
        for href, target, anchor in local_links(page):
            if not target.is_file():
                bad.append(f"{page.relative_to(SITE)}: {href}")
            elif anchor and target.suffix == ".html" and anchor not in anchors(target):
                bad.append(f"{page.relative_to(SITE)}: {href} (no such anchor)")
    assert not bad


def test_no_page_loads_anything_from_elsewhere() -> None:
    loads = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
    loads |= {"audio": "src", "embed": "src", "object": "data", "link": "href"}
    bad = []
    for page in pages():
        for name, attribute in loads.items():
            for tag in soup(page).find_all(name):
                if re.match(r"(https?:)?//", str(tag.get(attribute, ""))):
                    bad.append(f"{page.relative_to(SITE)}: {tag}"[:200])
        styles = " ".join(tag.get_text() for tag in soup(page).find_all("style"))
        bad += re.findall(r"url\([\"']?(?:https?:)?//[^)]*", styles)
    assert not bad


def test_style_sheets_load_nothing_from_elsewhere() -> None:
    for sheet in SITE.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8", errors="replace")
        assert not re.search(r"(url\(|@import\s+)[\"']?(https?:)?//", text), sheet


def test_every_picture_says_what_it_shows() -> None:
    n_figures = 0
    for page in pages():
        for image in soup(page).find_all("img"):
            assert str(image.get("alt", "")).strip(), f"{page.relative_to(SITE)}: {image}"[:200]
        for figure in soup(page).select("figure.probenc"):
            n_figures += 1
            assert figure.get("id"), f"{page.relative_to(SITE)}: a figure without an anchor"
            assert figure.figcaption.get_text().strip()
            for image in figure.find_all("img"):
                assert len(str(image["alt"])) > 20, f"{page.relative_to(SITE)}: {image['alt']}"
    assert n_figures > 0


def test_no_page_shows_an_error() -> None:
    for page in run_pages():
        body = soup(page).find("article") or soup(page)
        assert not body.select(".traceback, .output.error"), page
        text = body.get_text()
        assert "Traceback (most recent call last)" not in text, page
        assert "papermill-error-cell" not in page.read_text(encoding="utf-8"), page


def test_executed_notebooks_ended_well() -> None:
    for path in (run.page for run in claims.runs(RUNS, KEPT)):
        book = nbformat.read(path, as_version=4)
        assert not book.metadata.papermill.exception, path
        kinds = {out.output_type for c in book.cells for out in c.get("outputs", [])}
        assert "error" not in kinds, path
        assert all(c.execution_count for c in book.cells if c.cell_type == "code"), path


@cache
def metrics_of(model: str, notebook: str) -> dict[str, float]:
    runs = {(run.model, run.notebook): run.metrics for run in claims.runs(RUNS, KEPT)}
    return dict(runs[model, notebook])


def marked_numbers() -> list[tuple[Path, Any]]:
    return [(page, tag) for page in pages() for tag in soup(page).select("data.metric")]


def test_every_number_taken_from_a_run_is_the_one_in_its_file() -> None:
    numbers = marked_numbers()
    assert numbers
    for page, tag in numbers:
        stored = metrics_of(tag["data-model"], tag["data-notebook"])[tag["data-metric"]]
        assert float(tag["value"]) == stored, f"{page.relative_to(SITE)}: {tag}"
        text = tag.get_text().replace(",", "")
        if text.endswith("%"):
            text, stored = text.removesuffix("%"), 100 * stored
        digits = len(text.split("e")[0].partition(".")[2])
        unit = 10.0 ** (int(text.partition("e")[2] or 0) - digits)
        assert abs(float(text) - stored) <= 0.5000001 * unit, f"{page.relative_to(SITE)}: {tag}"


def test_the_claims_page_shows_every_claim_and_every_number_it_judges_by() -> None:
    page = SITE / "book" / "claims.html"
    shown = {
        (tag["data-model"], tag["data-notebook"], tag["data-metric"])
        for tag in soup(page).select("data.metric")
    }
    assert {claim.id.lower() for claim in rule_book.CLAIMS} <= anchors(page)
    for model, table in claims.metrics_by_model(claims.runs(RUNS, KEPT)).items():
        for claim in rule_book.CLAIMS:
            for one in (*claim.criteria, *claim.controls):
                tested = any(c.metric in table.get(c.notebook, {}) for c in claim.criteria)
                if tested and one.metric in table.get(one.notebook, {}):
                    assert (model, one.notebook, one.metric) in shown


def test_the_claims_page_states_the_verdicts_of_the_rules() -> None:
    page = soup(SITE / "book" / "claims.html")
    table = claims.metrics_by_model(claims.runs(RUNS, KEPT))
    for claim in rule_book.CLAIMS:
        section = page.find(id=claim.id.lower())
        badges = [tag.get_text() for tag in section.select("table .verdict")]
        findings = [claims.judge(claim, model, table[model]) for model in table]
        wanted = [str(f.verdict) for f in findings if f.verdict is not claims.Verdict.NOT_TESTED]
        for verdict in wanted:
            assert verdict in badges, claim.id
        overall = claims.overall(f.verdict for f in findings)
        assert section.select_one(".verdict").get_text() == str(overall), claim.id


def test_no_page_shows_a_bare_figure_or_value() -> None:
    """Such as `<matplotlib.legend.Legend at 0x7f...>`, where a cell ends with a call."""
    for run in claims.runs(RUNS, KEPT):
        check_outputs(run.page)


def test_every_page_of_a_run_ends_with_the_verdicts_of_the_rules_and_judges_by_no_other() -> None:
    for run in claims.runs(RUNS, KEPT):
        page = soup(SITE / run.page.relative_to(ROOT).with_suffix(".html"))
        if kept.is_kept(run.page):  # It shows the rules of its day.
            continue
        boxes = {box.strong.get_text().split(",")[0]: box for box in page.select(".claim-box")}
        wanted = {c.id: c for c in rule_book.CLAIMS if run.notebook in c.notebooks}
        assert boxes.keys() == wanted.keys(), run.page
        for name, claim in wanted.items():
            verdict = claims.judge(claim, run.model, {run.notebook: run.metrics}).verdict
            assert boxes[name].select_one(".verdict").get_text() == str(verdict), run.page
        said = page.select_one("article, main").get_text()
        assert "claim holds for" not in said
        assert "claim does not hold for" not in said


def test_a_run_of_the_book_leaves_every_metric_that_a_rule_names() -> None:
    table = claims.metrics_by_model(claims.runs(RUNS, KEPT))
    left = {(n, name) for of_model in table.values() for n in of_model for name in of_model[n]}
    for claim in rule_book.CLAIMS:
        named = {(one.notebook, one.metric) for one in claim.measured}
        if claim.id not in ("Q1", "N1", "C3b"):  # They take more models than the default ones.
            assert named <= left, claim.id


def test_the_first_page_opens_with_one_picture_and_the_verdicts_of_the_rules() -> None:
    page = soup(SITE / "book" / "intro.html")
    opening = page.select_one("h1 + .opening")
    assert opening, "straight after the title"
    (figure,) = opening.select("figure.probenc")
    assert len(figure.find_all("img")) == 1
    origin = local_target(SITE / "book" / "intro.html", figure.figcaption.a["href"])
    assert origin.parent.name == next(iter(table_of_runs()))
    heads = [cell.get_text() for cell in opening.select(".verdict-strip thead th")][2:]
    table = table_of_runs()
    assert set(heads) <= table.keys() - {matrix.ACROSS}
    if len(heads) < len(table.keys() - {matrix.ACROSS}):
        assert "Every claim by each of the" in opening.get_text()
    rows = {row.th.get_text().split()[0]: row for row in opening.select(".verdict-strip tbody tr")}
    assert {"C1", "C4", "C5", "C6", "B1"} <= rows.keys()
    for claim in (one for one in rule_book.CLAIMS if one.id in rows):
        cells = [cell.get_text() for cell in rows[claim.id].find_all("td")]
        found = {model: claims.judge(claim, model, table[model]).verdict for model in table}
        assert cells[0] == claims.overall(found.values()), claim.id
        for model, cell in zip(heads, cells[1:], strict=True):
            assert cell == "—" or cell == found[model], (claim.id, model)
            run = claim.notebooks & table[model].keys()
            assert run or cell == "—", (claim.id, model)


def test_the_first_page_uses_the_words_of_the_rules() -> None:
    strips = soup(SITE / "book" / "intro.html").select("p > .verdict:not(.sign)")
    assert len(strips) >= 8, "every paragraph of the argument has its verdict"
    assert {one.get_text() for one in strips} <= set(map(str, claims.Verdict))


def table_of_runs() -> dict[str, Any]:
    """Metrics by model and notebook, the models in the order of the configuration."""
    table = claims.metrics_by_model(claims.runs(RUNS, KEPT))
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    first = [names.slug(name) for name in matrix.models(config)]
    return {name: table[name] for name in [*first, *table] if name in table}


def local_target(page: Path, href: str) -> Path:
    return (page.parent / unquote(urlsplit(href).path)).resolve()


def test_the_performance_page_shows_every_time_that_was_kept() -> None:
    units = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
    shown = []
    page = soup(SITE / "book" / "performance.html")
    measured = ".wide:not([aria-label='Large heads']) > table.numbers"
    for cell in page.select(f"{measured} td:nth-child(2)"):
        if time := re.match(r"([\d.,]+)\s(ms|s|min|h)\b", cell.get_text()):
            shown.append(float(time[1].replace(",", "")) * units[time[2]])
    kept = [
        one["stats"]["median"] / one["extra_info"].get("timed_share", 1.0)
        for file in sorted((ROOT / "book" / "benchmarks").glob("*.json"))
        if file.name != "large_head.json" and not file.stem.endswith("-before")
        for one in json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
    ]
    assert sorted(shown) == pytest.approx(sorted(kept), rel=0.006)


def test_every_run_page_offers_its_files_and_other_models() -> None:
    for page in run_pages():
        bar = soup(page).select_one("nav.run-bar")
        assert bar, page
        source = ROOT / page.relative_to(SITE).with_suffix("")
        files = {path.name for path in source.parent.glob(f"{source.name}.*")}
        offered = {Path(unquote(str(a["href"]))).name for a in bar.find_all("a", href=True)}
        ends = (".ipynb", ".csv", ".parquet", "metrics.json", "provenance.json")
        assert {name for name in files if name.endswith(ends)} <= offered, page
        if page.parent.name != matrix.ACROSS:
            assert soup(page).select_one("details.provenance"), page
            others = {p.parent.name for p in run_pages() if p.name == page.name}
            text = bar.get_text(" ")
            assert all(name in text for name in others), page


def test_a_kept_page_says_when_it_was_made_and_whether_by_an_earlier_version() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    runs = claims.runs(RUNS, KEPT)
    default = {names.slug(name) for name in matrix.models(config)}
    aged = kept_runs.aged(runs, default, ROOT / "notebooks")
    for run in runs:
        page = soup(SITE / run.page.relative_to(ROOT).with_suffix(".html"))
        note = page.select_one(".kept-note")
        assert bool(note) == kept.is_kept(run.page), run.page
        if note:
            assert kept.made_on(run.provenance) in note.get_text()
            old = (run.model, run.notebook) in aged
            assert ("Made by an earlier version" in note.get_text()) == old, run.page


def test_launch_buttons_point_at_notebooks_that_are_there() -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    place = config["repository"].removeprefix("https://github.com/")
    found = 0
    for page in run_pages():
        for tag in soup(page).select("nav.run-bar a[rel=external]"):
            href = unquote(unquote(str(tag["href"])))
            assert f"{place}" in href
            (name,) = re.findall(r"notebooks/\w+\.ipynb", href)
            assert (ROOT / name).is_file()
            found += 1
    assert found


def test_pages_name_no_folder_of_this_machine() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        assert str(ROOT) not in text, page.relative_to(SITE)
        assert f"{Path.home()}/" not in text, page.relative_to(SITE)


def test_pages_carry_what_previews_show() -> None:
    for page in pages():
        if page.name not in SPECIAL:
            head = soup(page).head
            assert head.find("meta", attrs={"name": "description"}), page
            assert head.find("meta", property="og:title"), page
    assert (SITE / "_static" / "social.png").is_file()


# -------------------------------------------------------------------------------- in the browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not (DRIVER and CHROMIUM):
        pytest.skip(MISSING)
    with browser() as session:
        yield session


def ready(chromium: Browser) -> None:
    assert chromium.wait("document.readyState === 'complete'")


def test_no_page_is_wider_than_a_phone(chromium: Browser) -> None:
    wide = {}
    for page in pages():
        chromium.open(page, width=PHONE, height=800)
        ready(chromium)
        chromium.wait("!window.MathJax || !MathJax.startup || MathJax.startup.promise", seconds=5)
        found = chromium.script("return document.documentElement.scrollWidth")
        if found > PHONE:
            wide[str(page.relative_to(SITE))] = found
    assert not wide


def test_figures_fit_a_phone_and_stay_readable(chromium: Browser) -> None:
    shrunk = {}
    for page in run_pages():
        chromium.open(page, width=PHONE, height=800)
        ready(chromium)
        sizes = chromium.script(
            "return [...document.querySelectorAll('figure.probenc img')]"
            ".map(i => [i.getBoundingClientRect().width, Number(i.getAttribute('width'))])"
        )
        for shown, drawn in sizes:
            assert 0 < shown <= PHONE
            if shown / drawn < 0.45:
                shrunk[str(page.relative_to(SITE))] = (shown, drawn)
    assert not shrunk, "drawn so wide that a phone shows them at less than 45 %"


def test_mathematics_is_typeset_without_a_network(chromium: Browser) -> None:
    with_mathematics = [page for page in pages() if soup(page).select(".math")]
    assert SITE / "book" / "method.html" in with_mathematics
    for page in with_mathematics:
        chromium.open(page)
        ready(chromium)
        assert chromium.wait("document.querySelector('mjx-container')"), page
        errors = chromium.script(
            "return [...document.querySelectorAll('mjx-merror')].map(e => e.textContent)"
        )
        assert not errors, page


def test_the_keyboard_reaches_content_and_opens_code(chromium: Browser) -> None:
    tab, enter = "\ue004", "\ue007"
    page = next(p for p in run_pages() if p.parent.name != matrix.ACROSS)
    chromium.open(page)
    ready(chromium)
    chromium.keys(tab)
    first = chromium.script("return document.activeElement.textContent.trim()")
    assert "skip" in first.lower()
    chromium.keys(enter)
    assert chromium.wait("location.hash.includes('main-content')")
    for _ in range(200):
        chromium.keys(tab)
        if chromium.script("return document.activeElement.closest('article details') !== null"):
            break
    inside = "document.activeElement.closest('details')"
    before = chromium.script(f"return {inside}.open")
    chromium.keys(enter)
    assert chromium.script(f"return {inside}.open") is not before


def test_search_finds_a_word_without_a_network(chromium: Browser) -> None:
    page = SITE / "search.html"
    chromium.devtools("Page.navigate", {"url": f"{page.as_uri()}?q=steering"})
    assert chromium.wait("document.querySelectorAll('#search-results li').length > 0")


def test_dark_and_light_can_be_chosen(chromium: Browser) -> None:
    chromium.open(SITE / "book" / "intro.html")
    ready(chromium)
    seen = set()
    for _ in range(3):
        chromium.script("document.querySelector('.theme-switch-button').click()")
        seen.add(chromium.script("return getComputedStyle(document.body).backgroundColor"))
    assert len(seen) >= 2
