"""What the benchmarks build for a GPU passes the package's checks, at a size for the CPU."""

import pytest
import torch
from benchmarks import test_gpu_speed as on_gpu

from probenc_support import corpora, inference


@pytest.mark.parametrize("half_head", [True, False])
@pytest.mark.parametrize("name", on_gpu.SHAPES)
def test_models_of_the_gpu_benchmarks_are_read_by_the_pass(name: str, *, half_head: bool) -> None:
    lm = on_gpu.random_model(name, "cpu", small=True, half_head=half_head)
    blocks = corpora.from_ids(torch.randint(lm.V, (4, 16)), corpus="random")
    found = inference.detect(lm, blocks, cache=False, progress=False)
    assert bool(found.log_a.isfinite().all())
    assert found.h.shape == (64, lm.d)
    assert on_gpu.operations(lm, 1) >= 2 * lm.V * lm.d
