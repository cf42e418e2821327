"""Scores: sums by document, the two-way bootstrap against loops, classes of tokens."""

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_steering import detection_of, random_positions, some_ids

from probenc_support import steering
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.regression import Interval
from probenc_support.steering import closed_form
from probenc_support.steering.closed_form import sums_by_group
from probenc_support.steering.scores import Edit, Judged
from probenc_support.steering.two_way import TwoWay

GROUP = torch.tensor([0] * 50 + [1] * 30 + [2] * 100 + [3] * 20)


def test_sums_by_group_are_sums() -> None:
    values = torch.randn(200, 5, dtype=torch.float64)
    found = sums_by_group(values, GROUP)
    for i in range(4):
        torch.testing.assert_close(found[i], values[i == GROUP].sum(0))


def test_effects_keep_the_new_probabilities_of_each_document() -> None:
    h, E, z = random_positions()
    log_p = Head(E).log_p(h, z=z)
    g = h @ steering.min_variance(Moments.of(h))
    steps = torch.tensor([[0.7, -2.0]], dtype=torch.float64).expand(50, -1)
    found = steering.effects(log_p, g, steps, group=GROUP)
    for i, step in enumerate(steps[0]):
        new = steering.new_probability(log_p, (g * step)[:, None])
        for document in range(4):
            sums = new[document == GROUP].sum(0)
            torch.testing.assert_close(found.sums[:, i, document], sums)
    whole = steering.effects(log_p, g, steps)
    torch.testing.assert_close(whole.sums[..., 0], found.sums.sum(2))
    torch.testing.assert_close(whole.log_scale, found.log_scale)


# ----------------------------------------------------------------------------------------- interval


def test_each_draw_is_the_score_of_the_drawn_tokens_on_the_drawn_documents() -> None:
    h, E, z = random_positions()
    log_p = Head(E).log_p(h, z=z)
    g, step = h @ steering.mean_hidden(h.mean(0)), math.log(5)
    found = steering.effects(log_p, g, torch.full((50, 1), step).double(), group=GROUP)
    draws = TwoWay.of(50, 4, n_draws=20, seed=3)
    assert draws.tokens.sum(1).tolist() == [50] * 20
    assert draws.groups.sum(1).tolist() == [4] * 20
    before = draws.log_sums(sums_by_group(log_p.exp(), GROUP).T)
    scored = torch.arange(50) % 3 > 0
    errors = draws.errors(before, found.sums[:, 0], step, scored)
    for b in range(20):
        rows = torch.cat(
            [(i == GROUP).nonzero()[:, 0].repeat(int(n)) for i, n in enumerate(draws.groups[b])]
        )
        columns = torch.arange(50).repeat_interleave(draws.tokens[b].long() * scored)
        part = log_p[rows][:, columns]
        again = (steering.achieved(part, step * g[rows][:, None]) - step).abs().mean()
        assert float(errors[b]) == pytest.approx(float(again))


def test_an_interval_over_tokens_alone_misses_that_documents_differ() -> None:
    """Tokens that are all alike: whatever spreads, spreads with the documents."""
    generator = torch.Generator().manual_seed(0)
    p = 1e-4 * torch.rand(40, 1, generator=generator, dtype=torch.float64).expand(40, 30)
    factor = (torch.randn(40, 1, generator=generator, dtype=torch.float64) / 2).exp()
    draws = TwoWay.of(30, 40, n_draws=400)
    scored = torch.ones(30, dtype=torch.bool)

    def width(before: Any, after: Any) -> float:
        errors = draws.errors(draws.log_sums(before.T), after.T, -3.0, scored)
        return float(errors.quantile(0.975) - errors.quantile(0.025))

    assert width(p, p * factor) > 0.2
    one = torch.ones(1, 1, dtype=torch.float64)
    alone = TwoWay(draws.tokens, one.expand(400, -1))
    whole = alone.errors(
        alone.log_sums(p.sum(0)[:, None]), (p * factor).sum(0)[:, None], -3, scored
    )
    assert float(whole.max() - whole.min()) < 1e-12


def test_with_one_document_it_is_the_standard_error_over_tokens() -> None:
    generator = torch.Generator().manual_seed(1)
    before = torch.rand(400, 1, generator=generator, dtype=torch.float64) + 0.1
    error = torch.randn(400, 1, generator=generator, dtype=torch.float64).abs()
    draws = TwoWay.of(400, 1, n_draws=2000)
    scored = torch.ones(400, dtype=torch.bool)
    found = draws.errors(draws.log_sums(before), before * error.exp(), 0.0, scored)
    assert float(found.std()) == pytest.approx(float(error.std()) / 20, rel=0.08)
    assert float(found.mean()) == pytest.approx(float(error.mean()), rel=0.02)


def test_an_interval_holds_its_value() -> None:
    assert Interval.percentile(0.0, np.array([0.2, 0.3, math.nan])).low == 0.0
    nothing = Interval.percentile(math.nan, np.array([0.2]))
    assert math.isnan(nothing.low)
    assert nothing.metrics("x").keys() == {"x", "x_low", "x_high"}


