"""Orders, bases and the sweep: identities, independent oracles, and controls that must fail."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probenc_support import pruning
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.pruning import Basis, divergence
from probenc_support.pruning import bases as bases_module
from probenc_support.pruning import orders as pruning_orders

V, D, N = 120, 12, 300


def problem(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """E [V, d] off centre, h [N, d] correlated and off centre, targets [N] with some unknown."""
    g = torch.Generator().manual_seed(seed)
    E = torch.randn(V, D, generator=g, dtype=torch.float64) * torch.linspace(0.2, 1.5, D) + 0.4
    mix = torch.randn(D, D, generator=g, dtype=torch.float64) / D**0.5
    h = torch.randn(N, D, generator=g, dtype=torch.float64) @ mix + 0.5 * torch.arange(D) / D
    targets = torch.randint(0, V, (N,), generator=g)
    targets[::10] = -1
    return E.to(dtype), h.to(dtype), targets


def bases(E: Tensor, h: Tensor) -> dict[str, Basis]:
    order = pruning_orders.ascending(pruning_orders.wanda_scores(E, h))
    weights = torch.softmax(torch.randn(V, generator=torch.Generator().manual_seed(1)), 0).double()
    return {
        "zero": pruning.zero_basis(order),
        "mean": pruning.mean_basis(order, h),
        "compensated": pruning.compensated_basis(order, h, ridge=0.0),
        "rotated": pruning.rotated_basis(E, h, weights, ridge=0.0),
    }


METHODS = ("zero", "mean", "compensated", "rotated")


def direct(E: Tensor, kept: Tensor, h: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """KL, JS, same top token and loss in SciPy-like steps of their own, in float64."""
    P = torch.log_softmax(h.double() @ E.double().T, 1)
    Q = torch.log_softmax(kept.double() @ E.double().T, 1)
    M = torch.logaddexp(P, Q) - np.log(2)
    kl = (P.exp() * (P - Q)).sum(1)
    js = 0.5 * (P.exp() * (P - M)).sum(1) + 0.5 * (Q.exp() * (Q - M)).sum(1)
    nll = -Q.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return kl, js, P.argmax(1) == Q.argmax(1), nll


# ---------------------------------------------------------------------------------------- orders


def test_scores_rank_planted_dimensions() -> None:
    E, h, _ = problem()
    E[:, 3] = 0.7  # a column that all tokens share moves no probability
    h[:, 5] = 0.0
    for scores in (pruning_orders.wanda_scores(E, h), pruning_orders.fisher_scores(Head(E), h)):
        assert set(pruning_orders.ascending(scores)[:2].tolist()) == {3, 5}
    slopes = torch.linspace(-1.0, 1.2, D)
    assert int(pruning_orders.ascending(pruning_orders.slope_scores(slopes))[0]) == int(
        slopes.abs().argmin()
    )
    standardised = pruning_orders.standardised_scores(slopes, E)
    torch.testing.assert_close(standardised, slopes.abs() * E.std(0))


def test_random_orders_are_permutations_that_depend_on_the_seed() -> None:
    orders = [pruning_orders.random_order(50, seed=s) for s in (0, 0, 1)]
    assert sorted(orders[0].tolist()) == list(range(50))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_fisher_score_is_twice_the_kl_of_a_small_dimension() -> None:
    E, h, _ = problem()
    E = E.clone()
    E[:, 4] *= 1e-3
    score = pruning_orders.fisher_scores(Head(E), h)[4]
    order = torch.tensor([4] + [i for i in range(D) if i != 4])
    kl = pruning.sweep(Head(E), pruning.zero_basis(order), h, [1]).kl.mean()
    assert float(kl) == pytest.approx(float(score) / 2, rel=0.01)
    assert float(kl) != pytest.approx(float(score), rel=0.3)


# ----------------------------------------------------------------------------------------- bases


@pytest.mark.parametrize("method", METHODS)
def test_a_basis_is_complete(method: str) -> None:
    E, h, _ = problem()
    basis, identity = bases(E, h)[method], torch.eye(D).double()
    decode, encode = basis.decoded(identity).T, basis.encoded(identity)
    torch.testing.assert_close(decode @ encode, identity)
    torch.testing.assert_close(basis.kept(h, 0), h)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("removed", [0, 5, D - 1])
def test_what_is_left_is_the_mean_and_what_the_codes_left_write(method: str, removed: int) -> None:
    E, h, _ = problem()
    basis, left = bases(E, h)[method], slice(removed, None)
    kept, codes, columns = basis.kept(h, removed), basis.codes(h, left), basis.decoded(E, left)
    torch.testing.assert_close(kept @ E.T, basis.mean @ E.T + codes @ columns)
    torch.testing.assert_close(codes, basis.encoded(h - basis.mean, left).T)
    # Linear up to the shift, which is what is left of nothing.
    constant = bases_module.shift(basis, removed)
    torch.testing.assert_close(basis.kept(3 * h, removed) - constant, 3 * (kept - constant))
    assert removed == 0 or method == "zero" or float(constant.abs().max()) > 0.01


def test_zero_and_mean_set_plain_dimensions() -> None:
    E, h, _ = problem()
    made = bases(E, h)
    order = made["zero"].axes
    assert order is not None
    zeroed, averaged = h.clone(), h.clone()
    zeroed[:, order[:5]] = 0
    averaged[:, order[:5]] = h.mean(0)[order[:5]]
    torch.testing.assert_close(made["zero"].kept(h, 5), zeroed)
    torch.testing.assert_close(made["mean"].kept(h, 5), averaged)


@pytest.mark.parametrize("removed", [1, 4, 11])
def test_compensation_is_least_squares_at_every_level(removed: int) -> None:
    E, h, _ = problem()
    basis = bases(E, h)["compensated"]
    assert basis.axes is not None
    gone, kept = basis.axes[:removed], basis.axes[removed:]
    design = np.column_stack([h[:, kept].numpy(), np.ones(N)])
    coefficients = np.linalg.lstsq(design, h[:, gone].numpy(), rcond=None)[0]
    predicted = basis.kept(h, removed)
    torch.testing.assert_close(predicted[:, kept], h[:, kept])
    np.testing.assert_allclose(predicted[:, gone], design @ coefficients, atol=1e-9)


@pytest.mark.parametrize("removed", [1, 4, 9])
def test_rotation_has_the_least_weighted_error_of_its_rank(removed: int) -> None:
    """The error is the sum of the squared singular values left out, and no other map is better."""
    E, h, _ = problem()
    weights = torch.linspace(1, 3, V).double()
    weights /= weights.sum()
    basis = pruning.rotated_basis(E, h, weights, ridge=0.0)
    centred = E - weights @ E

    def error(kept: Tensor) -> float:
        return float((((kept - h) @ centred.T).square() @ weights).mean())

    target = weights.sqrt() * ((h - h.mean(0)) @ centred.T) / N**0.5
    singular = np.linalg.svd(target.numpy(), compute_uv=False)[:D]
    expected = float((np.sort(singular)[:removed] ** 2).sum())
    assert error(basis.kept(h, removed)) == pytest.approx(expected, rel=1e-6)
    others = bases(E, h)
    assert all(
        error(others[m].kept(h, removed)) > expected * 1.001
        for m in ("zero", "mean", "compensated")
    )


@pytest.mark.parametrize("method", METHODS)
def test_lost_variance_is_the_weighted_squared_error(method: str) -> None:
    E, h, _ = problem()
    weights = torch.linspace(1, 3, V).double() / torch.linspace(1, 3, V).double().sum()
    basis = bases(E, h)[method]
    centred = E - weights @ E

    def error(kept: Tensor) -> float:
        return float((((kept - h) @ centred.T).square() @ weights).mean())

    total = error(h.mean(0).expand_as(h))
    lost = pruning.lost_variance(basis, E, h, weights)
    for removed in range(D):
        expected = error(basis.kept(h, removed)) / total
        assert float(lost[removed]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("removed", [1, 4, 9, 11])
def test_keeping_a_direction_has_the_least_error_of_the_maps_that_hold_it(removed: int) -> None:
    """Against the singular vectors of what is left once the direction is projected out."""
    E, h, _ = problem()
    weights = torch.linspace(1, 3, V).double() / torch.linspace(1, 3, V).double().sum()
    direction = torch.randn(D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    basis = pruning.keeping_basis(E, h, weights, direction, ridge=0.0)
    torch.testing.assert_close(basis.decode @ basis.encode, torch.eye(D).double())
    centred = E - weights @ E
    kept = basis.kept(h, removed) - basis.mean
    target = weights.sqrt() * ((h - h.mean(0)) @ centred.T) / N**0.5
    u = weights.sqrt() * (centred @ direction)
    rest = target - torch.outer(target @ u, u) / (u @ u)
    singular = np.linalg.svd(rest.numpy(), compute_uv=False)
    expected = float((singular[D - removed - 1 :] ** 2).sum())
    error = float((((kept + basis.mean - h) @ centred.T).square() @ weights).mean())
    assert error == pytest.approx(expected, rel=1e-6)
    # The direction lies in the range of what is kept, and the map leaves it as it is.
    written = basis.decode[:, removed:]
    leftover = direction - written @ torch.linalg.lstsq(written, direction[:, None])[0][:, 0]
    assert float(leftover.norm() / direction.norm()) < 1e-8
    free = pruning.rotated_basis(E, h, weights, ridge=0.0)
    least = float((((free.kept(h, removed) - h) @ centred.T).square() @ weights).mean())
    assert least <= error * (1 + 1e-9), "no constraint, no greater error"


def test_keeping_what_is_kept_anyway_changes_nothing() -> None:
    E, h, _ = problem()
    free = pruning.rotated_basis(E, h, torch.ones(V), ridge=0.0)
    same = pruning.keeping_basis(E, h, torch.ones(V), free.decode[:, -1], ridge=0.0)
    for removed in (1, 5, 10):
        torch.testing.assert_close(same.kept(h, removed), free.kept(h, removed))


def test_moments_stand_for_hidden_states() -> None:
    E, h, _ = problem()
    moments, order = Moments.of(h), torch.arange(D).flip(0)
    for one, other in (
        (pruning.mean_basis(order, h), pruning.mean_basis(order, moments)),
        (pruning.compensated_basis(order, h), pruning.compensated_basis(order, moments)),
        (
            pruning.rotated_basis(E, h, torch.ones(V)),
            pruning.rotated_basis(E, moments, torch.ones(V)),
        ),
    ):
        assert torch.equal(one.kept(h, 4), other.kept(h, 4))


def test_a_singular_covariance_is_no_obstacle() -> None:
    E, h, _ = problem()
    h[:, 2] = h[:, 1]
    order = torch.arange(D)
    for basis in (
        pruning.compensated_basis(order, h),
        pruning.rotated_basis(E, h, torch.ones(V)),
    ):
        assert torch.isfinite(basis.kept(h, 3)).all()
        torch.testing.assert_close(basis.kept(h, 0), h, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_rows", [7, 50, 1000])
def test_the_metric_of_tokens_is_their_weighted_covariance(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases_module, "ROWS_AT_ONCE", n_rows)
    E, _, _ = problem()
    weights = torch.linspace(0.5, 3, V).double()
    expected = np.cov(E.T.numpy(), aweights=weights.numpy(), ddof=0)
    np.testing.assert_allclose(pruning.token_metric(E, weights), expected, rtol=1e-12, atol=1e-14)
    single = pruning.token_metric(E.float(), weights)
    assert single.dtype == torch.float64
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-6)


def test_powers_weigh_tokens() -> None:
    log_a = torch.log_softmax(torch.randn(V, dtype=torch.float64), 0)
    torch.testing.assert_close(pruning.power_weights(log_a, 1.0), log_a.exp())
    torch.testing.assert_close(
        pruning.power_weights(log_a, 0.0), torch.full((V,), 1 / V, dtype=torch.float64)
    )
    assert torch.isfinite(pruning.power_weights(log_a * 100, 1.0)).all()


# ------------------------------------------------------------------------------------ divergences


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_incremental_sweep_equals_direct_computation(
    method: str, dtype: torch.dtype, atol: float
) -> None:
    E, h, targets = problem(dtype=dtype)
    basis = bases(*problem()[:2])[method]
    removed = list(range(D))
    found = pruning.sweep(Head(E), basis, h, removed, targets=targets, chunk=64)
    for level, count in enumerate(removed):
        kl, js, same, nll = direct(E, basis.kept(h.double(), count), h, targets)
        torch.testing.assert_close(found.kl[level].double(), kl, atol=atol, rtol=0)
        torch.testing.assert_close(found.js[level].double(), js, atol=atol, rtol=0)
        known = targets >= 0
        torch.testing.assert_close(found.nll[level][known].double(), nll[known], atol=atol, rtol=0)
        assert found.nll[level][~known].isnan().all()
        assert (found.same_top[level] == same).double().mean() > 0.99
    assert found.kl[-1].mean() > 0.05, "the control: removing does change the distribution"


@pytest.mark.parametrize("method", METHODS)
def test_removing_nothing_changes_nothing_bit_for_bit(method: str) -> None:
    E, h, targets = problem(dtype=torch.float32)
    found = pruning.sweep(Head(E), bases(E, h)[method], h, [0], targets=targets)
    assert (found.kl == 0).all()
    assert found.same_top.all()
    known = targets >= 0
    assert torch.equal(found.nll[0][known], found.nll_intact[known])


def test_a_head_bias_stays() -> None:
    E, h, targets = problem()
    b = torch.linspace(-1, 1, V).double()
    wide, one = torch.cat([E, b[:, None]], 1), torch.ones(N, 1).double()
    basis = bases(E, h)["zero"]
    found = pruning.sweep(Head(E, b), basis, h, [4], targets=targets)
    kept = torch.cat([basis.kept(h, 4), one], 1)
    kl = direct(wide, kept, torch.cat([h, one], 1), targets)[0]
    torch.testing.assert_close(found.kl[0], kl, atol=1e-10, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, D - 1))
def test_divergences_keep_their_ranges(seed: int, removed: int) -> None:
    E, h, targets = problem(seed)
    found = pruning.sweep(Head(E * 3), bases(E, h)["zero"], h[:40], [removed], targets=targets[:40])
    assert found.kl.min() > -1e-9
    assert found.js.min() > -1e-9
    assert found.js.max() <= np.log(2) + 1e-9
    # Pinsker on both sides of the mixture, and JS never above half of KL.
    assert (found.js <= 0.5 * found.kl + 1e-9).all()


def test_js_is_symmetric_and_kl_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    P, Q = (torch.randn(30, V, generator=g, dtype=torch.float64) * 2 for _ in range(2))

    def compared(left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        return divergence._Distribution(left.clone(), None).against(
            right.clone(), torch.empty(2, *right.shape, dtype=right.dtype)
        )

    torch.testing.assert_close(compared(P, Q)[1], compared(Q, P)[1])
    assert (compared(P, Q)[0] - compared(Q, P)[0]).abs().mean() > 0.01


def test_the_chunk_does_not_matter() -> None:
    E, h, targets = problem()
    basis = bases(E, h)["rotated"]
    one, many = (
        pruning.sweep(Head(E), basis, h, [3, 6], targets=targets, chunk=c) for c in (7, 500)
    )
    torch.testing.assert_close(one.kl, many.kl)
    assert torch.equal(one.top, many.top)


@pytest.mark.parametrize("memory", [1.0, 1e9])
def test_several_sweeps_at_once_are_each_as_they_are_alone(
    memory: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(divergence, "_COLUMN_BYTES", memory)
    E, h, targets = problem()
    made = bases(E, h)
    at = {"zero": [0, 3, 9], "mean": [3], "compensated": [1, 11], "rotated": [2, 3]}
    wanted = {name: (made[name], at[name]) for name in METHODS}
    found = pruning.Reference(Head(E), h, targets, chunk=64).sweeps(wanted)
    assert list(found) == list(METHODS)
    for name in METHODS:
        alone = pruning.sweep(Head(E), made[name], h, at[name], targets=targets, chunk=64)
        torch.testing.assert_close(found[name].kl, alone.kl, atol=1e-12, rtol=0)
        torch.testing.assert_close(found[name].nll, alone.nll, equal_nan=True)
        assert torch.equal(found[name].top, alone.top)
    assert float((found["zero"].kl[1] - found["mean"].kl[0]).abs().max()) > 1e-3, "the control"


def test_no_more_than_a_chunk_of_logits_is_made_at_a_time() -> None:
    E, h, _ = problem()
    sizes = []

    def head(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x @ E.T

    found = pruning.evaluate(Head(E), head, h, chunk=32)
    assert max(sizes) == 32
    assert sum(sizes) == N
    assert (found.kl == 0).all(), "the intact head is no distance from itself"


@pytest.mark.parametrize(("memory", "kept"), [(0, 0), (2.8 * 64 * V * 8, 3), (1e9, 5)])
def test_intact_logits_are_kept_as_far_as_memory_goes_and_move_nothing(
    memory: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five chunks, the last one shorter than 64 positions."""
    monkeypatch.setattr(divergence, "_KEPT_BYTES", {"cpu": memory})
    E, h, targets = problem()
    made: list[int] = []

    class Counted(Head):
        def logits(self, h: Tensor) -> Tensor:
            made.append(len(h))
            return super().logits(h)

    reference = pruning.Reference(Counted(E), h, targets, chunk=64)
    basis = bases(E, h)["rotated"]
    first, again = (reference.sweep(basis, [3, 6]) for _ in range(2))
    assert torch.equal(first.kl, again.kl)
    assert torch.equal(first.nll_intact.nan_to_num(), again.nll_intact.nan_to_num())
    assert len(made) == 2 * 5 - kept


