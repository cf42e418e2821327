"""Generated text of steered models."""

from typing import Any

import pytest
import tiny
import torch
from test_steering import detection_of, log_softmax_of, some_ids

from probenc_support import generation, steering
from probenc_support.moments import Moments
from probenc_support.steering import steered_text


def test_frequent_words_are_words_or_the_likeliest_tokens() -> None:
    lm: Any = tiny.language_model("untied")
    log_a = torch.full((lm.V,), -8.0, dtype=torch.float64)
    words = [
        i for i in range(lm.V) if lm.token_text(i)[:1] == " " and lm.token_text(i)[1:].isalpha()
    ]
    log_a[words[:3]] = torch.tensor([-6.0, -5.0, -1.0], dtype=torch.float64)
    found = steered_text.frequent_words(lm, log_a, 2)
    assert found.tolist() == [words[1], words[0]], "in order, and none above one in a hundred"
    assert len(steered_text.frequent_words(lm, log_a, 300)) == 300


@pytest.mark.parametrize("exact", [True, False])
def test_the_scale_on_a_text_is_that_of_the_edited_model(exact: bool) -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    vector = steering.min_variance(Moments.of(detection.h), 1e-3)
    tokens, prompts = torch.tensor([70, 90]), some_ids(3, 4)
    intact = generation.sample(lm, prompts, n_tokens=5)
    drawn, steps = steered_text.steered_sample(
        lm, prompts, tokens, 1.5, detection=detection, direction=vector, exact=exact, n_tokens=5,
        seed=1,
    )  # fmt: skip
    assert drawn.ids.shape == (3, 5)
    assert bool((steps == torch.tensor(1.5).double().log()).all()) == (not exact)
    old = log_softmax_of(lm.model, intact.sequences).reshape(3, 9, -1)
    with steering.edited_rows(lm, tokens, torch.outer(steps, vector)):
        new = log_softmax_of(lm.model, intact.sequences).reshape(3, 9, -1)
    sums = [x[:, 3:-1][..., tokens].exp().sum() for x in (new, old)]
    at = steered_text.drawn_at(lm, intact)
    found = steered_text.scale_there(lm, at, tokens, vector, steps)
    assert found == pytest.approx(float(sums[0] / sums[1]), rel=1e-5)


def test_where_the_steps_cannot_be_solved_the_linear_rule_holds() -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    nowhere = torch.zeros(lm.d, dtype=torch.float64)
    _, steps = steered_text.steered_sample(
        lm, some_ids(2, 4), torch.tensor([70]), 2.0, detection=detection, direction=nowhere,
        exact=True, n_tokens=2, seed=0,
    )  # fmt: skip
    assert steps.tolist() == pytest.approx([0.6931471805599453])


def test_a_ratio_of_occurrences_with_its_interval() -> None:
    base = torch.tensor([1.0, 3.0, 0.0, 2.0] * 20)
    same = steered_text.frequency_ratio(base, base)
    assert (same.estimate, same.low, same.high) == (1.0, 1.0, 1.0)
    other = steered_text.frequency_ratio(base.flip(0) * 2, base)
    assert other.estimate == 2.0
    assert other.low < 2.0 < other.high


def test_samples_of_one_model_are_those_of_its_plans() -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    vector = steering.min_variance(Moments.of(detection.h), 1e-3)
    tokens, prompts = torch.tensor([70, 90]), some_ids(6, 4)
    plans = {
        "more": steered_text.Plan(1.5, "along", True),
        "same": steered_text.Plan(1.0, "along", False),
    }
    found = steered_text.generate(
        lm, prompts, tokens, detection=detection, directions={"along": vector}, n_tokens=5,
        plans=plans, seed=7,
    )  # fmt: skip
    assert list(found.texts) == ["intact", "intact again", "more", "same"]
    for i, name in enumerate(("intact", "intact again", None, "same")):
        if name:  # an edit by no step at all leaves the model as it is
            alone = generation.sample(lm, prompts, n_tokens=5, seed=7 + i)
            assert torch.equal(found.texts[name].ids, alone.ids)
    assert found.steered["same"].on_intact_text == pytest.approx(1)
    assert found.steered["more"].on_intact_text > 1.2
    assert [one.linear for one in found.steered.values()] == [False, True]


def test_the_table_counts_what_was_said() -> None:
    def said(*ids: list[int]) -> generation.Samples:
        return generation.Samples(torch.zeros(2, 1, dtype=torch.int64), torch.tensor(ids))

    steered = steered_text.SteeredSample(said([5, 5], [5, 9]), torch.ones(2), True, 1.8)
    found = steered_text.Generated(
        torch.tensor([5, 6]),
        {"intact": said([5, 1], [2, 2]), "intact again": said([6, 1], [5, 2])},
        {"5x": steered},
    )
    ratios = found.ratios()
    assert {name: ratio.estimate for name, ratio in ratios.items()} == pytest.approx(
        {"intact": 1 / 1.5, "intact again": 2 / 1.5, "5x": 3 / 1.5}
    )
    table = found.table(ratios).set_index("sample")
    assert table["occurrences"].tolist() == [1, 2, 3]
    assert table["steps"].tolist() == ["", "", "log r"]
    assert table["on intact text"].tolist() == [1.0, 1.0, 1.8]
    assert found.metrics(ratios)["steer_frequency_ratio_5x"] == pytest.approx(2)
    assert found.metrics(ratios)["steer_scale_on_intact_text_5x"] == 1.8
