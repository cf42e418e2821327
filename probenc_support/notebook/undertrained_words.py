"""Words and the figure of the page on tokens that training hardly saw."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from probenc_support.claims import rule_book
from probenc_support.models import LanguageModel
from probenc_support.notebook import figures
from probenc_support.undertrained import Judged

BOUND = rule_book.threshold("B5", "auroc_random_direction_mean")
"""Mean area up to which random directions count as not telling the tokens."""

_APART = (
    " So tokens that training never saw stand apart in nearly every direction, and that A tells "
    "them says little of A."
)


def slug(name: str) -> str:
    """The name of an indicator in names of metrics, such as `along_A`."""
    return name.strip("-").replace(" ", "_")


def setting(lm: LanguageModel, n_tokens: int, n_unused: int) -> str:
    """What is looked at, as a sentence."""
    unused = (
        f"{n_unused} of them are bytes that UTF-8 never has"
        if n_unused
        else "none of them is a byte that UTF-8 never has, so that indicator is left out"
    )
    return f"`{lm.name}` has {n_tokens:,} tokens; {unused}."


def unseen(judged: Sequence[Judged]) -> str:
    """How many tokens there are to find, as a sentence."""
    numbers = sorted({each.n_unseen for each in judged})
    several = " to ".join(f"{number:,}" for number in (numbers[0], numbers[-1])[: len(numbers)])
    return f"Training never saw {several} tokens that are judged, and saw {judged[0].n_seen:,}."


def controls(untrained: Sequence[Judged], by_lot: Sequence[Sequence[float]]) -> str:
    """What the controls find, as a sentence."""
    before = np.mean([each.areas["along A"] for each in untrained])
    return (
        f"Before training the area of the fitted value is {before:.3f}. Of {np.size(by_lot)} "
        f"random directions of the trained embedding, each turned the better way, the mean is "
        f"{np.mean(by_lot):.3f} and the largest {np.max(by_lot):.3f}."
        f"{_APART if np.mean(by_lot) > BOUND else ''}"
    )


def rarely_seen(judged: Sequence[Judged], by_lot: Sequence[Sequence[float]]) -> str:
    """How well unseen tokens are told from rarely seen ones, as a sentence."""
    area = np.mean([each.areas["along A"] for each in judged])
    return (
        f"Against the {judged[0].n_seen:,} that were seen once to three times the area of the "
        f"fitted value is {area:.3f}, of random directions {np.mean(by_lot):.3f} on average and "
        f"{np.max(by_lot):.3f} at most."
    )


def figure(by_count: pd.DataFrame) -> Figure:
    """Fitted -log a by class of count: see `undertrained.by_count`."""
    names = [str(name) for name in by_count.index]
    frame = by_count.set_axis(names)
    return figures.intervals(
        names,
        {"tokens": frame},
        value="median",
        xlabel=r"fitted $-\log a_w$ (nats)",
        ylabel="times that training saw a token",
    )