@pytest.mark.gpu
def test_a_gpu_finds_the_same_divergences() -> None:
    E, h, targets = problem(dtype=torch.float32)
    for basis in bases(E, h).values():
        here = pruning.sweep(Head(E), basis, h, [0, 5], targets=targets)
        there = pruning.sweep(Head(E.cuda()), basis, h, [0, 5], targets=targets)
        torch.testing.assert_close(here.kl, there.kl, atol=1e-4, rtol=1e-4)


def test_evaluate_of_a_head_equals_the_sweep() -> None:
    E, h, targets = problem()
    basis = bases(E, h)["compensated"]
    swept = pruning.sweep(Head(E), basis, h, [0, 5], targets=targets).at(-1)
    direct_ = pruning.evaluate(Head(E), lambda x: basis.kept(x, 5) @ E.T, h, targets=targets)
    torch.testing.assert_close(swept.kl, direct_.kl)
    torch.testing.assert_close(swept.js, direct_.js)
    torch.testing.assert_close(swept.nll_increase, direct_.nll_increase, equal_nan=True)


def test_choose_power_takes_the_least_kl_on_held_out_positions() -> None:
    E, h, _ = problem()
    log_a = torch.log_softmax(h @ E.T, 1).logsumexp(0) - np.log(N)
    choice = pruning.choose_power(pruning.Reference(Head(E), h[200:]), log_a, h[:200], removed=4)
    assert choice.kl[choice.power] == min(choice.kl.values())
    again = pruning.sweep(Head(E), choice.basis, h[200:], [4]).kl.mean()
    assert float(again) == pytest.approx(choice.kl[choice.power])
    assert max(choice.kl.values()) > min(choice.kl.values())


