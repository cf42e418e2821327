"""What a steered model says: continuations, and how often the steered tokens are in them."""

import numpy as np
import torch
from torch import Tensor

from probenc_support import generation, models
from probenc_support.errors import InputError
from probenc_support.generation import Samples
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.steering import editing, solving
from probenc_support.steering.scores import Interval


def frequent_words(
    lm: LanguageModel, log_a: Tensor, n: int = 8, *, at_most: float = 0.01
) -> Tensor:
    """[n] ids of the likeliest whole words (a space and letters) below a mean probability.

    Where a vocabulary has fewer words among its 2,000 likeliest tokens, its likeliest tokens.

    Args:
        log_a: [V] nats.
    """
    ranked = lm.tokens[torch.argsort(log_a[lm.tokens], descending=True)]
    ranked = ranked[log_a[ranked].exp() < at_most]
    texts = [lm.token_text(i) for i in ranked[:2000].tolist()]
    is_word = [len(text) > 1 and text[0] == " " and text[1:].isalpha() for text in texts]
    words = ranked[: len(texts)][torch.tensor(is_word)]
    return words[:n] if len(words) >= n else ranked[:n]


def steered_sample(
    lm: LanguageModel,
    prompts: Tensor,
    tokens: Tensor,
    scale: float,
    *,
    detection: Detection,
    direction: Tensor,
    exact: bool,
    n_tokens: int,
    seed: int,
) -> tuple[Samples, Tensor]:
    """Continuations of prompts [n, T] while tokens [K] are steered to one scale together.

    Args:
        direction: [d]; exact: solve for the steps on `detection`, all tokens together. Where that
            cannot be done, and without it, the linear rule holds, step = log scale.

    Returns:
        The sample, and the steps [K].
    """
    wanted: dict[str | int, float] = {int(token): scale for token in tokens}
    for solve in (True, False) if exact else (False,):
        try:
            with editing.steer(
                lm, wanted, detection=detection, direction=direction, exact=solve
            ) as steered:
                drawn = generation.sample(lm, prompts, n_tokens=n_tokens, seed=seed)
                return drawn, steered.steps
        except InputError:
            if not solve:
                raise
    raise AssertionError("unreachable")


def drawn_at(lm: LanguageModel, sample: Samples) -> tuple[Tensor, Tensor]:
    """Hidden states [n T_new, d] and log-partition [n T_new] where the tokens of a sample were
    drawn, by the model as it stands."""
    n_prompt = sample.prompts.shape[1]
    h = models.hidden_states(lm, sample.sequences)[:, n_prompt - 1 : -1].flatten(0, 1)
    return h.cpu(), lm.head.log_partition(h.to(lm.E)).cpu()


def scale_there(
    lm: LanguageModel, at: tuple[Tensor, Tensor], tokens: Tensor, direction: Tensor, steps: Tensor
) -> float:
    """Factor on the probability of tokens [K] together, at the positions of `drawn_at`.

    Nothing feeds back here: the text is what another (the intact) model wrote.

    Args:
        direction: [d]; steps: [K] how far each token's row goes along it.
    """
    h, z = at
    log_p = lm.head.log_p(h, tokens, z)
    u = (h.double() @ direction)[:, None] * steps
    return float(solving.joint_log_p(log_p, u).exp().sum() / log_p.exp().sum())


def frequency_ratio(found: Tensor, base: Tensor, *, n_draws: int = 2000, seed: int = 0) -> Interval:
    """Occurrences in one set of texts over those in another, with an interval over prompts.

    Args:
        found: [n] occurrences by prompt; base: [n] of the intact model, same prompts.
    """
    rng = np.random.default_rng(seed)
    drawn = torch.from_numpy(rng.integers(len(base), size=(n_draws, len(base))))
    ratio = float(found.sum() / base.sum()) if base.sum() else float("nan")
    return Interval.of(ratio, found[drawn].sum(dim=1) / base[drawn].sum(dim=1).clamp(min=0.5))
