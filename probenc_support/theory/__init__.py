"""What the encoding should be without a fit: expansions, spread of logits, classes of contexts."""

from probenc_support.theory.orders import (
    ORDERS,
    cumulant_series,
    cumulants,
    first_order,
    jensen_gap,
    log_probability_variance,
    second_order,
)

__all__ = [
    "ORDERS",
    "cumulant_series",
    "cumulants",
    "first_order",
    "jensen_gap",
    "log_probability_variance",
    "second_order",
]
