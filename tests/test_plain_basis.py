"""Plain bases work by indices: the numbers of permutation matrices, without the matrices."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from probenc_support import pruning
from probenc_support.experiments import further_training
from probenc_support.experiments.further_training import Pruned
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.pruning import MatrixBasis, PlainBasis, divergence, orders, pruned_head, tuning
from probenc_support.pruning.bases import shift
from probenc_support.pruning.whole_head import whole_head

V, D, N = 90, 11, 40


def problem(
    seed: int = 0, *, n_tokens: int = V, d: int = D, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """E [V, d], h [N, d], both off centre, and an order [d]."""
    generator = torch.Generator().manual_seed(seed)
    E = 0.4 + torch.randn(n_tokens, d, generator=generator, dtype=torch.float64)
    h = 0.7 + torch.randn(N, d, generator=generator, dtype=torch.float64)
    return E.to(dtype), h.to(dtype), torch.randperm(d, generator=generator)


def plain_bases(order: Tensor, h: Tensor) -> dict[str, PlainBasis]:
    mean = pruning.mean_basis(order, h)
    at_zero = pruning.at_zero(mean)
    assert isinstance(at_zero, PlainBasis)
    return {"zero": pruning.zero_basis(order), "mean": mean, "mean at zero": at_zero}


def with_matrices(basis: PlainBasis) -> MatrixBasis:
    """The same basis with its two permutation matrices written out."""
    identity = torch.eye(basis.d, dtype=torch.float64)
    return MatrixBasis(basis.mean, identity[basis.axes], identity[:, basis.axes], basis.axes)


WHICH = (slice(None), slice(0), slice(3), slice(3, None), slice(2, 7))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(0, D - 1), st.sampled_from([torch.float32, torch.float64])
)
def test_indices_give_the_numbers_of_permutation_matrices(
    seed: int, removed: int, dtype: torch.dtype
) -> None:
    E, h, order = problem(seed, dtype=dtype)
    for basis in plain_bases(order, h).values():
        matrices = with_matrices(basis)
        assert basis.d == matrices.d
        assert torch.equal(basis.kept(h, removed), matrices.kept(h, removed))
        assert torch.equal(shift(basis, removed), shift(matrices, removed))
        for which in WHICH:
            assert torch.equal(basis.codes(h, which), matrices.codes(h, which))
            assert torch.equal(basis.encoded(h, which), matrices.encoded(h, which))
            assert torch.equal(basis.decoded(E, which), matrices.decoded(E, which))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sweeps_find_the_numbers_of_permutation_matrices(dtype: torch.dtype) -> None:
    E, h, order = problem(dtype=dtype)
    head, removed = Head(E, torch.linspace(-1, 1, V).to(dtype)), [0, 2, D - 1]
    for basis in plain_bases(order, h).values():
        one, other = (
            pruning.sweep(head, some, h, removed, targets=torch.arange(N))
            for some in (basis, with_matrices(basis))
        )
        for measure in ("kl", "js", "same_top", "nll"):
            assert torch.equal(getattr(one, measure), getattr(other, measure))
        made = {"one": (basis, removed), "other": (with_matrices(basis), removed)}
        logits: dict[str, list[Tensor]] = {"one": [], "other": []}
        for _, name, _, some in divergence.swept_logits(head, h, made, chunk=16):
            logits[name].append(some.clone())
        assert torch.equal(torch.cat(logits["one"]), torch.cat(logits["other"]))
        assert float((logits["one"][0] - logits["one"][2]).abs().max()) > 0.1, "the control"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("removed", [0, 4, D - 1])
def test_heads_and_the_start_of_tuning_are_those_of_permutation_matrices(
    removed: int, dtype: torch.dtype
) -> None:
    E, h, order = problem(dtype=dtype)
    weights = torch.linspace(1, 2, V).double()
    places = tuning._Coordinates(E, h, weights)
    for basis in plain_bases(order, h).values():
        matrices = with_matrices(basis)
        for b in (None, torch.linspace(-1, 1, V)):
            (rows, bias), (rows_, bias_) = (
                whole_head(Head(E, b), some, removed) for some in (basis, matrices)
            )
            assert torch.equal(rows, rows_)
            assert (bias is None) == (bias_ is None)
            assert bias is None or (bias_ is not None and torch.equal(bias, bias_))
        starts = zip(places.start(basis, removed), places.start(matrices, removed), strict=True)
        assert all(torch.equal(one, other) for one, other in starts)
        lost, lost_ = (pruning.lost_variance(some, E, h, weights) for some in (basis, matrices))
        assert torch.equal(lost, lost_)
        if removed:
            shares = [pruning.participation(some, removed) for some in (basis, matrices)]
            assert shares == [1.0, 1.0]


def test_a_pruned_head_of_a_model_is_that_of_permutation_matrices(tiny_lm: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    h = 1 + torch.randn(50, tiny_lm.d, generator=generator)
    for basis in plain_bases(torch.randperm(tiny_lm.d, generator=generator), h).values():
        for removed in (0, 5, tiny_lm.d - 1):
            one, other = (
                pruned_head.from_basis(tiny_lm, some, removed).state_dict()
                for some in (basis, with_matrices(basis))
            )
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_plain_dimensions_leave_is_the_space_of_their_axes() -> None:
    """Against the columns of an orthonormalised permutation matrix, of which signs are free."""
    E, h, order = problem()
    Q = further_training._space(pruning.zero_basis(order), 4)
    matrix = with_matrices(pruning.zero_basis(order)).encode[4:]
    other = torch.linalg.qr(matrix.T).Q
    assert torch.equal(Q @ Q.T, other @ other.T)
    outside, outside_ = (Pruned(E, E[:, 0], space).outside(E) for space in (Q, other))
    assert torch.equal(outside, outside_)
    compensated = further_training._space(pruning.compensated_basis(order, h), 4)
    assert torch.equal(compensated, Q)


# ----------------------------------------------------------------------------------------- memory


class Shapes(TorchDispatchMode):
    """Collects the shapes of all tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else [result]
        self.seen |= {tuple(part.shape) for part in made if isinstance(part, Tensor)}
        return result

    def matrices(self, *sizes: int) -> set[tuple[int, ...]]:
        """Those of matrices with both sides among some sizes."""
        return {shape for shape in self.seen if len(shape) == 2 and set(shape) <= set(sizes)}


