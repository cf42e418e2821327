"""Several tokens at once: the equations, what is guaranteed of them, the really edited model."""

import math
from typing import Any

import pytest
import scipy.optimize
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probenc_support import corpora, inference, models, steering
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.steering import joint

K = 6


def planted(
    seed: int = 0, n: int = 80, V: int = 12, *, sharp: float = 1.0
) -> tuple[Tensor, Tensor]:
    """[N, V] log-probabilities of a whole vocabulary, and [N, K] positive effects of a step."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(n, V, generator=generator, dtype=torch.float64)
    g = 0.3 + torch.rand(n, K, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=1), g


def softmaxed(log_p: Tensor, u: Tensor) -> Tensor:
    """[N, V] the softmax written out: the logits of the first tokens moved by u."""
    logits = log_p.clone()
    logits[:, : u.shape[1]] += u
    return logits.softmax(dim=1)


def wanted(log_a: Tensor, total: float, seed: int) -> Tensor:
    """[K] log scales that bring K tokens to random mean probabilities of a given sum."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(len(log_a), generator=generator, dtype=torch.float64) + 0.02
    return (total * share / share.sum()).log() - log_a


def test_the_closed_form_is_the_softmax_of_the_moved_logits() -> None:
    log_p, g = planted()
    u = g * torch.linspace(-3, 3, K, dtype=torch.float64)
    new = softmaxed(log_p, u)
    torch.testing.assert_close(steering.joint_log_p(log_p[:, :K], u).exp(), new[:, :K])
    kl = (log_p.exp() * (log_p - new.log())).sum(dim=1)
    torch.testing.assert_close(steering.joint_kl(log_p[:, :K], u), kl)


def test_the_jacobian_is_the_derivative() -> None:
    log_p, g = planted(1)
    t = torch.linspace(-1, 1, K, dtype=torch.float64, requires_grad=True)

    def means(steps: Tensor) -> Tensor:
        return steering.joint_log_p(log_p[:, :K], g * steps).exp().mean(dim=0)

    by_autograd = torch.autograd.functional.jacobian(means, t)
    closed = joint.slopes(steering.joint_log_p(log_p[:, :K], g * t.detach()), g)
    torch.testing.assert_close(closed, by_autograd)


