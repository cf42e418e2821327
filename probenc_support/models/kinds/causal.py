"""Causal models: each position predicts the next token."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probenc_support.models.kinds.base import Kind, framed, head_inputs, reads_at


class Causal(Kind):
    """Reads a block from left to right, after a first token if it has one."""

    name: ClassVar[str] = "causal"
    in_words: ClassVar[str] = "The model is causal: each position predicts the next token."

    def __init__(self, first_token: int | None = None) -> None:
        """
        Args:
            first_token: read before every text; None: the text is read alone.
        """
        self.first_token = first_token

    @property
    def facts(self) -> list[Any]:
        return [self.first_token]

    def n_predicted(self, length: int) -> int:
        return length

    def targets(self, ids: Tensor) -> Tensor:
        return torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], -1)], dim=1)

    def preceding(self, ids: Tensor) -> Tensor:
        return ids

    def framed(self, ids: Tensor) -> Tensor:
        """[B, T + 1] the ids [B, T] after the first token, or as they are where there is none."""
        return ids if self.first_token is None else framed((self.first_token,), ids)

    def states(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        read = self.framed(ids).to(reads_at(model))
        hidden = head_inputs(model, input_ids=read, use_cache=False)
        return hidden[:, read.shape[1] - ids.shape[1] :]

    def logits(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        read = self.framed(ids).to(reads_at(model))
        scores: Tensor = model(input_ids=read, use_cache=False).logits
        return scores[:, read.shape[1] - ids.shape[1] :]

    def next_state(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        return self.states(model, torch.cat([prompts, new], dim=1))[:, -1]

    def continued(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        return self.states(model, torch.cat([prompts, new], dim=1))[:, prompts.shape[1] - 1 :]
