"""Pieces of HTML that the book's pages are made of, and where their numbers come from."""

import html
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from docutils import nodes

from probenc_support import claims
from probenc_support.claims import kept_runs, kinds_of_models
from probenc_support.runs import execute, kept, matrix, run_files

ROOT = Path(__file__).resolve().parents[2]
RUNS = execute.RUNS
OFFERED = (".csv", ".parquet", ".metrics.json", ".provenance.json", ".ipynb")
"""Ends of the names of files that a run's page offers."""

PART_PAGES = {
    "01_log_linear_fit": "log_linear_fit",
    "02_sparsity": "sparsity",
    "03_steering": "steering",
    "04_pruning": "pruning",
    "05_training_dynamics": "training_dynamics",
    "06_across_models": "across",
    "07_early_frequency": "early_frequency",
    "08_texts_and_order": "texts_and_order",
    "09_better_pruning": "pruning",
    "10_undertrained_tokens": "undertrained_tokens",
    "11_pruned_in_training": "pruned_in_training",
    "12_what_drives_sparsity": "what_drives_sparsity",
}


def configuration() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


@cache
def all_runs() -> list[claims.Run]:
    """Every complete run, made here or kept; read once, since a build sees no other."""
    return claims.runs(ROOT / RUNS, ROOT / kept.KEPT)


def page_of(model: str, notebook: str) -> Path:
    """The executed notebook of a run below the root: that which was made here, else a kept one."""
    name = f"{notebook}.ipynb"
    made, brought = RUNS / model / name, kept.KEPT / model / name
    whole = (ROOT / made).is_file() and not run_files.damage(ROOT / made)
    return brought if not whole and (ROOT / brought).is_file() else made


def in_order(found: Iterable[str]) -> list[str]:
    """Models in the order of the configuration, then the others by kind and family."""
    order = configured()
    described = kinds_of_models.described(all_runs()).index.to_list()

    def place(name: str) -> tuple[int, int, str]:
        first = order.index(name) if name in order else len(order)
        return first, described.index(name) if name in described else len(described), name

    return sorted(set(found) - {matrix.ACROSS}, key=place)


def configured() -> list[str]:
    """Folders of the models that the default configuration names."""
    return [execute.slug(name) for name in matrix.models(configuration())]


MOST = 3
"""So many models, at most, have a column of their own where room is short."""


def foremost(found: Iterable[str]) -> list[str]:
    """The models that stand for all where room is short: those that were made here if they are few,
    else those of the default configuration; the first ones where neither is there."""
    names = in_order(found)
    made = [name for name in names if any(not kept.is_kept(run.page) for run in runs_of(name))]
    own = [name for name in names if name in configured()]
    return made if 0 < len(made) <= MOST else (own or names)[:MOST]


def runs_of(model: str) -> list[claims.Run]:
    """The runs of one model."""
    return [run for run in all_runs() if run.model == model]


def aged(run: claims.Run) -> str:
    """Why a kept run was made by an earlier version of its notebook; empty where it was not, and
    for a run that was made here."""
    return _aged().get((run.model, run.notebook), "")


@cache
def _aged() -> dict[tuple[str, str], str]:
    return kept_runs.aged(all_runs(), configured(), ROOT / "notebooks")


def kept_mark(run: claims.Run) -> str:
    """What stands beside the name of a kept run: when it was made, and whether by an earlier
    version; empty for a run that was made here."""
    if not kept.is_kept(run.page):
        return ""
    made = html.escape(kept.made_on(run.provenance) or "earlier")
    if reason := aged(run):
        words = f"made by an earlier version: {html.escape(reason)}"
        return f' <span class="kept aged" title="{words}">earlier version, {made}</span>'
    return f' <span class="kept" title="not made again by this build">kept, {made}</span>'


def link_to(env_docname: str, target: Path, words: str, anchor: str = "") -> str:
    """A link from a page to a file of the site, both below its root."""
    base = Path(env_docname).parent
    href = quote(os.path.relpath(target, base)) + (f"#{anchor}" if anchor else "")
    return f'<a class="reference internal" href="{href}">{words}</a>'


def link_to_figure(env_docname: str, model: str, notebook: str, name: str, words: str) -> str:
    """A link to a figure on the page of a run; to the page, and words that say so, where the page
    has no such figure; empty where there is no such page."""
    page = page_of(model, notebook).with_suffix(".html")
    source = ROOT / page.with_suffix(".ipynb")
    if not notebook or not source.is_file() or run_files.damage(source):
        return ""
    if f'id=\\"{name}\\"' in source.read_text(encoding="utf-8"):
        return link_to(env_docname, page, words, name)
    return f"{link_to(env_docname, page, words)} (the page has no such figure)"


def figure_of(model: str, notebook: str, name: str) -> str:
    """A figure as it stands on the page of a run; empty where the page has none of that name."""
    opening = f'<figure class="probenc" id="{html.escape(name)}">'
    page = json.loads((ROOT / page_of(model, notebook)).read_text(encoding="utf-8"))
    for output in (one for cell in page["cells"] for one in cell.get("outputs", ())):
        # A notebook's file has a text as one string or as a list of lines.
        shown = "".join(output.get("data", {}).get("text/html", ""))
        if opening in shown:
            figure = shown.partition(opening)[2].partition("</figure>")[0]
            return f"{opening}{figure}</figure>"
    return ""


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")
