"""Bands of components: a partition, whose sums add up."""

import numpy as np
import pytest

from probenc_support.sparsity import bands
from probenc_support.sparsity.bands import Bands


@pytest.mark.parametrize("d", [2, 3, 16, 30, 128, 576])
def test_bands_are_a_partition_in_order(d):
    of = Bands.tenths(d)
    assert (of.edges[0], of.edges[-1]) == (0, d)
    assert (np.diff(of.edges) > 0).all()
    values = np.random.default_rng(d).normal(size=d) ** 2
    by_hand = [values[a:b].sum() for a, b in zip(of.edges[:-1], of.edges[1:], strict=True)]
    np.testing.assert_allclose(of.sums(values), by_hand)
    assert of.shares(values).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(of.gains(np.cumsum(values)), by_hand, atol=1e-12)


def test_the_first_three_stand_alone_and_the_rest_are_tenths():
    of = Bands.tenths(100)
    assert of.names[:3] == ["1–3", "4–10", "11–20"]
    assert of.names[-1] == "91–100"
    table = of.table({"ones": of.sums(np.ones(100))})
    assert list(table.columns) == ["components", "ones"]
    assert list(table["ones"]) == [3, 7, *[10] * 9]


@pytest.mark.parametrize("d", [1, 2, 7, 10, 30, 128, 576, 2048])
@pytest.mark.parametrize(("share", "parts"), [(0.1, (1, 10)), (2 / 3, (2, 3))])
def test_the_last_share_rounds_down_in_integers_and_is_never_empty(d, share, parts):
    of, over = parts
    expected = max(1, d * of // over)
    assert np.arange(d)[bands.last(d, share)].tolist() == list(range(d - expected, d))
