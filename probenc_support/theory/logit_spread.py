"""What the fit owes to the softmax: the spread of the logits and the size of the vocabulary.

The paper's reason for the encoding (section 2.1) is that the logits are concentrated and the
vocabulary is large. Both can be varied in a given model. Hidden states times a scale spread the
logits more or less, as a temperature does; a softmax over some of the tokens has a small
vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from probenc_support import regression
from probenc_support.head import Head
from probenc_support.moments import variances_along
from probenc_support.precision import wide
from probenc_support.regression import Design, Interval
from probenc_support.regression.arrays import Array

SCALES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0)
"""Factors of the hidden states; an inverse temperature."""


_CHUNK_BYTES = 32e6


_ROWS_A_SLOPE = 4


_FOLDS = 5


def spread_over_tokens(cov: Tensor, h: Tensor) -> float:
    """Standard deviation of E_w . h over the tokens, as root mean square over the positions, nats.

    Args:
        cov: [d, d] covariance of the rows of E over the tokens; h: [N, d]. The bias of a head is
            left out, since a scale of h does not change it.
    """
    return float(variances_along(wide(cov), h).mean().sqrt())


@torch.inference_mode()
def log_a_at_scales(head: Head, h: Tensor, scales: Sequence[float]) -> Tensor:
    """Log average probabilities of a model whose hidden states are multiplied by a scale.

    One product of E and h serves all scales, and sums are taken in log space, so that no
    probability underflows.

    Args:
        head: of n tokens; h: [N, d]; scales: [S], above zero.

    Returns:
        [S, n] float64, nats, on the CPU.
    """
    E, b = head.E, head.b
    device = wide(E[:1]).device
    total = torch.full((len(scales), len(E)), -torch.inf, dtype=torch.float64, device=device)
    chunk = max(16, int(_CHUNK_BYTES / (len(E) * E.element_size())))
    buffer = E.new_empty(min(chunk, len(h)), len(E))
    for part in h.to(E).split(chunk):
        logits = part @ E.T
        for k, scale in enumerate(scales):
            scaled = torch.mul(logits, scale, out=buffer[: len(part)])
            if b is not None:
                scaled += b
            scaled -= torch.logsumexp(scaled, dim=1, keepdim=True)
            total[k] = torch.logaddexp(total[k], wide(torch.logsumexp(scaled, dim=0)))
    return head.of_tokens(total.sub(math.log(len(h))).cpu(), dim=1)


@dataclass(frozen=True, eq=False)
class ScaledFits:
    """The log-linear fit of a model at some scales of its hidden states."""

    scales: tuple[float, ...]
    """S factors of the hidden states."""
    y: Tensor
    """[S, n] float64 -log a at each scale, nats."""
    r2_adj: Array
    """[S] adjusted R^2 of the fit to each."""

    @classmethod
    def of(cls, head: Head, design: Design, h: Tensor, scales: Sequence[float]) -> "ScaledFits":
        """Of a head of n tokens, the design of its rows, and hidden states h [N, d]."""
        y = -log_a_at_scales(head, h, scales)
        return cls(tuple(scales), y, design.fit_many(y.T).r2_adj)

    def r2_at(self, scale: float) -> float:
        """Adjusted R^2 at one of the scales."""
        return float(self.r2_adj[self.scales.index(scale)])


def n_small(n_tokens: int, d: int, *, share: int = 16) -> int:
    """How many tokens a small vocabulary has: one in `share`, or as many as d slopes need.

    Returns:
        The number; zero where even half of the tokens are too few for so many slopes.
    """
    wanted = max(n_tokens // share, _ROWS_A_SLOPE * (d + 2))
    return wanted if 2 * wanted <= n_tokens else 0


@torch.inference_mode()
def r2_small_vocabulary(
    head: Head,
    h: Tensor,
    z: Tensor,
    *,
    size: int,
    n_draws: int = 5,
    seed: int = 0,
) -> Array:
    """R^2 of the fit of some tokens' probabilities in the whole softmax, and in one of their own.

    In both, the same tokens are fitted and the same are judged (each fold of five by the fit to the
    others), so that the two numbers of a draw differ only in what the probabilities are normalised
    over.

    Args:
        head: of n tokens; h: [N, d]; z: [N] log-partition over all rows.
        size: tokens of a draw; see `n_small`.
        n_draws: how many draws; seed: of the draws and of the folds.

    Returns:
        [n_draws, 2] R^2 of tokens held out, whole vocabulary and small one.
    """
    E, b = head.rows, head.bias
    generator = torch.Generator().manual_seed(seed)
    r2 = np.empty((n_draws, 2))
    for draw in range(n_draws):
        rows = torch.randperm(len(E), generator=generator)[:size].to(E.device)
        logits = h.to(E) @ E[rows].T
        if b is not None:
            logits += b[rows]
        design = Design.of(E[rows])
        own = torch.logsumexp(logits, dim=1)
        for k, level in enumerate((z.to(logits), own)):
            y = np.log(len(h)) - wide(torch.logsumexp(logits - level[:, None], dim=0))
            r2[draw, k] = regression.r2_heldout(design, y, n_folds=_FOLDS, seed=seed)
    return r2


def mean_interval(values: Array, *, level: float = 0.95) -> Interval:
    """Mean of independent draws [n], at least two, with the interval of Student's t."""
    mean = float(values.mean())
    half = stats.t.ppf(0.5 + level / 2.0, len(values) - 1) * stats.sem(values)
    return Interval(mean, float(mean - half), float(mean + half), 0.0, values)


@dataclass(frozen=True, eq=False)
class SmallVocabulary:
    """What a small vocabulary costs the fit, over draws of its tokens."""

    size: int
    """Tokens of a draw."""
    whole: float
    """Mean R^2 of tokens held out, their probabilities taken from the whole softmax."""
    small: float
    """The same of a softmax over the tokens of the draw alone."""
    loss: Interval
    """Mean of whole less small, with its interval over the draws."""

    @classmethod
    def of(cls, head: Head, h: Tensor, z: Tensor, *, seed: int = 0) -> "SmallVocabulary | None":
        """None where the vocabulary is too small for the width of the model; see `n_small`.

        Args: see `r2_small_vocabulary`.
        """
        size = n_small(len(head.rows), head.d)
        if not size:
            return None
        r2 = r2_small_vocabulary(head, h, z, size=size, seed=seed)
        whole, small = r2.mean(axis=0)
        return cls(size, float(whole), float(small), mean_interval(r2[:, 0] - r2[:, 1]))

    def metrics(self) -> dict[str, float]:
        """Under the names of the first notebook's metrics."""
        return {
            "n_small_vocab": self.size,
            "r2_whole_vocab": self.whole,
            "r2_small_vocab": self.small,
            **self.loss.metrics("r2_loss_small_vocab"),
        }
