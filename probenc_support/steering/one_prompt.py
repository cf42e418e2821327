"""One token after one prompt at several scales: its probability, and how the model goes on."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from probenc_support import generation, models
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.steering import closed_form, editing, solving

SCALES = (1 / 20, 1 / 5, 1.0, 5.0, 20.0)
"""Factors on the token's mean probability."""


def encode(lm: LanguageModel, prompt: str) -> Tensor:
    """[1, T] token ids. A special token that one writes into a prompt is meant as one, so a prompt
    is not encoded as text of a corpus is."""
    ids: Tensor = lm.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    return ids


def likeliest(lm: LanguageModel, prompt: Tensor) -> int:
    """Id of the token that is the most probable after a prompt [1, T]."""
    last = models.next_state(lm, prompt)
    return int(lm.tokens[lm.head.log_mean_p(last).argmax()])


def at_scales(
    lm: LanguageModel,
    prompt: Tensor,
    token: int,
    *,
    detection: Detection,
    direction: Tensor,
    scales: Sequence[float] = SCALES,
    n_tokens: int = 24,
    seed: int = 0,
) -> pd.DataFrame:
    """A row a scale that can be reached: `scale`, `probability after the prompt`, `continuation`.

    Args:
        prompt: [1, T] token ids.
        detection: where the scales are exact, along `direction` [d].
        n_tokens: of a continuation, drawn with the same seed at each scale; fewer where the context
            ends. A model that generates no text continues with nothing.
    """
    tokens = torch.tensor([token])
    last = models.next_state(lm, prompt).cpu()
    here, there = lm.head.log_p(last, tokens), lm.head.log_p(detection.h, tokens, detection.z)
    steps = solving.solve_steps(
        there, detection.h.double() @ direction, torch.tensor(scales, dtype=torch.float64).log()
    )[0]
    rows = []
    for scale, step in zip(scales, steps, strict=True):
        if not math.isfinite(step):
            continue
        u = step * (last.double() @ direction)
        with editing.edited_rows(lm, tokens, step * direction[None]):
            continuation = _continuation(lm, prompt, n_tokens, seed)
        rows.append(
            {
                "scale": scale,
                "probability after the prompt": float(
                    closed_form.new_probability(here, u[:, None])
                ),
                "continuation": continuation,
            }
        )
    return pd.DataFrame(rows)


def _continuation(lm: LanguageModel, prompt: Tensor, n_tokens: int, seed: int) -> str:
    room = lm.context_length - prompt.shape[1]
    silent = lm.kind.name == "causal" and not lm.model.can_generate()
    if silent or room < 1:
        return ""
    return generation.sample(lm, prompt, n_tokens=min(n_tokens, room), seed=seed).texts(lm)[0]
