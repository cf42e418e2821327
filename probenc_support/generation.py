"""Sampled continuations and MAUVE between two sets of them.

MAUVE (Pillutla et al. 2021) compares two samples of text by quantising features of whole texts.
The features here are the model's own last hidden states, so that nothing is downloaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, TopPLogitsWarper

from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.inference import evenly
from probenc_support.models import LanguageModel, head_logits, next_state
from probenc_support.models.kinds import Causal

__all__ = ["Samples", "features", "has_mauve", "mauve_score", "mauve_scores", "prompts", "sample"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Continuations that a model drew for some prompts."""

    prompts: Tensor
    """[n, T_prompt] int64 token ids that the model was given"""
    ids: Tensor
    """[n, T_new] int64 token ids that it drew"""

    @property
    def sequences(self) -> Tensor:
        """[n, T_prompt + T_new] int64: prompts and continuations."""
        return torch.cat([self.prompts, self.ids], dim=1)

    def texts(self, lm: LanguageModel) -> list[str]:
        """The n continuations as text."""
        return list(lm.tokenizer.batch_decode(self.ids, skip_special_tokens=True))


def prompts(blocks: TokenBlocks, n: int, length: int = 32) -> Tensor:
    """The first `length` tokens of `n` blocks spread evenly over the corpus: [n, length] int64.

    Raises InputError if the corpus has fewer than `n` blocks or its blocks are shorter.
    """
    n_blocks, sequence_length = blocks.ids.shape
    if not 0 < n <= n_blocks or not 0 < length <= sequence_length:
        raise InputError(
            f"{n} prompts of {length} tokens cannot be taken from {n_blocks} blocks of "
            f"{sequence_length} tokens: ask for fewer or shorter prompts, or use a longer corpus."
        )
    return blocks.ids[evenly(n_blocks, n), :length]


