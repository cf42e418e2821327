"""Pruned heads of the intact one's shape, for files that can hold no smaller one.

A pruned head computes E kept(h) + b, and kept is an affine map of rank k: so E' = E times its
linear part and b' = b + E times its shift give the same logits in a head of d columns. What a head
without a bias cannot hold is the shift. There the maps are fitted through the origin, with second
moments about zero in place of covariances, so that they have none.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.moments import Moments
from probenc_support.precision import ROWS_AT_ONCE, wide, wide_device
from probenc_support.pruning.bases import Basis, PlainBasis, shift


def about_origin(moments: Moments) -> Moments:
    """Moments about zero in place of the mean: what is fitted to them is linear, without a shift.

    For kept(h) = P h of rank k, mean |T (h - P h)|^2 depends on mean h h' alone, in the place where
    the covariance stands for maps with a shift.
    """
    second = moments.cov + torch.outer(moments.mean, moments.mean)
    return Moments(moments.n, torch.zeros_like(moments.mean), second)


@torch.no_grad()
def whole_head(head: Head, basis: Basis, removed: int) -> tuple[Tensor, Tensor | None]:
    """E' [V, d] and b' [V] float64 that give the logits of `basis` with `removed` coordinates gone.

    Products are made where E lies.

    Returns:
        Both are on the CPU, for a file. b' is None where neither the head nor the basis (see
        `about_origin`) needs one.
    """
    place = wide_device(head.E.device)
    reading, constant = _reading(basis, removed, place), shift(basis, removed).to(place)
    parts = head.E.split(ROWS_AT_ONCE)
    E = torch.cat([reading(wide(rows)).cpu() for rows in parts])
    b = None if head.b is None else head.b.cpu().double()
    if bool(constant.any()):
        more = torch.cat([(wide(rows) @ constant).cpu() for rows in parts])
        b = more if b is None else b + more
    return E, b


def _reading(basis: Basis, removed: int, place: torch.device) -> Callable[[Tensor], Tensor]:
    """Turns rows [n, d] of E into rows of E', for which E' h = E (kept(h) - shift)."""
    if isinstance(basis, PlainBasis):
        gone = basis.axes[:removed].to(place)
        return lambda rows: rows.index_fill(1, gone, 0.0)
    linear = basis.decode[:, removed:].to(place) @ basis.encode[removed:].to(place)
    if basis.axes is not None:
        # What is left reads the kept dimensions alone, up to rounding.
        linear[:, basis.axes[:removed].to(place)] = 0.0
    return lambda rows: rows @ linear
