"""What an edit moves besides the token that it steers, and which tokens are tried."""

import torch
from torch import Tensor

from probenc_support.models import LanguageModel
from probenc_support.precision import wide
from probenc_support.steering.closed_form import achieved


@torch.inference_mode()
def change_of_log_a(
    lm: LanguageModel,
    h: Tensor,
    z: Tensor,
    log_a: Tensor,
    token: int,
    u: Tensor,
    *,
    most: int = 512,
) -> Tensor:
    """[V] change of log a of all tokens, from the `most` positions that the edit disturbs most.

    Args:
        h: [N, d]; z: [N]; log_a: [V] over these positions; u: [N], how far the token's logit moves.

    Returns:
        [V] float64, nats; the edited token's own entry is its full change. Other positions move
        the other tokens by less than these, and are left out.
    """
    log_p = lm.head.log_p(h, torch.tensor([token]), z)[:, 0]
    factor = torch.expm1(-torch.log1p(log_p.exp() * torch.expm1(u)))
    worst = factor.abs().topk(min(most, len(h))).indices
    logits = lm.head.logits(h[worst].to(lm.E))
    p = torch.exp(wide(logits).cpu() - z[worst, None])
    change = torch.log1p((factor[worst] @ p / len(h) / log_a.exp()).clamp(min=-1 + 1e-12))
    change[token] = achieved(log_p[:, None], u[:, None])[0]
    return change


def nearest(E: Tensor, rows: Tensor, among: Tensor, n: int = 5) -> Tensor:
    """[m, n] ids out of `among` [k] whose centred rows of E [V, d] have the largest cosine.

    Args:
        rows: [m, d] what they are compared with, centred alike.
    """
    known = E[among]
    centre = known.mean(dim=0)
    known = torch.nn.functional.normalize(known - centre, dim=1)
    cosine = (rows.to(known) - centre) @ known.T
    return among[cosine.topk(n, dim=1).indices]


def spread_over_ranks(log_a: Tensor, tokens: Tensor, n: int) -> Tensor:
    """[n] tokens spread evenly over the ranking of `tokens` [m] by log_a [V], likeliest first.

    The ranking is cut into n classes of equal size, and each gives the token that a fixed lot by id
    names. So rounding, or a slightly different text, moves few of them, though neighbours in the
    ranking differ by little.
    """
    ranked = tokens[torch.argsort(log_a[tokens], descending=True, stable=True)]
    classes = ranked.tensor_split(min(n, len(ranked)))
    return torch.stack([members[_lots(members).argmin()] for members in classes])


def _lots(ids: Tensor) -> Tensor:
    """[n] int64 without order for ids in order (Knuth's multiplicative hash), all different."""
    return ids * 2_654_435_761 % 2**32
