"""What the encoding should be without a fit: expansions, spread of logits, classes of contexts."""

from probenc_support.theory.orders import (
    ORDERS,
    along,
    cumulant_series,
    cumulants,
    first_order,
    jensen_gap,
    log_probability_variance,
    order_table,
    second_order,
    without_bias,
)

__all__ = [
    "ORDERS",
    "along",
    "cumulant_series",
    "cumulants",
    "first_order",
    "jensen_gap",
    "log_probability_variance",
    "order_table",
    "second_order",
    "without_bias",
]
