"""The output head: every number against a softmax by brute force, with padding rows and without."""

import math

import pytest
import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.head import Head

V, D, N = 40, 6, 25
TOKENS = torch.tensor([0, 1, 5, 7, 8, 20, 39])
"""Rows that tokens own: not one after another, and the last row among them."""


def head_of(*, bias: bool = True, tokens: Tensor | None = TOKENS) -> Head:
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(V, D, generator=generator)
    return Head(E, torch.randn(V, generator=generator) if bias else None, tokens)


def states() -> Tensor:
    return torch.randn(N, D, generator=torch.Generator().manual_seed(1))


def log_softmax(head: Head, h: Tensor) -> Tensor:
    """[N, V] float64 log-probabilities of all rows, by the definition."""
    logits = h.double() @ head.E.double().T
    return torch.log_softmax(logits if head.b is None else logits + head.b.double(), dim=1)


@pytest.mark.parametrize("bias", [True, False])
def test_log_probabilities_are_those_of_a_softmax_over_all_rows(bias: bool) -> None:
    head, h = head_of(bias=bias), states()
    whole = log_softmax(head, h)
    torch.testing.assert_close(head.log_p(h), whole[:, TOKENS], rtol=0, atol=1e-5)
    some = torch.tensor([39, 3, 0])
    torch.testing.assert_close(head.log_p(h, some), whole[:, some], rtol=0, atol=1e-5)
    z = torch.logsumexp(head.logits(h).double(), dim=1)
    torch.testing.assert_close(head.log_partition(h), z, rtol=0, atol=1e-5)
    torch.testing.assert_close(head.log_p(h, some, z), whole[:, some], rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_average_probabilities_are_of_tokens_and_padding_takes_its_share(bias: bool) -> None:
    head, h = head_of(bias=bias), states()
    a = log_softmax(head, h).exp().mean(dim=0)
    torch.testing.assert_close(head.log_mean_p(h), a[TOKENS].log(), rtol=0, atol=1e-5)
    assert float(head.log_mean_p(h).exp().sum()) < 1, "the rest is on padding rows"
    alone = Head(head.rows, head.bias)
    assert float(alone.log_mean_p(h).exp().sum()) == pytest.approx(1, abs=1e-6)


def test_rows_and_bias_are_the_tokens_in_their_order() -> None:
    head = head_of()
    assert head.b is not None
    assert head.bias is not None
    assert torch.equal(head.rows, head.E[TOKENS])
    assert torch.equal(head.bias, head.b[TOKENS])
    columns = torch.randn(3, V)
    assert torch.equal(head.of_tokens(columns, dim=1), columns[:, TOKENS])
    assert (head.V, head.d) == (V, D)


def test_without_padding_rows_nothing_is_copied() -> None:
    head = head_of(tokens=None)
    assert head.rows.data_ptr() == head.E.data_ptr()
    assert torch.equal(head.tokens, torch.arange(V))
    assert head_of(bias=False).bias is None


def test_a_head_of_chosen_tokens_is_the_softmax_over_these_alone() -> None:
    head, h, some = head_of(), states(), torch.tensor([20, 0, 5])
    small = head.chosen(some)
    whole = log_softmax(head, h)[:, some]
    torch.testing.assert_close(small.log_p(h), torch.log_softmax(whole, 1), rtol=0, atol=1e-5)
    # With the log-partition of the whole head it is the whole head's word on these tokens.
    z = head.log_partition(h)
    torch.testing.assert_close(small.log_p(h, z=z), whole, rtol=0, atol=1e-5)


def test_a_part_over_all_rows_of_the_vocabulary_is_a_half() -> None:
    """A planted truth: two tokens with equal rows share what one of them would have."""
    E = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    log_p = Head(E).log_p(torch.randn(5, 2))
    torch.testing.assert_close(log_p, torch.full((5, 2), -math.log(2.0), dtype=torch.float64))


def test_the_same_head_in_the_memory_of_the_cpu() -> None:
    head, h = head_of(), states()
    assert torch.equal(head.cpu().tokens, TOKENS)
    assert torch.equal(head.cpu().log_p(h), head.log_p(h))


def test_what_does_not_fit_is_refused() -> None:
    E = torch.randn(V, D)
    with pytest.raises(InputError, match="does not fit 40 rows"):
        Head(E, torch.zeros(V - 1))
    for tokens in ([0, V], [-1, 3]):
        with pytest.raises(InputError, match="no row among the 40"):
            Head(E, None, torch.tensor(tokens))
