"""How much of the fit each component and each dimension carries (section 2.2)."""

from probenc_support.sparsity.components import (
    Components,
    Order,
    Statistics,
    among,
    correlations_of_components,
    cumulative_r2,
)
from probenc_support.sparsity.selection import (
    LassoPath,
    Selection,
    component_shares,
    count_for_share,
    dims_for_share,
    forward_order,
    forward_selection,
    heldout_curve,
    lasso_path,
)

__all__ = [
    "Components",
    "LassoPath",
    "Order",
    "Selection",
    "Statistics",
    "among",
    "component_shares",
    "correlations_of_components",
    "count_for_share",
    "cumulative_r2",
    "dims_for_share",
    "forward_order",
    "forward_selection",
    "heldout_curve",
    "lasso_path",
]
