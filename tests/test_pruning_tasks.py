"""Tasks for pruned heads: against brute force, planted heads, chance, and the same by seed."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from probenc_support import corpora, models, pruning
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.pruning import tasks
from probenc_support.pruning.costs import Method
from probenc_support.pruning.divergence import swept_logits
from probenc_support.pruning.tasks import (
    Answers,
    Choices,
    Classes,
    Task,
    Tokens,
    agreement,
    continuation,
    next_class,
)

CAUSAL = ("tied", "untied", "bias", "divided")


@pytest.fixture(scope="module")
def lm() -> Any:
    """A tiny model whose tokenizer knows some verbs."""
    return tiny.language_model("untied", english=True)


@pytest.fixture(scope="module")
def blocks(lm: Any, tmp_path_factory: pytest.TempPathFactory) -> corpora.TokenBlocks:
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(tiny.prose(), encoding="utf-8")
    return corpora.blocks(str(path), lm.tokenizer, n_positions=4096, sequence_length=32)


@pytest.fixture(scope="module")
def choices(lm: Any, blocks: corpora.TokenBlocks) -> Choices:
    return tasks.true_and_others(lm, blocks, n_items=24, n_context=8, length=3)


def some_bases(lm: Any, *, seed: int = 0) -> dict[str, pruning.Basis]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(200, lm.d, generator=generator) + 1.0
    order = torch.randperm(lm.d, generator=generator)
    rotated = pruning.rotated_basis(lm.E, h, torch.ones(lm.V))
    return {
        "zero": pruning.zero_basis(order),
        "compensated": pruning.compensated_basis(order, h),
        "rotated": rotated,
        "rotated_zero": pruning.at_zero(rotated),
    }


def token_task(h: Tensor, tokens: Tensor) -> Task:
    """Item i is asked at position i, answers are single tokens [I, K], the first is right."""
    n, k = tokens.shape
    position = torch.arange(n).repeat_interleave(k)
    reader = Tokens(position, tokens.flatten(), position, torch.arange(k).repeat(n))
    return Task("planted", h, torch.zeros(n).long(), torch.arange(n), k, 1 / k, reader)


@torch.inference_mode()
def brute_force(task: Task, head: Head) -> Tensor:
    """[I, K] scores of the answers by a head at a task's hidden states: all logits at once, in
    double precision."""
    double = Head(head.E.double(), None if head.b is None else head.b.double())
    scores = task.no_scores()
    task.reader.add(scores, 0, double.logits(task.h.to(double.E)))
    return scores


# ------------------------------------------------------------------------------ scores of answers


@pytest.mark.parametrize("style", CAUSAL)
def test_continuations_have_the_log_probabilities_of_the_whole_model(
    style: str, choices: Choices
) -> None:
    lm = tiny.language_model(style)
    found = Answers.of(continuation(lm, choices), lm.head, {}).scores(tasks.INTACT, 0.0)[0]
    n_context = choices.contexts.shape[1]
    for k, answer in enumerate(choices.answers.unbind(1)):
        ids = torch.cat([choices.contexts, answer], dim=1)
        log_p = models.logits(lm, ids).double().log_softmax(2)[:, n_context - 1 : -1]
        whole = log_p.gather(2, answer[:, :, None]).sum(dim=(1, 2))
        torch.testing.assert_close(found[:, k], whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_reading_on_and_reading_anew_give_the_same_states(
    lm: Any, blocks: corpora.TokenBlocks, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = continuation.__globals__
    some = tasks.true_and_others(lm, blocks, n_items=20, n_context=6, length=length)
    assert module["_can_read_on"](lm, some.first(1))
    fast = continuation(lm, some)
    monkeypatch.setitem(module, "_can_read_on", lambda *_: False)
    slow = continuation(lm, some)
    torch.testing.assert_close(fast.h, slow.h, rtol=1e-4, atol=1e-4)
    assert fast.h.shape == (20 * (1 + 4 * (length - 1)), lm.d)


def test_agreement_is_scored_by_the_difference_of_two_logits(lm: Any) -> None:
    pairs = tasks.minimal_pairs(lm, n_items=40)
    task = agreement(lm, pairs)
    scores = Answers.of(task, lm.head, {}).scores(tasks.INTACT, 0.0)[0]
    for i in (0, 7, 39):
        ids = torch.tensor([corpora.encode(lm.tokenizer, pairs.texts[i])])
        logits = models.logits(lm, ids)[0, -1].double()
        gap = logits[lm.token_id(pairs.right[i])] - logits[lm.token_id(pairs.wrong[i])]
        torch.testing.assert_close(scores[i, 0] - scores[i, 1], gap, rtol=1e-4, atol=1e-4)


def test_a_class_has_the_summed_probability_of_its_tokens(lm: Any) -> None:
    names, classes = tasks.token_classes(lm)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(400, lm.d, generator=generator)
    targets = torch.randint(-1, lm.V, (400,), generator=generator)
    task, answers = next_class(h, targets, torch.arange(400), classes, names=names, n_items=60)
    scores = Answers.of(task, lm.head, {}).scores(tasks.INTACT, 0.0)[0]
    p = lm.head.logits(task.h).double().softmax(dim=1)
    for k, name in enumerate(answers):
        total = p[:, classes == names.index(name)].sum(dim=1)
        torch.testing.assert_close(scores[:, k].exp(), total, rtol=1e-4, atol=1e-7)


def test_every_pruned_head_answers_as_its_map_of_the_hidden_states_does(
    lm: Any, choices: Choices
) -> None:
    names, classes = tasks.token_classes(lm)
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, lm.V, (300,), generator=generator)
    h = torch.randn(300, lm.d, generator=generator)
    asked = [
        continuation(lm, choices),
        agreement(lm, tasks.minimal_pairs(lm, n_items=30)),
        next_class(h, targets, torch.arange(300), classes, names=names, n_items=40)[0],
    ]
    bases = some_bases(lm)
    shares = [0.25, 0.5]
    methods = {name: Method([basis], shares) for name, basis in bases.items()}
    for task in asked:
        found = Answers.of(task, lm.head, methods)
        for (name, basis), share in itertools.product(bases.items(), shares):
            kept = basis.kept(task.h.double(), round(share * lm.d))
            slow = brute_force(replace(task, h=kept), lm.head)
            torch.testing.assert_close(found.scores(name, share)[0], slow, rtol=1e-4, atol=1e-4)
        intact = found.scores(tasks.INTACT, 0.0)[0]
        torch.testing.assert_close(intact, brute_force(task, lm.head), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [0, 7])
def test_swept_logits_are_those_of_what_is_kept(tiny_lm: Any, chunk: int) -> None:
    h = torch.randn(20, tiny_lm.d, generator=torch.Generator().manual_seed(2))
    bases = some_bases(tiny_lm)
    wanted = {name: (basis, [0, 3, 9]) for name, basis in bases.items()}
    seen = torch.zeros(len(bases), 3)
    for start, name, level, logits in swept_logits(tiny_lm.head, h, wanted, chunk=chunk):
        x = h[start : start + len(logits)]
        whole = tiny_lm.head.logits(bases[name].kept(x, wanted[name][1][level]))
        torch.testing.assert_close(
            logits, whole - whole.mean(dim=1, keepdim=True), rtol=1e-4, atol=1e-4
        )
        seen[list(bases).index(name), level] += len(logits)
    assert bool((seen == 20).all())


# -------------------------------------------------------------------------------- planted, chance


def test_a_planted_head_has_all_right_and_none_of_what_was_removed() -> None:
    """Token w is read off dimension w, so that its loss leaves all answers alike."""
    head = Head(torch.eye(12))
    tokens = torch.stack([(torch.arange(30) + k) % 12 for k in range(3)], dim=1)
    task = token_task(4.0 * torch.eye(12)[tokens[:, 0]], tokens)
    order = torch.arange(12)
    found = Answers.of(task, head, {"half": Method([pruning.zero_basis(order)], [0.5])})
    assert found.mean("accuracy", tasks.INTACT, 0.0).estimate == 1.0
    right = found.values("accuracy", "half", 0.5)[0]
    gone = tokens[:, 0] < 6
    assert bool((right[~gone] == 1.0).all())
    torch.testing.assert_close(right[gone], torch.full_like(right[gone], 1 / 3))
    lost = found.lost("accuracy", "half", 0.5)
    assert lost.estimate == pytest.approx(float(gone.double().mean()) * 2 / 3)
    best = torch.tensor([4.0, 0.0, 0.0]).double().log_softmax(0)[0]
    answer = found.values("answer", tasks.INTACT, 0.0)
    torch.testing.assert_close(answer, best.expand(1, 30), rtol=1e-5, atol=1e-6)


def test_a_random_head_answers_by_chance() -> None:
    generator = torch.Generator().manual_seed(3)
    head = Head(torch.randn(50, 8, generator=generator))
    h = torch.randn(2000, 8, generator=generator)
    tokens = torch.stack([torch.randperm(50, generator=generator)[:4] for _ in range(2000)])
    found = Answers.of(token_task(h, tokens), head, {}).mean("accuracy", tasks.INTACT, 0.0)
    assert found.low < 0.25 < found.high
    assert found.high - found.low < 0.05


def test_untrained_states_answer_agreement_by_chance(lm: Any) -> None:
    """Each sentence comes with either number, so no fixed preference is right more than half."""
    task = agreement(lm, tasks.minimal_pairs(lm, n_items=200))
    found = Answers.of(task, lm.head, {})
    assert abs(found.above_chance().estimate) < 0.2


def test_one_answer_that_flips_is_no_finding() -> None:
    """The interval of a gain of one item in many reaches zero and does not pass it."""
    tokens = torch.tensor([[0, 1]]).expand(100, 2)
    answers = Answers(token_task(torch.zeros(100, 2), tokens))
    scores = torch.zeros(1, 100, 2).double()
    scores[..., 1] = -1.0
    answers.add("all", 0.5, scores)
    fewer = scores.clone()
    fewer[0, 17, 1] = 1.0
    answers.add("all but one", 0.5, fewer)
    gain = answers.gain("accuracy", "all but one", "all", 0.5)
    assert (gain.estimate, gain.high) == (pytest.approx(-0.01), 0.0)
    assert gain.low == pytest.approx(-0.03)


def test_gains_are_means_of_differences_and_draws_are_averaged() -> None:
    generator = torch.Generator().manual_seed(4)
    head = Head(torch.randn(20, 6, generator=generator))
    tokens = torch.stack([torch.randperm(20, generator=generator)[:3] for _ in range(40)])
    task = token_task(torch.randn(40, 6, generator=generator), tokens)
    orders = [torch.randperm(6, generator=generator) for _ in range(3)]
    several = Method([pruning.zero_basis(order) for order in orders], [0.5])
    one = Method(several.bases[:1], [0.5])
    found = Answers.of(task, head, {"several": several, "one": one})
    for measure in tasks.MEASURES:
        values = found.values(measure, "several", 0.5)
        assert values.shape == (3, 40)
        alone = found.values(measure, "one", 0.5)
        torch.testing.assert_close(values[:1], alone)
        gain = found.gain(measure, "several", "one", 0.5)
        assert gain.estimate == pytest.approx(float((values - alone).mean()), abs=1e-12)
        assert gain.low <= gain.estimate <= gain.high
        nothing = found.gain(measure, "one", "one", 0.5)
        assert (nothing.low, nothing.estimate, nothing.high) == (0.0, 0.0, 0.0)
    both = tasks.over_tasks([found.lost("answer", name, 0.5) for name in ("several", "one")])
    parts = [found.lost("answer", name, 0.5).estimate for name in ("several", "one")]
    assert both.estimate == pytest.approx(sum(parts) / 2)
    table = found.table().set_index("method")
    assert table.loc["one", "accuracy"] == found.mean("accuracy", "one", 0.5).estimate
    assert set(table.index) == {tasks.INTACT, "several", "one"}


# ------------------------------------------------------------------------------------------ items


def test_the_true_continuation_comes_first_and_the_others_from_elsewhere(
    lm: Any, blocks: corpora.TokenBlocks, choices: Choices
) -> None:
    assert blocks.documents is not None
    text, documents = blocks.ids.flatten(), blocks.documents.flatten()
    windows = text.unfold(0, 11, 1)
    for context, answers, group in zip(
        choices.contexts, choices.answers, choices.group, strict=True
    ):
        piece = torch.cat([context, answers[0]])
        places = (windows == piece).all(dim=1).nonzero()[:, 0]
        assert group in documents[places]
        assert not (answers[1:] == answers[0]).all(dim=1).any()
        for answer in answers:
            assert lm.token_kind(int(answer[0])) == "word start"


def test_items_are_the_same_by_seed(lm: Any, blocks: corpora.TokenBlocks) -> None:
    drawn = [
        tasks.true_and_others(lm, blocks, n_items=24, n_context=8, length=3, seed=s)
        for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0].answers, drawn[1].answers)
    assert not torch.equal(drawn[0].answers, drawn[2].answers)
    assert tasks.minimal_pairs(lm, n_items=50) == tasks.minimal_pairs(lm, n_items=50)
    assert tasks.minimal_pairs(lm, n_items=50) != tasks.minimal_pairs(lm, n_items=50, seed=1)


def test_pairs_agree_differ_and_are_one_token_each(lm: Any) -> None:
    from probenc_support.pruning.tasks.agreement import SUBJECTS, VERBS

    pairs = tasks.minimal_pairs(lm, n_items=100)
    assert len(set(zip(pairs.texts, pairs.right, strict=True))) == 100
    plural = 0
    for text, right, wrong, group in zip(
        pairs.texts, pairs.right, pairs.wrong, pairs.group, strict=True
    ):
        (verb,) = [v for v in VERBS if {f" {form}" for form in v} == {right, wrong}]
        number = verb.index(right.strip())
        subject = SUBJECTS[group][number]
        assert text.replace("We think that the", "The").startswith(f"The {subject}")
        plural += number
        for form in (right, wrong):
            read, more = (list(corpora.encode(lm.tokenizer, t)) for t in (text, text + form))
            assert more == [*read, lm.token_id(form)]
    assert plural == 50, "as many of either number"
    assert {"none", "same", "other"} == set(pairs.attractor)
    other = [t for t, a in zip(pairs.texts, pairs.attractor, strict=True) if a == "other"]
    assert any("keys near the" in t or "s near the" in t for t in other)


def test_a_class_of_many_makes_room_for_none_of_few(lm: Any) -> None:
    names = ["often", "seldom", "never"]
    classes = torch.tensor([0, 1, 2] * 10)
    targets = torch.cat([torch.zeros(300), torch.ones(12), torch.full((4,), 2.0)]).long()
    h = torch.arange(316.0)[:, None].expand(-1, 4)
    task, answers = next_class(h, targets, torch.arange(316), classes, names=names, n_items=50)
    assert answers == ["often", "seldom"], "four positions are no class"
    assert torch.bincount(task.right).tolist() == [38, 12], "as evenly as can be"
    assert task.chance == pytest.approx(0.76)
    assert torch.equal(targets[task.h[:, 0].long()], task.right)
    assert isinstance(task.reader, Classes)
    assert task.reader.member.sum(dim=0).tolist() == [10.0, 10.0]


def test_white_space_is_a_class_of_its_own(lm: Any) -> None:
    names, classes = tasks.token_classes(lm)
    assert len(classes) == lm.V
    blank = [lm.token_text(i) for i in (classes == names.index("blank")).nonzero()[:, 0].tolist()]
    assert blank
    assert not any(text.strip() for text in blank)


def test_too_little_text_is_one_sentence(lm: Any, blocks: corpora.TokenBlocks) -> None:
    with pytest.raises(InputError, match="pieces of 28 tokens"):
        tasks.true_and_others(lm, blocks.select(0, 10), n_context=25, length=3)
    alone = replace(blocks, documents=torch.zeros_like(blocks.ids))
    with pytest.raises(InputError, match="too few documents"):
        tasks.true_and_others(lm, alone, n_items=30, n_context=8, length=3)
    with pytest.raises(InputError, match="has 3 items and needs 20"):
        token_task(torch.zeros(3, 4), torch.zeros(3, 2).long())


def test_a_tokenizer_without_the_verbs_is_told_so() -> None:
    with pytest.raises(InputError, match="asks models of English"):
        tasks.minimal_pairs(tiny.language_model("untied"))


@pytest.mark.parametrize("name", ["smollm2-135m-instruct"])
def test_a_real_model_knows_agreement(name: str, real_lm: Any, tmp_path: Path) -> None:
    task = agreement(real_lm, tasks.minimal_pairs(real_lm, n_items=60))
    assert Answers.of(task, real_lm.head, {}).above_chance().low > 0.2


# ---------------------------------------------------------------------------------------- at zero


def test_a_rotated_basis_is_its_own_least_squares_prediction(lm: Any) -> None:
    """Its coordinates are not correlated, so the mean of one is all that the others tell of it."""
    h = torch.randn(500, lm.d, generator=torch.Generator().manual_seed(5)).double()
    h = h @ torch.randn(lm.d, lm.d, generator=torch.Generator().manual_seed(6)).double()
    moments = Moments.of(h)
    basis = pruning.rotated_basis(lm.E, moments, torch.ones(lm.V), ridge=0.0)
    cov = basis.encode @ moments.cov @ basis.encode.T
    off = cov - torch.diag(cov.diagonal())
    assert float(off.abs().max()) < 1e-8 * float(cov.diagonal().max())


def test_at_zero_the_mean_is_lost_with_what_goes(lm: Any) -> None:
    basis = some_bases(lm)["rotated"]
    zero = pruning.at_zero(basis)
    h = torch.randn(5, lm.d).double()
    torch.testing.assert_close(zero.kept(h, 0), h)
    gap = basis.kept(h, 6) - zero.kept(h, 6)
    constant = basis.mean - basis.decode[:, 6:] @ (basis.encode[6:] @ basis.mean)
    torch.testing.assert_close(gap, constant.expand_as(gap))
