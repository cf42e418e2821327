"""The exact direction: which norm the head reads, what follows from its weights, and where from
nothing can follow."""

import math
from typing import Any

import pytest
import tiny
import tiny_kinds
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from test_steering import some_ids

from probenc_support import models, steering
from probenc_support.steering import exact_bias

SMALL: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
ONE_TO_TWO: dict[str, Any] = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip
IDS = torch.randint(3, 60, (3, 12), generator=torch.Generator().manual_seed(0))


def built(name: str) -> tuple[Any, dict[str, Any]]:
    """A tiny model of an architecture, in float64, and what its forward pass is given."""
    torch.manual_seed(0)
    both = {"input_ids": IDS, "decoder_input_ids": IDS}
    t, given = transformers, {"input_ids": IDS}
    if name == "bert":
        made: Any = t.BertForMaskedLM(t.BertConfig(**SMALL))
    elif name == "roberta":
        made = t.RobertaForMaskedLM(t.RobertaConfig(**SMALL))
    elif name == "albert":
        made = t.AlbertForMaskedLM(t.AlbertConfig(**SMALL, embedding_size=12))
    elif name == "electra":
        made = t.ElectraForMaskedLM(t.ElectraConfig(**SMALL, embedding_size=12))
    elif name == "gpt2":
        made = t.GPT2LMHeadModel(t.GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2))
    elif name == "nemotron":
        made = t.NemotronForCausalLM(t.NemotronConfig(**SMALL, num_key_value_heads=2))
    elif name == "olmo":
        made = t.OlmoForCausalLM(t.OlmoConfig(**SMALL))
    elif name == "llama":
        made = t.LlamaForCausalLM(t.LlamaConfig(**SMALL))
    elif name.startswith("opt"):
        width = int(name.removeprefix("opt "))
        made = t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=60, hidden_size=16, ffn_dim=32, num_hidden_layers=2,
                num_attention_heads=2, word_embed_proj_dim=width,
            )
        )  # fmt: skip
    elif name == "bart":
        made, given = t.BartForConditionalGeneration(t.BartConfig(**ONE_TO_TWO)), both
    elif name == "t5":
        config = t.T5Config(
            vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            decoder_start_token_id=1,
        )  # fmt: skip
        made, given = t.T5ForConditionalGeneration(config), both
    else:
        config = t.WhisperConfig(
            **ONE_TO_TWO, num_mel_bins=8, max_source_positions=20, suppress_tokens=None,
            begin_suppress_tokens=None,
        )  # fmt: skip
        made = t.WhisperForConditionalGeneration(config)
        given = {"input_features": torch.randn(3, 8, 40).double(), "decoder_input_ids": IDS}
    return made.eval().double(), given


