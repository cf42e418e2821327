"""Masked models: a hidden token is predicted from both of its sides.

BERT was trained with a share of 15 % of the tokens masked (Devlin et al. 2019). Here each position
of a block is masked once, together with a fixed random seventh (14 %) of the others, so that seven
passes predict every token of the block and none has seen what it predicts.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probenc_support.models.kinds.base import Kind, framed, head_inputs, reads_at

N_ROUNDS = 7
"""Passes over a block; in each, one in so many of its positions is masked."""


class Masked(Kind):
    """Reads a block once a round, with the tokens of the round's positions masked."""

    name: ClassVar[str] = "masked"
    in_words: ClassVar[str] = (
        "The model is masked: it predicts a hidden token from both sides. Every block is read "
        f"{N_ROUNDS} times, each time with one in {N_ROUNDS} of its tokens masked, so that each "
        "position is predicted once, unseen; where the page speaks of the next token, it is the "
        "masked one. To write, the model is asked for a mask at the end of the text so far."
    )

    def __init__(
        self, mask: int, before: tuple[int, ...] = (), after: tuple[int, ...] = ()
    ) -> None:
        """
        Args:
            mask: id of the mask token; before, after: ids that stand around every text.
        """
        self.mask, self.before, self.after = mask, before, after

    @property
    def facts(self) -> list[Any]:
        return ["masked", self.mask, self.before, self.after, N_ROUNDS]

    def n_predicted(self, length: int) -> int:
        return length

    def targets(self, ids: Tensor) -> Tensor:
        return ids

    def states(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        return self._gathered(ids, lambda read: head_inputs(model, **self._inputs(model, read)))

    def logits(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        return self._gathered(ids, lambda read: model(**self._inputs(model, read)).logits)

    def next_state(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        """The mask stands at the end of the text: what it would say next."""
        mask = torch.full_like(prompts[:, :1], self.mask)
        read = framed(self.before, torch.cat([prompts, new, mask], dim=1), self.after)
        return head_inputs(model, **self._inputs(model, read))[:, -1 - len(self.after)]

    def _gathered(self, ids: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """[B, T, ...] of each round what `run` gives at the positions that it masks."""
        start, gathered = len(self.before), torch.empty(0)
        for number, masked in enumerate(rounds(ids.shape[1])):
            read = torch.where(masked, self.mask, ids)
            given = run(framed(self.before, read, self.after))[:, start : start + ids.shape[1]]
            if number == 0:
                gathered = torch.empty_like(given)
            gathered[:, masked] = given[:, masked]
        return gathered

    def _inputs(self, model: PreTrainedModel, read: Tensor) -> dict[str, Tensor]:
        read = read.to(reads_at(model))
        return {"input_ids": read, "attention_mask": torch.ones_like(read)}


def rounds(length: int) -> Tensor:
    """[R, length] bool, which positions each round masks: every position in exactly one round.

    The positions are shuffled with a seed of their own, which depends on nothing but `length`.
    """
    generator = torch.Generator().manual_seed(length)
    order = torch.randperm(length, generator=generator)
    number = torch.empty(length, dtype=torch.int64)
    number[order] = torch.arange(length) % N_ROUNDS
    return number == torch.arange(min(N_ROUNDS, length))[:, None]
