"""The figures of sparsity show the numbers that they are given."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from probenc_support.notebook import sparsity_figures


def test_the_plane_shows_some_tokens_and_the_density_of_all() -> None:
    rng = np.random.default_rng(0)
    scores, percentile = rng.normal(size=(400, 2)), np.linspace(0.1, 99.9, 400)
    shown = rng.permutation(400)[:50]
    before = plt.get_fignums()
    figure = sparsity_figures.plane(scores, percentile, shown)
    plane, top, side = figure.axes[1], figure.axes[0], figure.axes[2]
    cloud = plane.collections[0]
    np.testing.assert_allclose(cloud.get_offsets(), scores[shown])
    np.testing.assert_allclose(cloud.get_array(), percentile[shown])
    assert len(top.lines) == len(side.lines) == 4
    x, height = top.lines[0].get_data()
    assert np.sum(height) * (x[1] - x[0]) == pytest.approx(1.0)
    assert x.min() > scores[:100, 0].min() - 1e-9
    assert x.max() < scores[:100, 0].max() + 1e-9
    assert len({str(line.get_linestyle()) for line in top.lines}) > 1, "print has no colour"
    assert plt.get_fignums() == before, "an open figure would be shown where its cell ends"


def test_quarters_go_from_the_least_to_the_most_probable() -> None:
    percentile = np.array([90.0, 10.0, 60.0, 30.0])
    quarters = sparsity_figures.quarters(percentile)
    assert [np.flatnonzero(one).tolist() for one in quarters] == [[1], [3], [2], [0]]


def test_the_spectrum_has_a_stem_a_component_and_the_band_of_chance() -> None:
    r = np.array([0.6, -0.2, 0.1])
    figure = sparsity_figures.spectrum(r, chance=0.05, ylabel="r")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 0.6], [2, -0.2], [3, 0.1]])
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == pytest.approx((-0.05, 0.1))
    assert (axes.get_xscale(), axes.get_ylabel()) == ("log", "r")


def test_slopes_stand_against_another_measure_with_the_leaders_marked() -> None:
    values, slopes = np.arange(1.0, 51.0), np.geomspace(0.1, 10.0, 50) * (-1.0) ** np.arange(50)
    figure = sparsity_figures.slopes_against(values, slopes, np.array([49, 48]), xlabel="x")
    every, leaders = figure.axes[0].lines
    np.testing.assert_allclose(every.get_xydata(), np.stack([values, np.abs(slopes)], axis=1))
    np.testing.assert_allclose(leaders.get_xdata(), [50.0, 49.0])
    assert every.get_linestyle() == leaders.get_linestyle() == "None"
    assert every.get_marker() != leaders.get_marker()
    assert figure.axes[0].get_ylim()[0] == pytest.approx(np.quantile(np.abs(slopes), 0.02))