def with_biases(model: Any, seed: int = 0) -> Any:
    """Gains and biases of all norms drawn anew: a fresh model has ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            for name, parameter in module.named_parameters(recurse=False):
                drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.data.copy_(drawn + 0.5 if name == "weight" else drawn - 0.3)
    return model


@torch.inference_mode()
def read_by_head(model: Any, given: dict[str, Any]) -> Any:
    """[N, d] what enters the head."""
    kept: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: kept.append(inputs[0])
    )
    model(**given)
    handle.remove()
    return kept[-1].flatten(0, 1)


@pytest.mark.parametrize(
    "name",
    ["gpt2", "nemotron", "bert", "roberta", "albert", "electra", "bart", "whisper", "opt 24"],
)
def test_behind_a_layer_norm_with_a_bias_there_is_an_exact_direction(name: str) -> None:
    model, given = built(name)
    with_biases(model)
    with torch.inference_mode():
        found = exact_bias.bias_in(model, lambda: model(**given))
    assert found.vector is not None, found.words
    h = read_by_head(model, given)
    assert float((h @ found.vector - 1).abs().max()) < 1e-8
    assert float(h.std(dim=0).min()) > 1e-3, "the hidden states differ"
    # Other inputs, for which nothing was run: the direction comes from the weights.
    other = {k: v.flip(0, 1) if k.endswith("ids") else v + 1 for k, v in given.items()}
    h = read_by_head(model, other)
    assert float((h @ found.vector - 1).abs().max()) < 1e-8
    assert bool(found.through) == name.startswith("opt")
    control = exact_bias.permuted(found.vector, h.mean(dim=0))
    assert float(h.mean(dim=0) @ control) == pytest.approx(1)
    assert exact_bias.evenness(control, h)[0] > 1e-2, "the same entries in another order"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("llama", "no LayerNorm"),
        ("t5", "no LayerNorm"),
        ("olmo", "without a bias"),
        ("opt 8", "none is exact"),
    ],
)
def test_where_there_is_none_it_says_why(name: str, why: str) -> None:
    model, given = built(name)
    with_biases(model)
    with torch.inference_mode():
        found = exact_bias.bias_in(model, lambda: model(**given))
    assert found.vector is None
    assert why in found.words
    h = read_by_head(model, given)
    one = torch.ones(len(h), 1, dtype=torch.float64)
    best = h @ torch.linalg.lstsq(h, one).solution
    assert len(h) > 2 * h.shape[1]
    assert float((best - one).abs().max()) > 0.05, "brute force finds none, either"


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_layer_norm_whose_bias_is_zero_has_none(name: str) -> None:
    model, given = built(name)
    with torch.inference_mode():
        found = exact_bias.bias_in(model, lambda: model(**given))
    assert found.vector is None
    assert "without a bias" in found.words
    assert found.shares == 0.0


def norm_of(gain: Any, bias: Any) -> tuple[torch.nn.LayerNorm, Any]:
    """A LayerNorm in float64, and [400, d] of its outputs."""
    norm = torch.nn.LayerNorm(len(gain), dtype=torch.float64)
    norm.weight.data.copy_(gain)
    norm.bias.data.copy_(bias)
    generator = torch.Generator().manual_seed(3)
    h = norm(torch.randn(400, len(gain), generator=generator, dtype=torch.float64))
    return norm, h.detach()


@given(seed=st.integers(0, 1000), d=st.integers(3, 20))
@settings(max_examples=20, deadline=None)
def test_the_closed_form_is_the_shortest_and_only_exact_direction(seed: int, d: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gain = 0.3 + torch.rand(d, generator=generator, dtype=torch.float64)
    bias = torch.randn(d, generator=generator, dtype=torch.float64)
    _, h = norm_of(gain, bias)
    found = exact_bias._of_norm(gain, bias, "norm").vector
    assert found is not None
    # Independent: h - mean spans all but one dimension, so one vector solves v . h = 1.
    solved = torch.linalg.lstsq(h, torch.ones(len(h), 1, dtype=torch.float64))
    assert int(torch.linalg.matrix_rank(h - h.mean(dim=0))) == d - 1
    torch.testing.assert_close(found, solved.solution[:, 0], rtol=1e-6, atol=1e-8)
    spanned = torch.diag(gain) - gain[:, None] / d
    torch.testing.assert_close(exact_bias.shortest_exact(spanned, bias), found)
    # Its length is one over the distance of the hyperplane from the origin.
    nearest = found / (found @ found)
    assert float(nearest.norm()) == pytest.approx(1 / float(found.norm()))
    assert float(h.norm(dim=1).min()) >= float(nearest.norm()) - 1e-9


@pytest.mark.parametrize("zeros", [1, 3])
def test_with_gains_of_zero_the_bias_there_is_all_that_is_needed(zeros: int) -> None:
    generator = torch.Generator().manual_seed(0)
    gain = 0.5 + torch.rand(9, generator=generator, dtype=torch.float64)
    gain[:zeros] = 0.0
    bias = torch.randn(9, generator=generator, dtype=torch.float64)
    _, h = norm_of(gain, bias)
    found = exact_bias._of_norm(gain, bias, "norm").vector
    assert found is not None
    torch.testing.assert_close(h @ found, torch.ones(len(h), dtype=torch.float64))
    spanned = torch.diag(gain) - gain[:, None] / 9
    torch.testing.assert_close(exact_bias.shortest_exact(spanned, bias), found)
    # The limit of small gains is the same, and longer is not shorter.
    if zeros == 1:
        near = exact_bias._of_norm(gain + 1e-9 * (gain == 0), bias, "norm").vector
        torch.testing.assert_close(near, found, rtol=1e-6, atol=1e-7)
    bias[:zeros] = 0.0
    assert exact_bias._of_norm(gain, bias, "norm").vector is None


def test_a_sum_of_zero_leaves_a_hyperplane_through_the_origin() -> None:
    gain = torch.tensor([1.0, 2.0, 0.5, 4.0]).double()
    bias = torch.tensor([1.0, -2.0, 0.5, -4.0]).double()
    found = exact_bias._of_norm(gain, bias, "norm")
    assert found.vector is None
    assert "is zero" in found.words
    _, h = norm_of(gain, bias)
    assert float((h @ (1 / gain)).abs().max()) < 1e-12, "so no multiple of it is one"


@pytest.mark.parametrize("style", ["untied", "bias"])
def test_the_edit_is_a_plain_logit_bias_on_the_really_edited_model(style: str) -> None:
    lm = tiny.language_model(style, dtype=torch.float64)
    tiny.need_float64_logits(lm)
    ids = some_ids()
    assert steering.hidden_bias(lm, ids[:1]).vector is None
    with_biases(lm.model, seed=2)
    vector = steering.hidden_bias(lm, ids[:1]).vector
    assert vector is not None
    checked = (ids, torch.tensor([7, 90]), (20.0, 1 / 20))
    assert steering.closed_form_error(lm, *checked, vector, as_bias=True) < 1e-9
    control = exact_bias.permuted(vector, torch.ones(lm.d, dtype=torch.float64))
    assert steering.closed_form_error(lm, *checked, control, as_bias=True) > 1e-2
    token = torch.tensor([7])
    before = torch.log_softmax(models.logits(lm, ids), dim=-1)
    for scale in (20.0, 1 / 20):
        moved = before.clone()
        moved[..., 7] += math.log(scale)
        with steering.edited_rows(lm, token, math.log(scale) * vector[None]) as edited:
            after = torch.log_softmax(models.logits(edited, ids), dim=-1)
        torch.testing.assert_close(after, torch.log_softmax(moved, dim=-1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("architecture", tiny_kinds.ARCHITECTURES)
def test_it_holds_at_the_positions_that_each_kind_predicts(architecture: str) -> None:
    lm = tiny_kinds.language_model(architecture)
    ids = some_ids().clamp(min=5)
    found = steering.hidden_bias(lm, ids[:1])
    h = models.hidden_states(lm, ids.flip(1)).flatten(0, 1)
    if architecture in ("t5", "t5-untied", "mt5", "modernbert"):
        assert found.vector is None
        assert "none is exact" in found.words
        return
    assert found.vector is not None, found.words
    assert exact_bias.evenness(found.vector, h)[1] < 1e-8
    assert exact_bias.evenness(exact_bias.permuted(found.vector, h.mean(dim=0)), h)[0] > 1e-2


@pytest.mark.parametrize("style", ["tied", "multiplied"])
def test_none_without_a_layer_norm_with_a_bias(style: str) -> None:
    found = steering.hidden_bias(tiny.language_model(style), some_ids()[:1])
    assert found.vector is None
    assert "none is exact" in found.words
    assert found.norm


def test_evenness_is_what_is_left_of_one() -> None:
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
    vector = torch.tensor([1.0, 0.5]).double()
    sd, farthest = exact_bias.evenness(vector, h)
    assert sd == pytest.approx(torch.tensor([1.0, 0.5, 2.0]).double().std(correction=0).item())
    assert farthest == pytest.approx(1.0)


def test_hooks_are_gone_afterwards() -> None:
    lm = tiny.language_model("untied")
    steering.hidden_bias(lm, some_ids()[:1])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.model.modules())
