"""The figures of the paper are answered by figures that are there."""

import re
from pathlib import Path

import pytest
import yaml

from probenc_support.claims.paper_figures import PAPER_FIGURES
from probenc_support.runs import execute, matrix, run_files

ROOT = Path(__file__).resolve().parents[1]
PLACES = sorted({(p.notebook, p.figure) for f in PAPER_FIGURES for p in f.places})


def figures_of(notebook: str) -> set[str]:
    """Anchors that a notebook gives to its figures."""
    source = (ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8")
    return set(re.findall(r'\\"(fig-[a-z-]+)\\"', source))


@pytest.mark.parametrize(("notebook", "figure"), PLACES)
def test_every_figure_that_is_named_is_drawn(notebook: str, figure: str) -> None:
    assert figure in figures_of(notebook)


def test_every_figure_of_the_paper_is_answered_or_its_absence_explained() -> None:
    for figure in PAPER_FIGURES:
        assert figure.places or figure.missing, figure.shows
    assert len({figure.shows for figure in PAPER_FIGURES}) == len(PAPER_FIGURES)


@pytest.mark.book
@pytest.mark.parametrize(("notebook", "figure"), PLACES)
def test_every_figure_is_on_the_pages_of_the_configured_models(notebook: str, figure: str) -> None:
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    pages = [ROOT / c.page for c in matrix.cells(config) if c.notebook == notebook]
    there = [page for page in pages if page.is_file() and not run_files.damage(page)]
    if not there:
        pytest.skip(f"there are no runs below {execute.RUNS}: run `make book` first")
    for page in there:
        assert f'id=\\"{figure}\\"' in page.read_text(encoding="utf-8"), page
