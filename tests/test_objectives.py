"""What is predicted from what: each objective beside loops and beside transformers' own losses."""

from dataclasses import replace
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional

from probenc_support import models
from probenc_support.models import architectures, objectives, training
from probenc_support.models.recipes import ENCODER_DECODER, MASKED, Recipe

SMALL = Recipe("small", 2, 16, 2, tiny.VOCABULARY, 32, 4, 12, 512, 1e-2)

RECIPES = {
    "causal": replace(SMALL, architecture="llama", tied=True),
    "causal-modernbert": replace(SMALL, architecture="modernbert", tied=True),
    "masked": replace(SMALL, architecture="modernbert", tied=True, objective=MASKED),
    "masked-untied": replace(SMALL, architecture="modernbert", objective=MASKED),
    "encoder-decoder": replace(SMALL, architecture="t5", tied=True, objective=ENCODER_DECODER),
}


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


def new(recipe: Recipe) -> Any:
    """A model whose predictions differ visibly from position to position."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = architectures.new(recipe).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def blocks(n: int = 3, length: int = 32) -> Tensor:
    """[n, length] random tokens, none of them special."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, tiny.VOCABULARY, (n, length), generator=generator)


def of(recipe: Recipe) -> objectives.Objective:
    return objectives.of(recipe, objectives.tokenizer_of(recipe, tiny.tokenizer()))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(training._number(7))


def masks(ids: Tensor) -> Tensor:
    return objectives.masked_positions(ids, generator(), special=(0, tiny.VOCABULARY))


# ------------------------------------------------------------------------------------------ oracles


def by_transformers(model: Any, recipe: Recipe, ids: Tensor) -> Tensor:
    """The mean loss that the model's own class computes."""
    if recipe.objective == MASKED:
        chosen = masks(ids)
        labels = ids.where(chosen, -100).flatten(0, 1)
        read = ids.masked_fill(chosen, tiny.VOCABULARY).flatten(0, 1)
        return model(input_ids=read, labels=labels).loss
    if recipe.objective == ENCODER_DECODER:
        return model(input_ids=ids[:, :16], labels=ids[:, 16:].contiguous()).loss
    return model(input_ids=ids, labels=ids).loss


def by_a_loop(model: Any, recipe: Recipe, ids: Tensor) -> list[Tensor]:
    """The loss of each prediction, from a pass of its own that sees no token that it should not."""
    losses = []
    rounds = masks(ids) if recipe.objective == MASKED else torch.ones_like(ids)[None].bool()
    first = {MASKED: 0, ENCODER_DECODER: 16}.get(recipe.objective, 1)
    for round_of_all in rounds:
        for block, chosen in zip(ids, round_of_all, strict=True):
            for at in range(first, len(block)):
                if chosen[at]:
                    logits = one_prediction(model, recipe, block, chosen, at)
                    losses.append(-torch.log_softmax(logits, dim=0)[block[at]])
    return losses


def one_prediction(model: Any, recipe: Recipe, block: Tensor, chosen: Tensor, at: int) -> Tensor:
    """[V] logits for the token at a position of a block [T]."""
    if recipe.objective == MASKED:
        seen = torch.tensor(
            [tiny.VOCABULARY if c else t for t, c in zip(block, chosen, strict=True)]
        )
        return model(input_ids=seen[None]).logits[0, at]
    if recipe.objective == ENCODER_DECODER:
        before = torch.cat([torch.zeros(1, dtype=torch.int64), block[16:at]])
        given = {"input_ids": block[None, :16], "decoder_input_ids": before[None]}
        return model(**given, use_cache=False).logits[0, -1]
    return model(input_ids=block[None, :at]).logits[0, -1]


@torch.no_grad()
def test_every_prediction_is_that_of_a_pass_of_its_own(recipe: Recipe) -> None:
    model, ids = new(recipe), blocks()
    hidden, targets = of(recipe)(model, ids, generator())
    logits = model.get_output_embeddings()(hidden)
    found = functional.cross_entropy(logits, targets, reduction="none")
    wanted = torch.stack(by_a_loop(model, recipe, ids))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.05, "the control: they differ by far more"


def test_loss_and_gradient_in_pieces_are_those_of_transformers(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(training._HEAD_LOGITS, "cpu", 7 * tiny.VOCABULARY)
    model, ids = new(recipe), blocks()
    direct = by_transformers(model, recipe, ids)
    direct.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    found = training._backward(model, ids, of(recipe), seed=(7,))
    assert found == pytest.approx(float(direct.detach()), rel=1e-5)
    got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == wanted.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["causal-modernbert", "encoder-decoder"])
