"""By which routes a head can know the frequencies of its tokens: how much of log f each tells."""

import numpy as np
import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.regression import Design


def r2_by_route(head: Head, h: Tensor, log_f: Tensor) -> dict[str, float]:
    """R^2 of log f over the tokens, by each route:

    - `E`: adjusted, on the rows of E, the claim of the paper;
    - `bias`: on the head's bias (0 where there is none, or all are equal);
    - `mean h`: on E times the mean hidden state, the first-order part of log a (method page);
    - `length`: on the logarithm of the length of E's rows;
    - `average`: on log a, the average prediction itself: what the model says in the end, by
      whatever route, contexts included.

    Args:
        h: [N, d] hidden states on text.
        log_f: [V] log frequencies of all rows.
    """
    E = head.E.cpu().double()
    y = log_f.numpy()
    b = torch.zeros(head.V) if head.b is None else head.b.cpu()
    return {
        "E": float(Design.of(E).fit(y).r2_adj),
        "bias": _r2(b, log_f),
        "mean h": _r2(E @ h.double().mean(0).cpu(), log_f),
        "length": _r2(E.norm(dim=1).log(), log_f),
        "average": _r2(Head(head.E, head.b).log_mean_p(h), log_f),
    }


def _r2(x: Tensor, y: Tensor) -> float:
    """Squared correlation; 0 where x is constant."""
    x = x.double()
    if float(x.std()) <= 1e-12 * float(1.0 + x.abs().max()):
        return 0.0
    return float(np.corrcoef(x.numpy(), y.numpy())[0, 1] ** 2)
