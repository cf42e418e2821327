"""Steering: the closed form against really edited models, the solver, the context manager."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from probenc_support import corpora, inference, models, steering
from probenc_support import moments as moments_module
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.moments import Moments, covariance
from probenc_support.steering import closed_form, directions, error_theory, side_effects
from probenc_support.steering.robust_direction import Calibration

SCALES = (0.05, 0.2, 2.0, 5.0, 20.0)


def log_softmax_of(model: Any, ids: Tensor) -> Tensor:
    """[N, V] float64: the model's own log-probabilities, by its own forward pass."""
    with torch.no_grad():
        return model(input_ids=ids).logits.double().log_softmax(-1).flatten(0, 1)


def exact_pass(lm: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """h [N, d] and z [N] in the model's own precision."""
    h = models.hidden_states(lm, ids).flatten(0, 1).clone()
    logits = h @ lm.E.T if lm.b is None else h @ lm.E.T + lm.b
    return h, torch.logsumexp(logits.double(), dim=1)


def some_ids(n: int = 4, length: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(tiny.VOCABULARY, (n, length), generator=generator)


def random_positions(n: int = 200, d: int = 12, V: int = 50, *, seed: int = 0) -> Any:
    """h with a large common mean, E, z of a made-up head."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(n, d, generator=generator, dtype=torch.float64)
    h += 3 * torch.randn(d, generator=generator, dtype=torch.float64)
    E = 0.5 * torch.randn(V, d, generator=generator, dtype=torch.float64)
    return h, E, torch.logsumexp(h @ E.T, dim=1)


# ------------------------------------------------------------------------- closed form, real models


@pytest.mark.parametrize("style", tiny.STYLES)
def test_closed_form_is_the_really_edited_model(style: str) -> None:
    lm = tiny.language_model(style, dtype=torch.float64)
    tiny.need_float64_logits(lm)
    ids = some_ids()
    h, z = exact_pass(lm, ids)
    vector = steering.min_variance(Moments.of(h), 1e-3)
    tokens = torch.tensor([1, 17, 200, 319])
    log_p = lm.head.log_p(h, tokens, z)
    g = h @ vector
    old = log_softmax_of(lm.model, ids)
    for scale in SCALES:
        step = math.log(scale)
        found = steering.effects(log_p, g, torch.full((4, 1), step, dtype=torch.float64))
        for i, token in enumerate(tokens):
            with steering.edited_rows(lm, token[None], step * vector[None]):
                new = log_softmax_of(lm.model, ids)
            a = torch.logsumexp(new[:, token], 0) - torch.logsumexp(old[:, token], 0)
            kl = (old.exp() * (old - new)).sum(1).mean()
            assert math.expm1(float(found.log_scale[i, 0] - a)) == pytest.approx(0, abs=1e-9)
            assert float(found.kl[i, 0]) == pytest.approx(float(kl), rel=1e-8, abs=1e-13)


def test_closed_form_fails_for_a_head_scale_that_is_ignored() -> None:
    """The control: an edit that forgets the logit scale is another edit."""
    lm = tiny.language_model("multiplied", dtype=torch.float64)
    ids = some_ids()
    h, z = exact_pass(lm, ids)
    vector = steering.min_variance(Moments.of(h), 1e-3)
    token = torch.tensor([17])
    log_p = lm.head.log_p(h, token, z)
    wanted = steering.achieved(log_p, (math.log(5) * (h @ vector))[:, None])
    head = lm.model.get_output_embeddings()
    before = head.weight.detach().clone()
    head.weight[17] += math.log(5) * vector
    wrong = log_softmax_of(lm.model, ids)[:, 17]
    head.weight.copy_(before)
    assert abs(float(torch.logsumexp(wrong, 0) - torch.logsumexp(log_p[:, 0], 0) - wanted)) > 0.1


@pytest.mark.real_model
def test_closed_form_on_the_real_model(real_lm: Any, real_detection: Any) -> None:
    blocks = corpora.blocks("python-manual", real_lm.tokenizer, n_positions=256)
    tokens = steering.spread_over_ranks(real_detection.log_a_rows, real_lm.tokens, 4)
    h, z = real_detection.h[:256], real_detection.z[:256]
    vector = steering.default_direction(real_detection)
    log_p = real_lm.head.log_p(h, tokens, z)
    for scale in (0.05, 20.0):
        expected = steering.log_mean(log_p) + steering.achieved(
            log_p, (math.log(scale) * (h.double() @ vector))[:, None]
        )
        for token, goal in zip(tokens, expected, strict=True):
            change = math.log(scale) * vector[None]
            with steering.edited_rows(real_lm, token[None], change), torch.no_grad():
                new = real_lm.model(input_ids=blocks.ids).logits
            a = new.double().log_softmax(-1)[..., token].exp().mean()
            assert float(a) == pytest.approx(float(goal.exp()), rel=1e-4)


@pytest.mark.parametrize("style", tiny.STYLES)
def test_side_effects_are_those_of_the_whole_distribution(style: str) -> None:
    lm = tiny.language_model(style, dtype=torch.float64)
    ids = some_ids()
    h, z = exact_pass(lm, ids)
    vector = steering.min_variance(Moments.of(h), 1e-3)
    token = torch.tensor([5])
    top = closed_form.top_two(lm, h, z)
    log_p, g = lm.head.log_p(h, token, z), h @ vector
    old = log_softmax_of(lm.model, ids)
    for step in (-3.0, 3.0, 6.0):
        found = steering.effects(log_p, g, torch.tensor([[step]]), tokens=token, top=top)
        with steering.edited_rows(lm, token, step * vector[None]):
            new = log_softmax_of(lm.model, ids)
        middle = ((old.exp() + new.exp()) / 2).log()
        js = (old.exp() * (old - middle) + new.exp() * (new - middle)).sum(1).mean() / 2
        changed = (old.argmax(1) != new.argmax(1)).double().mean()
        assert float(found.js) == pytest.approx(float(js), rel=1e-6, abs=1e-13)
        assert float(found.top_changed) == float(changed)
        log_a = steering.log_mean(old)
        moved = side_effects.change_of_log_a(lm, h, z, log_a, 5, step * g, most=len(h))
        expected = steering.log_mean(new) - log_a
        torch.testing.assert_close(moved, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("style", tiny.STYLES)
def test_the_check_of_the_notebook(style: str) -> None:
    lm = tiny.language_model(style, dtype=torch.float64)
    tiny.need_float64_logits(lm)
    ids, tokens = some_ids(2), torch.tensor([1, 300])
    h, _ = exact_pass(lm, ids)
    vector = steering.min_variance(Moments.of(h), 1e-3)
    assert steering.closed_form_error(lm, ids, tokens, SCALES, vector) < 1e-9


@pytest.mark.real_model
@pytest.mark.parametrize("corpus", ["docstrings", "python-manual"])
def test_the_check_of_the_notebook_on_the_real_model(
    real_lm: Any, real_detection: Any, corpus: str
) -> None:
    """Also for the newline, of which the model is nearly certain at some positions."""
    ids = corpora.blocks(corpus, real_lm.tokenizer, n_positions=64, sequence_length=64).ids
    tokens = steering.spread_over_ranks(real_detection.log_a_rows, real_lm.tokens, 20)[
        [0, 5, 10, 19]
    ]
    vector = steering.default_direction(real_detection)
    assert steering.closed_form_error(real_lm, ids, tokens, (0.05, 20.0), vector) < 5e-5


# ------------------------------------------------------------------------------ extreme arithmetic


def one_position(log_p: float, u: float) -> tuple[float, float, float]:
    """Log scale, KL and JS of an edit at a single position."""
    x, step = (torch.tensor([[value]], dtype=torch.float64) for value in (log_p, u))
    found = steering.effects(x, torch.ones(1, dtype=torch.float64), step)
    return float(found.log_scale), float(found.kl), float(found.js)


@given(log_p=st.floats(-60, -1e-9), u=st.floats(-25, 60).filter(lambda u: abs(u) > 1e-3))
@settings(max_examples=150, deadline=None)
def test_one_coin_against_high_precision(log_p: float, u: float) -> None:
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(60):
        p = mpmath.exp(mpmath.mpf(log_p))
        z = 1 + p * mpmath.expm1(mpmath.mpf(u))
        new = p * mpmath.exp(mpmath.mpf(u)) / z
        kl, middle = mpmath.log(z) - p * u, (p + new) / 2
        pairs = ((p, middle), (1 - p, 1 - middle), (new, middle), (1 - new, 1 - middle))
        js = sum(x * mpmath.log(x / m) for x, m in pairs) / 2
        log_scale = mpmath.log(new / p)
    found_scale, found_kl, found_js = one_position(log_p, u)
    assert found_scale == pytest.approx(float(log_scale), rel=1e-6, abs=1e-9)
    assert found_kl == pytest.approx(float(kl), rel=1e-6, abs=1e-13)
    assert found_js == pytest.approx(float(js), rel=1e-6, abs=1e-13)


def test_far_edits_stay_finite() -> None:
    for log_p in (-1e-300, -1e-16, -1.0, -600.0):
        for u in (-1e4, -700.0, 0.0, 700.0, 1e4):
            log_scale, kl, js = one_position(log_p, u)
            assert log_scale <= -log_p + 1e-9
            assert math.isfinite(kl)
            assert 0 <= js <= math.log(2)


# -------------------------------------------------------------------------------------- directions


def test_the_linear_constraints_of_the_directions() -> None:
    h, *_ = random_positions()
    moments = Moments.of(h)
    A = torch.randn(12, dtype=torch.float64)
    for k in (1, 10, 12):
        paper = steering.paper_direction(A, k)
        assert float(A @ paper) == pytest.approx(-1)
        assert int((paper != 0).sum()) == k
    assert float(A @ steering.min_norm(A)) == pytest.approx(-1)
    assert float(moments.mean @ steering.mean_hidden(moments.mean)) == pytest.approx(1)
    vectors = {ridge: steering.min_variance(moments, ridge) for ridge in (0.0, 1.0, 1e9)}
    for vector in vectors.values():
        assert float(moments.mean @ vector) == pytest.approx(1)
    limit = steering.mean_hidden(moments.mean)
    torch.testing.assert_close(vectors[1e9], limit, rtol=1e-6, atol=1e-9)
    assert float(A @ directions.random_direction(A, seed=0)) != pytest.approx(-1)


def test_minimum_norm_is_shortest_and_minimum_variance_least_variable() -> None:
    h, *_ = random_positions()
    moments = Moments.of(h)
    A, best = moments.mean, steering.min_variance(moments)
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        other = torch.randn(12, generator=generator, dtype=torch.float64)
        other /= other @ A
        assert steering.min_norm(-A).norm() <= other.norm()
        assert best @ moments.cov @ best <= other @ moments.cov @ other


def test_moments_pool_to_those_of_the_joined_positions() -> None:
    h, *_ = random_positions()
    pooled = Moments.pool([Moments.of(h[:50]), Moments.of(h[50:])])
    torch.testing.assert_close(pooled.cov, Moments.of(h).cov)
    torch.testing.assert_close(pooled.mean, h.mean(0))
    unequal = Moments.pool([Moments.of(h[:50]), Moments.of(h[50:])], shares=[1, 1])
    torch.testing.assert_close(unequal.mean, (h[:50].mean(0) + h[50:].mean(0)) / 2)
    vector = steering.min_variance(pooled)
    assert pooled.unevenness(vector) == pytest.approx(float((h @ vector - 1).square().mean()))


def test_pooling_keeps_the_digits_of_a_small_variance_beside_a_large_mean() -> None:
    h, *_ = random_positions()
    h = 1e6 + 1e-2 * (h - h.mean(0))
    pooled = Moments.pool([Moments.of(h[:50]), Moments.of(h[50:])])
    torch.testing.assert_close(pooled.cov, Moments.of(h).cov, rtol=1e-6, atol=1e-10)


def test_hidden_states_that_overflowed_are_refused() -> None:
    h, *_ = random_positions()
    h[3, 2] = math.inf
    with pytest.raises(InputError, match=r"not finite.*dtype=float32"):
        Moments.of(h)


def test_weights_count_positions_several_times() -> None:
    h, *_ = random_positions(n=20)
    times = torch.arange(20) % 3
    repeated = Moments.of(h.repeat_interleave(times, dim=0))
    weighted = Moments.of(h, times.double())
    torch.testing.assert_close(weighted.mean, repeated.mean)
    torch.testing.assert_close(weighted.cov, repeated.cov)


@pytest.mark.parametrize("n_at_once", [1, 7, 50, 1000])
@pytest.mark.parametrize("weighted", [True, False])
def test_moments_of_some_positions_at_a_time_are_those_of_all_at_once(
    n_at_once: int, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments_module, "POSITIONS_AT_ONCE", n_at_once)
    h, *_ = random_positions(n=151)
    h = (3 + h).float()
    weight = torch.linspace(0, 2, 151).double() if weighted else torch.ones(151).double()
    share = weight / weight.sum()
    mean = share @ h.double()
    cov = ((h.double() - mean) * share[:, None]).T @ (h.double() - mean)
    found = Moments.of(h, weight if weighted else None)
    assert found.n == 151
    torch.testing.assert_close(found.mean, mean, rtol=1e-14, atol=1e-14)
    scale = float(cov.diagonal().max())
    torch.testing.assert_close(found.cov, cov, rtol=1e-14, atol=1e-14 * scale)
    h[-1, 0] = math.nan
    with pytest.raises(InputError, match="not finite"):
        Moments.of(h, weight if weighted else None)


def test_a_ridge_is_chosen_on_blocks_left_out() -> None:
    """Few positions need a ridge; with many of them it only hurts."""
    h, *_ = random_positions(n=4000, d=30)
    h = h.mean(0) + (h - h.mean(0)) * torch.linspace(0.1, 3, 30)
    many = [Moments.of(part) for part in h.split(1000)]
    few = [Moments.of(part) for part in h[:16].split(4)]
    assert steering.choose_ridge(many) < steering.choose_ridge(few)
    with pytest.raises(InputError, match="at least two"):
        steering.choose_ridge(many[:1])


def behind_layer_norm(n: int = 600, d: int = 30) -> tuple[Tensor, Tensor]:
    """Hidden states behind a LayerNorm in float32, and its hidden bias v: v . h = 1 everywhere."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.5 + torch.rand(d, generator=generator)
    bias = torch.randn(d, generator=generator)
    x = torch.randn(n, d, generator=generator)
    h = torch.nn.functional.layer_norm(x, (d,), weight, bias)
    return h, (1 / weight / (bias / weight).sum()).double()


def short_of_rank() -> dict[str, Tensor]:
    """Hidden states whose covariance has variances that are rounding alone."""
    h, *_ = random_positions(n=40, d=30)
    return {
        "fewer positions than dimensions": h[:16],
        "few distinct positions": h[:8].repeat(25, 1),
        "one position": h[:1].repeat(40, 1),
        "a dead dimension and a copied one": torch.cat([h[:, :10], h[:, :1], 0 * h[:, :1]], dim=1),
        "behind a LayerNorm": behind_layer_norm()[0],
    }


def with_other_rounding(moments: Moments, seed: int) -> Moments:
    """What another order of the sums, or another processor, might have made of them."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(moments.cov.shape, generator=generator, dtype=torch.float64)
    size = 4 * torch.finfo(torch.float64).eps * moments.cov.diagonal().max()
    return Moments(moments.n, moments.mean, moments.cov + size * (noise + noise.T) / 2)


@pytest.mark.parametrize("kind", short_of_rank())
def test_rounding_chooses_neither_ridge_nor_direction(kind: str) -> None:
    h = short_of_rank()[kind]
    folds = [Moments.of(part) for part in h.tensor_split(4)]
    ridge, vector = steering.choose_ridge(folds), steering.min_variance(Moments.of(h))
    for seed in range(20):
        order = torch.randperm(len(h), generator=torch.Generator().manual_seed(seed))
        for again in (Moments.of(h[order]), with_other_rounding(Moments.of(h), seed)):
            found = steering.min_variance(again)
            torch.testing.assert_close(found, vector, rtol=1e-2, atol=1e-4)
            torch.testing.assert_close(h.double() @ found, h.double() @ vector, rtol=0, atol=1e-6)
        assert steering.choose_ridge([with_other_rounding(f, seed) for f in folds]) == ridge
        shuffled = [Moments.of(p[torch.randperm(len(p))]) for p in h.tensor_split(4)]
        assert steering.choose_ridge(shuffled) == ridge


def test_ridges_that_do_the_same_are_a_tie_and_the_largest_is_taken() -> None:
    """Hidden states that vary alike along all axes: no ridge turns the direction."""
    axes = torch.eye(6, dtype=torch.float64)
    h = 2.0 + torch.cat([axes, -axes])
    folds = [Moments.of(h), Moments.of(h)]
    assert steering.choose_ridge(folds) == max(directions.RIDGES)
    assert steering.choose_ridge(folds, ridges=(1e-2, 0.0, 1e-3)) == 1e-2


def test_with_fewer_positions_than_dimensions_the_direction_is_the_shortest() -> None:
    h, *_ = random_positions(n=16, d=30)
    shortest = torch.linalg.pinv(h) @ torch.ones(16, dtype=torch.float64)
    found = steering.min_variance(Moments.of(h))
    torch.testing.assert_close(found, shortest, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(h @ found, torch.ones(16, dtype=torch.float64))


def test_the_hidden_bias_of_a_layer_norm_is_found() -> None:
    h, bias = behind_layer_norm()
    assert steering.choose_ridge([Moments.of(part) for part in h.split(150)]) == 0.0
    found = steering.min_variance(Moments.of(h))
    torch.testing.assert_close(found, bias, rtol=1e-4, atol=1e-6)
    assert float((h.double() @ found - 1).abs().max()) < 1e-5
    without = steering.min_variance(Moments.of(h / h.norm(dim=1, keepdim=True)))
    assert float((h.double() @ without - 1).abs().max()) > 1e-2


def test_a_robust_direction_holds_where_one_corpus_misleads() -> None:
    """Dimension 0 is constant in the first corpus only, dimension 1 in all: robust uses 1."""
    lm = tiny.language_model("untied")
    generator = torch.Generator().manual_seed(0)
    found = []
    for shift in (0.0, 1.0, -1.0, 2.0):
        h = torch.randn(400, lm.d, generator=generator)
        h[:, 0] = 3 + shift + 0.01 * h[:, 0]
        h[:, 1] = 3 + 0.05 * h[:, 1]
        z = torch.logsumexp((h @ lm.E.T).double(), dim=1)
        found.append(Calibration.of(lm, str(shift), h, z, torch.arange(0, 300, 10)))
    alone = steering.min_variance(found[0].moments)
    robust = steering.robust(found[0], found[1:3])
    last = found[3].h.double()
    assert float((last @ robust.vector - 1).square().mean()) < 0.1
    assert float((last @ alone - 1).square().mean()) > 0.2
    assert set(robust.shortfall) == {"1.0", "-1.0"}
    assert float(found[0].weight.mean()) == pytest.approx(1)
    with pytest.raises(InputError, match="at least one calibration corpus"):
        steering.robust(found[0], [])


# ------------------------------------------------------------------------------------------ solver


@given(seed=st.integers(0, 1000), scale=st.sampled_from((0.05, 0.5, 1.0, 3.0, 20.0)))
@settings(max_examples=15, deadline=None)
def test_solved_steps_reach_the_scale(seed: int, scale: float) -> None:
    h, E, z = random_positions(n=60, V=20, seed=seed)
    g = h @ steering.min_variance(Moments.of(h))
    log_p = Head(E).log_p(h, z=z)
    log_scale = torch.tensor([math.log(scale)], dtype=torch.float64)
    steps = steering.solve_steps(log_p, g, log_scale)
    reached = steering.effects(log_p, g, steps).log_scale
    possible = steering.log_mean(log_p) + log_scale < math.log(0.5)
    torch.testing.assert_close(
        reached[possible, 0], log_scale.expand(int(possible.sum())), rtol=0, atol=1e-9
    )


def test_what_cannot_be_reached_has_no_step() -> None:
    h, E, z = random_positions()
    log_p = Head(E).log_p(h, z=z)
    g = h @ steering.min_variance(Moments.of(h))
    above_one = -steering.log_mean(log_p) + 0.1
    assert bool(steering.solve_steps(log_p, g, above_one[:, None]).isnan().all())
    below = steering.solve_steps(log_p, g, (-steering.log_mean(log_p) - 0.5)[:, None])
    assert bool(below.isfinite().all())


def test_the_joint_solution_accounts_for_interaction() -> None:
    h, E, z = random_positions()
    log_p = Head(E).log_p(h, z=z)
    likely = steering.log_mean(log_p).topk(3).indices
    log_p, g = log_p[:, likely], h @ steering.min_variance(Moments.of(h))
    room = 0.8 / float(steering.log_mean(log_p).exp().sum())
    wanted = torch.tensor([room, room, 0.1], dtype=torch.float64).log()
    joint = steering.solve_jointly(log_p, g, wanted)
    alone = steering.solve_steps(log_p, g, wanted[:, None])[:, 0]

    def miss(steps: Tensor) -> float:
        new = steering.joint_log_p(log_p, g[:, None] * steps)
        return float((steering.log_mean(new) - steering.log_mean(log_p) - wanted).abs().max())

    assert miss(joint) < 1e-9
    assert miss(alone) > 1e-2


def test_joint_edit_of_one_token_is_the_single_edit() -> None:
    h, E, z = random_positions()
    log_p = Head(E[:1]).log_p(h, z=z)
    u = torch.randn(log_p.shape, dtype=torch.float64)
    torch.testing.assert_close(
        steering.joint_log_p(log_p, u).exp(), steering.new_probability(log_p, u)
    )


# ---------------------------------------------------------------------------------- the real thing


def detection_of(lm: Any, ids: Tensor) -> inference.Detection:
    blocks = corpora.from_ids(ids, corpus="random")
    return inference.detect(lm, blocks, cache=False, progress=False)


def state_of(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("style", tiny.STYLES)
def test_steered_model_gives_the_scales(style: str) -> None:
    lm = tiny.language_model(style, dtype=torch.float64)
    ids = some_ids()
    detection = detection_of(lm, ids)
    words = {lm.token_text(70): 3.0, lm.token_text(80): 0.75}
    old = log_softmax_of(lm.model, ids).exp().mean(0)
    with steering.steer(lm, words, detection=detection) as steered:
        new = log_softmax_of(lm.model, ids).exp().mean(0)
        own = detection_of(steered.lm, ids)
    assert float(new[70] / old[70]) == pytest.approx(3.0, rel=1e-4)
    assert float(new[80] / old[80]) == pytest.approx(0.75, rel=1e-4)
    torch.testing.assert_close(own.log_a_rows.exp(), new, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(steered.expected, new[[70, 80]], rtol=1e-4, atol=1e-12)
    assert steered.lm.weights_hash != lm.weights_hash


@pytest.mark.parametrize("style", tiny.STYLES)
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored(style: str, fails: bool) -> None:
    lm = tiny.language_model(style)
    ids = some_ids()
    detection = detection_of(lm, ids)
    before, config = state_of(lm.model), copy.deepcopy(lm.model.config.to_dict())
    E, own_input = lm.E.clone(), lm.model.get_input_embeddings().weight
    input_before = own_input.clone()
    head, logits = lm.model.get_output_embeddings().weight, log_softmax_of(lm.model, ids)
    try:
        with steering.steer(lm, {70: 3.0}, detection=detection):
            assert lm.model.get_input_embeddings().weight is own_input
            assert torch.equal(own_input, input_before)
            assert not torch.equal(log_softmax_of(lm.model, ids), logits)
            assert lm.model.config.tie_word_embeddings is False
            if fails:
                raise KeyError("inside")
    except KeyError:
        assert fails
    assert torch.equal(lm.E, E)
    assert lm.model.get_output_embeddings().weight is head
    assert lm.model.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in lm.model.state_dict().items())
    assert torch.equal(log_softmax_of(lm.model, ids), logits)
    tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
    assert tied == lm.tied


@pytest.mark.parametrize("style", tiny.STYLES)
def test_a_saved_model_reloads_steered(style: str, tmp_path: Path) -> None:
    lm = tiny.language_model(style)
    ids = some_ids()
    with steering.steer(lm, {70: 4.0}, detection=detection_of(lm, ids)) as steered:
        inside = log_softmax_of(lm.model, ids)
        path = steered.save_steered(tmp_path / "steered")
        with pytest.raises(InputError, match="exists already"):
            steered.save_steered(path)
    loaded = AutoModelForCausalLM.from_pretrained(path).eval()
    torch.testing.assert_close(log_softmax_of(loaded, ids), inside, rtol=0, atol=1e-5)
    assert loaded.config.tie_word_embeddings is False
    given_in = loaded.get_input_embeddings().weight
    assert torch.equal(given_in, lm.model.get_input_embeddings().weight)
    assert len(AutoTokenizer.from_pretrained(path)) == len(lm.tokenizer)
    assert [p.name for p in tmp_path.iterdir()] == ["steered"]


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.language_model("tied")

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lm.tokenizer.__class__, "save_pretrained", broken)
    detection = detection_of(lm, some_ids())
    with (
        steering.steer(lm, {70: 4.0}, detection=detection) as steered,
        pytest.raises(InputError, match="No space"),
    ):
        steered.save_steered(tmp_path / "steered")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_steered_model(tmp_path: Path) -> None:
    lm = tiny.language_model("untied")
    detection = detection_of(lm, some_ids())
    with (
        steering.steer(lm, {70: 4.0}, detection=detection) as steered,
        tiny.no_space(),
        pytest.raises(InputError, match="Cannot write"),
    ):
        steered.save_steered(tmp_path / "steered")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("scales", "sentence"),
    [
        ({}, "No token is named"),
        ({" a name of several tokens": 2.0}, "tokens of tiny-untied"),
        ({"": 2.0}, "0 tokens"),
        ({9999: 2.0}, "9999 is no token"),
        ({-1: 2.0}, "-1 is no token"),
        ({70: 0.0}, "positive number"),
        ({70: -2.0}, "positive number"),
        ({70: float("nan")}, "positive number"),
        ({70: float("inf")}, "positive number"),
        ({70: "5"}, "positive number"),
        ({70: True}, "positive number"),
        ({70: 1e9}, "is no probability"),
    ],
)
def test_bad_input_is_one_sentence(scales: Any, sentence: str) -> None:
    lm = tiny.language_model("untied")
    detection = detection_of(lm, some_ids())
    weight = lm.model.get_output_embeddings().weight
    with pytest.raises(InputError, match=sentence), steering.steer(lm, scales, detection=detection):
        pass
    assert lm.model.get_output_embeddings().weight is weight


def test_more_bad_input() -> None:
    lm = tiny.language_model("padded")
    detection = detection_of(lm, some_ids())
    a = detection.log_a_rows.exp()
    half = {i: 0.6 / float(a[i]) for i in (70, 80)}
    for scales, sentence in (
        (half, "Together these tokens"),
        ({70: 2.0, lm.token_text(70): 3.0}, "named twice"),
        ({tiny.VOCABULARY + 3: 2.0}, "is no token"),
    ):
        with (
            pytest.raises(InputError, match=sentence),
            steering.steer(lm, scales, detection=detection),
        ):
            pass
    for k in (0, 13):
        with pytest.raises(InputError, match="counts dimensions"):
            steering.paper_direction(torch.ones(12), k)


def test_steering_by_default_detects_on_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.language_model("untied")
    detection = detection_of(lm, some_ids())
    asked = []

    def blocks(corpus: str, *_: Any, **options: Any) -> Any:
        asked.append((corpus, options["sequence_length"]))
        return corpora.from_ids(some_ids(), corpus=corpus)

    monkeypatch.setattr(corpora, "blocks", blocks)
    monkeypatch.setattr(inference, "detect", lambda *_: detection)
    with steering.steer(lm, {70: 2.0}):
        pass
    assert asked == [("docstrings", tiny.CONTEXT)]


# ------------------------------------------------------------------------------------ smaller parts


def test_the_second_order_expectation_is_exact_for_normal_hidden_states() -> None:
    generator = torch.Generator().manual_seed(0)
    h = 1 + 0.3 * torch.randn(400_000, 3, generator=generator, dtype=torch.float64)
    z = 30 + 0.2 * h[:, 0]
    E = torch.tensor([[0.5, -0.4, 0.2]], dtype=torch.float64)
    vector = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)
    log_p = Head(E).log_p(h, z=z)
    expected = error_theory.expected_log_scale(
        E, Moments.of(h), covariance(h, z), vector, math.log(5)
    )
    found = steering.achieved(log_p, (math.log(5) * (h @ vector))[:, None])
    first_order = math.log(5) * float(h.mean(0) @ vector)
    assert float(found) == pytest.approx(float(expected), abs=2e-3)
    assert abs(float(found) - first_order) > 0.02
