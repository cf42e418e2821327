"""Panels that cells draw in steps."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgb

from probenc_support.notebook import figures


def test_curves_are_told_apart_by_more_than_colour_and_belong_to_no_cell() -> None:
    before = plt.get_fignums()
    values = {"one": np.array([3.0, 2.0, 1.0]), "two": np.zeros(2)}
    series = {label: figures.Curve.over_ranks(v) for label, v in values.items()}
    figure = figures.curves(series, xlabel="rank", yscale="symlog")
    (axes,) = figure.axes
    drawn = axes.get_lines()
    assert [line.get_label() for line in drawn] == list(series)
    np.testing.assert_array_equal(drawn[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(drawn[0].get_ydata(), values["one"])
    assert drawn[0].get_linestyle() != drawn[1].get_linestyle()
    assert drawn[0].get_color() != drawn[1].get_color()
    assert (axes.get_xlabel(), axes.get_yscale()) == ("rank", "symlog")
    assert plt.get_fignums() == before, "an open figure would be shown where its cell ends"


def test_points_are_not_joined_and_controls_are_told_apart() -> None:
    x = np.arange(3.0)
    series = {
        "points": figures.Curve(x, x, joined=False),
        "one control": figures.Curve(x, 2 * x, control=True),
        "another": figures.Curve(x, 3 * x, control=True),
    }
    points, one, other = figures.curves(series).axes[0].get_lines()
    assert points.get_linestyle() == "None"
    assert points.get_marker() not in ("None", None)
    assert one.get_color() == other.get_color() == figures.GREY
    styles = [line._unscaled_dash_pattern for line in (one, other)]
    assert styles[0] != styles[1]


def test_a_band_has_the_colour_of_its_curve_and_a_control_is_grey() -> None:
    x = np.arange(3.0)
    series = {
        "fit": figures.Curve(x, x, x - 1, x + 1),
        "shuffled": figures.Curve(x, 0 * x, control=True),
        "other": figures.Curve(x, 2 * x),
    }
    figure = figures.curves(series, levels={"bound": 0.5}, xlabel="share")
    axes = figure.axes[0]
    fit, shuffled, other, bound = axes.get_lines()
    (band,) = axes.collections
    assert band.get_facecolor()[0][:3] == pytest.approx(to_rgb(fit.get_color()))
    ends = band.get_paths()[0].vertices
    assert (ends[:, 1].min(), ends[:, 1].max()) == (-1, 3)
    assert shuffled.get_color() == bound.get_color() == figures.GREY
    assert other.get_color() == figures.PALETTE[1], "a control takes no colour of the others"
    assert bound.get_ydata()[0] == 0.5
    assert axes.get_xlabel() == "share"


def test_a_curve_of_a_table_has_its_ends_and_is_in_order() -> None:
    table = pd.DataFrame({"share": [0.5, 0.1], "kl": [2.0, 0.25]})
    table["kl_low"], table["kl_high"] = table["kl"] / 2, 2 * table["kl"]
    curve = figures.Curve.with_ends(table, "share", "kl", control=True)
    assert (list(curve.x), list(curve.y)) == ([0.1, 0.5], [0.25, 2.0])
    assert (list(curve.low), list(curve.high)) == ([0.125, 1.0], [0.5, 4.0])
    assert curve.control


@pytest.mark.parametrize("n", [10, 5000])
def test_measured_against_predicted_shows_every_point_and_equality(n: int) -> None:
    predicted = np.linspace(0.0, 1.0, n)
    figure = figures.measured_against_predicted(
        predicted, predicted**2, xlabel="p", ylabel="m", counted="tokens"
    )
    axes = figure.axes[0]
    equal = next(line for line in axes.get_lines() if line.get_label() == "equal")
    np.testing.assert_array_equal(equal.get_xdata(), equal.get_ydata())
    if n > 2000:
        assert axes.collections[0].get_array().sum() == n
    else:
        np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), predicted**2)


def test_bars_stand_side_by_side_with_their_values_and_intervals() -> None:
    series = {"one": [1.0, 2.0], "two": [3.0, 4.0]}
    figure = figures.bars(
        ["a", "b"],
        series,
        errors={"one": [[0.1, 0.1], [0.2, 0.2]]},
        controls={"two"},
        ylabel="y",
    )
    axes = figure.axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    assert heights == [1.0, 2.0, 3.0, 4.0]
    assert to_hex(axes.patches[3].get_facecolor()).upper() == figures.GREY, "it is a control"
    starts = sorted((p.get_x(), p.get_x() + p.get_width()) for p in axes.patches)
    assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(starts)), "no overlap"
    assert len({p.get_hatch() for p in axes.patches}) == 2, "print has no colour"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]


def test_runs_stand_thin_beside_their_mean_and_markers_where_they_are_wanted() -> None:
    x, y = np.arange(4.0), np.array([[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 5.0]])
    series = {
        "two runs": figures.Curve.of_runs([x, x + 1], y, marks=[0, 2]),
        "one run": figures.Curve.of_runs(x, y[0]),
        "no marks": figures.Curve.of_runs(x, y[0], marks=[]),
        "control": figures.Curve.of_runs(x, y, control=True),
    }
    axes = figures.curves(series, marked=True, levels={"": 0.5}).axes[0]
    first, second, mean, alone, bare, *_, control, level = axes.get_lines()
    np.testing.assert_array_equal(first.get_xdata(), x)
    np.testing.assert_array_equal(second.get_ydata(), y[1])
    np.testing.assert_array_equal(mean.get_xdata(), x + 0.5)
    np.testing.assert_array_equal(mean.get_ydata(), y.mean(0))
    np.testing.assert_array_equal(alone.get_ydata(), y[0])
    assert first.get_linewidth() < mean.get_linewidth()
    assert first.get_color() == mean.get_color() != alone.get_color()
    assert mean.get_markevery() == [0, 2]
    assert alone.get_markevery() is None
    assert {line.get_marker() for line in (first, bare, control)} == {"None"}
    assert mean.get_marker() != alone.get_marker()
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == list(series), "single runs and a level without a name are in no legend"
    assert level.get_ydata()[0] == 0.5


@pytest.mark.parametrize("n", [10, 5000])
def test_a_cloud_shows_every_point_and_nothing_else(n: int) -> None:
    x = np.linspace(0.0, 1.0, n)
    figure = figures.cloud(x, x**2, xlabel="x", ylabel="y", counted="tokens")
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
    if n > 2000:
        assert axes.collections[0].get_array().sum() == n
        assert figure.axes[1].get_ylabel() == "tokens"
        assert not axes.get_lines()
    else:
        (points,) = axes.get_lines()
        np.testing.assert_allclose(points.get_ydata(), x**2)


@pytest.mark.parametrize(
    ("ends", "labels"),
    [((0.2, 6.0), ["0.2", "0.5", "1", "2", "5"]), ((16, 20_000), ["100", "1,000", "10,000"])],
)
def test_a_short_logarithmic_axis_has_plain_numbers_that_do_not_overlap(
    ends: tuple[float, float], labels: list[str]
) -> None:
    series = {"one": figures.Curve(ends, [1.0, 2.0])}
    figure = figures.curves(series, xscale="log", xlim=ends, yscale="log", ylim=(1e-9, 10.0))
    figure.canvas.draw()
    (axes,) = figure.axes
    shown = [t for t in axes.get_xticklabels() if ends[0] <= t.get_position()[0] <= ends[1]]
    assert [t.get_text() for t in shown] == labels
    assert not any(t.get_text() for t in axes.get_xticklabels(minor=True))
    boxes = [t.get_window_extent() for t in shown]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert "10^{" in axes.get_yticklabels()[1].get_text(), "a long axis keeps its powers of ten"


def test_ticks_that_are_given_stay_where_they_are() -> None:
    x = [1, 4, 16, 64]
    figure = figures.curves({"one": figures.Curve(x, x)}, xscale="log", xticks=x)
    figure.canvas.draw()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1", "4", "16", "64"]


def test_points_that_are_not_joined_have_marks_and_no_line() -> None:
    x = np.arange(3.0)
    series = {
        "one": figures.Curve(x, x, joined=False),
        "control": figures.Curve(x, x, joined=False, control=True),
    }
    for line in figures.curves(series).axes[0].get_lines():
        assert line.get_linestyle() == "None"
        assert line.get_marker() not in ("", "None", None)
