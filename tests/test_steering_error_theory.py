"""What decides the error: the table beside a loop, and directions in order of their unevenness."""

import math

import pandas as pd
import pytest
import tiny
import torch
from test_steering import detection_of, some_ids

from probenc_support import steering
from probenc_support.moments import Moments, covariance
from probenc_support.steering import error_theory


def test_the_table_says_what_each_direction_does() -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    text, tokens = detection_of(lm, some_ids()), torch.arange(3, 320, 20)
    moments = Moments.of(text.h)
    A = torch.randn(lm.d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    compared = {**error_theory.graded_directions(A, moments), "logit bias": None}
    table = error_theory.spread_and_error(lm, text, moments, tokens, compared, scale=3.0)
    assert list(table["direction"]) == list(compared)
    log_p, step = lm.head.log_p(text.h, tokens, text.z), math.log(3)
    reach = steering.is_reachable(steering.log_mean(log_p), step)
    for row, vector in zip(table.to_dict("records"), compared.values(), strict=True):
        g = torch.ones(len(text.h)).double() if vector is None else text.h.double() @ vector
        found = steering.achieved(log_p, (step * g)[:, None])
        assert row["achieved"] == pytest.approx(float((found - step)[reach].abs().mean()))
        assert row["sd of v . h"] == pytest.approx(float(g.std()))
        if vector is None:
            assert math.isnan(row["predicted"])
            continue
        expected = error_theory.expected_log_scale(
            lm.E[tokens], moments, covariance(text.h, text.z), vector, step
        )
        assert row["predicted"] == pytest.approx(float((expected - step)[reach].abs().mean()))


def test_directions_are_graded_by_size_and_ridge() -> None:
    h = torch.randn(200, 12, generator=torch.Generator().manual_seed(1)).double() + 2
    moments = Moments.of(h)
    found = error_theory.graded_directions(-moments.mean, moments)
    assert list(found)[:3] == ["paper, k = 1", "paper, k = 3", "paper, k = 10"]
    spreads = [float((h @ found[f"ridge {r:g}"]).std()) for r in error_theory.RIDGES]
    assert spreads == sorted(spreads), "without a ridge it varies least"


def test_the_correlation_of_a_power_law_is_one() -> None:
    table = pd.DataFrame({"x": [0.1, 1.0, 7.0], "y": [0.01, 1.0, 49.0], "z": [10.0, 1.0, 1 / 7]})
    assert error_theory.log_correlation(table, "x", "y") == pytest.approx(1)
    assert error_theory.log_correlation(table, "x", "z") == pytest.approx(-1)