# ------------------------------------------------------------------------------------------ judging


def judged(style: str = "untied") -> tuple[Any, Any, Judged]:
    lm = tiny.language_model(style, dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    vector = steering.min_variance(Moments.of(detection.h), 1e-3)
    linear = torch.tensor([0.05, 2.0, 20.0]).double().log().expand(40, -1)
    edits = {
        "along": Edit(vector),
        "logit_bias": Edit(None),
        "half": Edit(vector, linear / 2),
        "failed": Edit(vector, torch.full((40, 3), math.nan).double()),
    }
    tokens = torch.arange(0, 320, 8)
    return lm, detection, Judged.of(lm, detection, tokens, edits, [0.05, 2.0, 20.0], n_draws=50)


@pytest.mark.parametrize("style", tiny.STYLES)
def test_scores_are_means_over_tokens_in_reach(style: str) -> None:
    lm, detection, found = judged(style)
    log_p = lm.head.log_p(detection.h, found.tokens, detection.z)
    log_a = steering.log_mean(log_p)
    for scale in (0.05, 2.0, 20.0):
        reach = log_a + math.log(scale) <= math.log(0.5)
        p = log_p.exp()
        new = scale * p / (1 + (scale - 1) * p)
        error = ((new.mean(0) / p.mean(0)).log() - math.log(scale))[reach]
        score = found.score("logit_bias", scale)
        assert score.mae == pytest.approx(float(error.abs().mean()))
        assert score.bias == pytest.approx(float(error.mean()))
        assert (score.n, score.n_out_of_reach) == (int(reach.sum()), int((~reach).sum()))
        assert score.low <= score.mae <= score.high
        assert math.isnan(found.score("failed", scale).mae)
        assert found.score("failed", scale).n == 0


def test_the_tables_say_what_the_scores_say() -> None:
    *_, found = judged()
    scores = found.scores().set_index(["direction", "scale"])
    edits = found.edits()
    assert len(edits) == 4 * 40 * 3
    at = edits[(edits["direction"] == "half") & (edits["scale"] == 20) & edits["in_reach"]]
    assert at["error"].abs().mean() == pytest.approx(scores.loc[("half", 20.0), "mae"])
    assert at["step"].unique() == pytest.approx([math.log(20) / 2])


def test_a_ratio_is_paired() -> None:
    *_, found = judged()
    same = found.times("along", "along", 20.0)
    assert (same.estimate, same.low, same.high) == (1.0, 1.0, 1.0)
    ratio = found.times("along", "logit_bias", 20.0)
    scores = [found.score(name, 20.0).mae for name in ("along", "logit_bias")]
    assert ratio.estimate == pytest.approx(scores[0] / scores[1])
    assert ratio.low <= ratio.estimate <= ratio.high


def test_steps_that_differ_between_tokens_are_taken_token_by_token() -> None:
    h, E, z = random_positions()
    log_p, g = Head(E).log_p(h, z=z), h @ steering.min_variance(Moments.of(h))
    steps = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = steering.effects(log_p, g, steps)
    for k in range(0, 50, 7):
        alone = steering.effects(log_p[:, k : k + 1], g, steps[k : k + 1])
        for name in ("log_scale", "kl", "js"):
            torch.testing.assert_close(getattr(together, name)[k], getattr(alone, name)[0])


def test_mean_errors_are_those_of_tokens_in_reach() -> None:
    h, E, z = random_positions()
    log_p, step = Head(E).log_p(h, z=z), math.log(20)
    vectors = torch.stack([steering.min_variance(Moments.of(h)), h.mean(0) / 100], dim=1)
    found = closed_form.mean_errors(log_p, h @ vectors, step)
    reach = steering.is_reachable(steering.log_mean(log_p), step)
    assert 0 < int(reach.sum()) < 50
    for error, g in zip(found, (h @ vectors).T, strict=True):
        one = steering.achieved(log_p, step * g[:, None])
        assert float(error) == pytest.approx(float((one - step)[reach].abs().mean()))
    assert closed_form.mean_errors(log_p, h @ vectors, 1e3).isnan().all()


def test_an_edit_by_no_step_changes_nothing_exactly() -> None:
    h, E, z = random_positions()
    log_p, g = Head(E).log_p(h, z=z), h @ steering.min_variance(Moments.of(h))
    steps = torch.tensor([[0.0, 0.3]], dtype=torch.float64).expand(50, -1)
    found = steering.effects(log_p, g, steps, group=GROUP)
    assert float(found.kl[:, 0].abs().max()) == float(found.js[:, 0].abs().max()) == 0.0
    torch.testing.assert_close(found.sums[:, 0], sums_by_group(log_p.exp(), GROUP).T)
    assert float(found.log_scale[:, 0].abs().max()) < 1e-12
    assert float(found.kl[:, 1].min()) > 0, "a real step does change something"
