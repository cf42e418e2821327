"""Figures of tables: grouped rows beside their means, quantiles and order."""

import numpy as np
import pandas as pd
import pytest

from probenc_support.notebook import figures


def test_grouped_rows_become_curves_with_their_middle_and_band() -> None:
    frame = pd.DataFrame(
        {"n": [1, 1, 1, 10, 1], "e": [0.2, 0.3, 0.7, 0.1, 0.5], "d": ["a", "a", "a", "a", "b"]}
    )
    means = figures.grouped(frame, "d", "n", "e", controls=["b"])
    assert list(means) == ["a", "b"]
    assert list(means["a"].x) == [1, 10]
    assert list(means["a"].y) == pytest.approx([0.4, 0.1])
    assert list(means["a"].low) == pytest.approx([0.2, 0.1])
    assert list(means["a"].high) == pytest.approx([0.7, 0.1])
    assert (means["a"].control, means["b"].control) == (False, True)
    (median,) = figures.grouped(
        frame, "d", "n", "e", names=["a"], middle="median", band=(0.25, 0.75)
    ).values()
    assert median.y[1] == pytest.approx(0.3)
    assert (median.low[1], median.high[1]) == pytest.approx((0.25, 0.5))


def test_rows_of_intervals_stand_in_the_order_of_their_names() -> None:
    frame = pd.DataFrame(
        {"mae": [0.2, 0.3], "low": [0.1, 0.3], "high": [0.5, 0.5]}, index=["a", "b"]
    )
    figure = figures.intervals(["b", "a"], {"here": frame, "there": frame[["mae"]]}, value="mae")
    axes = figure.axes[0]
    (bars,) = axes.collections
    ends = [segment[:, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.3, 0.5], [0.1, 0.5]])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["b", "a"]
    assert axes.yaxis_inverted(), "the first name is at the top"
    marks = [line.get_ydata() for line in axes.get_lines()[:2]]
    assert marks[0][0] != marks[1][0], "series of one row stand apart"
