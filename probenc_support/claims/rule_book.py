"""All claims in the order of the book, and the thresholds that their rules name."""

from probenc_support.claims.judging import Claim
from probenc_support.claims.rules_across_models import C3B, N1, Q1
from probenc_support.claims.rules_of_paper import C1, C2, C3, C4, C5, C6, C7
from probenc_support.claims.rules_of_questions import N2, N3, Q1B, Q2, Q2B, Q3
from probenc_support.claims.rules_of_this_book import B1, B2, B3, B4, B5

_OF_PAPER = (C1, C2, C3, C3B, C4, C5, C6, C7)
CLAIMS: tuple[Claim, ...] = (*_OF_PAPER, Q1, Q1B, Q2, Q2B, Q3, N1, N2, N3, B1, B2, B3, B4, B5)
"""In the paper's order."""


def threshold(claim_id: str, metric: str) -> float:
    """The bound that a claim sets for a metric, for figures and tables that show it.

    Raises:
        KeyError: there is no such claim, or it sets no fixed bound for the metric.
    """
    for claim in CLAIMS:
        for criterion in (*claim.criteria, *claim.controls) if claim.id == claim_id else ():
            bound = criterion.at_most if criterion.at_least is None else criterion.at_least
            if criterion.metric == metric and bound is not None and not criterion.times:
                return bound
    raise KeyError(f"Claim {claim_id} sets no fixed bound for {metric}.")
