"""The figures of the paper, and the figures of this book's notebooks that answer them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One figure of the book."""

    notebook: str
    """Which notebook draws it, for instance `02_sparsity`."""
    figure: str
    """Its anchor on the page, for instance `fig-pca`."""
    shows: str
    """What of the paper's figure it has, in a few words."""


@dataclass(frozen=True)
class PaperFigure:
    """One kind of figure of the paper, for one model or several."""

    shows: str
    """What it shows, as the list of its figures names it."""
    models: tuple[str, ...]
    """Models that it shows; empty where this is not known here."""
    places: tuple[Place, ...]
    """Where the book answers it."""
    missing: str = ""
    """What of it is not in the book, and why; empty: nothing but the paper's own models."""


_ALL = ("GPT-2", "GPT-2-XL", "Pythia-2.8B", "GPT-J")


_STEERED = ("GPT-2", "GPT-2-XL", "GPT-J")


_FIT = "01_log_linear_fit"


_SPARSITY = "02_sparsity"


_STEERING = "03_steering"


_PRUNING = "04_pruning"


_DYNAMICS = "05_training_dynamics"


PAPER_FIGURES: tuple[PaperFigure, ...] = (
    PaperFigure(
        "PCA scatter of the output embedding, coloured by percentile of the mean probability",
        _ALL,
        (Place(_SPARSITY, "fig-pca", "scatter"),),
    ),
    PaperFigure(
        "Fit: measured against predicted −log a (two of the regressions in the appendix)",
        _ALL,
        (Place(_FIT, "fig-measured-predicted", "measured against fitted"),),
    ),
    PaperFigure(
        "Correlation of each principal component with −log a",
        _ALL,
        (Place(_SPARSITY, "fig-correlations", "correlations"),),
    ),
    PaperFigure(
        "Sorted slopes of the multiple linear regression",
        _ALL,
        (Place(_SPARSITY, "fig-slopes", "sorted slopes"),),
    ),
    PaperFigure(
        "Steering: expected against actual scale",
        _STEERED,
        (Place(_STEERING, "fig-expected-actual", "wanted against actual scale"),),
    ),
    PaperFigure(
        "Steering against the number of detecting examples",
        (),
        (Place(_STEERING, "fig-few-examples", "error against positions"),),
        "Which models the paper shows is not known here.",
    ),
    PaperFigure(
        "Steering errors: local, in domain, out of domain, Jensen-Shannon divergence, MAUVE",
        _STEERED,
        (
            Place(_STEERING, "fig-errors", "errors"),
            Place(_STEERING, "fig-side-effects", "divergences"),
            Place(_STEERING, "fig-generated", "MAUVE"),
        ),
    ),
    PaperFigure(
        "Few-example errors: local, in domain, KL divergence",
        (),
        (Place(_STEERING, "fig-few-examples", "the three errors"),),
        "Which models the paper shows is not known here.",
    ),
    PaperFigure(
        "Dimension deletion curves",
        ("GPT-2", "Pythia-2.8B", "GPT-J"),
        (Place(_PRUNING, "fig-curves", "divergences, same top token"),),
        "MAUVE is in a table for one share of removed dimensions, and is no curve: it takes "
        "hundreds of texts for each point.",
    ),
    PaperFigure(
        "Error analysis of the fit",
        _ALL,
        (Place(_FIT, "fig-residuals", "residuals"),),
    ),
    PaperFigure(
        "The direction A",
        ("GPT-2",),
        (Place(_FIT, "fig-direction", "direction against mean hidden state"),),
    ),
    PaperFigure(
        "Training dynamics",
        ("three Pythia models",),
        (Place(_DYNAMICS, "fig-emergence", "frequency, loss and convergence by step"),),
        "One model and not three: checkpoints of the real Pythia models are on the hub only. The "
        "pretrained model of the default book has no checkpoints.",
    ),
    PaperFigure(
        "Training dynamics by layer, logarithmic and linear axes",
        ("Pythia-1B",),
        (
            Place(_DYNAMICS, "fig-layers", "logarithmic axis"),
            Place(_DYNAMICS, "fig-layers-linear", "linear axis"),
        ),
        "The model that is trained here has few layers.",
    ),
)
"""In the order of the list of its figures by the names of their files."""
