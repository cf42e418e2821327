"""Continuations: lengths, seeds, and MAUVE's two ends."""

from typing import Any

import pytest
import tiny
import torch

from probenc_support import corpora, generation
from probenc_support.errors import InputError

BLOCKS = corpora.from_ids(
    torch.randint(1, tiny.VOCABULARY, (80, 16), generator=torch.Generator().manual_seed(0)),
    corpus="random",
)


needs_mauve = pytest.mark.skipif(
    not generation.has_mauve(), reason="the optional package mauve-text is absent"
)


def test_prompts_are_the_starts_of_blocks_spread_over_the_corpus() -> None:
    prompts = generation.prompts(BLOCKS, 4, 5)
    assert torch.equal(prompts[0], BLOCKS.ids[0, :5])
    assert torch.equal(prompts[-1], BLOCKS.ids[-1, :5])
    with pytest.raises(InputError, match="fewer or shorter"):
        generation.prompts(BLOCKS, 81, 5)
    with pytest.raises(InputError, match="fewer or shorter"):
        generation.prompts(BLOCKS, 4, 17)


def test_samples_depend_on_the_seed_alone(tiny_lm: Any) -> None:
    prompts = generation.prompts(BLOCKS, 6, 5)
    state = torch.get_rng_state()
    first, again, other = (
        generation.sample(tiny_lm, prompts, n_tokens=9, seed=s, batch_size=4) for s in (0, 0, 1)
    )
    assert first.ids.shape == (6, 9)
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids, other.ids)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(first.texts(tiny_lm)) == 6


def test_temperature_zero_takes_the_most_probable_token() -> None:
    lm = tiny.language_model("untied")
    prompts = generation.prompts(BLOCKS, 3, 5)
    drawn = generation.sample(lm, prompts, n_tokens=1, temperature=0).ids[:, 0]
    with torch.no_grad():
        logits = lm.model(input_ids=prompts).logits[:, -1]
    logits[:, 0] = -torch.inf  # the end of the text is not drawn
    assert torch.equal(drawn, logits.argmax(1))


def test_single_draws_follow_the_models_distribution() -> None:
    lm = tiny.language_model("untied")
    prompts = generation.prompts(BLOCKS, 1, 5).expand(4000, -1)
    drawn = generation.sample(lm, prompts, n_tokens=1, batch_size=4000).ids[:, 0]
    with torch.no_grad():
        logits = lm.model(input_ids=prompts[:1]).logits[0, -1]
    logits[0] = -torch.inf
    p = logits.softmax(0)
    seen = torch.bincount(drawn, minlength=len(p)) / len(drawn)
    assert float((seen - p).abs().sum() / 2) < 0.12
    flat = torch.full_like(p, 1 / len(p))
    assert float((seen - flat).abs().sum() / 2) > 0.3, "the control: another distribution"


def test_texts_beyond_the_context_are_refused(tiny_lm: Any) -> None:
    with pytest.raises(InputError, match="do not fit"):
        generation.sample(tiny_lm, generation.prompts(BLOCKS, 2, 8), n_tokens=tiny.CONTEXT)
    with pytest.raises(InputError, match="at least one token"):
        generation.sample(tiny_lm, generation.prompts(BLOCKS, 2, 8), n_tokens=0)


@needs_mauve
def test_mauve_tells_models_apart_and_not_a_model_from_itself() -> None:
    lm = tiny.language_model("untied")
    prompts = generation.prompts(BLOCKS, 80, 4)
    p, q = (generation.sample(lm, prompts, n_tokens=6, seed=s) for s in (0, 1))
    assert generation.mauve_score(lm, p, p) == pytest.approx(1.0, abs=0.01)
    ceiling = generation.mauve_score(lm, p, q)
    one_text = generation.Samples(q.prompts, q.ids[:1].expand_as(q.ids))
    assert generation.mauve_score(lm, p, one_text) < ceiling - 0.2
    assert 0 <= ceiling <= 1


@needs_mauve
def test_mauve_of_a_handful_is_refused() -> None:
    lm = tiny.language_model("untied")
    few = generation.Samples(BLOCKS.ids[:5, :4], BLOCKS.ids[:5, 4:8])
    with pytest.raises(InputError, match="at least 20"):
        generation.mauve_score(lm, few, few)


def test_without_the_package_the_way_to_get_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation.importlib.util, "find_spec", lambda name: None)
    few = generation.Samples(BLOCKS.ids[:5, :4], BLOCKS.ids[:5, 4:8])
    with pytest.raises(InputError, match="pip install"):
        generation.mauve_score(tiny.language_model("untied"), few, few)
