"""The directions that are compared: which equations each of them fulfils."""

import math
from typing import Any

import pytest
import torch
from test_steering import random_positions

from probenc_support import regression, steering
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.steering import candidates
from probenc_support.steering.omegas import Omega


@pytest.fixture(scope="module")
def problem() -> Any:
    """Moments of hidden states, a design, y and the slopes of the fit."""
    h, E, _ = random_positions()
    y = -(E @ h.mean(0)) + torch.randn(len(E), generator=torch.Generator().manual_seed(0)).double()
    design = regression.Design.of(E)
    return Moments.of(h), design, y, torch.from_numpy(design.fit(y).slopes), E


def test_what_the_fit_gives_has_the_wanted_scale_by_the_fit(problem: Any) -> None:
    *_, A, _ = problem
    found = candidates.from_fit(A, Omega(3, 1), 5)
    assert list(found) == ["paper_best", "paper", "paper_k1", "paper_all", "min_norm"]
    sizes = []
    for vector in found.values():
        assert vector is not None
        assert float(A @ vector) == pytest.approx(-1)
        sizes.append(int((vector != 0).sum()))
    assert sizes == [3, 5, 1, 12, 12]
    assert all(found["min_norm"].norm() <= v.norm() + 1e-12 for v in found.values())


def test_what_the_hidden_states_give_moves_the_logit_by_one_on_average(problem: Any) -> None:
    moments = problem[0]
    found = candidates.from_hidden_states(moments, 1e-3)
    for vector in found.values():
        assert float(vector @ moments.mean) == pytest.approx(1)
    torch.testing.assert_close(found["min_variance"], steering.min_variance(moments, 1e-3))


def test_controls_are_as_long_as_the_shortest_edit_or_move_the_logit_as_much(problem: Any) -> None:
    moments, design, y, A, _ = problem
    found = candidates.controls(design, y, A, moments, seed=3)
    shortest = steering.min_norm(A)
    for name in ("random", "shuffled"):
        assert float(found[name].norm()) == pytest.approx(float(shortest.norm()))
        assert float(A @ found[name]) != pytest.approx(-1, abs=0.1), "a control must fail"
    assert float(found["random_unit"] @ moments.mean) == pytest.approx(1)
    assert found["logit_bias"] is None
    again = candidates.controls(design, y, A, moments, seed=4)
    assert not torch.allclose(again["shuffled"], found["shuffled"])


def test_lengths_are_of_rows_about_their_mean(problem: Any) -> None:
    E = problem[-1]
    centred = (E - E.mean(0)).norm(dim=1).mean()
    edit = torch.zeros(12, dtype=torch.float64)
    edit[2] = centred / math.log(5)
    padded = torch.cat([E, 1e6 * torch.ones(3, 12)])  # rows that no token owns do not count
    head = Head(padded, tokens=torch.arange(len(E)))
    found = candidates.relative_lengths({"edit": edit, "bias": None}, head, scale=5.0)
    assert found == {"edit": pytest.approx(1)}
