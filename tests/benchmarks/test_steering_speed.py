"""A sweep of edits in closed form beside the two ways that run something again for each edit.

    pytest tests/benchmarks/test_steering_speed.py -s

200 tokens x 11 scales x 16,384 positions at the size of SmolLM2-135M's head. The other two ways are
timed on a few edits, and their time for one edit taken times the number of edits: they would take
hours. All of them must agree.
"""

import math
import time

import pytest
import torch

from probenc_support import corpora, inference, models, steering
from probenc_support.steering import Moments

SCALES = (0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 1.25, 2.0, 5.0, 10.0, 20.0)
N_TOKENS = 200
N_POSITIONS = 16_384
N_FORWARD = 1_024
"""Positions of the model's own forward pass that are timed; its time is proportional to them."""


@pytest.fixture(scope="module")
def setting():
    lm = models.load("smollm2-135m-instruct", device="cpu", dtype="float32")
    blocks = corpora.blocks("docstrings", lm.tokenizer, n_positions=N_POSITIONS)
    detection = inference.detect(lm, blocks)
    tokens = steering.over_the_ranking(detection.log_a, lm.tokens, N_TOKENS)
    vector = steering.min_variance(Moments.of(detection.h), 1e-4)
    return lm, blocks, detection, tokens, vector


def in_closed_form(lm, detection, tokens, vector):
    log_p = steering.log_probabilities(lm, tokens, detection.h, detection.z)
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


@pytest.mark.benchmark(group="sweep 200 x 11 x 16,384", min_rounds=3, warmup=True)
def test_sweep_in_closed_form(benchmark, setting):
    lm, _, detection, tokens, vector = setting
    found = benchmark(in_closed_form, lm, detection, tokens, vector)
    assert found.log_scale.shape == (N_TOKENS, len(SCALES))


def seconds(function, *arguments, rounds=2):
    """The least time of some rounds, and what came out."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        value = function(*arguments)
        taken.append(time.perf_counter() - started)
    return min(taken), value


def test_ratios(setting):
    """Prints the ratios; what is asserted is that all ways agree."""
    lm, blocks, detection, tokens, vector = setting
    sweep, found = seconds(in_closed_form, lm, detection, tokens, vector)
    k, s = 100, SCALES.index(5.0)
    token, change = int(tokens[k]), (math.log(5.0) * vector).float()
    head, a_head = seconds(by_the_head, lm, detection.h, token, change)
    ids = blocks.ids[: N_FORWARD // blocks.ids.shape[1]]
    model, a_model = seconds(by_the_model, lm, ids, token, change)
    model *= N_POSITIONS / N_FORWARD
    closed = detection.log_a[token] + found.log_scale[k, s]
    assert a_head == pytest.approx(float(closed.exp()), rel=1e-4)
    part = steering.log_probabilities(
        lm, tokens[k : k + 1], detection.h[:N_FORWARD], detection.z[:N_FORWARD]
    )
    u = math.log(5.0) * (detection.h[:N_FORWARD].double() @ vector)
    after = steering.new_probability(part, u[:, None]).mean()
    assert a_model == pytest.approx(float(after), rel=1e-4)
    edits = N_TOKENS * len(SCALES)
    print(
        f"\n{edits} edits: closed form {sweep:.2f} s ({sweep / edits * 1e3:.2f} ms an edit); head "
        f"again {head:.2f} s an edit, {head * edits / sweep:,.0f} times as long; model again "
        f"{model:.1f} s an edit, {model * edits / sweep:,.0f} times as long"
    )
