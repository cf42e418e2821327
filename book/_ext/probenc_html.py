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
from probenc_support.runs import execute, matrix, run_files

ROOT = Path(__file__).resolve().parents[2]
RUNS = execute.RUNS
KEPT = (".csv", ".parquet", ".metrics.json", ".provenance.json", ".ipynb")
PART_PAGES = {
    "01_log_linear_fit": "log_linear_fit",
    "02_sparsity": "sparsity",
    "03_steering": "steering",
    "04_pruning": "pruning",
    "05_training_dynamics": "training_dynamics",
    "06_across_models": "across",
}


def configuration() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


@cache
def all_runs() -> list[claims.Run]:
    """Every complete run; read once, since a build sees no other."""
    return claims.runs(ROOT / RUNS)


def in_order(found: Iterable[str]) -> list[str]:
    """Models in the order of the configuration, then the others by name."""
    order = [execute.slug(name) for name in matrix.models(configuration())]
    return sorted(
        set(found) - {matrix.ACROSS},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )


def link_to(env_docname: str, target: Path, words: str, anchor: str = "") -> str:
    """A link from a page to a file of the site, both below its root."""
    base = Path(env_docname).parent
    href = quote(os.path.relpath(target, base)) + (f"#{anchor}" if anchor else "")
    return f'<a class="reference internal" href="{href}">{words}</a>'


def link_to_figure(env_docname: str, model: str, notebook: str, name: str, words: str) -> str:
    """A link to a figure on the page of a run; to the page, and words that say so, where the page
    has no such figure; empty where there is no such page."""
    page = RUNS / model / f"{notebook}.html"
    source = ROOT / page.with_suffix(".ipynb")
    if not notebook or not source.is_file() or run_files.damage(source):
        return ""
    if f'id=\\"{name}\\"' in source.read_text(encoding="utf-8"):
        return link_to(env_docname, page, words, name)
    return f"{link_to(env_docname, page, words)} (the page has no such figure)"


def figure_of(model: str, notebook: str, name: str) -> str:
    """A figure as it stands on the page of a run; empty where the page has none of that name."""
    opening = f'<figure class="probenc" id="{html.escape(name)}">'
    page = json.loads((ROOT / RUNS / model / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    for output in (one for cell in page["cells"] for one in cell.get("outputs", ())):
        # A notebook's file has a text as one string or as a list of lines.
        shown = "".join(output.get("data", {}).get("text/html", ""))
        if opening in shown:
            figure = shown.partition(opening)[2].partition("</figure>")[0]
            return f"{opening}{figure}</figure>"
    return ""


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")
