"""Residuals by group of token against loops over planted tables."""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from probenc_support.regression import residuals


def planted(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "kind": rng.choice(["word start", "digits"], size=n),
            "count": rng.integers(0, 3, size=n),
            "minus_log_a": rng.normal(size=n) + 8.0,
            "residual": rng.normal(size=n),
        }
    )


@pytest.mark.parametrize("style", ["padded", "bias"])
def test_the_table_has_every_token_and_how_often_it_occurs(style):
    lm = tiny.language_model(style)
    rng = np.random.default_rng(0)
    ids = lm.tokens[torch.from_numpy(rng.integers(0, 40, size=(3, 20)))]
    y, fitted = rng.normal(size=(2, len(lm.tokens)))
    table = residuals.token_table(lm, ids, torch.from_numpy(y), fitted)
    assert table["token_id"].tolist() == lm.tokens.tolist(), "padding rows are no tokens"
    for row in table.itertuples():
        assert row.count == (ids == row.token_id).sum()
        assert (row.text, row.kind) == (lm.token_text(row.token_id), lm.token_kind(row.token_id))
    np.testing.assert_allclose(table["residual"] + fitted, y)


def test_groups_are_kinds_and_the_tokens_that_the_text_has_not():
    table = planted()
    kinds = residuals.by_kind(table)
    assert set(kinds.index) == {"word start", "digits", residuals.NEVER_SEEN}
    assert kinds["tokens"].is_monotonic_decreasing
    assert kinds["tokens"].sum() == len(table)
    for name, row in kinds.iterrows():
        own = [
            r.residual
            for r in table.itertuples()
            if (residuals.NEVER_SEEN if r.count == 0 else r.kind) == name
        ]
        assert row["tokens"] == len(own)
        assert row["mean_residual"] == pytest.approx(np.mean(own))
        assert row["rms_residual"] == pytest.approx(np.sqrt(np.mean(np.square(own))))
    # A kind whose residuals are shifted shows it, and the others do not.
    shifted = table.assign(residual=table["residual"] + 5.0 * (table["kind"] == "digits"))
    moved = residuals.by_kind(shifted)["mean_residual"] - kinds["mean_residual"]
    assert moved["digits"] == pytest.approx(5.0)
    assert moved["word start"] == pytest.approx(0.0)


def test_the_most_probable_are_those_with_the_least_value():
    table = planted(100)
    ordered = table.sort_values("minus_log_a")
    expected = ordered["residual"].iloc[:10].mean()
    assert residuals.mean_of_most_probable(table, share=0.1) == pytest.approx(expected)
    assert residuals.mean_of_most_probable(table, share=1.0) == pytest.approx(
        table["residual"].mean()
    )


def test_means_of_quantiles_are_those_of_sorted_tokens():
    table = planted(200)
    ordered = table.sort_values("minus_log_a")[["minus_log_a", "residual"]].to_numpy()
    expected = [part.mean(axis=0) for part in np.split(ordered, 20)]
    np.testing.assert_allclose(residuals.means_of_quantiles(table, 20), expected)


def test_values_that_many_tokens_share_make_fewer_classes():
    table = planted(200).assign(minus_log_a=np.repeat([1.0, 2.0], 100))
    assert len(residuals.means_of_quantiles(table, 20)) < 20


def test_the_furthest_tokens_come_from_both_ends():
    table = planted(50)
    shown = residuals.furthest(table, 3)["residual"].tolist()
    values = sorted(table["residual"])
    assert shown == values[:3] + values[-3:]
