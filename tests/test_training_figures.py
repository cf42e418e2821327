"""Figures over steps show what they are given."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib import pyplot as plt

from probenc_support.notebook.training_figures import apart, log_and_linear, over_steps

STEPS = [0, 1, 4, 16]


def test_single_runs_are_thin_and_their_mean_is_thick() -> None:
    runs = np.array([[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    figure = over_steps({"a": (STEPS, runs), "b": (STEPS, runs[0])}, ylabel="nats", legend="best")
    axes = figure.axes[0]
    assert len(axes.lines) == 4
    thick = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    assert np.asarray(thick[0].get_ydata()) == pytest.approx(runs.mean(0))
    assert np.asarray(thick[1].get_ydata()) == pytest.approx(runs[0])
    assert thick[0].get_linestyle() != thick[1].get_linestyle()
    assert axes.get_xscale() == "symlog"
    plt.close(figure)


def test_both_axes_of_steps() -> None:
    log, linear = log_and_linear(
        {"a": (STEPS, np.arange(4.0))}, legend="best", ylabel="x", levels={"half": 1.5, "": 2.0}
    )
    assert (log.axes[0].get_xscale(), linear.axes[0].get_xscale()) == ("symlog", "linear")
    assert log.axes[0].get_legend() is None
    legend = linear.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "half"]
    plt.close("all")


def test_markers_stand_apart() -> None:
    assert apart([0, 1, 2, 4, 8]) == [0, 1, 2, 3, 4]
    steps = list(range(0, 65, 2))
    places = apart(steps, 1.5)
    marked = [steps[place] + 1 for place in places]
    assert places[0] == 0
    assert all(b >= 1.5 * a for a, b in pairwise(marked))
