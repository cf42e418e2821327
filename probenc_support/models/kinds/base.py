"""What every kind of model can be asked, and how the states that a head reads are found."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probenc_support.errors import InputError
from probenc_support.models.vocabulary import Vocabulary


class Kind(ABC):
    """How a model reads blocks of token ids [B, T], and at which P of their positions it predicts.

    The P positions are the last ones of a block. Ids carry no special tokens; what a kind puts
    around them (a first token, a mask, an end of text) is its own affair.
    """

    name: ClassVar[str]
    """`causal`, `masked`, `encoder-decoder` or `speech`."""
    in_words: ClassVar[str]
    """What it reads and what it predicts, in a sentence or two for the page of a run."""
    at_once: ClassVar[int] = 1024
    """Most texts that are read together where tokens are drawn one after another."""
    first_token: int | None = None
    """Id of the one token that is read before every text; None: there is none, or several."""

    @property
    @abstractmethod
    def facts(self) -> list[Any]:
        """All that its numbers depend on besides the model and the ids, for the cache's keys."""

    def told(self, model: PreTrainedModel, ids: Tensor) -> dict[str, Any]:
        """What a page's provenance says of how blocks of ids [B, T] were read, besides the name of
        the kind; nothing where that says all."""
        return {}

    @abstractmethod
    def n_predicted(self, length: int) -> int:
        """P, of a block of `length` tokens."""

    @abstractmethod
    def targets(self, ids: Tensor) -> Tensor:
        """[B, P] int64 the token of the text that each position predicts; -1: there is none."""

    def text_rows(self, vocabulary: Vocabulary) -> Tensor:
        """[n] int64, ascending: the rows of the head that stand for text, or for its end."""
        return vocabulary.rows

    def preceding(self, ids: Tensor) -> Tensor:
        """[B, P] int64 the token of the text directly before each target; -1: there is none."""
        earlier = torch.cat([torch.full_like(ids[:, :1], -1), ids[:, :-1]], dim=1)
        return earlier[:, ids.shape[1] - self.n_predicted(ids.shape[1]) :]

    @abstractmethod
    def states(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        """[B, P, d] what the head reads at the positions that predict."""

    @abstractmethod
    def logits(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        """[B, P, V] logits of the model's own forward pass, as it stands."""

    @abstractmethod
    def next_state(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        """[B, d] what the head reads to predict the token after prompts [B, T] and new [B, n]."""

    def continued(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        """[B, n + 1, d] what the head reads to predict each token of new [B, n] after prompts
        [B, T], and the one after them."""
        count = new.shape[1] + 1
        return torch.stack([self.next_state(model, prompts, new[:, :n]) for n in range(count)], 1)


class _Read(Exception):
    """Carries what the head would have read out of a forward pass, which ends there."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def head_inputs(model: PreTrainedModel, **inputs: Any) -> Tensor:
    """What a model's output embedding reads in a forward pass over `inputs`: [B, T, d].

    The pass is left before the head, whose logits would be the largest array of it. Whatever lies
    between body and head (BERT's transform, T5's scaling) is thereby part of the body.

    Raises:
        InputError: the pass does not call the output embedding.
    """

    def leave(module: Any, arguments: tuple[Tensor, ...]) -> None:
        raise _Read(arguments[0])

    head: Any = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(leave)
    try:
        model(**inputs)
    except _Read as read:
        return read.states
    finally:
        handle.remove()
    raise InputError(
        f"{type(model).__name__} does not call its output embedding, so what that reads cannot be "
        "found; name a model of transformers with a language modelling head."
    )


def reads_at(model: PreTrainedModel) -> torch.device:
    """Where ids go: to the model, or to the CPU if it is offloaded, from where hooks move them."""
    device = torch.device(model.device)
    return torch.device("cpu") if device.type == "meta" else device


def framed(before: tuple[int, ...], ids: Tensor, after: tuple[int, ...] = ()) -> Tensor:
    """[B, len(before) + T + len(after)] ids [B, T] between tokens that are the same in all rows."""
    left, right = (ids.new_tensor(row).expand(len(ids), -1) for row in (before, after))
    return torch.cat([left, ids, right], dim=1)
