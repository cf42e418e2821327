"""The most even direction of each length, by brute force and against what it must reduce to."""

import math

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from test_steering import detection_of, random_positions, some_ids

from probenc_support import steering
from probenc_support.moments import Moments
from probenc_support.steering import candidates, closed_form, frontier
from probenc_support.steering.scores import Edit, Judged


def some_moments(d: int = 5, seed: int = 0) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(d, d, generator=generator, dtype=torch.float64)
    h = torch.randn(200, d, generator=generator, dtype=torch.float64) @ mixed
    return Moments.of(h + 2 * torch.randn(d, generator=generator, dtype=torch.float64))


def variance(moments: Moments, vector: torch.Tensor) -> float:
    return float(vector @ moments.cov @ vector)


def test_the_path_is_the_minimum_variance_direction_of_each_ridge() -> None:
    moments = some_moments(12)
    found = frontier.path(moments)
    for ridge, vector in zip(frontier.RIDGES, found, strict=True):
        torch.testing.assert_close(vector, steering.min_variance(moments, ridge))
    torch.testing.assert_close(found @ moments.mean, torch.ones(len(found), dtype=torch.float64))
    far = frontier.path(moments, [1e12])[0]
    torch.testing.assert_close(far, steering.mean_hidden(moments.mean), rtol=1e-6, atol=1e-9)


