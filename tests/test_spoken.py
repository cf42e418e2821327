"""Texts of several heads over one body, and MAUVE's intervals against the package itself."""

import importlib
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from scipy import stats
from test_generation import BLOCKS, needs_mauve

from probenc_support import generation, pruning
from probenc_support.errors import InputError
from probenc_support.generation import Samples
from probenc_support.pruning import pruned_head
from probenc_support.pruning import spoken as speakers
from probenc_support.pruning.spoken import Spoken


def test_all_heads_write_as_the_real_model_does(tiny_lm: Any) -> None:
    """Each next token follows the model's distribution, head swapped in, given what came before."""
    lm = tiny_lm
    head = pruned_head.from_basis(lm, pruning.zero_basis(torch.arange(lm.d)), lm.d // 2)
    prompts = BLOCKS.ids[:1, :5].expand(3000, -1)
    found = speakers.speak(
        lm, {"own": None, "half": head}, prompts, n_tokens=1, seeds={"own": 0, "half": 0}
    )
    end = generation.end_of_text(lm)

    def p() -> np.ndarray[Any, np.dtype[np.float64]]:
        with torch.no_grad():
            logits = lm.model(input_ids=BLOCKS.ids[:1, :5]).logits[0, -1].double()
        logits[end] = -torch.inf
        return logits.softmax(0).numpy()

    own = p()
    with pruned_head.swapped(lm, head):
        half = p()

    def fits(name: str, expected: Any) -> float:
        seen = np.bincount(found[name].samples.ids[:, 0], minlength=len(expected))
        assert not seen[expected == 0].any()
        # Tokens expected fewer than five times are taken together, as the test demands.
        place = np.where(expected * 3000 < 5, expected.argmax(), np.arange(len(expected)))
        pooled = [np.bincount(place, weights=x) for x in (seen, expected * 3000)]
        pooled = [x[np.unique(place)] for x in pooled]
        return float(stats.chisquare(*pooled, sum_check=False).pvalue)

    assert fits("own", own) > 1e-4
    assert fits("half", half) > 1e-4
    assert fits("half", own) < 1e-6, "the control: the other head's distribution does not fit"


def test_features_are_the_last_hidden_states_and_seeds_decide(tiny_lm: Any) -> None:
    lm = tiny_lm
    head = pruned_head.from_basis(lm, pruning.zero_basis(torch.arange(lm.d)), lm.d // 2)
    names = {"a": None, "again": None, "other": None, "half": head}
    seeds = {"a": 0, "again": 0, "other": 1, "half": 0}
    before = lm.model.get_output_embeddings()
    found = speakers.speak(lm, names, BLOCKS.ids[:10, :4], n_tokens=6, seeds=seeds, batch_size=4)
    assert lm.model.get_output_embeddings() is before
    for spoken in found.values():
        assert spoken.samples.ids.shape == (10, 6)
        expected = generation.features(lm, spoken.samples)
        np.testing.assert_allclose(spoken.features, expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(found["a"].samples.ids, found["again"].samples.ids)
    assert not torch.equal(found["a"].samples.ids, found["other"].samples.ids)
    assert not torch.equal(found["a"].samples.ids, found["half"].samples.ids)


def test_texts_are_those_of_the_model_with_the_head_swapped_in(tiny_lm: Any) -> None:
    """Token by token, by `torch.multinomial` from the logits of the edited model itself."""
    lm = tiny_lm
    head = pruned_head.from_basis(lm, pruning.zero_basis(torch.arange(lm.d)), lm.d // 2)
    heads = {"own": None, "half": head}
    prompts = BLOCKS.ids[:12, :5]
    written = speakers.speak(lm, heads, prompts, n_tokens=4, seeds={"own": 7, "half": 7})
    for name, other in heads.items():
        generator = torch.Generator().manual_seed(7)
        ids = lm.kind.framed(prompts)
        own = lm.model.get_output_embeddings() if other is None else other
        with pruned_head.swapped(lm, own), torch.no_grad():
            for _ in range(4):
                logits = lm.model(input_ids=ids).logits[:, -1].float()
                logits[:, generation.end_of_text(lm)] = -torch.inf
                p = logits.softmax(1)
                ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], dim=1)
        assert torch.equal(written[name].samples.ids, ids[:, -4:]), name


def test_one_token_is_a_prompt_and_too_long_a_text_is_refused() -> None:
    lm = tiny.language_model("untied")
    found = speakers.speak(lm, {"": None}, BLOCKS.ids[:3, :1], n_tokens=2, seeds={"": 0})
    assert found[""].samples.sequences.shape == (3, 3)
    with pytest.raises(InputError, match="do not fit"):
        speakers.speak(lm, {"": None}, BLOCKS.ids[:3, :8], n_tokens=tiny.CONTEXT, seeds={"": 0})


# ------------------------------------------------------------------------------------------- MAUVE


@needs_mauve
def test_mauve_of_histograms_is_that_of_the_package() -> None:
    package: Any = importlib.import_module("mauve.compute_mauve")
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.ones(12), size=6) for _ in range(2))
    p[0, :6], q[0, 6:] = 0, 0  # parts that do not meet
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    weights = np.linspace(1e-6, 1 - 1e-6, 25)
    for one, other, found in zip(p, q, speakers.mauve_of(p, q), strict=True):
        x, y = package.get_divergence_curve_for_multinomials(one, other, weights, 5).T
        across, up = np.argsort(x), np.argsort(y)
        area = package.compute_area_under_curve
        expected = 0.5 * (area(x[across], y[across]) + area(y[up], x[up]))
        assert found == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(speakers.mauve_of(p, p), 1.0, atol=1e-6)


