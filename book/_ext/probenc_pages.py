"""What every page gets beside its own text: the bar of run pages, previews, downloads."""

import html
import re
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from probenc_html import (
    OFFERED,
    PART_PAGES,
    ROOT,
    RUNS,
    aged,
    all_runs,
    configuration,
    in_order,
    link_to,
    page_of,
)
from sphinx.application import Sphinx

from probenc_support import claims
from probenc_support.runs import execute, kept, matrix, run_files


def launch(notebook: str) -> tuple[str, str]:
    config = configuration()
    place = config["repository"].removeprefix("https://github.com/").strip("/")
    path = quote(f"notebooks/{notebook}.ipynb")
    colab = f"https://colab.research.google.com/github/{place}/blob/{config['branch']}/{path}"
    binder = (
        f"https://mybinder.org/v2/gh/{place}/{config['branch']}"
        f"?urlpath={quote(f'lab/tree/{path}', safe='')}"
    )
    return (
        f'<a href="{colab}" rel="external">Open in Colab</a>',
        f'<a href="{binder}" rel="external">Open in Binder</a>',
    )


def _bar(docname: str) -> str:
    """What stands below the title of a run's page."""
    here = Path(docname)
    model, notebook = here.parent.name, here.name
    found = {(run.model, run.notebook) for run in all_runs()}
    models = in_order(m for m, n in found if n == notebook)
    parts = sorted(n for m, n in found if m == model)
    rows = [*_rows_of_choices(here, models, parts), *_rows_of_links(here)]
    bar = f'<nav class="run-bar" aria-label="This run">{"".join(rows)}</nav>'
    own = [run for run in all_runs() if (run.model, run.notebook) == (model, notebook)]
    return "".join(_kept_note(run) for run in own if kept.is_kept(run.page)) + bar


def _kept_note(run: claims.Run) -> str:
    """What a reader of a kept page should know: when and with what it was made, and whether the
    notebook is another one by now."""
    facts = run.provenance
    packages = facts.get("packages", {})
    made = ", ".join(
        [
            *([f"commit {facts['commit']}"] if facts.get("commit") else []),
            *(f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages),
            *([str(facts["device"])] if facts.get("device") else []),
        ]
    )
    minutes = float(facts.get("duration_s", 0)) / 60
    took = f" in {minutes:.0f} minutes" if minutes >= 2 else ""
    words = (
        f"<p><strong>Kept from {html.escape(kept.made_on(facts) or 'an earlier day')}.</strong> "
        f"Made{took} with {html.escape(made)}; not made again by this build. "
        "<code>make book CONFIG=config.full.yaml</code> makes it anew.</p>"
    )
    if left_out := kept.record(run.page).get("left_out"):
        names = ", ".join(html.escape(name.removeprefix(f"{run.notebook}.")) for name in left_out)
        words += f"<p>Tables that are too large to be kept: {names}.</p>"
    if reason := aged(run):
        words = (
            f"<p><strong>Made by an earlier version</strong> of the notebook: "
            f"{html.escape(reason)}. Its numbers and verdicts may be others today.</p>{words}"
        )
    return f'<div class="kept-note{" aged" if reason else ""}" role="note">{words}</div>'


def _rows_of_choices(here: Path, models: list[str], parts: list[str]) -> list[str]:
    if here.parent.name == matrix.ACROSS:
        return []
    by_model = [(name, page_of(name, here.name)) for name in models]
    by_part = [(name, page_of(here.parent.name, name)) for name in parts]
    words = {name: PART_PAGES[name].replace("_", " ") for name in parts if name in PART_PAGES}
    return [
        _choice("Model", here.parent.name, by_model, str(here)),
        _choice("Part", here.name, by_part, str(here), words),
    ]


def _rows_of_links(here: Path) -> list[str]:
    page = str(here)
    about = Path("book") / f"{PART_PAGES.get(here.name, 'intro')}.html"
    read = [
        link_to(page, about, "what this part asks"),
        link_to(page, Path("book/claims.html"), "verdicts"),
    ]
    files = [
        link_to(page, here.with_suffix(".ipynb"), "executed notebook"),
        link_to(page, Path("notebooks") / here.with_suffix(".ipynb").name, "source notebook"),
        *(link_to(page, file, file.name.removeprefix(f"{here.name}.")) for file in _files(here)),
    ]
    listed = "".join(f"<li>{one}</li>" for one in files)
    return [
        f"<div><span>Read</span> {' '.join(read)}</div>",
        f"<div><span>Run it</span> {' '.join(launch(here.name))}</div>",
        "<details><summary>Download notebook, tables and numbers</summary>"
        f"<ul>{listed}</ul></details>",
    ]


