"""Several tokens at once in a run: what separate steps miss, who wins, and who must not."""

import math

import planted
import pytest
import tiny
import torch
from torch import Tensor

from probenc_support import models, steering
from probenc_support.head import Head
from probenc_support.inference import Detection
from probenc_support.moments import Moments
from probenc_support.steering import together


class Model:
    """What the functions ask of a model: its head."""

    def __init__(self, head: Head) -> None:
        self.head = head


def setting() -> tuple[Model, dict[str, Detection], Tensor, Tensor, Tensor]:
    """A model, two texts of other positions, four likely tokens, a good and a bad direction."""
    head = planted.head(bias=False)
    texts = {}
    for seed, domain in enumerate(("local", "id")):
        h = 0.3 * (planted.states(seed) - 0.7) + 1.0
        texts[domain] = planted.detection(head, h, torch.arange(len(h)) // 10)
    tokens = texts["local"].log_a.topk(4).indices
    mean = texts["local"].h.mean(dim=0)
    good = mean / (mean @ mean)
    bad = torch.tensor([1.6, -0.3, -0.3, 0.0], dtype=torch.float64)
    return Model(head), texts, tokens, good, bad


def test_scales_are_drawn_nearer_to_one_where_they_would_pass_it() -> None:
    rare = torch.full((10,), -9.0, dtype=torch.float64)
    assert together.reachable_scales(rare).tolist() == list(together.SCALES)
    likely = torch.full((4,), math.log(0.2), dtype=torch.float64)
    scales = together.reachable_scales(likely)
    assert float((scales * 0.2).sum()) < 0.9
    assert scales[[1, 3]].tolist() == [0.2, 0.5]


def test_errors_are_those_of_the_softmax_written_out() -> None:
    lm, texts, tokens, good, bad = setting()
    scales = torch.tensor([1.3, 0.5, 1.2, 0.8], dtype=torch.float64)
    further = {"logit_bias": None, "random_unit": bad}
    made = together.rules(lm, texts["local"], tokens, scales, good, further)  # type: ignore[arg-type]
    errors = together.worst_errors(lm, texts, tokens, scales, made)  # type: ignore[arg-type]
    errors = errors.set_index(["rule", "domain"])
    for domain, text in texts.items():
        before = torch.softmax(lm.head.logits(text.h), dim=1).mean(dim=0)[tokens]
        for name in ("separate", "together", "logit_bias"):
            logits = lm.head.logits(text.h)
            logits[:, tokens] += made[name].u(text.h)
            after = torch.softmax(logits, dim=1).mean(dim=0)[tokens]
            worst = float(((after / before).log() - scales.log()).abs().max())
            row = errors.loc[(name, domain)]
            assert row["worst"] == pytest.approx(worst, abs=1e-9)
            assert row["low"] <= row["high"]
        ratio = (
            errors.loc[("together", domain), "worst"] / errors.loc[("separate", domain), "worst"]
        )
        assert errors.loc[("together", domain), "ratio"] == pytest.approx(ratio)
    assert errors.loc[("no_edit", "local"), "worst"] == pytest.approx(math.log(2))
    assert errors.loc[("together", "local"), "worst"] < 1e-9 < 0.05
    assert errors.loc[("separate", "local"), "worst"] > 0.05
    assert errors.loc[("logit_bias", "local"), "worst"] < 1e-9


def test_the_control_is_exact_where_it_was_solved_and_fails_elsewhere() -> None:
    lm, texts, tokens, good, bad = setting()
    scales = torch.tensor([1.3, 0.5, 1.2, 0.8], dtype=torch.float64)
    further = {"logit_bias": None, "random_unit": bad}
    made = together.rules(lm, texts["local"], tokens, scales, good, further)  # type: ignore[arg-type]
    errors = together.worst_errors(lm, texts, tokens, scales, made)  # type: ignore[arg-type]
    errors = errors.set_index(["rule", "domain"])["worst"]
    assert errors["random_unit", "local"] < 1e-9
    assert errors["random_unit", "id"] > 2 * errors["together", "id"]


def test_where_there_is_no_solution_the_linear_rule_stands_in() -> None:
    lm, texts, tokens, good, _ = setting()
    still = torch.zeros(4, dtype=torch.float64)
    scales = torch.tensor([1.3, 0.5, 1.2, 0.8], dtype=torch.float64)
    made = together.rules(lm, texts["local"], tokens, scales, good, {"random_unit": still})  # type: ignore[arg-type]
    assert not made["random_unit"].solved
    assert torch.equal(made["random_unit"].steps, scales.log())
    assert made["together"].solved
    assert not torch.equal(made["together"].steps, scales.log())


def test_separate_steps_err_more_the_more_tokens_move() -> None:
    lm, texts, _, good, _ = setting()
    ranked = texts["local"].log_a.argsort(descending=True)[5:]
    growth = together.by_number(lm, texts, ranked, good, scale=1.4)  # type: ignore[arg-type]
    local = growth[growth["domain"] == "local"].pivot(
        index="tokens", columns="rule", values="worst"
    )
    assert bool(local["separate"].is_monotonic_increasing)
    assert local["separate"].iloc[0] < 1e-9, "one token alone is alone"
    assert float(local["together"].max()) < 1e-9
    named = together.metrics({}, growth.iloc[:0], growth)
    ten = growth[(growth["tokens"] == 10) & (growth["rule"] == "separate")]
    mean = ten.loc[ten["domain"] == "local", "mean"].item()
    assert named["joint_doubled_10_separate_local"] == mean < local.loc[10, "separate"]


def test_the_really_edited_model_has_the_factors() -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    ids = torch.randint(tiny.VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(1))
    vector = steering.min_variance(Moments.of(models.hidden_states(lm, ids).flatten(0, 1)))
    scales = torch.tensor([1.5, 0.7, 1.2, 0.9], dtype=torch.float64)
    tokens = torch.tensor([70, 80, 90, 100])
    before = models.logits(lm, ids)
    assert together.edited_model_error(lm, ids, tokens, scales, vector) < 1e-9
    assert torch.equal(models.logits(lm, ids), before), "and it is as it was"