def spoken(rng: np.random.Generator, n: int, shift: float) -> Spoken:
    features = rng.normal(size=(n, 6)).astype(np.float32)
    features[:, 0] += shift
    ids = torch.zeros(n, 1, dtype=torch.int64)
    return Spoken(Samples(ids, ids), features)


@needs_mauve
def test_many_texts_tell_models_apart_and_few_do_not() -> None:
    rng = np.random.default_rng(0)
    found = {}
    for n in (40, 600):
        sets = {
            name: spoken(rng, n, shift) for name, shift in (("same", 0), ("near", 0.7), ("far", 2))
        }
        found[n] = speakers.mauve_intervals(
            spoken(rng, n, 0), sets, torch.arange(n) // 2, n_replicates=100
        )
    many = found[600]
    assert many["same"].low > many["near"].high > many["near"].low > many["far"].high
    assert many["same"].estimate > 0.9
    assert 0 <= many["far"].estimate < 0.3
    widths = [found[n]["near"].high - found[n]["near"].low for n in (40, 600)]
    assert widths[1] < 0.6 * widths[0]


@needs_mauve
def test_the_score_is_near_the_packages_own() -> None:
    package: Any = importlib.import_module("mauve")
    rng = np.random.default_rng(1)
    p, q = spoken(rng, 300, 0), spoken(rng, 300, 1.0)
    ours = speakers.mauve_intervals(p, {"": q}, torch.arange(300), n_replicates=10)[""].estimate
    theirs = [package.compute_mauve(p.features, q.features, seed=s).mauve for s in range(5)]
    assert ours == pytest.approx(np.mean(theirs), abs=0.04)


@needs_mauve
def test_mauve_of_a_handful_is_refused() -> None:
    few = spoken(np.random.default_rng(0), 5, 0)
    with pytest.raises(InputError, match="at least 20"):
        speakers.mauve_intervals(few, {"": few}, torch.arange(5))


def test_prompts_are_consecutive_pieces_and_their_documents() -> None:
    ids = torch.arange(2 * 13).reshape(2, 13)
    pieces, documents = speakers.prompts_of(ids, ids.flatten() // 5, 5, length=16)
    assert pieces.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [13, 14, 15]]
    assert documents.tolist() == [2 // 5, 5 // 5, 8 // 5, 11 // 5, 15 // 5]
    assert speakers.prompts_of(ids, ids.flatten(), 5, length=2)[0].tolist()[6:] == []
    assert len(speakers.prompts_of(ids, ids.flatten(), 100)[0]) == 8


@needs_mauve
def test_mauve_of_the_first_texts_is_that_of_these_texts_alone() -> None:
    rng = np.random.default_rng(3)
    written = {"reference": spoken(rng, 60, 0), "other": spoken(rng, 60, 1.0)}
    group = torch.arange(60) // 3
    by_number = speakers.mauve_of_first(written, group, [30, 60], seed=2)
    for n in (30, 60):
        first = {k: Spoken(s.samples, s.features[:n]) for k, s in written.items()}
        alone = speakers.mauve_intervals(
            first["reference"], {"other": first["other"]}, group[:n], seed=2
        )
        assert by_number[n]["other"].estimate == alone["other"].estimate
    assert list(by_number[30]) == ["other"], "the reference is not held against itself"
