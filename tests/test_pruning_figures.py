"""Curves show the numbers that they are given, and bounds that the rule book sets."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from probenc_support.claims import rule_book, rules_of_paper
from probenc_support.notebook import pruning_figures


def test_curves_show_methods_in_order_of_shares_and_bounds() -> None:
    costs = pd.DataFrame({"method": ["a", "b", "a"], "share": [0.5, 0.3, 0.1]})
    costs["kl"] = [2.0, 1.0, 0.25]
    costs["kl_low"], costs["kl_high"] = costs["kl"] / 2, costs["kl"] * 2
    labels = {"a": "one way", "b": "the other"}
    figure = pruning_figures.curves(
        costs, labels, "kl", "KL (nats)", bounds={"bound": 0.1}, log=True
    )
    (axes,) = figure.axes
    first, second, bound = axes.lines
    np.testing.assert_allclose(first.get_xydata(), [[10, 0.25], [50, 2.0]])
    np.testing.assert_allclose(second.get_xydata(), [[30, 1.0]])
    np.testing.assert_allclose(np.unique(bound.get_ydata()), 0.1)
    assert first.get_linestyle() != second.get_linestyle(), "print has no colour"
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] == pytest.approx(0.05)
    assert axes.get_ylabel() == "KL (nats)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(labels.values())
    plt.close(figure)


def test_bounds_are_those_of_the_rule_book() -> None:
    criteria = {c.metric: c for c in rules_of_paper.C6.criteria}
    assert rule_book.threshold("C6", "kl_paper_30") == criteria["kl_paper_30"].at_most
    assert rule_book.threshold("C6", "top1_paper_30") == criteria["top1_paper_30"].at_least
    for claim, metric in (("C6", "kl_papre_30"), ("C0", "kl_paper_30")):
        with pytest.raises(KeyError, match="no fixed bound"):
            rule_book.threshold(claim, metric)