@given(seed=st.integers(0, 500))
@settings(max_examples=10, deadline=None)
def test_along_the_path_length_falls_and_variance_rises(seed: int) -> None:
    moments = some_moments(8, seed)
    found = frontier.path(moments)
    lengths = found.norm(dim=1)
    variances = torch.tensor([variance(moments, vector) for vector in found])
    assert bool((lengths.diff() <= 1e-9 * lengths[0]).all())
    assert bool((variances.diff() >= -1e-9 * variances[-1]).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_direction_of_the_length_is_more_even_by_brute_force(seed: int, share: float) -> None:
    moments = some_moments(5, seed)
    ends = [float(vector.norm()) for vector in frontier.path(moments, [1e12, 0.0])]
    length = ends[0] + share * (ends[1] - ends[0])
    found = frontier.of_length(moments, length)
    assert float(found.norm()) == pytest.approx(length)
    assert float(found @ moments.mean) == pytest.approx(1)
    mean, cov = moments.mean.numpy(), moments.cov.numpy()
    start = mean / (mean @ mean)
    brute = optimize.minimize(
        lambda v: v @ cov @ v,
        start,
        jac=lambda v: 2 * cov @ v,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda v: v @ mean - 1, "jac": lambda v: mean},
            {"type": "ineq", "fun": lambda v: length**2 - v @ v, "jac": lambda v: -2 * v},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert variance(moments, found) == pytest.approx(float(brute.fun), rel=1e-5)
    assert variance(moments, found) < 0.999 * float(start @ cov @ start)


def test_a_length_beyond_the_ends_gives_the_ends() -> None:
    moments = some_moments()
    shortest, longest = frontier.path(moments, [1e12, 0.0])
    torch.testing.assert_close(frontier.of_length(moments, 1e6), longest)
    half = frontier.of_length(moments, 0.5 * float(shortest.norm()))
    torch.testing.assert_close(half, 0.5 * shortest, rtol=1e-6, atol=1e-9)
    assert float(half @ moments.mean) == pytest.approx(0.5)


def test_errors_are_those_of_single_edits_and_the_ceiling_is_taken_off() -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    moments, tokens = Moments.of(detection.h), torch.tensor([3, 70, 200])
    point = torch.ones(lm.d, dtype=torch.float64)
    table = frontier.errors_by_length(
        lm, {"local": detection, "id": detection}, tokens, moments, {"ones": point}
    )
    assert len(table) == 2 * (len(frontier.RIDGES) + 1)
    step, log_p = math.log(20), lm.head.log_p(detection.h, tokens, detection.z)
    ceiling = float(
        closed_form.mean_errors(log_p, torch.ones(len(log_p), 1, dtype=torch.float64), step)
    )
    local = table[table["domain"] == "local"]
    vectors = torch.cat([frontier.path(moments), point[None]])
    for vector, row in zip(vectors, local.to_dict("records"), strict=True):
        reached = steering.achieved(log_p, step * (detection.h.double() @ vector)[:, None])
        error = float((reached - step).abs().mean())
        assert row["error"] == pytest.approx(error)
        assert row["beyond"] == pytest.approx(error - ceiling, abs=1e-9)
        length = step * float(vector.norm()) / candidates.row_length(lm.head)
        assert row["length"] == pytest.approx(length)
        assert row["mean"] == pytest.approx(float(vector @ moments.mean))
        assert row["sd"] == pytest.approx(math.sqrt(variance(moments, vector)), abs=1e-9)
    assert local["direction"].iloc[-1] == "ones"
    assert 0 <= local["kept"].min() <= local["kept"].max() <= 1


def test_an_edit_as_long_as_a_row_is_as_long_as_a_row() -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    moments = Moments.of(detection.h)
    vector = frontier.long_as_a_row(moments, lm.head)
    longest = float(frontier.path(moments, [0.0]).norm())
    wanted = candidates.row_length(lm.head) / math.log(20)
    assert float(vector.norm()) == pytest.approx(min(wanted, longest))


def test_the_distance_from_the_ceiling_has_a_paired_interval() -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    tokens = torch.arange(2, 300, 12)
    vector = steering.mean_hidden(Moments.of(detection.h).mean)
    found = frontier.beyond_ceiling(lm, detection, tokens, vector)
    edits = {"edit": Edit(vector), "bias": Edit(None)}
    judged = Judged.of(lm, detection, tokens, edits, [20.0])
    apart = judged.score("edit", 20.0).mae - judged.score("bias", 20.0).mae
    assert found.estimate == pytest.approx(apart)
    assert found.low < found.estimate < found.high
    alike = frontier.beyond_ceiling(lm, detection, tokens, 0 * vector)
    assert alike.estimate > 1, "an edit that does nothing is far from it"


def test_what_the_table_says() -> None:
    rows = [
        (frontier.PATH, 3.0, 0.2, 0.04),
        (frontier.PATH, 2.0, 0.5, 0.03),
        (frontier.PATH, 1.0, 0.8, 0.30),
        ("beside", 0.1, 1.0, 0.01),
    ]
    table = pd.DataFrame(rows, columns=["direction", "length", "kept", "beyond"])
    table["mean"] = [1.0, 0.9, 0.8, 0.7]
    assert frontier.metrics(table.assign(domain="id")) == {
        "frontier_length_shortest": 1.0,
        "frontier_kept_shortest": 0.8,
        "frontier_kept_beside": 1.0,
        "frontier_least_id": 0.03,
        "frontier_least_id_length": 2.0,
        "frontier_least_id_kept": 0.5,
        "frontier_least_id_mean": 0.9,
        "frontier_length_near_id": 2.0,
    }
    far = frontier.metrics(table.assign(domain="id", beyond=table["beyond"] + 1))
    assert "frontier_length_near_id" not in far


def test_behind_a_layer_norm_the_long_end_of_the_path_is_the_exact_direction() -> None:
    h, *_ = random_positions(n=400, d=8)
    norm = torch.nn.LayerNorm(8, dtype=torch.float64)
    norm.bias.data += torch.linspace(0.2, 1, 8)
    norm.weight.data += torch.linspace(0.5, 2, 8)
    with torch.inference_mode():
        h = norm(h)
    exact = (1 / norm.weight) / (norm.bias / norm.weight).sum()
    # The least variance counts as rounding, 1e-12 of the largest, so the end is exact to 1e-6.
    np.testing.assert_allclose(frontier.path(Moments.of(h))[0], exact.detach(), rtol=1e-4)
