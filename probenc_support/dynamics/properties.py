"""Properties of tokens that may be read from E beside frequency, each with its ceiling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from probenc_support.dynamics import ceilings, cooccurrence
from probenc_support.dynamics.frequency import Frequencies
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.vocabulary import Vocabulary
from probenc_support.regression import Design
from probenc_support.regression.arrays import Array

FREQUENCY = "frequency"


SPACE = "leading space"


BYTES = "length in bytes"


COOCCURRENCE = "co-occurrence"


RANDOM = "random target"
"""A control that means nothing, see `random_targets`."""


RIVALS = (SPACE, BYTES, COOCCURRENCE)
"""Properties that text has; the random target is a control of its own."""


@dataclass(frozen=True)
class Property:
    """Something that a token has, in one number or several."""

    name: str
    values: Array
    """[n_seen, m] each column to be regressed on E; R^2 is averaged over them."""
    ceiling: Array
    """[n_steps] R^2 that is possible at each checkpoint, 0 to 1; 1 where it is not known."""


def leading_space(texts: Sequence[str]) -> Array:
    """[n] 1 for a token that begins with white space, else 0."""
    return np.array([float(text[:1].isspace()) for text in texts])


def length_in_bytes(texts: Sequence[str]) -> Array:
    """[n] bytes of each token's text in UTF-8."""
    return np.array([float(len(text.encode(errors="surrogatepass"))) for text in texts])


def random_targets(E: Array, r2: float, *, n: int = 20, seed: int = 0) -> Array:
    """[V, n] targets as linear in E [V, d] as another one, but of no meaning.

    Each is a random linear functional of E (normal, independent of direction) and as much noise,
    made orthogonal to E, as brings the R^2 of its regression on E to `r2` exactly.

    Args:
        r2: 0 to 1, not adjusted.
    """
    rng = np.random.default_rng(seed)
    centred = E - E.mean(0)
    signal = centred @ rng.normal(size=(E.shape[1], n))
    noise = rng.normal(size=(len(E), n))
    noise -= noise.mean(0)
    basis, _ = np.linalg.qr(centred)
    noise -= basis @ (basis.T @ noise)
    signal, noise = (part / np.linalg.norm(part, axis=0) for part in (signal, noise))
    return cast(Array, np.sqrt(r2) * signal + np.sqrt(1.0 - r2) * noise)


def without(values: Array, y: Array) -> Array:
    """Columns of values [n, m] less their regression on y [n]: what frequency does not tell."""
    centred = y - y.mean()
    deviation = values - values.mean(0)
    return cast(Array, deviation - np.outer(centred, centred @ deviation) / (centred @ centred))


def token_properties(
    run: TrainingRun,
    known: Frequencies,
    *,
    counts: NDArray[np.int64] | None = None,
    read: cooccurrence.TextRead | None = None,
    seed: int = 0,
) -> list[Property]:
    """Frequency, its rivals and the random targets, as far as they can be had for a run.

    Args:
        counts: [n_steps, V] see `dynamics.counts_so_far`; None: no ceiling is known, and R^2 counts
            as it is.
        read: the training text, see `cooccurrence.texts_read`; None: co-occurrence is not known.
    """
    tokens, n_rows = known.tokens, len(known.counts)
    rows = run.embedding(run.steps[-1])[torch.from_numpy(tokens)].double().numpy()
    columns = _columns(rows, Vocabulary(run.tokenizer(), n_rows).texts, known, seed)
    not_known = np.ones(len(run.steps))
    so_far = None if counts is None else counts[:, tokens]
    ceiling = not_known if so_far is None else ceilings.of_counts(known.y, so_far)
    entered = [Property(FREQUENCY, known.y[:, None], ceiling)]
    for name, values in columns.items():
        # No text is about the random targets, so it sets no ceiling for them.
        shown = None if name == RANDOM else so_far
        ceiling = not_known if shown is None else ceilings.of_seen_tokens(values, shown > 0)
        entered.append(Property(name, values, ceiling))
    if read is not None:
        factors = cooccurrence.factors(read, n_rows, tokens)
        entered.insert(-1, Property(COOCCURRENCE, factors.vectors[tokens], factors.ceiling))
    return entered


def _columns(rows: Array, texts: Sequence[str], known: Frequencies, seed: int) -> dict[str, Array]:
    """Values [n_seen, m] of the properties that need no training text, where tokens differ in them.

    Args:
        rows: [n_seen, d] of E at the last checkpoint; texts: [V] of all tokens.
    """
    own = [texts[token] for token in known.tokens]
    r2 = float(Design.of(rows).fit_many(known.y).r2[0])
    columns = {
        SPACE: leading_space(own)[:, None],
        BYTES: length_in_bytes(own)[:, None],
        RANDOM: random_targets(rows, r2, seed=seed),
    }
    return {name: values for name, values in columns.items() if np.ptp(values, axis=0).all()}
