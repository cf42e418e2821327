"""A language model as the rest of the package sees it: an output head, and a body that feeds it.

The hidden states h [d] of the body satisfy logits = E h + b, with the output embedding E [V, d] and
the head bias b [V].
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models.kinds import Causal, Kind
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
    """A language model and its output embedding, checked: logits = E h + b."""

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
    """Largest number of tokens in one block, what the kind puts around it not counted."""
    device: torch.device
    dtype: torch.dtype
    revision: str
    weights_hash: str
    """SHA-256 over the weight files."""
    kind: Kind = field(default_factory=Causal)
    """Causal, masked or with an encoder: what the model reads of a text, and what it predicts."""
    probe: FirstTokenProbe | None = None
    """Whether that choice suits the model, tried on loading."""
    scale: float = 1.0
    """Factor between what the head module gives and the logits; see `logit_scale`."""
    outside: Tensor | None = None
    """[V] the part of b that the model adds after its head (BART's final_logits_bias), or None."""
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
    def own_bias(self) -> Tensor | None:
        """[V] the part of b that belongs to the head itself; None where there is none."""
        if self.b is None or self.outside is None:
            return self.b
        own = self.b - self.outside
        return own if bool(own.any()) else None

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
    def first_token(self) -> int | None:
        """Id of the token that the model reads before every text; None: it reads the text alone,
        or between several tokens."""
        return self.kind.first_token

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
    """What the head reads where the model predicts: hidden states after the final norm.

    Args:
        input_ids: [B, T] int64, without special tokens.

    Returns:
        [B, P, d], in E's precision and on E's device, so that logits = h @ E.T + b. What each
        position predicts is `targets`; P = T but for the kinds that only read a part of a block.
    """
    return lm.kind.states(lm.model, input_ids).to(device=lm.E.device, dtype=lm.E.dtype)


@torch.inference_mode()
def logits(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """[B, P, V] logits of the model's own forward pass, as it stands; input_ids as above."""
    return lm.kind.logits(lm.model, input_ids)


def targets(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """[B, P] int64 the token of the text that each position predicts; -1 where there is none."""
    return lm.kind.targets(input_ids)


@torch.inference_mode()
def continued(lm: LanguageModel, prompts: Tensor, new: Tensor) -> Tensor:
    """[B, n + 1, d] hidden states that predict each token of new [B, n] after prompts [B, T], and
    the one after them.

    A masked model is asked for each with a mask at the end of the text so far. Where there is an
    encoder it has the prompts, and the decoder writes.
    """
    states = lm.kind.continued(lm.model, prompts, new)
    return states.to(device=lm.E.device, dtype=lm.E.dtype)


@torch.inference_mode()
def next_state(lm: LanguageModel, prompts: Tensor, new: Tensor | None = None) -> Tensor:
    """[B, d] the last of `continued`: what predicts the token after prompts [B, T] and new."""
    new = prompts[:, :0] if new is None else new
    state = lm.kind.next_state(lm.model, prompts, new)
    return state.to(device=lm.E.device, dtype=lm.E.dtype)


def head_logits(lm: LanguageModel, states: Tensor, head: nn.Module | None = None) -> Tensor:
    """[..., V] float32 logits of states [..., d] by the model's head as it stands, or by another
    module in its place: with the model's logit scale, and what it adds after the head."""
    module: Any = lm.model.get_output_embeddings() if head is None else head
    given: Tensor = module(states.to(device=lm.device, dtype=lm.dtype)).float()
    given = given if lm.scale == 1.0 else lm.scale * given
    return given if lm.outside is None else given + lm.outside.to(given)


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
