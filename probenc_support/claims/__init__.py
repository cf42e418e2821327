"""The claims of the paper and of this book, their rules, and how the runs' metrics are judged."""

from probenc_support.claims.judging import (
    Claim,
    Criterion,
    Evidence,
    Finding,
    Kind,
    Run,
    State,
    Stated,
    Verdict,
    judge,
    metrics_by_model,
    overall,
    runs,
)

__all__ = [
    "Claim",
    "Criterion",
    "Evidence",
    "Finding",
    "Kind",
    "Run",
    "State",
    "Stated",
    "Verdict",
    "judge",
    "metrics_by_model",
    "overall",
    "runs",
]
