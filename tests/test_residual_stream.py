"""The parts of the residual stream against what the network itself says it computes."""

import pytest
import streams
import tiny
import torch

from probenc_support import models
from probenc_support.models.norms import Norm
from probenc_support.models.residual_stream import ResidualStream

IDS = torch.randint(1, tiny.VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", streams.ADDITIVE)
def test_parts_add_up_to_the_input_of_the_norm_and_through_it_to_h(name: str) -> None:
    lm = streams.language_model(name)
    stream = ResidualStream.of(lm)
    kinds = {part.kind for part in stream.parts}
    crossed = {"cross-attention"} if name in ("t5", "mbart") else set()
    assert kinds == {"embedding", "attention", "MLP"} | crossed, stream.words
    read = stream.read(IDS)
    assert read.rounding < 1e-13
    h = models.hidden_states(lm, IDS).flatten(0, 1)
    assert stream.norm is not None
    given = [stream.norm.direct(part) * read.inverse_scale[:, None] for part in read.parts]
    # RMSNorms work in float32 in a network in float64, too.
    total = torch.stack(given).sum(0) + stream.norm.bias
    torch.testing.assert_close(total, h, rtol=1e-5, atol=1e-6)
    last = stream.read(IDS, "last")
    torch.testing.assert_close(last.h, models.hidden_states(lm, IDS)[:, -1])
    torch.testing.assert_close(last.parts[1], read.parts[1].reshape(2, -1, lm.d)[:, -1])


@pytest.mark.parametrize("name", ["neox", "neox sequential", "gpt2", "llama", "gemma3", "olmo2"])
def test_layers_are_those_whose_states_the_model_gives_out(name: str) -> None:
    """An oracle of transformers' own: the hidden states after every layer."""
    lm = streams.language_model(name)
    stream = ResidualStream.of(lm)
    read = stream.read(IDS)
    with torch.inference_mode():
        theirs = lm.model(input_ids=IDS, output_hidden_states=True).hidden_states
    assert len(theirs) == 4
    so_far = torch.zeros_like(read.stream)
    for layer in range(3):  # the last one is given after the norm
        added = [x for part, x in zip(stream.parts, read.parts, strict=True) if part.layer == layer]
        so_far = so_far + torch.stack(added).sum(0)
        torch.testing.assert_close(so_far, theirs[layer].flatten(0, 1))


@pytest.mark.parametrize("name", streams.ADDITIVE)
def test_neurons_add_up_to_their_mlp(name: str) -> None:
    stream = ResidualStream.of(streams.language_model(name))
    read = stream.read(IDS)
    of_mlps = [at for at, part in enumerate(stream.parts) if part.kind == "MLP"]
    assert of_mlps
    for at in of_mlps:
        neurons, acts = stream.parts[at].neurons, read.acts[at]
        assert neurons is not None, name
        assert acts is not None
        assert neurons.count == 4 * 16 if name == "gpt2" else 32
        rest = read.parts[at] - acts @ neurons.weights
        # What is left is the bias of the linear layer, the same at every position.
        torch.testing.assert_close(rest, rest[:1].expand_as(rest), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bart", "bert"])
def test_a_stream_with_norms_on_it_has_no_parts_and_says_so(name: str) -> None:
    stream = ResidualStream.of(streams.language_model(name))
    assert stream.parts == ()
    assert stream.norm is not None, "the norm of the last layer, or of the transform behind it"
    assert "not what a stack of layers gives" in stream.words


@tiny.need_espeak
def test_a_decoder_that_hears_has_parts() -> None:
    lm = models.wrap(tiny.whisper(), tiny.whisper_tokenizer(), name="tiny-whisper")
    stream = ResidualStream.of(lm)
    kinds = [part.kind for part in stream.parts]
    assert kinds == ["embedding", *2 * ["attention", "cross-attention", "MLP"]], stream.words
    read = stream.read(IDS)
    assert read.rounding < 1e-5
    torch.testing.assert_close(read.h, models.hidden_states(lm, IDS).flatten(0, 1))


def test_a_layer_whose_parts_are_hidden_counts_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = streams.language_model("llama")
    plain = type(lm.model.model.layers[0].mlp).forward
    # The MLP gives twice what is added, and no two modules add up any more.
    monkeypatch.setattr(type(lm.model.model.layers[0].mlp), "forward", lambda s, x: 2 * plain(s, x))
    layer = lm.model.model.layers[1]
    kept = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *a, **k: 1.5 * kept(*a, **k))
    stream = ResidualStream.of(lm)
    assert [part.kind for part in stream.parts] == [
        "embedding", "attention", "MLP", "layer", "attention", "MLP"
    ]  # fmt: skip
    assert stream.read(IDS).rounding < 1e-13


def test_norms_are_told_by_what_they_do() -> None:
    x = torch.randn(5, 16, dtype=torch.float64) + 1
    layer_norm = torch.nn.LayerNorm(16).double().requires_grad_(False)
    torch.nn.init.normal_(layer_norm.weight)
    torch.nn.init.normal_(layer_norm.bias)
    found = Norm.of(layer_norm, x, layer_norm(x))
    assert found is not None
    assert found.centred
    assert Norm.of(layer_norm, x, x) is None
    assert Norm.of(torch.nn.Linear(16, 16).double(), x, x) is None


def test_adjoint_is_the_transpose_of_what_the_norm_does() -> None:
    lm = streams.language_model("gpt2")
    norm = ResidualStream.of(lm).norm
    assert norm is not None
    u, part = torch.randn(2, 16, dtype=torch.float64)
    torch.testing.assert_close(norm.adjoint(u) @ part, u @ norm.direct(part))
