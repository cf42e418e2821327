"""Tuning: the sampled loss, first-order checks, and what must not happen on little text."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from probenc_support import corpora, inference, pruning
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.pruning import pruned_head, tuning

V, D, N = 200, 10, 64


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    E = torch.randn(V, D, generator=g).double()
    h = torch.randn(N, D, generator=g).double()
    change = 0.2 * torch.randn(N, D, generator=g).double()
    a = (h @ E.T).softmax(1).mean(0)
    return E, h, change, a


def exact(E: Tensor, h: Tensor, change: Tensor) -> Tensor:
    P, Q = (h @ E.T).log_softmax(1), ((h + change) @ E.T).log_softmax(1)
    return (P.exp() * (P - Q)).sum(1).mean()


@pytest.mark.parametrize("biased", [False, True])
def test_the_sampled_kl_and_its_gradient_are_exact_when_all_tokens_take_part(
    biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_POSITIONS", 24)  # does not divide 64
    E, h, change, a = problem()
    b = torch.linspace(-1, 1, V).double() if biased else None
    sample = tuning.Sample.draw(Head(E, b), h, a, n_tokens=10**9, generator=torch.Generator())
    kept = (h + change).requires_grad_(True)
    P, Q = (x @ E.T + (0 if b is None else b) for x in (h, kept))
    expected = (P.softmax(1) * (P.log_softmax(1) - Q.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(sample.kl(kept), expected)
    torch.testing.assert_close(sample.gradient(kept), torch.autograd.grad(expected, kept)[0])


def test_the_gradient_is_that_of_the_sampled_kl() -> None:
    E, h, change, a = problem()
    generator = torch.Generator().manual_seed(0)
    sample = tuning.Sample.draw(Head(E), h, a, n_tokens=60, generator=generator)
    assert 0 < len(sample.rows) < V
    kept = (h + change).requires_grad_(True)
    own = torch.autograd.grad(sample.kl(kept), kept)[0]
    torch.testing.assert_close(sample.gradient(kept), own)


def test_the_sampled_kl_comes_close_with_few_tokens() -> None:
    E, h, change, a = problem()
    generator = torch.Generator().manual_seed(1)

    def draws(chance: Tensor) -> Tensor:
        made = [
            tuning.Sample.draw(Head(E), h, chance, n_tokens=100, generator=generator)
            for _ in range(300)
        ]
        return torch.stack([sample.kl(h + change) for sample in made])

    truth, estimates = float(exact(E, h, change)), draws(a)
    assert float(estimates.mean()) == pytest.approx(truth, rel=0.03)
    # The control: tokens drawn by the probabilities of another text scatter far more.
    other = a[torch.randperm(V, generator=torch.Generator().manual_seed(2))]
    assert float((draws(other) - truth).abs().mean()) > 2 * float((estimates - truth).abs().mean())


@pytest.fixture(scope="module")
def passes() -> tuple[Any, inference.Detection, inference.Detection]:
    lm = tiny.language_model("bias")
    ids = lm.tokenizer(tiny.prose(), add_special_tokens=False)["input_ids"]
    blocks = corpora.from_ids(torch.tensor(ids[: 32 * 160]).view(160, 32), corpus="prose")
    made = (
        inference.detect(lm, blocks.select(0, 120), cache=False, progress=False),
        inference.detect(lm, blocks.select(120), cache=False, progress=False),
    )
    return lm, *made


def tuned(
    passes: tuple[Any, inference.Detection, inference.Detection], *, n_steps: int, **options: Any
) -> tuple[tuning.Tuned, float]:
    by_rank, before = tuned_together(passes, n_steps={8: n_steps}, **options)
    return by_rank[8], before


def tuned_together(
    passes: tuple[Any, inference.Detection, inference.Detection], **options: Any
) -> tuple[dict[int, tuning.Tuned], float]:
    lm, fit, other = passes
    # A start that weighs a few tokens only leaves something to gain, also on a random model.
    noise = torch.randn(lm.V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = torch.softmax(3 * noise, 0)
    start = pruning.rotated_basis(lm.E, fit.h, weights)
    before = pruning.sweep(lm.head, start, other.h, [8]).kl.mean()
    held_out = pruning.Reference(lm.head, other.h)
    made = tuning.tune(held_out, [fit], start=start, weights=weights, batch=128, **options)
    return made, float(before)


def test_tuning_starts_from_the_rotation_and_lowers_the_held_out_kl(passes: Any) -> None:
    made, before = tuned(passes, n_steps=80, learning_rate=0.1)
    assert made.checks[0].kl == pytest.approx(before, rel=1e-3)
    best = min(c.kl for c in made.checks)
    assert best < 0.9 * before
    lm, _, other = passes
    head = pruned_head.from_factors(lm, made.encode, made.decode, made.shift)
    found = float(pruning.evaluate(lm.head, head, other.h).kl.mean())
    assert found == pytest.approx(best, rel=1e-3), "the factors returned are the best ones seen"
    assert made.encode.shape == (lm.d - 8, lm.d)


def test_steps_that_do_harm_are_not_taken(passes: Any) -> None:
    made, before = tuned(passes, n_steps=8, learning_rate=30.0, n_checks=2)
    assert max(c.kl for c in made.checks) > before
    lm, _, other = passes
    head = pruned_head.from_factors(lm, made.encode, made.decode, made.shift)
    found = float(pruning.evaluate(lm.head, head, other.h).kl.mean())
    assert found == pytest.approx(before, rel=1e-3)


def test_all_positions_are_as_likely_in_long_and_in_short_documents() -> None:
    lengths = (300, 20, 80)
    h = [torch.full((n, 1), float(i)) for i, n in enumerate(lengths)]
    a = list(torch.eye(3))
    text = tuning._Calibration(h, a)
    generator = torch.Generator().manual_seed(0)
    drawn, weights = zip(*(text.draw(64, generator) for _ in range(600)), strict=True)
    seen = torch.bincount(torch.cat(drawn)[:, 0].long(), minlength=3).double()
    share = torch.tensor(lengths).double() / 400
    torch.testing.assert_close(seen / seen.sum(), share, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.stack(weights).mean(0).double(), share, atol=0.02, rtol=0)
    assert float((share - 1 / 3).abs().max()) > 0.3, "the control: documents are not as likely"


def test_tuning_is_repeatable(passes: Any) -> None:
    first, again, other = (tuned(passes, n_steps=5, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first.encode, again.encode)
    assert not torch.equal(first.encode, other.encode)


def test_ranks_tuned_together_are_each_as_they_are_alone(passes: Any) -> None:
    together, _ = tuned_together(passes, n_steps={4: 6, 8: 9})
    for removed, n_steps in ((4, 6), (8, 9)):
        alone = tuned_together(passes, n_steps={removed: n_steps})[0][removed]
        assert torch.equal(together[removed].encode, alone.encode)
        assert together[removed].checks == alone.checks
        assert [check.step for check in alone.checks][-1] == n_steps
        assert together[removed].n_drawn == n_steps * 128


def test_impossible_settings_are_refused(passes: Any) -> None:
    with pytest.raises(InputError, match="at least one step"):
        tuned(passes, n_steps=0)
