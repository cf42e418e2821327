"""The family of the paper's edits and its choice, and a random control."""

import math
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from test_steering import detection_of, random_positions, some_ids

from probenc_support import steering
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.steering import closed_form, directions, omegas
from probenc_support.steering.omegas import Omega


def slopes(d: int = 12) -> Any:
    return torch.randn(d, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 3, 12])
def test_omega_sums_to_one_in_proportion_to_a_power_of_the_slopes(k: int, power: int) -> None:
    A = slopes()
    omega = -Omega(k, power).direction(A) * A
    assert float(omega.sum()) == pytest.approx(1)
    top = A.abs().topk(k).indices
    assert set(omega.nonzero().flatten().tolist()) == set(top.tolist())
    shares = omega[top] / A[top].abs() ** power
    torch.testing.assert_close(shares, shares[:1].expand(k))


def test_minimum_norm_is_a_member() -> None:
    A = slopes()
    torch.testing.assert_close(Omega(12, 2).direction(A), steering.min_norm(A))
    with pytest.raises(InputError, match="power is -1"):
        steering.paper_direction(A, 3, power=-1)


@pytest.mark.parametrize(("d", "n"), [(1, 1), (2, 4), (12, 10), (64, 13), (576, 16)])
def test_the_family_has_every_edit_once(d: int, n: int) -> None:
    A = slopes(d)
    members = omegas.family(d)
    found = torch.stack([member.direction(A) for member in members])
    assert len(members) == n == len(found.unique(dim=0))
    assert {member.k for member in members} == {k for k in (1, 3, 10, 30, 100) if k < d} | {d}


def test_the_best_member_is_the_one_whose_dimensions_do_not_vary() -> None:
    """Hidden states that are constant where the three steepest slopes are, and loose elsewhere."""
    lm = tiny.language_model("untied", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    A = torch.cat([-torch.tensor([4.0, 3.0, 2.0]), 0.3 * torch.ones(lm.d - 3)]).double()
    h = 4 * torch.randn(300, lm.d, generator=generator, dtype=torch.float64)
    h[:, :3] = -A[:3] + 0.9 * torch.randn(300, 1, generator=generator) * torch.tensor([1, -1, 0.5])
    detection = detection_of(lm, some_ids())
    z = torch.logsumexp(h @ lm.E.T.double(), dim=1)
    text: Any = type("Text", (), {"h": h, "z": z, "detection": detection})
    tokens = torch.arange(1, 300, 20)
    table = omegas.family_errors(lm, text, tokens, A)
    assert len(table) == len(omegas.family(lm.d))
    assert omegas.best_member(table).k == 3
    with pytest.raises(InputError, match="No member"):
        omegas.best_member(table.assign(share=math.nan))


def test_family_errors_are_those_of_the_edits() -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    tokens, A = torch.tensor([3, 70, 200]), slopes(lm.d)
    table = omegas.family_errors(lm, detection, tokens, A, scales=(0.5, 5.0))
    log_p = lm.head.log_p(detection.h, tokens, detection.z)
    for _, row in table.iterrows():
        vector = Omega(int(row["k"]), int(row["power"])).direction(A)
        shares = []
        for scale in (0.5, 5.0):
            step = math.log(scale)
            found = steering.achieved(log_p, step * (detection.h.double() @ vector)[:, None])
            reach = steering.is_reachable(steering.log_mean(log_p), step)
            error = float((found - step)[reach].abs().mean())
            assert row[f"error_{scale:g}x"] == pytest.approx(error)
            shares.append(error / abs(step))
        assert row["share"] == pytest.approx(sum(shares) / 2)


def test_a_tie_of_words() -> None:
    assert Omega(1, 0).words == "all on the steepest dimension"
    assert Omega(30, 1).words == "in proportion to |A| on the 30 steepest dimensions"
    frame = pd.DataFrame({"k": [3, 10], "power": [0, 2], "share": [0.2, 0.1]})
    assert omegas.best_member(frame) == Omega(10, 2)


# ----------------------------------------------------------------------------------------- controls


def test_a_random_direction_of_unit_effect_moves_the_mean_and_nothing_evenly() -> None:
    h, E, z = random_positions(n=400, d=30)
    moments = Moments.of(h)
    drawn = [directions.random_unit(moments, seed=0, n_draws=1) for _ in range(2)]
    assert torch.equal(*drawn)
    vector = directions.random_unit(moments, seed=0)
    assert float(vector @ moments.mean) == pytest.approx(1)
    log_p = Head(E).log_p(h, z=z)
    step = math.log(20)
    error = float(closed_form.mean_errors(log_p, (h @ vector)[:, None], step))
    best = float(
        closed_form.mean_errors(log_p, (h @ steering.min_variance(moments))[:, None], step)
    )
    assert error > 5 * best


def test_of_nine_random_directions_the_one_of_median_variance() -> None:
    h, *_ = random_positions(n=400, d=30)
    moments = Moments.of(h)
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randn(9, 30, generator=generator, dtype=torch.float64)
    variances = sorted(float(v @ moments.cov @ v / (v @ moments.mean) ** 2) for v in drawn)
    vector = directions.random_unit(moments, seed=7)
    assert float(vector @ moments.cov @ vector) == pytest.approx(variances[4])