def test_rounding_does_not_choose_the_power() -> None:
    """Where all tokens are as likely, all powers weigh them alike; chance is left to rounding."""
    E, h, _ = problem()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        log_a = 1e-7 * torch.randn(len(E), generator=generator) - np.log(len(E))
        choice = pruning.choose_power(
            pruning.Reference(Head(E), h[200:]), log_a, h[:200], removed=4, powers=(1.0, 0.5, 0.0)
        )
        assert choice.power == 0.0


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("share", [-0.1, 1.2, float("nan")])
def test_shares_outside_zero_to_one_are_refused(share: float) -> None:
    with pytest.raises(InputError, match="from 0 up to 1"):
        pruning.levels([share], D)


def test_removing_all_dimensions_is_refused() -> None:
    E, h, _ = problem()
    for share in (1.0, 0.99):
        with pytest.raises(InputError, match="leaves no model"):
            pruning.levels([share], D)
    with pytest.raises(InputError, match="leaves no model"):
        pruning.sweep(Head(E), bases(E, h)["zero"], h, [D])


def test_levels_ascend() -> None:
    assert pruning.levels([0.0, 0.3, 0.9], 10) == [0, 3, 9]
    with pytest.raises(InputError, match="ascend"):
        pruning.levels([0.3, 0.1], 10)