@torch.no_grad()
def sample(
    lm: LanguageModel,
    prompts: Tensor,
    *,
    n_tokens: int = 48,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Samples:
    """Draw one continuation of `n_tokens` tokens for each of the prompts [n, T] of equal length.

    A masked model is asked with a mask at the end of the text so far; where there is an encoder it
    has the prompt, and the decoder writes. The model is used as it stands: inside a context manager
    that edits its head, the edited model speaks. The end-of-text token is not drawn, so that all
    texts have one length. A temperature of 0 takes the most probable token each time.
    Raises InputError if the texts would not fit into the model's context.
    """
    check_lengths(lm, prompts.shape[1], n_tokens)
    draw = _generated if isinstance(lm.kind, Causal) else _drawn
    batches = prompts.split(min(batch_size, lm.kind.at_once))
    with _seeded(seed, lm.device):
        drawn = [draw(lm, batch, n_tokens, temperature, top_p) for batch in batches]
    return Samples(prompts=prompts.cpu(), ids=torch.cat(drawn))


def _generated(
    lm: LanguageModel, prompts: Tensor, n_tokens: int, temperature: float, top_p: float
) -> Tensor:
    """[n, n_tokens] by the model's own loop, which keeps what it has read."""
    assert isinstance(lm.kind, Causal)
    batch = lm.kind.framed(prompts.to(lm.device))
    settings = _generation_config(lm, n_tokens, temperature, top_p)
    generate: Any = lm.model.generate
    out = generate(
        input_ids=batch, attention_mask=torch.ones_like(batch), generation_config=settings
    )
    ids: Tensor = out[:, batch.shape[1] :].cpu()
    return ids


def _drawn(
    lm: LanguageModel, prompts: Tensor, n_tokens: int, temperature: float, top_p: float
) -> Tensor:
    """[n, n_tokens] token by token from the state that predicts the next one, for kinds of model
    that have no loop of their own, or one that is not for plain sampling."""
    new, barred = prompts[:, :0], never_drawn(lm)
    cut = TopPLogitsWarper(top_p) if top_p < 1.0 else None
    for _ in range(n_tokens):
        logits = head_logits(lm, next_state(lm, prompts, new))
        logits[:, barred] = -torch.inf
        if temperature == 0:
            token = logits.argmax(dim=1, keepdim=True)
        else:
            logits = logits / temperature
            logits = logits if cut is None else cut(prompts, logits)
            token = torch.multinomial(logits.softmax(dim=1), 1)
        new = torch.cat([new, token.to(new)], dim=1)
    return new.cpu()


def never_drawn(lm: LanguageModel) -> list[int]:
    """Ids that no text of a sample has: what ends one; of a model that is not causal, all special
    tokens and all rows that are no text."""
    if isinstance(lm.kind, Causal):
        return end_of_text(lm)
    text = set(lm.tokens.tolist()) - set(lm.tokenizer.all_special_ids)
    return [row for row in range(lm.V) if row not in text]


def check_lengths(lm: LanguageModel, n_prompt: int, n_tokens: int) -> None:
    """Refuses texts that the model cannot write.

    Raises:
        InputError: it writes none, or prompt and continuation do not fit into its context.
    """
    if lm.kind.name == "causal" and not lm.model.can_generate():
        raise InputError(f"{lm.name} does not generate text: use another language model.")
    if n_tokens < 1 or n_prompt < 1:
        raise InputError("A prompt and its continuation need at least one token each.")
    if n_prompt + n_tokens > lm.context_length:
        raise InputError(
            f"{n_prompt} prompt tokens and {n_tokens} new ones do not fit into the context of "
            f"{lm.context_length} tokens of {lm.name}: ask for fewer."
        )


def _generation_config(
    lm: LanguageModel, n_tokens: int, temperature: float, top_p: float
) -> GenerationConfig:
    """Plain sampling: nothing of the model's own habits (top-k, repetition penalty) is kept."""
    greedy = temperature == 0
    end = end_of_text(lm)
    warpers = {} if greedy else {"temperature": temperature, "top_p": top_p, "top_k": 0}
    return GenerationConfig(
        do_sample=not greedy,
        max_new_tokens=n_tokens,
        min_new_tokens=n_tokens,
        eos_token_id=end or None,
        pad_token_id=end[0] if end else 0,
        **warpers,
    )


def end_of_text(lm: LanguageModel) -> list[int]:
    """Ids that end a text, which are not drawn."""
    settings = lm.model.generation_config
    end = settings.eos_token_id if settings else None
    return list(end) if isinstance(end, list) else [] if end is None else [int(end)]


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw with `seed`, and leave the global generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def features(lm: LanguageModel, samples: Samples, *, batch_size: int = 32) -> NDArray[np.float32]:
    """[n, d]: the hidden state after each text's last token, of the unedited body of the model.

    The hidden states come before the output head, so that an edited head does not change them.
    """
    batches = zip(samples.prompts.split(batch_size), samples.ids.split(batch_size), strict=True)
    last = [next_state(lm, prompts, ids).float().cpu() for prompts, ids in batches]
    return torch.cat(last).numpy()


def has_mauve() -> bool:
    """Whether the optional package mauve-text is installed."""
    return importlib.util.find_spec("mauve") is not None


def mauve_score(
    lm: LanguageModel,
    p: Samples,
    q: Samples,
    *,
    n_buckets: int | None = None,
    n_clusterings: int = 5,
    seed: int = 0,
) -> float:
    """MAUVE in [0, 1] between two sets of continuations; 1: not told apart. Symmetric.

    A small sample biases it, downwards for samples of one and the same model: compare it with
    the score of two samples of the intact model of the same size (the ceiling).
    `n_buckets` is the number of clusters, by default a tenth of the texts; the score is the mean
    over `n_clusterings`, since one clustering of a small sample is a matter of luck.
    Raises InputError if mauve-text is not installed or a sample is too small to be clustered.
    """
    scores = mauve_scores(
        lm, p, {"q": q}, n_buckets=n_buckets, n_clusterings=n_clusterings, seed=seed
    )
    return scores["q"]


def mauve_scores(
    lm: LanguageModel,
    reference: Samples,
    others: Mapping[str, Samples],
    *,
    n_buckets: int | None = None,
    n_clusterings: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """`mauve_score` of several sets against one, whose features are computed once."""
    n = min(len(samples.ids) for samples in (reference, *others.values()))
    check_mauve(n)
    compute: Any = importlib.import_module("mauve").compute_mauve
    here = features(lm, reference)
    scores = {}
    for name, samples in others.items():
        there = features(lm, samples)
        with silent():
            computed = [
                compute(here, there, num_buckets=n_buckets or max(2, round(n / 10)), seed=seed + i)
                for i in range(n_clusterings)
            ]
        scores[name] = float(np.mean([f.mauve for f in computed]))
    return scores


def check_mauve(n: int) -> None:
    """Refuses to compare n texts by MAUVE.

    Raises:
        InputError: mauve-text is not installed, or they are fewer than 20.
    """
    if not has_mauve():
        raise InputError(
            "MAUVE needs the optional package mauve-text: pip install 'probenc-support[mauve]'."
        )
    if n < 20:
        raise InputError(f"MAUVE of {n} texts says nothing: give at least 20 prompts.")


@contextmanager
def silent() -> Iterator[None]:
    """Keeps faiss, a library in C++, from warning of small samples on the page, over and over."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
