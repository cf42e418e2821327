"""What an edit moves besides its token: beside a really edited model and a loop."""

import math
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from test_steering import detection_of, log_softmax_of, some_ids

from probenc_support import steering
from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.steering import side_effects
from probenc_support.steering.scores import Edit


@pytest.fixture(scope="module")
def edited() -> Any:
    lm = tiny.language_model("bias", dtype=torch.float64)
    ids = some_ids()
    detection = detection_of(lm, ids)
    return lm, ids, detection, steering.min_variance(Moments.of(detection.h), 1e-3)


def test_the_tokens_that_move_most_are_those_of_the_edited_model(edited: Any) -> None:
    lm, ids, detection, vector = edited
    token, old = 70, log_softmax_of(lm.model, ids).exp().mean(0)
    with steering.edited_rows(lm, torch.tensor([token]), math.log(20) * vector[None]):
        factor = log_softmax_of(lm.model, ids).exp().mean(0) / old
    size = factor.log().abs()
    size[token] = -1
    found = side_effects.most_moved(lm, detection, token, Edit(vector), 20.0, n=5)
    assert list(found) == size.topk(5).indices.tolist()
    assert list(found.values()) == pytest.approx(factor[list(found)].tolist(), rel=1e-4)


def test_the_top_token_changes_as_in_the_edited_model(edited: Any) -> None:
    lm, ids, detection, vector = edited
    tokens, old = torch.tensor([5, 70, 200]), log_softmax_of(lm.model, ids).argmax(1)
    changed = []
    for token in tokens:
        with steering.edited_rows(lm, token[None], math.log(50) * vector[None]):
            changed.append(float((log_softmax_of(lm.model, ids).argmax(1) != old).double().mean()))
    edits = {"along": Edit(vector), "nothing": Edit(torch.zeros_like(vector))}
    found = side_effects.top_token_changed(lm, detection, tokens, edits, 50.0)
    assert found == {"along": pytest.approx(sum(changed) / 3), "nothing": 0.0}
    assert found["along"] > 0


def test_neighbours_are_kept_by_a_small_edit_and_lost_by_one_to_elsewhere() -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    tokens, nothing = torch.tensor([3, 70, 200]), torch.zeros(1, lm.d, dtype=torch.float64)
    assert side_effects.neighbours_kept(lm, tokens, nothing).tolist() == [[1.0, 1.0, 1.0]]
    E = 1e-3 * torch.eye(12, dtype=torch.float64).repeat(2, 1)
    E[:6] += torch.linspace(1, 2, 12)
    E[6:12] -= torch.linspace(1, 2, 12)
    clouds = Head(E, tokens=torch.arange(12))
    two_clouds: Any = type("LM", (), {"head": clouds, "tokens": clouds.tokens})
    across = torch.stack([E[6] - E[0], 0 * E[0]])
    kept = side_effects.neighbours_kept(two_clouds, torch.tensor([0]), across, n=5)
    assert kept.tolist() == [[0.0], [1.0]]


def test_neighbours_are_those_of_largest_cosine_among_the_tokens_own_rows() -> None:
    lm = tiny.language_model("padded", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    changes = 0.3 * torch.randn(3, lm.d, generator=generator, dtype=torch.float64)
    tokens, rows = torch.tensor([5, 300]), lm.head.rows
    centre = rows.mean(dim=0)

    def nearest(row: Any) -> set[int]:
        cosine = torch.nn.functional.cosine_similarity(rows - centre, row - centre)
        return set(lm.tokens[cosine.topk(8).indices].tolist())

    kept = side_effects.neighbours_kept(lm, tokens, changes, n=7)
    for i, change in enumerate(changes):
        for j, token in enumerate(tokens.tolist()):
            row = lm.E[token]
            both = (nearest(row) & nearest(row + change)) - {token}
            assert float(kept[i, j]) == pytest.approx(len(both) / 7)
    assert 0 < float(kept.mean()) < 1


def test_divergences_are_means_over_tokens_in_reach() -> None:
    edits = pd.DataFrame(
        {
            "direction": "a", "domain": ["id", "id", "id", "ood"], "scale": 20.0,
            "in_reach": [True, True, False, True],
            "kl": [0.1, 0.3, 9.0, 0.5], "js": [0.01, 0.03, 9.0, 0.05],
        }
    )  # fmt: skip
    found = side_effects.mean_divergences(edits)
    assert found["kl"].tolist() == pytest.approx([0.2, 0.5])
    metrics = side_effects.divergence_metrics(found, ["a"])
    assert metrics == pytest.approx(
        {
            "steer_kl_a_20x_id": 0.2, "steer_js_a_20x_id": 0.02,
            "steer_kl_a_20x_ood": 0.5, "steer_js_a_20x_ood": 0.05,
        }
    )  # fmt: skip
    assert not side_effects.divergence_metrics(found, ["b"])
