"""The untrained twin: like its model in all but the weights."""

import pytest
import tiny
import torch

from probenc_support import inference, models
from probenc_support.models import untrained


@pytest.mark.parametrize("style", tiny.STYLES)
def test_twin_is_a_fresh_network_of_the_same_kind(style: str) -> None:
    lm = tiny.language_model(style)
    before = torch.random.get_rng_state()
    twin = untrained.twin(lm, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (twin.V, twin.d, twin.tied) == (lm.V, lm.d, lm.tied)
    assert torch.equal(twin.tokens, lm.tokens)
    assert not torch.equal(twin.E, lm.E)
    # As transformers draws them: centred, with the spread that the configuration names.
    weights = torch.cat([p.flatten() for p in twin.model.parameters() if p.ndim > 1])
    assert float(weights.std()) == pytest.approx(0.3, rel=0.2)
    assert torch.equal(untrained.twin(lm, seed=3).E, twin.E)
    assert not torch.equal(untrained.twin(lm, seed=4).E, twin.E)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_twin_has_the_precision_of_its_model(dtype: torch.dtype) -> None:
    lm = tiny.language_model("untied", dtype=dtype)
    twin = untrained.twin(lm)
    assert {p.dtype for p in twin.model.parameters()} == {dtype}
    assert (twin.dtype, twin.E.dtype) == (lm.dtype, lm.E.dtype)
    assert torch.get_default_dtype() == torch.float32


def test_model_is_left_as_it_was() -> None:
    lm = tiny.language_model("tied")
    weights = {name: p.clone() for name, p in lm.model.named_parameters()}
    untrained.twin(lm)
    assert all(torch.equal(p, weights[name]) for name, p in lm.model.named_parameters())


@pytest.mark.parametrize("positions", ["all", "last"])
def test_hidden_states_are_those_that_the_head_reads(positions: str) -> None:
    lm = tiny.language_model("bias")
    ids = lm.tokens[torch.arange(60).reshape(3, 20)]
    h = inference.read(lm, ids, positions=positions)
    logits = models.logits(lm, ids)
    wanted = (logits[:, -1:] if positions == "last" else logits).flatten(0, 1)
    torch.testing.assert_close(h @ lm.E.T + lm.b, wanted.float(), atol=1e-4, rtol=1e-4)
