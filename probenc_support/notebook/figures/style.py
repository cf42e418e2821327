"""One look for every figure, and its place on a page: caption, alternative text, anchor."""

import base64
import html
import io
import os
from collections.abc import Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#606060")
"""Okabe and Ito (2008), told apart by colour-blind readers: blue, vermilion, green, purple, orange,
sky, black, grey. Give lines a style or marker as well: print has no colour."""


MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Markers of the series of one panel, in order."""


GREY = PALETTE[7]
"""Levels, bounds, controls, and the line where two values are equal."""


LINES: tuple[str | tuple[int, tuple[int, ...]], ...] = (
    "-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (6, 2, 1, 2)),
)  # fmt: skip
"""Styles of the lines of one panel, in order."""


PANEL = (4.4, 3.2)
"""Inches of one panel: two stand side by side on a desk, one under the other on a phone."""


WIDE = (6.8, 3.4)
"""Inches of a figure that takes the page's width."""


_SVG_LIMIT = 300_000


FORM = "PROBENC_FIGURES"
"""Environment variable: `png` draws every figure so, for pages that are to be kept small."""


def use() -> None:
    """Sets the style for all figures that follow."""
    sns.set_theme(style="ticks", palette=list(PALETTE))
    mpl.rcParams.update(
        {
            "figure.figsize": PANEL,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.size": 9.5,
            "axes.labelsize": 9.5,
            "axes.titlesize": 10,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "legend.fontsize": 8.5,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.6,
            "lines.markersize": 4.5,
            "svg.fonttype": "path",
            "svg.hashsalt": "probenc",
            "image.cmap": "cividis",
        }
    )


def panel(size: tuple[float, float] = PANEL) -> tuple[Figure, Axes]:
    """An empty panel of a size in inches that belongs to no cell: only `show` puts it on the page.

    So it can be drawn in one cell and shown in another.
    """
    figure = Figure(figsize=size)
    return figure, figure.subplots()


def show(*figures: Figure, caption: str, alt: str | Sequence[str], name: str) -> None:
    """Puts one or more figures on the page, with a caption below and alternative text.

    The page gets HTML with the picture inlined, so that caption and alternative text can carry the
    run's numbers, and the same output reads well in Jupyter and in the book.

    Args:
        figures: panels, side by side where there is room.
        caption: one or two sentences, HTML, mathematics between \\( and \\).
        alt: for each panel, what it shows, in words.
        name: anchor on the page, such as `fig-measured-predicted`.

    Raises:
        ValueError: not one alternative text a panel, or an empty one.
    """
    from IPython.display import HTML, display

    texts = [alt] if isinstance(alt, str) else list(alt)
    if not all(text.strip() for text in texts):
        raise ValueError("every panel needs an alternative text")
    images = "".join(_image(figure, text) for figure, text in zip(figures, texts, strict=True))
    display(  # type: ignore[no-untyped-call]
        HTML(  # type: ignore[no-untyped-call]
            f'<figure class="probenc" id="{html.escape(name, quote=True)}">'
            f'<div class="panels">{images}</div>'
            '<figcaption class="tex2jax_process mathjax_process">'
            f"{caption}</figcaption></figure>"
        )
    )
    for figure in figures:
        plt.close(figure)


def _image(figure: Figure, alt: str) -> str:
    """An `img` element: SVG where that is small, else PNG."""
    mime, picture = "image/svg+xml", _saved(figure, "svg")
    if len(picture) > _SVG_LIMIT or os.environ.get(FORM) == "png":
        mime, picture = "image/png", _saved(figure, "png")
    width = figure.get_size_inches()[0] * 96
    data = base64.b64encode(picture).decode()
    return (
        f'<img src="data:{mime};base64,{data}" alt="{html.escape(alt, quote=True)}" '
        f'width="{width:.0f}">'
    )


def _saved(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    figure.savefig(buffer, format=form, dpi=200, bbox_inches="tight", metadata=metadata)
    return buffer.getvalue()
