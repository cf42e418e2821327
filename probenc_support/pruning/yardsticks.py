"""Changes of a head that many people accept, beside which a divergence can be read."""

from probenc_support import quantisation
from probenc_support.head import Head
from probenc_support.pruning.divergence import Divergences, Reference

ROUNDINGS = {"int8": (8, 0), "int4": (4, 32)}
"""Bits of an entry, and entries that share a scale (0: a row), as files of quantised models have
them."""


def rounded_heads(reference: Reference) -> dict[str, Divergences]:
    """Divergences of the head with its rows rounded, by `ROUNDINGS`."""
    head = reference.head
    by_name = {}
    for name, (bits, block) in ROUNDINGS.items():
        rounded = Head(quantisation.rounded(head.E, bits, block=block), head.b)
        by_name[name] = reference.evaluate(rounded.logits)
    return by_name
