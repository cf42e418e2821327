"""A sweep of edits in closed form beside the two ways that run something again for each edit.

    pytest tests/benchmarks/test_steering_speed.py

200 tokens x 11 scales x 16,384 positions at the size of SmolLM2-135M's head. The other two ways
would take hours: what is timed is one edit, and `timed_share` tells how much of the sweep that is.
All of them must agree. What is counted are the operations of the matrix products of the whole
sweep.
"""

import math
from typing import Any

import pytest
import torch

from probenc_support import corpora, inference, models, steering
from probenc_support.moments import Moments

SCALES = (0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 1.25, 2.0, 5.0, 10.0, 20.0)
N_TOKENS = 200
N_POSITIONS = 16_384
N_FORWARD = 1_024
"""Positions of the model's own forward pass that are timed; its time is proportional to them."""
N_EDITS = N_TOKENS * len(SCALES)
GROUP = f"Sweep of {N_TOKENS} tokens x {len(SCALES)} scales over {N_POSITIONS:,} positions"


@pytest.fixture(scope="module")
def setting():
    lm = models.load("smollm2-135m-instruct", device="cpu", dtype="float32")
    blocks = corpora.blocks("docstrings", lm.tokenizer, n_positions=N_POSITIONS)
    detection = inference.detect(lm, blocks)
    tokens = steering.spread_over_ranks(detection.log_a_rows, lm.tokens, N_TOKENS)
    vector = steering.min_variance(Moments.of(detection.h), 1e-4)
    return lm, blocks, detection, tokens, vector


def in_closed_form(lm, detection, tokens, vector):
    log_p = lm.head.log_p(detection.h, tokens, detection.z)
    wanted = torch.tensor(SCALES, dtype=torch.float64).log().expand(len(tokens), -1)
    return steering.effects(log_p, detection.h.double() @ vector, wanted)


@torch.inference_mode()
def by_the_head(lm, h, token, change):
    """Mean probability after one edit: all logits of all positions again."""
    E = lm.E.clone()
    E[token] += change
    total = 0.0
    for part in h.split(512):
        logits = part @ E.T
        total += float((logits[:, token] - torch.logsumexp(logits, 1)).double().exp().sum())
    return total / len(h)


@torch.inference_mode()
def by_the_model(lm, ids, token, change):
    """Mean probability after one edit: the model's own forward pass."""
    with steering.edited_rows(lm, torch.tensor([token]), change[None]):
        logits = lm.model(input_ids=ids, use_cache=False).logits
    return float((logits[..., token] - torch.logsumexp(logits, -1)).double().exp().mean())


@pytest.mark.benchmark(group=GROUP, min_rounds=3, warmup=True)
def test_sweep_in_closed_form(benchmark: Any, setting: Any) -> None:
    lm, _, detection, tokens, vector = setting
    benchmark.extra_info["billion_operations"] = 2 * N_POSITIONS * (N_TOKENS + 1) * lm.d / 1e9
    found = benchmark(in_closed_form, lm, detection, tokens, vector)
    assert found.log_scale.shape == (N_TOKENS, len(SCALES))


@pytest.fixture(scope="module")
def edit(setting):
    """One token, the change of its row for a scale, and its new log probabilities [N, 1]."""
    lm, _, detection, tokens, vector = setting
    own, step = tokens[100:101], math.log(5.0)
    log_p = lm.head.log_p(detection.h, own, detection.z)
    new = steering.new_probability(log_p, (step * (detection.h.double() @ vector))[:, None])
    return int(own), (step * vector).float(), new


@pytest.mark.benchmark(group=GROUP)
def test_sweep_by_the_head_again(benchmark: Any, setting: Any, edit: Any) -> None:
    lm, _, detection, _, _ = setting
    token, change, new = edit
    benchmark.extra_info["timed_share"] = 1 / N_EDITS
    benchmark.extra_info["billion_operations"] = 2 * N_EDITS * N_POSITIONS * lm.V * lm.d / 1e9
    found = benchmark.pedantic(by_the_head, (lm, detection.h, token, change), rounds=2)
    assert found == pytest.approx(float(new.mean()), rel=1e-4)


@pytest.mark.benchmark(group=GROUP)
def test_sweep_by_the_model_again(benchmark: Any, setting: Any, edit: Any) -> None:
    lm, blocks, _, _, _ = setting
    token, change, new = edit
    ids = blocks.ids[: N_FORWARD // blocks.ids.shape[1]]
    benchmark.extra_info["timed_share"] = N_FORWARD / N_POSITIONS / N_EDITS
    weights = sum(one.numel() for one in lm.model.parameters())  # the embedding is the head's too
    benchmark.extra_info["billion_operations"] = 2 * N_EDITS * N_POSITIONS * weights / 1e9
    found = benchmark.pedantic(by_the_model, (lm, ids, token, change), rounds=2)
    assert found == pytest.approx(float(new[:N_FORWARD].mean()), rel=1e-4)
