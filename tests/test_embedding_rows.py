"""Statistics of the rows of E, block by block, beside those of a float64 copy of all of it."""

import pytest
import torch

from probenc_support import embedding_rows
from probenc_support.precision import ROWS_AT_ONCE


@pytest.mark.parametrize("n", [2, 100, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_give_the_statistics_of_the_whole(n: int, dtype: torch.dtype) -> None:
    E = (torch.randn(n, 7, generator=torch.Generator().manual_seed(n)) * 3 + 50).to(dtype)
    whole = E.double()
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(embedding_rows.mean_row(E), whole.mean(dim=0), **close)
    torch.testing.assert_close(embedding_rows.standard_deviations(E), whole.std(dim=0), **close)
    length = float((whole - whole.mean(dim=0)).norm(dim=1).mean())
    assert embedding_rows.mean_length(E) == pytest.approx(length, rel=1e-12)
