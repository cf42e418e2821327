"""Encoder-decoder models of text: the encoder reads a beginning, the decoder how it goes on."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probenc_support.models.kinds.base import Kind, framed, head_inputs, reads_at


class EncoderDecoder(Kind):
    """Reads the first half of a block with the encoder and predicts the second, teacher-forced."""

    name: ClassVar[str] = "encoder-decoder"
    in_words: ClassVar[str] = (
        "The model has an encoder, which reads the first half of every block, and a decoder, which "
        "predicts the second half token by token; only its positions count. To write, the encoder "
        "reads the prompt and the decoder goes on."
    )

    def __init__(
        self,
        start: tuple[int, ...],
        before: tuple[int, ...] = (),
        after: tuple[int, ...] = (),
        *,
        repeats: bool = False,
    ) -> None:
        """
        Args:
            start: ids with which the decoder begins; before, after: ids around what the encoder
                reads.
            repeats: the decoder writes what the encoder has read before it goes on, as BART, which
                restores a whole text, was trained to do.
        """
        self.start, self.before, self.after, self.repeats = start, before, after, repeats

    @property
    def facts(self) -> list[Any]:
        return ["encoder-decoder", self.start, self.before, self.after, self.repeats]

    def n_predicted(self, length: int) -> int:
        return length - length // 2

    def targets(self, ids: Tensor) -> Tensor:
        return self._halves(ids)[1]

    def states(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        prompts, new = self._halves(ids)
        return self.continued(model, prompts, new[:, :-1])

    def logits(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        prompts, new = self._halves(ids)
        scores: Tensor = model(**self._inputs(model, prompts, new[:, :-1])).logits
        return scores[:, -new.shape[1] :]

    def next_state(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        return self.continued(model, prompts, new)[:, -1]

    def continued(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        states = head_inputs(model, **self._inputs(model, prompts, new))
        return states[:, -1 - new.shape[1] :]

    def _halves(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        at = ids.shape[1] - self.n_predicted(ids.shape[1])
        return ids[:, :at], ids[:, at:]

    def _inputs(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> dict[str, Any]:
        written = torch.cat([prompts, new], dim=1) if self.repeats else new
        read = framed(self.before, prompts, self.after).to(reads_at(model))
        return {
            "input_ids": read,
            "attention_mask": torch.ones_like(read),
            "decoder_input_ids": framed(self.start, written).to(reads_at(model)),
            "use_cache": False,
        }
