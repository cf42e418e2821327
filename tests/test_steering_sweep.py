"""Sweeps over several texts: their tables beside a loop, and the names of their metrics."""

import math
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from test_steering import detection_of, some_ids

from probenc_support import steering
from probenc_support.moments import Moments
from probenc_support.steering import sweep
from probenc_support.steering.scores import Edit, Judged

TOKENS = torch.arange(0, 320, 16)


@pytest.fixture(scope="module")
def swept() -> Any:
    lm = tiny.language_model("untied", dtype=torch.float64)
    texts = {"local": detection_of(lm, some_ids()), "id": detection_of(lm, some_ids(3).flip(1))}
    vector = steering.min_variance(Moments.of(texts["local"].h), 1e-3)
    solved = torch.tensor([0.05, 2.0, 200.0]).double().log().repeat(len(TOKENS), 1)
    solved[4, 0] = solved[7, 1] = torch.nan
    edits = {"along": Edit(vector), "solved": Edit(vector, solved), "bias": Edit(None)}
    return lm, texts, steering.Sweep.of(lm, texts, TOKENS, edits, scales=[0.05, 2.0, 200.0])


def test_every_text_is_judged_by_itself(swept: Any) -> None:
    lm, texts, found = swept
    for domain, text in texts.items():
        alone = Judged.of(lm, text, TOKENS, {"bias": Edit(None)}, [2.0])
        error = alone.score("bias", 2.0).mae
        assert found.mae["bias", domain, 2.0] == pytest.approx(error)
        assert found.errors_at(2.0, domain)["bias"] == pytest.approx(error)
        ratio = found.ratios("along", "bias", 2.0)[domain].estimate
        assert ratio == pytest.approx(found.mae["along", domain, 2.0] / error)
    assert len(found.edits) == 2 * 3 * len(TOKENS) * 3
    assert set(found.scores["domain"]) == set(texts)


def test_tokens_that_would_pass_one_half_are_told_with_what_came_out(swept: Any) -> None:
    lm, texts, found = swept
    far = found.out_of_reach("bias")
    expected = []
    for domain, text in texts.items():
        p = lm.head.log_p(text.h, TOKENS, text.z).exp()
        for scale in (0.05, 2.0, 200.0):
            new = scale * p / (1 + (scale - 1) * p)
            for k in (scale * p.mean(0) > 0.5).nonzero()[:, 0].tolist():
                a, b = float(p[:, k].mean()), float(new[:, k].mean())
                expected.append((domain, int(TOKENS[k]), scale, a, b / a, b))
    assert expected, "the case that is tested occurs"
    expected.sort(key=lambda row: (row[0], row[2], row[3]))
    for row, other in zip(far.itertuples(index=False), expected, strict=True):
        assert tuple(row)[:2] == other[:2]
        assert tuple(row)[2:] == pytest.approx(other[2:], rel=1e-6)


def test_pairs_without_a_step_are_counted_where_they_are_in_reach(swept: Any) -> None:
    _, _, found = swept
    edits = found.edits
    rows = edits[(edits["direction"] == "solved") & (edits["domain"] == "id")]
    planted = rows[rows["step"].isna()]
    assert len(planted) == 2
    assert found.without_step("solved", "id") == int(planted["in_reach"].sum()) >= 1
    assert found.without_step("along", "id") == 0


def test_errors_by_class_are_those_of_its_tokens() -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    edits = {"logit_bias": Edit(None), "along": Edit(torch.ones(lm.d, dtype=torch.float64))}
    samples = {"seen": torch.tensor([5, 70]), "likely": torch.tensor([90])}
    table = sweep.by_class(lm, {"here": detection}, samples, edits, scale=5.0)
    assert list(table["class"]) == ["seen", "seen", "likely", "likely"]
    assert list(table["domain"]) == ["here"] * 4
    whole = Judged.of(lm, detection, torch.tensor([5, 70]), edits, [5.0])
    assert table["mae"][0] == pytest.approx(whole.score("logit_bias", 5.0).mae)


def test_metrics_are_named_by_direction_scale_domain_and_class() -> None:
    scores = pd.DataFrame(
        {
            "direction": ["a", "a"], "scale": [0.05, 20.0], "domain": "id",
            "mae": [0.1, 0.2], "low": [0.05, 0.15], "high": [0.3, math.nan],
        }
    )  # fmt: skip
    found = sweep.error_metrics(scores, scales=(0.05,))
    assert found == {
        "steer_mae_a_0.05x_id": 0.1, "steer_mae_a_0.05x_id_low": 0.05,
        "steer_mae_a_0.05x_id_high": 0.3,
    }  # fmt: skip
    found = sweep.error_metrics(scores.assign(**{"class": "seen"}))
    assert found["steer_mae_a_20x_id_seen"] == 0.2
    assert found["steer_mae_a_20x_id_seen_low"] == 0.15
