"""A task: items with several answers of which one is right, and how logits score the answers."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from probenc_support.errors import InputError

_ROWS = 8
"""Positions that are normalised at a time, so that they stay in the processor's cache."""

MIN_ITEMS = 20
"""Fewer items than this make no task."""


class Reader(Protocol):
    """Reads answers' scores off logits, some positions at a time."""

    def add(self, scores: Tensor, start: int, logits: Tensor) -> None:
        """Adds to scores [I, K] what the logits [n, V] of positions from `start` on say."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The score of an answer is the sum of the log-probabilities of its tokens, in nats."""

    position: Tensor
    """[M] int64, ascending: which hidden state predicts the token."""
    token: Tensor
    """[M] int64 id."""
    item: Tensor
    """[M] int64 item whose answer it is a part of."""
    answer: Tensor
    """[M] int64 number of that answer."""

    def add(self, scores: Tensor, start: int, logits: Tensor) -> None:
        """Adds to scores [I, K] what the logits [n, V] of positions from `start` on say."""
        ends = torch.tensor([start, start + len(logits)])
        low, high = torch.searchsorted(self.position, ends).tolist()
        row = (self.position[low:high] - start).to(logits.device)
        z = torch.cat([part.logsumexp(dim=1) for part in logits.split(_ROWS)])
        log_p = logits[row, self.token[low:high].to(logits.device)].double() - z[row].double()
        places = (self.item[low:high], self.answer[low:high])
        scores.index_put_(places, log_p.cpu(), accumulate=True)


@dataclass(frozen=True, eq=False)
class Classes:
    """The score of an answer is the log of the summed probabilities of a class of tokens.

    Item i is asked at position i.
    """

    member: Tensor
    """[V, K] 1.0 where a row of the head is a token of the class, else 0.0."""

    def add(self, scores: Tensor, start: int, logits: Tensor) -> None:
        """Adds to scores [I, K] what the logits [n, V] of positions from `start` on say."""
        member = self.member.to(logits)
        for i, part in enumerate(logits.split(_ROWS)):
            log_p = (part.softmax(dim=1) @ member).double().clamp(min=1e-300).log()
            scores[start + i * _ROWS : start + i * _ROWS + len(part)] += log_p.cpu()


@dataclass(frozen=True, eq=False)
class Task:
    """Items of one kind, with the hidden states that their answers are scored from."""

    name: str
    h: Tensor
    """[P, d] hidden states."""
    right: Tensor
    """[I] int64 number of the right answer of each item."""
    group: Tensor
    """[I] int64 what items have in common: they are drawn together."""
    n_answers: int
    """K, answers of each item."""
    chance: float
    """Share of items that the best constant answer has right, or a blind one where the answers
    have no order."""
    reader: Reader

    def __post_init__(self) -> None:
        if len(self.right) < MIN_ITEMS:
            raise InputError(
                f"The task {self.name} has {len(self.right)} items and needs {MIN_ITEMS}; give a "
                "longer text, or more items."
            )

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.right)

    def no_scores(self) -> Tensor:
        """[I, K] float64 zeros, which a reader adds to."""
        return torch.zeros(self.n_items, self.n_answers, dtype=torch.float64)
