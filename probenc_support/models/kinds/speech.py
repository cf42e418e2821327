"""Models that hear: the text of a block is spoken, and the decoder writes down what it hears.

Whisper (Radford et al. 2022). The encoder hears all of the text, the decoder is given it token by
token, so that each position predicts a token from what was said and from what is written so far.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from probenc_support.corpora import speech
from probenc_support.models.kinds import heard
from probenc_support.models.kinds.base import Kind, framed, head_inputs, reads_at
from probenc_support.models.kinds.heard import Hearing
from probenc_support.models.vocabulary import Vocabulary

AT_ONCE = 16
"""Texts in one pass of the decoder, each of which brings the encoder's states of 30 s."""


class Speech(Kind):
    """Hears the text of a block and predicts its tokens, teacher-forced."""

    name: ClassVar[str] = "speech"
    in_words: ClassVar[str] = (
        f"The model hears: the text of every block is spoken by {speech.PROGRAM} ({speech.VOICE}, "
        f"{speech.RATES[0]} words a minute, faster where it would take too long), the encoder "
        "hears all of it, and the decoder predicts it token by token from what was said and what "
        "is written so far; where the page speaks of the next token, it is this one. Tokens are "
        "those of text. The rows of E for the beginning and the end, for languages, tasks and "
        "times take their share of the softmax, and nothing is said of them. To write, the "
        "encoder hears the prompt, and the decoder begins to write down what it heard."
    )
    at_once: ClassVar[int] = AT_ONCE

    def __init__(self, vocabulary: Vocabulary, start: tuple[int, ...]) -> None:
        """
        Args:
            start: ids with which the decoder begins: of Whisper the beginning, the language, the
                task, and that it writes no times.
        """
        self.vocabulary, self.start = vocabulary, start
        self._kept: tuple[PreTrainedModel, Tensor, EncoderDecoderCache] | None = None

    @property
    def facts(self) -> list[Any]:
        return ["speech", self.start, *heard.facts()]

    def told(self, model: PreTrainedModel, ids: Tensor) -> dict[str, Any]:
        """By what the text was spoken, and of how many blocks the end is not heard."""
        hearings = self.hearings(model, ids)
        return {
            "speech": f"{speech.version()}, {speech.VOICE}, {speech.RATES[0]} words a minute",
            "blocks_spoken_faster": sum(each.rate > speech.RATES[0] for each in hearings),
            "blocks_not_heard_to_their_end": sum(each.heard < 1 for each in hearings),
        }

    def n_predicted(self, length: int) -> int:
        return length

    def targets(self, ids: Tensor) -> Tensor:
        return ids

    def text_rows(self, vocabulary: Vocabulary) -> Tensor:
        """Without the control tokens (end, languages, tasks), which own rows and are no text."""
        added = getattr(vocabulary.tokenizer, "added_tokens_decoder", {})
        control = {int(token) for token, added_token in added.items() if added_token.special}
        rows = vocabulary.rows
        return rows[[token not in control for token in rows.tolist()]]

    def states(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        return self.continued(model, ids, ids[:, :-1])

    def logits(self, model: PreTrainedModel, ids: Tensor) -> Tensor:
        scores = [
            torch.as_tensor(model(**self._inputs(model, some, some[:, :-1])).logits)
            for some in ids.split(AT_ONCE)
        ]
        return torch.cat(scores)[:, -ids.shape[1] :]

    def continued(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        """The encoder hears the prompts, of which the decoder has written none, and then `new`."""
        states = [
            head_inputs(model, **self._inputs(model, *some))
            for some in zip(prompts.split(AT_ONCE), new.split(AT_ONCE), strict=True)
        ]
        return torch.cat(states)[:, -1 - new.shape[1] :]

    def next_state(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> Tensor:
        """Called for one token after another of the same few prompts, it does not work out anew
        what the decoder makes of the speech."""
        if len(prompts) > AT_ONCE:
            return self.continued(model, prompts, new)[:, -1]
        inputs = self._inputs(model, prompts, new)
        inputs |= {"past_key_values": self._of_speech(model, prompts), "use_cache": True}
        return head_inputs(model, **inputs)[:, -1]

    def hearings(self, model: PreTrainedModel, ids: Tensor) -> list[Hearing]:
        """How each block of ids [B, T] is spoken, and how much of it is heard."""
        return [
            hearing
            for some in ids.split(AT_ONCE)
            for hearing in heard.heard(model, self._texts(some))[1]
        ]

    def _inputs(self, model: PreTrainedModel, prompts: Tensor, new: Tensor) -> dict[str, Any]:
        states, _ = heard.heard(model, self._texts(prompts))
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=states),
            "decoder_input_ids": framed(self.start, new).to(reads_at(model)),
            "use_cache": False,
        }

    def _texts(self, ids: Tensor) -> list[str]:
        """What is spoken of each block: its text, without halves of characters at its ends."""
        decode: Any = self.vocabulary.tokenizer.batch_decode
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return [text.replace("\ufffd", "") for text in decode(ids.tolist(), **options)]

    def _of_speech(self, model: PreTrainedModel, prompts: Tensor) -> EncoderDecoderCache:
        """Keys and values of the speech, kept for the latest prompts, with none of a text."""
        kept = self._kept
        known = kept is not None and kept[0] is model and torch.equal(kept[1], prompts)
        of_speech = kept[2].cross_attention_cache if kept and known else DynamicCache()
        made = EncoderDecoderCache(DynamicCache(), of_speech)
        self._kept = (model, prompts.clone(), made)
        return made


def start_of(vocabulary: Vocabulary, multilingual: bool) -> tuple[int, ...]:
    """Ids with which Whisper's decoder begins to write down English, without times.

    Args:
        multilingual: the model knows languages and tasks; one of English alone is told neither.

    Raises:
        KeyError: the tokenizer lacks one of the tokens, and is none of Whisper.
    """
    named = ("<|en|>", "<|transcribe|>") if multilingual else ()
    ids = {piece: token for token, piece in vocabulary.pieces.items()}
    return tuple(ids[piece] for piece in ("<|startoftranscript|>", *named, "<|notimestamps|>"))
