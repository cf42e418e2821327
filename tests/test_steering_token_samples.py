"""Which tokens are steered: samples over the ranking, and classes of tokens."""

import pytest
import torch

from probenc_support import steering
from probenc_support.errors import InputError
from probenc_support.steering import token_samples


def test_tokens_are_spread_over_the_ranking() -> None:
    log_a = torch.linspace(-20, 0, 100, dtype=torch.float64)[torch.randperm(100)]
    tokens = torch.arange(90)
    drawn = steering.spread_over_ranks(log_a, tokens, 10)
    places = torch.argsort(log_a[:90], descending=True).argsort()[drawn]
    assert (places // 9).tolist() == list(range(10)), "one of each class of nine"
    assert bool((log_a[drawn].diff() < 0).all())
    assert len(steering.spread_over_ranks(log_a, tokens, 1000)) == 90


def test_a_slightly_different_text_draws_nearly_the_same_tokens() -> None:
    """By place in the ranking hardly one would stay: neighbours differ by less than the noise."""
    generator = torch.Generator().manual_seed(0)
    log_a = 2 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    other = log_a + 0.003 * torch.randn(20_000, generator=generator, dtype=torch.float64)
    tokens = torch.arange(20_000)
    one, two = (steering.spread_over_ranks(values, tokens, 200) for values in (log_a, other))
    assert int((one == two).sum()) > 180
    one, two = (torch.argsort(values)[50::100] for values in (log_a, other))
    assert int((one == two).sum()) < 30


def test_what_a_direction_is_chosen_on_does_not_judge_it() -> None:
    log_a = torch.randn(100, dtype=torch.float64)
    tokens = torch.arange(5, 95)
    for n in (10, 60):
        judged, choosing = token_samples.two_samples(log_a, tokens, n)
        assert len(judged) == n
        assert len(choosing) == min(n, 90 - n)
        assert not set(judged.tolist()) & set(choosing.tolist())
        assert set(choosing.tolist()) < set(tokens.tolist())
    with pytest.raises(InputError, match="leave some to choose on"):
        token_samples.two_samples(log_a, tokens, 90)


def test_classes_of_tokens() -> None:
    log_a = torch.tensor([-3.0, -9.9, -10.1, -20.0, -4.0])
    counts = torch.tensor([5, 0, 1, 0, 2])
    found = token_samples.token_classes(log_a, counts, torch.tensor([0, 1, 2, 3]))
    assert {name: ids.tolist() for name, ids in found.items()} == {
        "never_seen": [1, 3], "seen": [0, 2], "likely": [0, 1],
    }  # fmt: skip
    assert found.keys() == token_samples.CLASSES.keys()
    assert "seen" not in token_samples.token_classes(log_a, 0 * counts, torch.arange(5))
