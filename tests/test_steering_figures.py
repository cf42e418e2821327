"""Panels show the numbers that they are given."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from probenc_support.notebook import steering_figures


def test_curves_are_means_with_a_band() -> None:
    frame = pd.DataFrame({"n": [1, 1, 10, 1], "e": [0.2, 0.4, 0.1, 0.5], "d": ["a", "a", "a", "b"]})
    figure = steering_figures.curves(frame, "n", "e", by="d", labels=("x", "y"), nothing=3.0)
    first, second, line = figure.axes[0].lines
    assert first.get_ydata() == pytest.approx([0.3, 0.1])
    assert (second.get_label(), list(second.get_ydata())) == ("b", [0.5])
    assert set(line.get_ydata()) == {3.0}
    only = steering_figures.curves(frame, "n", "e", by="d", labels=("x", "y"), names=["b"])
    assert len(only.axes[0].lines) == 1
    plt.close("all")


def test_expected_against_actual_is_the_median_of_tokens_in_reach() -> None:
    frame = pd.DataFrame(
        {
            "direction": "paper",
            "scale": [2.0] * 4,
            "log_scale": [math.log(1.5), math.log(2.0), math.log(4.0), 9.0],
            "in_reach": [True, True, True, False],
        }
    )
    figure = steering_figures.expected_actual(frame, ["paper"], "here")
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([2.0])
    plt.close("all")


def test_errors_and_rows_have_their_intervals() -> None:
    frame = pd.DataFrame(
        {"direction": ["a", "b"], "domain": "id", "mae": [0.2, 0.3], "low": [0.1, 0.3]}
    ).assign(high=0.5, sample=["one", "two"])
    for figure in (
        steering_figures.errors(frame, ["b", "a"], {"id": "here"}),
        steering_figures.rows_of(frame[::-1], "mae", "x", interval=True),
    ):
        (bars,) = figure.axes[0].collections
        ends = [segment[:, 0] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [[0.3, 0.5], [0.1, 0.5]])
    plain = steering_figures.rows_of(frame, "mae", "x", interval=False)
    assert not plain.axes[0].collections
    plt.close("all")


def test_points_are_told_apart_by_how_their_names_start() -> None:
    frame = pd.DataFrame({"direction": ["paper, 1", "paper, 2", "mean"], "x": [1, 2, 3], "y": 1.0})
    figure = steering_figures.points(
        frame, "x", "y", kinds={"paper": "the paper's", "mean": "means"}, labels=("x", "y")
    )
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [2, 1]
    plt.close("all")
