"""Fits from few positions against averages of softmax over these positions alone."""

import numpy as np
import pandas as pd
import planted
import pytest
import torch

from probenc_support import regression
from probenc_support.regression import Design, few_positions


def test_draws_are_of_positions_that_the_text_has_none_twice():
    drawn = list(few_positions.draws_of_positions(100, seed=1))
    sizes = [len(positions) for _, positions in drawn]
    assert sizes == [16] * 10 + [64] * 5, "256 positions are more than the text has"
    assert [draw for draw, _ in drawn] == [*range(10), *range(5)]
    for _, positions in drawn:
        assert len(positions.unique()) == len(positions)
        assert 0 <= int(positions.min()) <= int(positions.max()) < 100
    assert not torch.equal(drawn[0][1], drawn[1][1])
    again = few_positions.draws_of_positions(100, seed=1)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(drawn, again, strict=True))


@pytest.mark.parametrize("bias", [True, False])
def test_every_row_is_the_fit_to_its_positions(bias):
    head, h = planted.head(bias=bias), planted.states()
    E, y = head.E.numpy(), -planted.mean_p(head, h).log()
    table = few_positions.growth(head, Design.of(E), h, y, draws={8: 3, 40: 2}, seed=5)
    drawn = list(few_positions.draws_of_positions(len(h), draws={8: 3, 40: 2}, seed=5))
    whole = regression.fit(E, y)
    assert table["positions"].tolist() == [8, 8, 8, 40, 40, len(h)]
    for row, (draw, positions) in zip(table.itertuples(), drawn, strict=False):
        few = regression.fit(E, -planted.mean_p(head, h[positions]).log())
        said, said_by_all = E @ few.slopes, E @ whole.slopes
        error = y.numpy() - said - few.intercept
        assert row.draw == draw
        assert row.r2_adj == pytest.approx(few.r2_adj)
        assert row.correlation == pytest.approx(np.corrcoef(said, said_by_all)[0, 1])
        norms = np.linalg.norm(few.slopes) * np.linalg.norm(whole.slopes)
        assert row.cosine == pytest.approx(few.slopes @ whole.slopes / norms)
        assert row.r2_for_all == pytest.approx(1 - (error**2).mean() / np.var(y.numpy()))
        assert row.r2_for_all <= whole.r2 + 1e-12, "no other line has smaller squares"
    last = table.iloc[-1]
    assert (last["cosine"], last["correlation"]) == (1.0, 1.0)
    assert last["r2_for_all"] == pytest.approx(whole.r2)


def test_the_summary_is_of_the_fewest_positions_and_of_their_worst_draw():
    table = pd.DataFrame(
        {
            "positions": [16, 16, 64, 64, 256],
            "r2_adj": [0.5, 0.7, 0.8, 0.8, 0.9],
            "cosine": [0.5, 0.6, 0.7, 0.96, 1.0],
            "correlation": [0.8, 0.9, 0.9, 0.9, 1.0],
            "r2_for_all": [-2.0, 0.4, 0.5, 0.5, 0.9],
        }
    )
    fewest = few_positions.Fewest.of(table)
    assert (fewest.positions, fewest.n_draws) == (16, 2)
    assert (fewest.worst_r2, fewest.worst_correlation) == (-2.0, 0.8)
    assert fewest.mean_r2 == pytest.approx(-0.8)
    assert (fewest.r2_adj, fewest.cosine) == (pytest.approx(0.6), pytest.approx(0.55))
    assert fewest.positions_for_cosine == 64, "one draw is enough"
    assert few_positions.Fewest.of(table, cosine=0.99).positions_for_cosine == 256
    metrics = fewest.metrics()
    assert metrics["r2_fewest_worst"] == -2.0
    assert metrics["positions_for_cosine_95"] == 64
