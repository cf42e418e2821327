"""Panels that cells draw in steps."""

import numpy as np
from matplotlib import pyplot as plt

from probenc_support.notebook import figures


def test_lines_are_told_apart_by_more_than_colour_and_belong_to_no_cell() -> None:
    before = plt.get_fignums()
    series = {"one": np.array([3.0, 2.0, 1.0]), "two": np.zeros(2)}
    _, axes = figures.lines(series, xlabel="rank", yscale="symlog")
    drawn = axes.get_lines()
    assert [line.get_label() for line in drawn] == list(series)
    np.testing.assert_array_equal(drawn[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(drawn[0].get_ydata(), series["one"])
    assert drawn[0].get_linestyle() != drawn[1].get_linestyle()
    assert drawn[0].get_color() != drawn[1].get_color()
    assert (axes.get_xlabel(), axes.get_yscale()) == ("rank", "symlog")
    assert plt.get_fignums() == before, "an open figure would be shown where its cell ends"
