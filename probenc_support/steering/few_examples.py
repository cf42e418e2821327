"""How much text an edit needs: directions fitted to a few positions, and how they do elsewhere."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.moments import Moments
from probenc_support.regression import Design
from probenc_support.steering import closed_form, directions
from probenc_support.steering import omegas as steering_family
from probenc_support.steering.omegas import Omega
from probenc_support.steering.scores import effect

SIZES = (16, 64, 256, 1024, 4096)
"""Numbers of positions that are tried, besides all of them."""


def directions_from(
    design: Design, y: Tensor, h: Tensor, omegas: Mapping[str, Omega], *, seed: int
) -> dict[str, Tensor | None]:
    """Directions fitted to n positions alone.

    Args:
        design: of the m rows of E that tokens own.
        y: [m] their -log a over these positions; h: [n, d] hidden states there.
        omegas: weightings of the paper's edit, by name.

    Returns:
        [d] of each of `omegas`, `min_norm`, `min_variance` and, as control, `random_unit`; None for
        `logit_bias`, the ceiling, which needs no text.
    """
    slopes = torch.from_numpy(design.fit(y).slopes)
    moments = Moments.of(h)
    ridge = directions.choose_ridge([Moments.of(part) for part in h.tensor_split(4)])
    return {
        **{name: omega.direction(slopes) for name, omega in omegas.items()},
        "min_norm": directions.min_norm(slopes),
        "min_variance": directions.min_variance(moments, ridge),
        "random_unit": steering_family.random_unit(moments, seed=seed),
        "logit_bias": None,
    }


def few_examples(
    lm: LanguageModel,
    design: Design,
    detection: Detection,
    test: Detection,
    tokens: Tensor,
    omegas: Mapping[str, Omega],
    *,
    scale: float = 20.0,
    sizes: Sequence[int] = SIZES,
    n_draws: Sequence[int] = (10, 3, 3, 1, 1),
    seed: int = 0,
) -> pd.DataFrame:
    """Errors of directions from few positions, drawn at random from the detecting text.

    Args:
        test: other documents, on which they are judged.
        tokens: [K] edited one at a time by the linear rule, to `scale`.
        sizes: numbers of positions; all of them are added.
        n_draws: draws for each of `sizes`.

    Returns:
        A row a size, draw and direction: `positions`, `draw`, `direction`; `local`, the mean
        absolute error of log scale on the positions that it was fitted to; `mae`, the same on
        `test`; `kl`, mean KL(old || new) on `test` over tokens in reach and positions. Nats.
    """
    generator = torch.Generator().manual_seed(seed)
    n_all, step = len(detection.h), math.log(scale)
    plan = [(n, most) for n, most in zip(sizes, n_draws, strict=True) if n < n_all] + [(n_all, 1)]
    test_p = lm.head.log_p(test.h, tokens, test.z)
    usable = closed_form.is_reachable(closed_form.log_mean(test_p), step)
    rows = []
    for n, most in plan:
        for draw in range(most):
            chosen = torch.randperm(n_all, generator=generator)[:n].sort().values
            h, z = detection.h[chosen], detection.z[chosen]
            own_p = lm.head.log_p(h, tokens, z)
            y = -lm.head.log_mean_p(h) if n < n_all else detection.y
            tried = directions_from(design, y, h, omegas, seed=seed)
            for name, vector in tried.items():
                steps = torch.full((int(usable.sum()), 1), step, dtype=torch.float64)
                found = closed_form.effects(test_p[:, usable], effect(vector, test.h), steps)
                rows.append(
                    {
                        "positions": n,
                        "draw": draw,
                        "direction": name,
                        "local": steering_family.mean_error(own_p, effect(vector, h), step),
                        "mae": float((found.log_scale[:, 0] - step).abs().mean()),
                        "kl": float(found.kl.mean()),
                    }
                )
    return pd.DataFrame(rows)
