"""New models: what each architecture is made of, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from probenc_support.errors import InputError
from probenc_support.models import architectures
from probenc_support.models.recipes import ENCODER_DECODER, MASKED, Recipe

SMALL = Recipe("small", 2, 24, 2, 320, 32, 4, 12, 512, 1e-2)

LAYER_NORM, RMS_NORM = {"LayerNorm"}, {"LlamaRMSNorm", "T5LayerNorm"}


def of(**changes: Any) -> Any:
    return architectures.new(replace(SMALL, **changes))


@pytest.mark.parametrize(
    ("architecture", "norms", "learned_positions"),
    [("gpt-neox", LAYER_NORM, 0), ("gpt2", LAYER_NORM, 1), ("llama", RMS_NORM, 0),
     ("stablelm", LAYER_NORM, 0),
     ("modernbert", LAYER_NORM, 0)],
)  # fmt: skip
@pytest.mark.parametrize("tied", [True, False])
def test_architectures_are_what_their_names_say(
    architecture: str, norms: set[str], learned_positions: int, tied: bool
) -> None:
    model = of(architecture=architecture, tied=tied)
    kinds = {type(module).__name__ for module in model.modules()}
    assert kinds & (LAYER_NORM | RMS_NORM) == kinds & norms != set()
    embeddings = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    learned = [weight for weight in embeddings if weight.requires_grad and len(weight) == 32]
    assert len(learned) == learned_positions
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    assert (head.weight is inputs.weight) == tied
    assert head.weight.shape == (SMALL.rows, SMALL.d)
    assert (head.bias is not None) == (architecture == "modernbert")


def body(model: Any) -> int:
    """Parameters without embeddings and head."""
    kinds = (torch.nn.Embedding,)
    embeddings = {p for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}
    apart = embeddings | set(model.get_output_embeddings().parameters())
    return sum(p.numel() for p in model.parameters() if p not in apart)


def test_bodies_are_of_one_size() -> None:
    """12 d^2 a layer and what norms and biases add; BERT's layer before the head adds d^2, and a
    decoder that reads an encoder 4 d^2 a layer."""
    d, layers = 120, 2
    made = {
        name: body(of(architecture=name, d=d, tied=True)) / d**2
        for name in ("gpt-neox", "gpt2", "llama", "stablelm", "modernbert")
    }
    made["modernbert"] -= 1
    made["t5"] = body(of(architecture="t5", d=d, tied=True, objective=ENCODER_DECODER)) / d**2
    made["t5"] -= 16 * layers
    assert made == {name: pytest.approx(12 * layers, rel=0.02) for name in made}


def test_stablelm_is_llama_with_another_norm() -> None:
    """The same matrices from the same draws, and the same function once the norms are the same."""
    recipe = replace(SMALL, tied=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = architectures.new(replace(recipe, architecture="llama")).state_dict()
        torch.manual_seed(0)
        other = architectures.new(replace(recipe, architecture="stablelm")).state_dict()
    assert {name for name, value in one.items() if value.ndim > 1} <= set(other)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    assert {name for name in other if name not in one} == {
        name.replace("weight", "bias") for name, value in one.items() if value.ndim == 1
    }


def test_masked_and_causal_twins_are_of_one_size_and_see_what_they_should() -> None:
    causal = of(architecture="modernbert", tied=True)
    masked = of(architecture="modernbert", tied=True, objective=MASKED)
    assert masked.num_parameters() - causal.num_parameters() == SMALL.d + 1, "the mask's row"
    ids = torch.randint(320, (1, 32), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, 16] = (ids[0, 16] + 1) % 320
    with torch.no_grad():
        changed = [
            (model.eval()(input_ids=ids).logits != model(input_ids=other).logits)[0].any(dim=1)
            for model in (causal, masked)
        ]
    assert torch.equal(changed[0], torch.arange(32) >= 16)
    assert changed[1].all()


def test_t5_starts_with_a_token_that_no_text_has() -> None:
    model = of(architecture="t5", tied=True, objective=ENCODER_DECODER)
    assert model.config.decoder_start_token_id == 0
    assert len(model.encoder.block) == len(model.decoder.block) == SMALL.layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mamba"}, "'mamba'; name one of gpt-neox, gpt2"),
        ({"architecture": "llama", "objective": MASKED}, "can be trained for causal"),
        ({"architecture": "t5"}, "can be trained for encoder-decoder"),
        ({"architecture": "t5", "objective": ENCODER_DECODER}, "tied: say so"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        of(**changes)