def test_a_plain_basis_holds_two_vectors() -> None:
    _, h, order = problem()
    drawn = orders.random_bases(Moments.of(h), n_zero=5)
    plain = [*plain_bases(order, h).values(), *drawn["random"], *drawn["random_mean"]]
    for basis in plain:
        assert isinstance(basis, PlainBasis)
        assert all(held.shape == (D,) for held in vars(basis).values())
    matrices = vars(with_matrices(pruning.zero_basis(order))).values()
    assert sum(held.numel() == D * D for held in matrices) == 2, "the control"


def test_no_matrix_over_dimensions_is_made_of_a_plain_basis() -> None:
    lm = tiny.language_model("bias")
    d, removed = lm.d, 5
    h = 1 + torch.randn(30, d, generator=torch.Generator().manual_seed(0))
    moments, order = Moments.of(h), orders.random_order(d, seed=0)
    makers: dict[str, Callable[[], pruning.Basis]] = {
        "zero": lambda: pruning.zero_basis(order),
        "mean": lambda: pruning.mean_basis(order, moments),
        "matrices": lambda: with_matrices(pruning.zero_basis(order)),
    }
    for name, make in makers.items():
        with Shapes() as shapes:
            basis = make()
            basis.kept(h, removed)
            pruning.sweep(lm.head, basis, h, [0, removed])
            pruned_head.from_basis(lm, basis, removed)
            whole_head(lm.head, basis, removed)
            pruning.participation(basis, removed)
        assert (30, lm.V) in shapes.seen, "the logits of the sweep"
        found = shapes.matrices(d, removed, d - removed)
        assert bool(found) == (name == "matrices"), (name, found)
