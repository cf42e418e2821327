"""Figures over steps show what they are given."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probenc_support.dynamics import BODY, EMBEDDING, Distances
from probenc_support.notebook import figures, training_figures
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
    assert axes.get_xlim()[1] > STEPS[-1]


def test_both_axes_of_steps() -> None:
    log, linear = log_and_linear(
        {"a": (STEPS, np.arange(4.0))}, legend="best", ylabel="x", levels={"half": 1.5, "": 2.0}
    )
    assert (log.axes[0].get_xscale(), linear.axes[0].get_xscale()) == ("symlog", "linear")
    assert log.axes[0].get_legend() is None
    legend = linear.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "half"]


def test_markers_stand_apart() -> None:
    assert apart([0, 1, 2, 4, 8]) == [0, 1, 2, 3, 4]
    steps = list(range(0, 65, 2))
    places = apart(steps, 1.5)
    marked = [steps[place] + 1 for place in places]
    assert places[0] == 0
    assert all(b >= 1.5 * a for a, b in pairwise(marked))


def test_columns_of_a_table_are_curves_without_gaps() -> None:
    table = pd.DataFrame({"a": [1.0, np.nan, 3.0], "b": [4.0, 5.0, 6.0]}, index=[0, 1, 2])
    curves = training_figures.by_column(table)
    assert curves["a"][0] == [0, 2]
    assert list(curves["a"][1]) == [1, 3]
    assert list(training_figures.by_column(table, ["b"])) == ["b"]


def test_some_of_many_are_spread_with_both_ends() -> None:
    assert training_figures.some_of(list("abc")) == list("abc")
    some = training_figures.some_of(list(range(50)))
    assert (len(some), some[0], some[-1]) == (8, 0, 49)
    assert np.ptp(np.diff(some)) <= 1


def made_up(r2: list[float], left: list[float]) -> Any:
    """A run in which E and the body have these squared shares of their distances left."""
    rows = np.array(left)[:, None]
    fits = [type("Fit", (), {"r2_adj_shuffled": np.array([-1.0, 0.01 * k])})() for k in range(4)]
    fields = {
        "steps": STEPS, "read_steps": STEPS[1:], "r2_adj": np.array(r2), "fits": fits,
        "convergence": Distances(STEPS, {EMBEDDING: rows**2, BODY: rows**4}),
        "behaviour": [1], "loss": np.array([9.0, 6.0, 5.0]),
        "kl_to_final": np.array([2.0, 0.5, 0.0]), "r2_text_so_far": np.array(r2),
    }  # fmt: skip
    return type("Run", (), fields)()


def test_shares_of_the_way_go_from_zero_to_one() -> None:
    runs = [made_up([0.0, 0.5, 0.8, 0.9], [1.0, 0.8, 0.4, 0.0]) for _ in range(2)]
    shares = training_figures.shares_of_the_way(runs)
    assert np.array(shares["$E$ moved"][1]) == pytest.approx(np.array([[0, 0.2, 0.6, 1]] * 2))
    assert shares["other parameters moved"][1][0] == pytest.approx([0, 0.36, 0.84, 1])
    assert shares["loss fallen"][0] == STEPS[1:]
    assert shares["loss fallen"][1][1] == pytest.approx([0, 0.75, 1])
    assert shares["predictions as the final ones"][1][0] == pytest.approx([0, 0.75, 1])
    assert list(shares["$R^2$ of the text so far"][1]) == [0.0, 0.5, 0.8, 0.9]


def test_training_and_the_straight_line_stand_against_the_same_distance() -> None:
    runs = [made_up([0.0, 0.5, 0.8, 0.9], [1.0, a, 0.4, 0.0]) for a in (0.8, 0.6)]
    line = pd.DataFrame({"distance": [1.0, 0.5, 0.0], "r2_adj": [0.0, 0.7, 0.9]})
    axes = training_figures.against_distance(runs, [line, line]).axes[0]
    thick = {line.get_label(): line for line in axes.get_lines()}
    training, straight = thick["training"], thick["straight line"]
    assert np.asarray(training.get_xdata()) == pytest.approx([1, 0.7, 0.4, 0])
    assert np.asarray(training.get_ydata()) == pytest.approx([0, 0.5, 0.8, 0.9])
    assert np.asarray(straight.get_xdata()) == pytest.approx([1, 0.5, 0])
    shuffled = thick["shuffled, largest"]
    assert np.asarray(shuffled.get_ydata()) == pytest.approx([0, 0.01, 0.02, 0.03])
    left, right = axes.get_xlim()
    assert left > right, "training goes to the right"


def test_classes_have_the_colour_of_their_truth() -> None:
    rows = [
        (group, step, 7.0 + group, 7.0 + group * step) for step in (0, 1) for group in range(1, 6)
    ]
    table = pd.DataFrame(rows, columns=["group", "step", "true", "fitted"])
    axes = training_figures.classes_over_steps(table.set_index(["group", "step"])).axes[0]
    curves, truths = axes.get_lines()[:5], axes.get_lines()[5:]
    for group, (curve, truth) in enumerate(zip(curves, truths, strict=True), start=1):
        assert np.asarray(curve.get_ydata()) == pytest.approx([7.0, 7.0 + group])
        assert truth.get_ydata()[0] == 7.0 + group
        assert curve.get_color() == truth.get_color() == figures.PALETTE[group - 1]
    assert curves[0].get_label() == "most frequent fifth"
