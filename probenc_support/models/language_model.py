"""A language model as the rest of the package sees it: an output head, and a body that feeds it.

The hidden states h [d] of the body satisfy logits = E h + b, with the output embedding E [V, d] and
the head bias b [V].
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models.vocabulary import Vocabulary

WORSE_BY = 0.5
"""How much worse, in nats a token, the chosen first token must be than the best one before the
person is warned."""


@dataclass(frozen=True)
class FirstTokenProbe:
    """Loss on a short English text with the chosen first token and with the alternatives."""

    chosen: str
    """The token as the tokenizer writes it, or `none`."""
    losses: dict[str, float]
    """Mean negative log-probability of a token, in nats, by first token."""

    @property
    def best(self) -> str:
        """The choice with the least loss."""
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def warning(self) -> str:
        """A warning for the person; empty unless another choice is better by `WORSE_BY`."""
        worse = self.losses[self.chosen] - self.losses[self.best]
        if worse < WORSE_BY:
            return ""
        choice = {"none": "no first token"}
        return (
            f"Every text is read with {choice.get(self.chosen, f'the first token {self.chosen}')}, "
            f"and the model predicts plain English much better with "
            f"{choice.get(self.best, self.best)} ({self.losses[self.best]:.2f} against "
            f"{self.losses[self.chosen]:.2f} nats a token): set the parameter first_token to "
            f"{self.best!r} unless you mean it."
        )


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model and its output embedding, checked: logits = E h + b."""

    name: str
    """As the person named it; of a folder or file its own name."""
    model: PreTrainedModel
    """The transformers model, in evaluation mode."""
    tokenizer: PreTrainedTokenizerBase
    head: Head
    """Output embedding E [V, d] and bias b [V] in float32, times the logit scale if any, and the
    rows that tokens of the tokenizer own."""
    tied: bool
    """Whether the input embedding is the same tensor."""
    context_length: int
    """Largest number of positions in one sequence, the first token not counted."""
    device: torch.device
    dtype: torch.dtype
    revision: str
    weights_hash: str
    """SHA-256 over the weight files."""
    first_token: int | None = None
    """Id of the token that the model reads before every text; None: it reads the text alone."""
    probe: FirstTokenProbe | None = None
    """Whether that choice suits the model, tried on loading."""
    quantisation: str = ""
    """In how few bits its weights were stored before they were loaded, such as `Q4_1 body, Q8_0
    output embedding`; empty where they were not quantised."""

    @property
    def E(self) -> Tensor:
        """[V, d] float32 output embedding over all rows of the head; `head.rows` are the tokens."""
        return self.head.E

    @property
    def b(self) -> Tensor | None:
        """[V] float32 head bias; None where the head has none."""
        return self.head.b

    @property
    def tokens(self) -> Tensor:
        """[n_vocab] int64, ascending: ids of the tokens. The other rows are padding."""
        return self.head.tokens

    @property
    def V(self) -> int:
        """Rows of the head, padding rows included."""
        return self.head.V

    @property
    def d(self) -> int:
        """Hidden size."""
        return self.head.d

    @property
    def first_token_text(self) -> str:
        """The first token as its tokenizer writes it; `none` where there is none."""
        first = self.first_token
        return "none" if first is None else self.vocabulary.pieces.get(first, str(first))

    @property
    def n_padding_rows(self) -> int:
        """Rows of E that no token owns: they belong in no regression."""
        return self.V - len(self.tokens)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Ids and texts of the tokens."""
        return Vocabulary(self.tokenizer, self.V)

    @property
    def token_texts(self) -> list[str]:
        """Readable text of every row ([V] strings): a space is kept, a raw byte is `<0x..>`."""
        return self.vocabulary.texts

    def token_text(self, token: int) -> str:
        """Readable text of one token id."""
        return self.vocabulary.texts[token]

    def token_kind(self, token: int) -> str:
        """`word start`, `continuation`, `digits`, `punctuation`, or `byte or special`."""
        return self.vocabulary.kind(token)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
            InputError: `text` is empty, or is not the text of one token.
        """
        return self.vocabulary.id_of(text, of=self.name)


def check_ids(lm: LanguageModel, ids: Tensor) -> None:
    """Refuses ids that the model has no embedding for.

    Raises:
        InputError: names the first of them.
    """
    inputs: Any = lm.model.get_input_embeddings()
    rows = min(lm.V, int(inputs.weight.shape[0]))
    if ids.numel() and int(ids.max()) >= rows:
        token = int(ids.max())
        raise InputError(
            f"The text holds the token {lm.vocabulary.pieces.get(token, '?')!r}, number {token}, "
            f"and {lm.name} has embeddings for {rows} tokens only: its tokenizer was extended and "
            "the model was not; use the model's own tokenizer, or another text."
        )


@torch.inference_mode()
def hidden_states(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """What the head reads: hidden states after the final norm.

    Args:
        input_ids: [B, T] int64, without the first token.

    Returns:
        [B, T, d], in E's precision and on E's device, so that logits = h @ E.T + b.
    """
    ids = with_first_token(lm, input_ids)
    body = _body(lm.model)
    hidden = body(input_ids=ids.to(_reads_at(lm)), use_cache=False).last_hidden_state
    kept = torch.as_tensor(hidden)[:, ids.shape[1] - input_ids.shape[1] :]
    return kept.to(device=lm.E.device, dtype=lm.E.dtype)


@torch.inference_mode()
def logits(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """[B, T, V] logits of the model's own forward pass, as it stands; input_ids as above."""
    ids = with_first_token(lm, input_ids)
    scores: Tensor = lm.model(input_ids=ids.to(_reads_at(lm)), use_cache=False).logits
    return scores[:, ids.shape[1] - input_ids.shape[1] :]


def _reads_at(lm: LanguageModel) -> torch.device:
    """Where ids go: to the model, or to the CPU if it is offloaded, from where hooks move them."""
    device = torch.device(lm.model.device)
    return torch.device("cpu") if device.type == "meta" else device


def with_first_token(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """[B, T + 1] the ids [B, T] after the first token, or as they are where there is none."""
    if lm.first_token is None:
        return input_ids
    return torch.cat([torch.full_like(input_ids[:, :1], lm.first_token), input_ids], dim=1)


def _body(model: PreTrainedModel) -> Callable[..., Any]:
    return model.base_model


def overflow(lm: LanguageModel) -> str:
    """The message for a model whose hidden states or logits are infinite or not numbers."""
    half = lm.dtype == torch.float16
    return (
        f"{lm.name} gives numbers that are not finite in {str(lm.dtype).removeprefix('torch.')}: "
        + (
            "float16 ends at 65,504; use dtype bfloat16 or float32."
            if half
            else "its weights are damaged, or it does not suit this precision; try float32."
        )
    )
