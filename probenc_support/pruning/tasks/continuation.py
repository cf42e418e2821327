"""Which of four continuations is the true one of a piece of text?"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probenc_support import models
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel
from probenc_support.models.kinds import Causal
from probenc_support.pruning.tasks.task import MIN_ITEMS, Task, Tokens

_BATCH = 16
"""Pieces of text that are read at a time."""


@dataclass(frozen=True, eq=False)
class Choices:
    """Pieces of text, each with its true continuation and others, all of one length."""

    contexts: Tensor
    """[I, T] int64 tokens."""
    answers: Tensor
    """[I, K, L] int64 tokens of the continuations, the true one first."""
    group: Tensor
    """[I] int64 document of each piece."""

    def first(self, n: int) -> "Choices":
        """The first n of them, or as many as there are."""
        return Choices(self.contexts[:n], self.answers[:n], self.group[:n])


def true_and_others(
    lm: LanguageModel,
    blocks: TokenBlocks,
    *,
    n_items: int = 500,
    n_context: int = 32,
    length: int = 8,
    n_others: int = 3,
    seed: int = 0,
) -> Choices:
    """Draws pieces of text that do not overlap, and continuations of pieces of other documents.

    A piece lies in one document, and every continuation starts with the first token of a word, so
    that no answer is told by half a word.

    Args:
        blocks: text that no head was fitted to.
        n_items: pieces; fewer where the text is too short.
        n_context: tokens of a piece; length: of each continuation.
        n_others: false continuations of each piece.
        seed: of the draws.

    Raises:
        InputError: the text gives fewer than 20 pieces, or no other documents.
    """
    pieces = list(_pieces(lm, blocks, n_context, length))
    if len(pieces) < MIN_ITEMS:
        raise InputError(
            f"The text of {blocks.corpus} gives {len(pieces)} pieces of {n_context + length} "
            f"tokens in one document, and the task needs {MIN_ITEMS}; give a longer text or a "
            "shorter context."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pieces), generator=generator)[:n_items].sort().values.tolist()
    documents = torch.tensor([pieces[i][0] for i in chosen])
    texts = torch.stack([pieces[i][1] for i in chosen])
    contexts, true = texts[:, :n_context], texts[:, n_context:]
    answers = []
    for i, own in enumerate(true):
        order = torch.randperm(len(true), generator=generator)
        usable = (documents[order] != documents[i]) & (true[order] != own).any(dim=1)
        others = true[order[usable]][:n_others]
        if len(others) < n_others:
            raise InputError(
                f"The text of {blocks.corpus} has too few documents for {n_others} continuations "
                "of others; give a longer text."
            )
        answers.append(torch.cat([own[None], others]))
    return Choices(contexts, torch.stack(answers), documents)


def _pieces(
    lm: LanguageModel, blocks: TokenBlocks, n_context: int, length: int
) -> Iterator[tuple[int, Tensor]]:
    """Document and tokens [n_context + length] of pieces that do not overlap."""
    size = n_context + length
    documents = blocks.documents
    if documents is None:
        documents = torch.arange(len(blocks.ids))[:, None].expand_as(blocks.ids)
    starts = {t: lm.token_kind(t) == "word start" for t in blocks.ids.unique().tolist()}
    for ids, own in zip(blocks.ids, documents, strict=True):
        at = 0
        while at + size <= len(ids):
            if own[at] == own[at + size - 1] and starts[int(ids[at + n_context])]:
                yield int(own[at]), ids[at : at + size]
                at += size
            else:
                at += 1


def continuation(lm: LanguageModel, choices: Choices) -> Task:
    """The task, with the hidden states of a model that has read every continuation.

    The state after the piece predicts the first token of each of them. As all have one length, the
    sum of their tokens' log-probabilities ranks them as the mean does.
    """
    n, k, length = choices.answers.shape
    states, positions, tokens, items, answers = [], [], [], [], []
    per_item = 1 + k * (length - 1)
    read = _read_on if _can_read_on(lm, choices.first(1)) else _read_anew
    for context, options in zip(
        choices.contexts.split(_BATCH), choices.answers.split(_BATCH), strict=True
    ):
        first, rest = read(lm, context, options)
        states.append(torch.cat([first[:, None], rest.flatten(1, 2)], dim=1).float().cpu())
    for answer in range(k):
        for place in range(length):
            at = 0 if place == 0 else 1 + answer * (length - 1) + place - 1
            positions.append(torch.arange(n) * per_item + at)
            tokens.append(choices.answers[:, answer, place])
            items.append(torch.arange(n))
            answers.append(torch.full((n,), answer))
    position, order = torch.cat(positions).sort(stable=True)
    return Task(
        name="continuation",
        h=torch.cat(states).flatten(0, 1),
        right=torch.zeros(n, dtype=torch.int64),
        group=choices.group,
        n_answers=k,
        chance=1 / k,
        reader=Tokens(
            position, torch.cat(tokens)[order], torch.cat(items)[order], torch.cat(answers)[order]
        ),
    )


def _can_read_on(lm: LanguageModel, one: Choices) -> bool:
    """Whether the model is causal and gives the same states where it reads a context only once."""
    if not isinstance(lm.kind, Causal):
        return False
    pairs = zip(
        _read_on(lm, one.contexts, one.answers),
        _read_anew(lm, one.contexts, one.answers),
        strict=True,
    )
    return all(_close(these, those) for these, those in pairs)


def _close(these: Tensor, those: Tensor) -> bool:
    if these.shape != those.shape or not those.numel():
        return these.shape == those.shape
    return torch.allclose(these, those, rtol=1e-3, atol=1e-3 * float(those.abs().max()))


def _read_anew(lm: LanguageModel, contexts: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """Every continuation is read after its context.

    Args:
        contexts: [B, T]; answers: [B, K, L].

    Returns:
        [B, d] states after the contexts, [B, K, L - 1, d] after the tokens of answers but the last.
    """
    states = torch.stack([models.continued(lm, contexts, one[:, :-1]) for one in answers.unbind(1)])
    return states[0, :, 0], states[:, :, 1:].transpose(0, 1)


@torch.inference_mode()
def _read_on(lm: LanguageModel, contexts: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """As `_read_anew`, but a context is read once, and what the model keeps of it is handed on to
    each answer."""
    body: Any = lm.model.base_model
    assert isinstance(lm.kind, Causal)
    read = body(input_ids=lm.kind.framed(contexts.to(lm.device)), use_cache=True)
    first = read.last_hidden_state[:, -1].to(device=lm.E.device, dtype=lm.E.dtype)
    n, k, length = answers.shape
    if length == 1:
        return first, first.new_zeros(n, k, 0, lm.d)
    past = read.past_key_values
    past.batch_repeat_interleave(k)
    ids = answers[:, :, :-1].reshape(n * k, length - 1).to(lm.device)
    states = body(input_ids=ids, past_key_values=past, use_cache=True).last_hidden_state
    states = states.to(device=lm.E.device, dtype=lm.E.dtype)
    return first, states.reshape(n, k, length - 1, lm.d)