def _choice(
    label: str,
    current: str,
    options: list[tuple[str, Path]],
    docname: str,
    words: Mapping[str, str] | None = None,
) -> str:
    items = []
    for name, target in options:
        shown = html.escape((words or {}).get(name, name))
        if name == current:
            items.append(f'<a aria-current="page" href="#">{shown}</a>')
        else:
            items.append(link_to(docname, target.with_suffix(".html"), shown))
    return f"<div><span>{label}</span> {' '.join(items)}</div>"


def _files(page: Path) -> list[Path]:
    folder = ROOT / page.parent
    found = sorted(
        file.name for file in folder.glob(f"{page.name}.*") if file.name.endswith(OFFERED)
    )
    return [page.parent / name for name in found if not name.endswith(".ipynb")]


def _is_run(docname: str) -> bool:
    return Path(docname).parent.parent in (RUNS, kept.KEPT)


def leave_out_damaged(app: Sphinx, config: Any) -> None:
    """A page that is empty or cut off, or has lost one of its files, is treated as absent, and so
    is a kept page whose run was made here."""
    pages = [p for folder in (RUNS, kept.KEPT) for p in (ROOT / folder).glob("*/[0-9]*.ipynb")]
    absent = [page for page in pages if run_files.damage(page) or _is_replaced(page)]
    paths = [page.relative_to(ROOT).as_posix() for page in absent]
    config.exclude_patterns = [*config.exclude_patterns, *paths]


def _is_replaced(page: Path) -> bool:
    return page.relative_to(ROOT) != page_of(page.parent.name, page.stem)


def add_to_page(
    app: Sphinx, pagename: str, template: str, context: dict[str, Any], tree: Any
) -> None:
    """Bar of run pages; meta tags for previews; every image loads when it is needed."""
    body = context.get("body")
    if body and _is_run(pagename):
        context["body"] = re.sub(r"</h1>", lambda m: m.group() + _bar(pagename), body, count=1)
    config = configuration()
    title = html.escape(re.sub("<[^>]+>", "", str(context.get("title", ""))))
    about = html.escape(config["description"])
    image = f"{config['site'].rstrip('/')}/_static/social.png"
    context["metatags"] = context.get("metatags", "") + (
        f'\n<meta name="description" content="{about}">'
        f'\n<meta property="og:title" content="{title}">'
        f'\n<meta property="og:type" content="article">'
        f'\n<meta property="og:description" content="{about}">'
        f'\n<meta property="og:image" content="{html.escape(image)}">'
        f'\n<meta name="twitter:card" content="summary_large_image">\n'
    )


def copy_files(app: Sphinx, error: Exception | None) -> None:
    """Puts the runs' files and the source notebooks where the pages' links point."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pages = {Path(name) for name in app.env.found_docs if _is_run(name)}
    copied = [file for page in pages for file in [*_files(page), page.with_suffix(".ipynb")]]
    copied += [Path("notebooks") / f"{name}.ipynb" for name in execute.notebooks()]
    for file in copied:
        target = out / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, target)
    draw_preview(out / "_static" / "social.png")


def draw_preview(path: Path) -> None:
    """The picture that a link to the book shows elsewhere: the fit of the first model."""
    import pandas as pd
    from matplotlib.figure import Figure

    tables = [
        ROOT / RUNS / name / "01_log_linear_fit.tokens.parquet"
        for name in in_order(run.model for run in all_runs() if run.notebook == "01_log_linear_fit")
    ]
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="#0b3954")
    figure.text(0.06, 0.62, "Token probability\nencoding", color="white", size=44, weight="bold")
    about = "\n".join(textwrap.wrap(configuration()["description"], 44))
    figure.text(0.06, 0.2, about, color="#cfe3f1", size=16, va="bottom", linespacing=1.5)
    found = [table for table in tables if table.is_file()]
    if found:
        tokens = pd.read_parquet(found[0], columns=["minus_log_a", "fitted"])
        axes = figure.add_axes((0.56, 0.1, 0.4, 0.8), facecolor="none")
        axes.hexbin(
            tokens["fitted"],
            tokens["minus_log_a"],
            gridsize=55,
            bins="log",
            mincnt=1,
            cmap="cividis",
        )
        axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor=figure.get_facecolor())
