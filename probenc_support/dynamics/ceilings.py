"""How much of a property of tokens could be known of the text that had been read so far.

Counts of little text are noisy, and of a token that has not occurred nothing is known. So R^2 at an
early checkpoint is compared with the R^2 that was possible by then.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from probenc_support.regression.arrays import Array


def of_seen_tokens(values: Array, seen: NDArray[np.bool_]) -> Array:
    """[n_steps] R^2 of a guess that knows the tokens seen so far, and of the others their mean.

    The ceiling of a property that each token shows at its first occurrence. 0 before anything was
    seen, 1 once all tokens were.

    Args:
        values: [n, m], the result is the mean over columns; seen: [n_steps, n].
    """
    total = ((values - values.mean(0)) ** 2).sum(0)
    ceilings = []
    for known in seen:
        rest = values[~known]
        missed = ((rest - rest.mean(0)) ** 2).sum(0) if len(rest) else np.zeros(values.shape[1])
        ceilings.append(float(np.mean(1.0 - missed / total)))
    return np.array(ceilings)


def of_counts(y: Array, counts: NDArray[np.int64]) -> Array:
    """[n_steps] R^2 of -log frequency y [n] as the best falling function of the count so far.

    The ceiling of frequency: a model that had counted the text without error could tell a token's
    frequency no better. 0 before anything was read; 1 where the counts
    are those that y is made of.

    Args:
        counts: [n_steps, n] occurrences of each token in the text read by each checkpoint.
    """
    total = ((y - y.mean()) ** 2).sum()
    ceilings = []
    for row in counts:
        if not np.ptp(row):  # Equal counts tell nothing, to the last bit.
            ceilings.append(0.0)
            continue
        guess = IsotonicRegression(increasing=False).fit_transform(row.astype(np.float64), y)
        ceilings.append(float(1.0 - ((y - guess) ** 2).sum() / total))
    return np.array(ceilings)
