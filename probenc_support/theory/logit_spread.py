"""What the fit owes to the softmax: the spread of the logits and the size of the vocabulary.

The paper's reason for the encoding (section 2.1) is that the logits are concentrated and the
vocabulary large. Both can be changed in a model that is there: hidden states times a scale spread
the logits more or less, as a temperature does, and a softmax over a part of the vocabulary is one
over a small one.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from probenc_support import regression
from probenc_support.head import Head
from probenc_support.precision import wide
from probenc_support.regression import Design, Interval
from probenc_support.regression.arrays import Array

_CHUNK_BYTES = 32e6


_ROWS_A_SLOPE = 4


_FOLDS = 5


def spread_over_tokens(cov: Tensor, h: Tensor) -> float:
    """Spread of the logits over the tokens, root mean square over the positions, in nats.

    Args:
        cov: [d, d] covariance of the rows of E over the tokens; h: [N, d]. The bias of a head is
            left out: a scale of h does not change it.
    """
    states = wide(h)
    return float((states @ wide(cov).to(states.device) * states).sum(dim=1).mean().sqrt())


@torch.inference_mode()
def log_a_at_scales(head: Head, h: Tensor, scales: Sequence[float]) -> Tensor:
    """Log average probabilities of a model whose hidden states are multiplied by a scale.

    One product of E and h serves all scales. No probability underflows.

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


def n_small(n_tokens: int, d: int, *, share: int = 16) -> int:
    """Tokens of a small vocabulary: one in `share`, but so many that d slopes can be fitted.

    Zero where even half of the tokens are too few for that.
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
    """R^2 of the encoding of some tokens by the whole softmax, and by one over these alone.

    The same tokens are fitted and the same are judged (out of fold, five folds): the two numbers of
    a draw differ in nothing but what the probabilities are normalised over.

    Args:
        head: of n tokens; h: [N, d]; z: [N] log-partition over all rows.
        size: tokens of a draw; see `n_small`.

    Returns:
        [n_draws, 2] R^2 of tokens held out, whole vocabulary and small one.
    """
    E, b = head.rows, head.bias
    generator = torch.Generator().manual_seed(seed)
    found = np.empty((n_draws, 2))
    for draw in range(n_draws):
        rows = torch.randperm(len(E), generator=generator)[:size].to(E.device)
        logits = h.to(E) @ E[rows].T
        if b is not None:
            logits += b[rows]
        design = Design.of(E[rows])
        own = torch.logsumexp(logits, dim=1)
        for k, level in enumerate((z.to(logits), own)):
            y = np.log(len(h)) - wide(torch.logsumexp(logits - level[:, None], dim=0))
            found[draw, k] = regression.r2_heldout(design, y, n_folds=_FOLDS, seed=seed)
    return found


def mean_interval(values: Array, *, level: float = 0.95) -> Interval:
    """Mean of some independent draws [n], n at least 2, with the interval of Student's t."""
    mean = float(values.mean())
    half = stats.t.ppf(0.5 + level / 2.0, len(values) - 1) * stats.sem(values)
    return Interval(mean, float(mean - half), float(mean + half), 0.0, values)