def test_models_are_trained_to_do_what_they_are_asked_to(name: str) -> None:
    """Training and detection agree on what is read, and what is predicted from it."""
    recipe, ids = RECIPES[name], blocks()
    lm = models.wrap(new(recipe), tiny.tokenizer(), name=name)
    with torch.no_grad():
        hidden, targets = of(recipe)(lm.model, ids, generator())
    wanted = models.targets(lm, ids)
    states = models.hidden_states(lm, ids)
    assert torch.equal(targets, wanted[wanted >= 0])
    torch.testing.assert_close(hidden, states[wanted >= 0])


def test_an_encoder_sees_the_first_half_and_predicts_none_of_it() -> None:
    """A later token changes no earlier prediction; one of the first half changes all."""
    recipe = RECIPES["encoder-decoder"]
    model, ids = new(recipe), blocks(1)

    def states(ids: Tensor) -> Tensor:
        hidden, targets = of(recipe)(model, ids, generator())
        assert torch.equal(targets, ids[0, 16:])
        return hidden.detach()

    later, earlier = ids.clone(), ids.clone()
    later[0, 20] += 1 - 2 * int(later[0, 20] > 1)
    earlier[0, 3] += 1 - 2 * int(earlier[0, 3] > 1)
    whole = states(ids)
    assert torch.equal((states(later) != whole).any(dim=1), torch.arange(16) > 4)
    assert (states(earlier) != whole).any(dim=1).all()


# -------------------------------------------------------------------------------------------- masks


def test_masks_touch_no_special_token_and_every_other_one_once() -> None:
    special = (0, 5)
    ids = blocks(50)
    ids[:, ::3] = torch.where(torch.arange(50)[:, None] % 2 == 0, 0, 5)
    free = ~torch.isin(ids, torch.tensor(special))
    chosen = objectives.masked_positions(ids, generator(), special=special)
    assert torch.equal(chosen.sum(dim=0), free.long())
    without = objectives.masked_positions(ids, generator())
    assert torch.equal(without.sum(dim=0), torch.ones_like(ids)), "the control: they could be"
    shares = without.double().mean(dim=2)
    assert (shares - 1 / 7).abs().max() < 1 / 32


def test_every_position_is_in_every_round_equally_often_and_apart_from_others() -> None:
    n, share = 20_000, 1 / 7
    chosen = objectives.masked_positions(blocks(n, 28), generator()).double()
    assert (chosen.mean(dim=1) - share).abs().max() < 5 * (share * (1 - share) / n) ** 0.5
    together = torch.einsum("rbt,rbu->tu", chosen, chosen) / n
    apart = ~torch.eye(28, dtype=torch.bool)
    wanted = 3 / 27  # of the three others of its round
    error = (wanted * (1 - wanted) / n) ** 0.5
    assert (together[apart] - wanted).abs().max() < 5 * error


def test_masks_depend_on_the_generator_alone() -> None:
    ids = blocks()
    other = torch.Generator().manual_seed(8)
    assert torch.equal(masks(ids), masks(ids.flip(1)))
    assert not torch.equal(masks(ids), objectives.masked_positions(ids, other))


def test_the_mask_is_a_token_of_its_own() -> None:
    """It has the row after the text's tokens, no text becomes it, and all else stays as it was."""
    plain = tiny.tokenizer()
    made = objectives.tokenizer_of(RECIPES["masked"], plain)
    assert made.mask_token_id == tiny.VOCABULARY == RECIPES["masked"].rows - 1
    text = "the cat sat on the mat"
    assert made(text)["input_ids"] == plain(text)["input_ids"]
    assert len(plain) == tiny.VOCABULARY, "the text's own tokenizer has none"
    assert objectives.tokenizer_of(RECIPES["causal"], plain) is plain


def test_the_head_is_back_in_place_also_after_an_error() -> None:
    """Nothing of what stops a pass before the head stays."""
    model = new(RECIPES["causal"])
    before = model(input_ids=blocks()).logits
    with pytest.raises(IndexError):
        objectives.causal(model, blocks() + tiny.VOCABULARY, generator())
    objectives.causal(model, blocks(), generator())
    assert torch.equal(model(input_ids=blocks()).logits, before)
