"""Pieces of HTML that the book's pages are made of, and where their numbers come from."""

import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from docutils import nodes

from probenc_support import claims, execute, matrix

ROOT = Path(__file__).resolve().parents[2]
RUNS = execute.RUNS
ABSENT = "–"
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


def all_runs() -> list[claims.Run]:
    return claims.runs(ROOT / RUNS)


def in_order(found: Iterable[str]) -> list[str]:
    """Models in the order of the configuration, then the others by name."""
    order = [execute.slug(name) for name in matrix.models(configuration())]
    return sorted(
        set(found) - {matrix.ACROSS},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )


def shown_number(value: float) -> str:
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


def with_interval(model: str, notebook: str, metric: str, metrics: Any) -> str:
    value = metrics.get(metric)
    if not isinstance(value, int | float):
        return ABSENT
    shown = marked(model, notebook, metric, value)
    ends = [metrics.get(f"{metric}_{end}") for end in ("low", "high")]
    if all(isinstance(end, int | float) for end in ends):
        low, high = (
            marked(model, notebook, f"{metric}_{end}", at)
            for end, at in zip(("low", "high"), ends, strict=True)
        )
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


def link_to(env_docname: str, target: Path, words: str, anchor: str = "") -> str:
    """A link from a page to a file of the site, both below its root."""
    base = Path(env_docname).parent
    href = quote(os.path.relpath(target, base)) + (f"#{anchor}" if anchor else "")
    return f'<a class="reference internal" href="{href}">{words}</a>'


def badge(verdict: claims.Verdict) -> str:
    return f'<span class="verdict verdict-{verdict.name.lower()}">{verdict}</span>'


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")