@given(seed=st.integers(0, 10_000), total=st.floats(0.02, 0.98), sharp=st.floats(0.2, 5.0))
@settings(max_examples=30, deadline=None)
def test_positive_effects_reach_whatever_sums_to_less_than_one(
    seed: int, total: float, sharp: float
) -> None:
    log_p, g = planted(seed, sharp=sharp)
    log_p = log_p[:, :K]
    log_a = steering.log_mean(log_p)
    goal = wanted(log_a, total, seed)
    steps = steering.solve_jointly(log_p, g, goal)
    own = steering.log_mean(steering.joint_log_p(log_p, g * steps)) - log_a
    assert float((own - goal).abs().max()) < 1e-10
    reached = softmaxed(planted(seed, sharp=sharp)[0], g * steps)[:, :K].mean(dim=0).log() - log_a
    # What the others have is one less these tokens' sum: no digit is left of it where that is one.
    assert float((reached - goal).abs().max()) < 1e-8
    slopes = joint.slopes(steering.joint_log_p(log_p, g * steps), g)
    beside = slopes - torch.diag(slopes.diagonal())
    assert bool((slopes.diagonal() > 0).all()), "an M-matrix, of which uniqueness follows"
    assert bool((beside <= 0).all())
    assert bool((slopes.sum(dim=0) > 0).all())
    with pytest.raises(InputError, match=r"which is not below 1|is no probability"):
        steering.solve_jointly(log_p, g, goal - math.log(total) + 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_steps_are_those_of_an_independent_solver(seed: int) -> None:
    log_p, g = planted(seed, sharp=2.0)
    goal = wanted(steering.log_mean(log_p[:, :K]), 0.7, seed)
    steps = steering.solve_jointly(log_p[:, :K], g, goal)

    def miss(t: Any) -> Any:
        new = softmaxed(log_p, g * torch.from_numpy(t))[:, :K].mean(dim=0)
        return (new.log() - steering.log_mean(log_p[:, :K]) - goal).numpy()

    found = scipy.optimize.root(miss, goal.numpy(), tol=1e-13)
    assert found.success
    torch.testing.assert_close(steps, torch.from_numpy(found.x), rtol=1e-8, atol=1e-8)


def test_steps_grow_with_every_wanted_scale() -> None:
    """Inverse isotone: to hold its own share, a token must go further when another one rises."""
    log_p, g = planted(3)
    log_p = log_p[:, :K]
    goal = wanted(steering.log_mean(log_p), 0.5, 3)
    steps = steering.solve_jointly(log_p, g, goal)
    for raised in range(K):
        more = goal.clone()
        more[raised] += 0.3
        change = steering.solve_jointly(log_p, g, more) - steps
        assert bool((change > 0).all())
        assert int(change.argmax()) == raised


def test_one_bias_for_all_positions_is_a_convex_problem() -> None:
    log_p, _ = planted(4)
    u = torch.linspace(-1, 1, K, dtype=torch.float64)
    slopes = joint.slopes(steering.joint_log_p(log_p[:, :K], u), torch.ones(80, K).double())
    torch.testing.assert_close(slopes, slopes.T)
    assert float(torch.linalg.eigvalsh(slopes)[0]) > 0


def test_each_token_by_itself_gets_there_where_newton_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_p, g = planted(5)
    log_p = log_p[:, :K]
    goal = wanted(steering.log_mean(log_p), 0.6, 5)
    steps = steering.solve_jointly(log_p, g, goal)
    monkeypatch.setattr(joint, "_newton", lambda *_: None)
    monkeypatch.setattr(joint, "_MOST_STEPS", 1000)
    torch.testing.assert_close(steering.solve_jointly(log_p, g, goal), steps, rtol=0, atol=1e-7)


def test_steps_solved_one_at_a_time_miss_by_what_the_others_take() -> None:
    """Two tokens a plain bias raises: alone each is exact, together they are short by the sum."""
    log_p = torch.log(torch.tensor([[0.2, 0.3, 0.5]] * 4, dtype=torch.float64))
    ones, double = torch.ones(4, dtype=torch.float64), torch.full((2,), math.log(1.5)).double()
    alone = steering.solve_steps(log_p[:, :2], ones, double[:, None])[:, 0]
    odds = alone.exp() * log_p[0, :2].exp()
    short = steering.joint_log_p(log_p[:, :2], alone.expand(4, 2))[0].exp()
    torch.testing.assert_close(short, odds / (0.5 + odds.sum()))
    assert float(short[1]) < 0.41, "0.45 was wanted"
    together = steering.solve_jointly(log_p[:, :2], ones, double)
    new = steering.joint_log_p(log_p[:, :2], together.expand(4, 2))[0].exp()
    torch.testing.assert_close(new, torch.tensor([0.3, 0.45], dtype=torch.float64))


def test_hundreds_of_tokens_at_once() -> None:
    generator = torch.Generator().manual_seed(6)
    log_p = torch.randn(200, 400, generator=generator, dtype=torch.float64).mul(2).log_softmax(1)
    g = 1 + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    scales = torch.tensor([0.05, 0.5, 1.0, 2.0, 5.0] * 40, dtype=torch.float64)
    log_a = steering.log_mean(log_p[:, :200])
    scales *= min(1.0, 0.9 / float((scales.log() + log_a).exp().sum()))
    steps = steering.solve_jointly(log_p[:, :200], g, scales.log())
    new = steering.log_mean(steering.joint_log_p(log_p[:, :200], g[:, None] * steps)) - log_a
    torch.testing.assert_close(new, scales.log(), rtol=0, atol=1e-10)


# ---------------------------------------------------------------------------------------- refusals


def test_refusals_name_the_token() -> None:
    log_p, g = planted(7)
    log_p = log_p[:, :3]
    names = ["one", "two", "three"]
    most = -steering.log_mean(log_p)
    for scales, sentence in (
        ([0.0, float(most[1]) + 0.1, 0.0], "'two' has mean probability"),
        ([float(most[0]) - 0.6, 0.0, float(most[2]) - 0.6], "not below 1, 0.549 of it for 'one'"),
    ):
        with pytest.raises(InputError, match=sentence):
            steering.solve_jointly(log_p, g[:, :3], torch.tensor(scales).double(), names=names)
    turned = g[:, :3].clone()
    turned[:, 1] = torch.where(torch.arange(80) % 10 < 9, -turned[:, 1], turned[:, 1])
    turned[:, 1] -= turned[:, 1].mean()
    unreachable = torch.tensor([0.0, -4.0, 0.0], dtype=torch.float64)
    with pytest.raises(InputError, match=r"'two' does not come to 0.0183156 times .* of the pos"):
        steering.solve_jointly(log_p, turned, unreachable, names=names)


# ---------------------------------------------------------------------------------- the real thing


@pytest.mark.parametrize("style", ["untied", "bias", "padded", "divided"])
def test_the_really_edited_model_has_every_scale(style: str) -> None:
    """Eight tokens of the likeliest and others, each with a direction of its own, moved at once."""
    lm = tiny.language_model(style, dtype=torch.float64)
    tiny.need_float64_logits(lm)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(tiny.VOCABULARY, (4, 32), generator=generator)
    detection = inference.detect(
        lm, corpora.from_ids(ids, corpus="random"), cache=False, progress=False
    )
    # The pass keeps hidden states in float32: here they are made anew in float64.
    h = models.hidden_states(lm, ids).flatten(0, 1)
    exact = type(detection)(**{**vars(detection), "h": h, "z": lm.head.log_partition(h)})
    likely = detection.log_a.topk(4).indices.tolist()
    some = dict.fromkeys([*detection.tokens[likely].tolist(), *range(70, 80)])
    factors = (1.2, 0.7, 1.1, 1.0, 1.5, 0.8, 2.0, 0.9)
    scales: dict[str | int, float] = dict(zip(some, factors, strict=False))
    shared = steering.default_direction(exact)
    own = shared * (1 + 0.01 * torch.randn(8, lm.d, generator=generator, dtype=torch.float64))
    own = own / (own @ h.mean(dim=0))[:, None]
    tokens = torch.tensor(list(scales))

    def means() -> Tensor:
        logits = models.logits(lm, ids).flatten(0, 1).double()
        return logits.log_softmax(dim=1).exp().mean(dim=0)[tokens]

    before = means()
    for direction in (shared, own):
        with steering.steer(lm, scales, detection=exact, direction=direction) as steered:
            reached = means() / before
        assert float((reached / steered.scales - 1).abs().max()) < 1e-9


def test_a_head_of_a_few_rows_moves_as_the_whole_one() -> None:
    """Rows of E really replaced, logits made anew: nothing of the closed form is used."""
    generator = torch.Generator().manual_seed(2)
    E = torch.randn(40, 8, generator=generator, dtype=torch.float64)
    h = torch.randn(300, 8, generator=generator, dtype=torch.float64) * 0.4 + 1
    log_p = Head(E).log_p(h)
    tokens = steering.log_mean(log_p).topk(10).indices
    scales = torch.tensor([1.1, 0.5] * 5, dtype=torch.float64)
    v = h.mean(dim=0) / h.mean(dim=0).square().sum()
    steps = steering.solve_jointly(log_p[:, tokens], h @ v, scales.log())
    edited = E.clone()
    edited[tokens] += steps[:, None] * v
    a = log_p.exp().mean(dim=0)[tokens]
    new = (h @ edited.T).softmax(dim=1).mean(dim=0)[tokens]
    torch.testing.assert_close(new / a, scales, rtol=1e-10, atol=0)
    alone = steering.solve_steps(log_p[:, tokens], h @ v, scales.log()[:, None])[:, 0]
    edited[tokens] = E[tokens] + alone[:, None] * v
    rival = (h @ edited.T).softmax(dim=1).mean(dim=0)[tokens]
    assert float((rival / a - scales).abs().max()) > 0.05, "the control: each for itself"
