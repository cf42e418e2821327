"""Rounding to few bits: the grid, the error's bound, and what bits buy."""

import pytest
import torch

from probenc_support.errors import InputError
from probenc_support.quantisation import rounded

E = torch.randn(50, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("bits", "block"), [(8, 0), (4, 32), (2, 1)])
def test_entries_lie_on_a_grid_and_move_by_half_a_step_at_most(bits: int, block: int) -> None:
    on_grid = rounded(E, bits, block=block)
    for part, was in zip(on_grid.split(block or 70, 1), E.split(block or 70, 1), strict=True):
        step = was.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((part - was).abs() <= step / 2 + 1e-12).all()
        torch.testing.assert_close(part / step, (part / step).round())
        assert part.unique(dim=1).numel()
    torch.testing.assert_close(rounded(on_grid, bits, block=block), on_grid)


def test_the_error_is_that_of_uniform_rounding() -> None:
    step = E.abs().amax(1, keepdim=True) / 127
    error = (rounded(E, 8) - E) / step
    assert float(error.std()) == pytest.approx(12**-0.5, rel=0.05)


def test_more_bits_and_smaller_blocks_err_less() -> None:
    errors = [
        float((rounded(E, bits, block=block) - E).norm())
        for bits, block in ((4, 0), (4, 8), (8, 0), (16, 0))
    ]
    assert errors == sorted(errors, reverse=True)


def test_a_row_of_zeros_stays() -> None:
    assert torch.equal(rounded(torch.zeros(2, 5), 8), torch.zeros(2, 5))


@pytest.mark.parametrize(("bits", "block"), [(1, 0), (17, 0), (8, -1)])
def test_impossible_grids_are_refused(bits: int, block: int) -> None:
    with pytest.raises(InputError, match="2 to 16 bits"):
        rounded(E, bits, block=block)
