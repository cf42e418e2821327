"""Tokens at the ends of planted coordinates, and the percentile of their probability."""

import numpy as np
from test_sparsity import problem, statistics

from probenc_support.sparsity import Components, extremes


def test_the_ends_are_the_least_and_the_greatest_and_go_inwards():
    values, y = np.array([0.5, -2.0, 3.0, 1.0, -1.0]), np.arange(5.0)
    tokens = np.array([10, 11, 12, 20, 21])
    ends = extremes.at_ends({"x": values, "-x": -values}, y, tokens, str, k=2)
    by_end = ends.groupby(["along", "end"])["token_id"].agg(list)
    assert by_end["x", "probable"] == by_end["-x", "improbable"] == [11, 21]
    assert by_end["x", "improbable"] == by_end["-x", "probable"] == [12, 20]
    assert list(ends["text"]) == [str(token) for token in ends["token_id"]]
    place = [tokens.tolist().index(token) for token in ends["token_id"]]
    np.testing.assert_array_equal(ends["minus_log_a"], y[place])
    sign = np.where(ends["along"] == "x", 1.0, -1.0)
    np.testing.assert_array_equal(ends["coordinate"], sign * values[place])
    readable = extremes.readable(ends)
    assert readable["tokens"].iloc[0] == "'11' '21'"
    assert readable["mean −log a (nats)"].iloc[0] == 2.5


def test_minus_log_a_grows_along_every_component():
    E, y = problem()
    fitted = statistics(E, y)
    components = Components.of(fitted)
    r = components.express(fitted).correlation
    along = extremes.along_components(components, E, r, [0, 1, 4, 1])
    assert list(along) == ["component 1", "component 2", "component 5"]
    for k, coordinates in zip((0, 1, 4), along.values(), strict=True):
        np.testing.assert_allclose(np.corrcoef(coordinates, y)[0, 1], np.abs(r[k]), rtol=1e-4)


def test_percentiles_run_from_the_least_to_the_most_probable():
    y = np.array([3.0, 1.0, 2.0, 9.0])
    np.testing.assert_allclose(extremes.percentile_of_probability(y), [37.5, 87.5, 62.5, 12.5])
    tied = extremes.percentile_of_probability(np.array([1.0, 1.0]))
    np.testing.assert_allclose(tied, 50.0)
