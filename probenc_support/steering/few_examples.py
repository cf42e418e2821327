"""How much text an edit needs: directions fitted to a few positions, and how they do elsewhere."""

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.moments import Moments
from probenc_support.regression import Design
from probenc_support.steering import closed_form, directions
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
    ridge = directions.choose_ridge(directions.moments_of_runs(h))
    return {
        **{name: omega.direction(slopes) for name, omega in omegas.items()},
        "min_norm": directions.min_norm(slopes),
        "min_variance": directions.min_variance(moments, ridge),
        "random_unit": directions.random_unit(moments, seed=seed),
        "logit_bias": None,
    }


def errors_by_size(
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
        detection: of the detecting text; positions are drawn from those that it keeps.
        test: other documents, on which they are judged.
        tokens: [K] edited one at a time by the linear rule, to `scale`.
        sizes: numbers of positions; all that are kept are added.
        n_draws: draws for each of `sizes`.

    Returns:
        A row a size, draw and direction: `positions`, `draw`, `direction`; `local`, the mean
        absolute error of log scale on the positions that it was fitted to; `mae`, the same on
        `test`; `kl`, mean KL(old || new) on `test` over tokens in reach and positions. Nats.
    """
    step = math.log(scale)
    elsewhere = _Judge(lm, test, tokens, step)
    tables = []
    for n, draw, chosen in _draws(detection.n_kept, sizes, n_draws, seed):
        h, z = detection.h[chosen], detection.z[chosen]
        whole = n == detection.n_positions
        y = detection.y if whole else -lm.head.log_mean_p(h)
        fitted = directions_from(design, y, h, omegas, seed=seed)
        g = torch.stack([effect(vector, h) for vector in fitted.values()], dim=1)
        local = closed_form.mean_errors(lm.head.log_p(h, tokens, z), g, step)
        judged = [elsewhere.mae_and_kl(vector) for vector in fitted.values()]
        table = pd.DataFrame(judged, columns=["mae", "kl"])
        table = table.assign(positions=n, draw=draw, direction=list(fitted), local=local.numpy())
        tables.append(table[["positions", "draw", "direction", "local", "mae", "kl"]])
    return pd.concat(tables, ignore_index=True)


def _draws(
    n_all: int, sizes: Sequence[int], n_draws: Sequence[int], seed: int
) -> Iterator[tuple[int, int, Tensor]]:
    """Number of positions, number of the draw, and the positions, in order."""
    generator = torch.Generator().manual_seed(seed)
    plan = [(n, most) for n, most in zip(sizes, n_draws, strict=True) if n < n_all] + [(n_all, 1)]
    for n, most in plan:
        for draw in range(most):
            yield n, draw, torch.randperm(n_all, generator=generator)[:n].sort().values


class _Judge:
    """What edits by the linear rule do on one text to tokens in reach, on average."""

    def __init__(self, lm: LanguageModel, text: Detection, tokens: Tensor, step: float) -> None:
        log_p = lm.head.log_p(text.h, tokens, text.z)
        reachable = closed_form.is_reachable(closed_form.log_mean(log_p), step)
        self.text, self.log_p, self.step = text, log_p[:, reachable], step
        self._of_logit_bias: tuple[float, float] | None = None

    def mae_and_kl(self, vector: Tensor | None) -> tuple[float, float]:
        """Mean absolute error of log scale and mean KL(old || new), nats."""
        if vector is None:  # it is the same edit whatever it was fitted to
            self._of_logit_bias = self._of_logit_bias or self._measure(None)
            return self._of_logit_bias
        return self._measure(vector)

    def _measure(self, vector: Tensor | None) -> tuple[float, float]:
        steps = torch.full((self.log_p.shape[1], 1), self.step, dtype=torch.float64)
        effects = closed_form.effects(self.log_p, effect(vector, self.text.h), steps)
        return float((effects.log_scale[:, 0] - self.step).abs().mean()), float(effects.kl.mean())


def summary(errors: pd.DataFrame) -> pd.DataFrame:
    """Means over draws of `local`, `mae` and `kl`, and `worst`, the largest `mae` of a draw, by
    direction and number of positions."""
    by_size = errors.groupby(["direction", "positions"])
    return by_size[["local", "mae", "kl"]].mean().assign(worst=by_size["mae"].max())


def metrics(means: pd.DataFrame, *, sizes: Sequence[int] = (1024,)) -> dict[str, float]:
    """Metrics `steer_mae_<direction>_20x_from_<n>`, `steer_mae_<direction>_20x_local_from_<n>` and
    `steer_kl_<direction>_20x_from_<n>`, for the fewest positions and for some other sizes; for the
    fewest, the worst draw as well.

    Args:
        means: see `summary`.
    """
    rows = means.reset_index().to_dict("records")
    fewest = min(row["positions"] for row in rows)
    values: dict[str, float] = {}
    for row in rows:
        name, n = f"{row['direction']}_20x", row["positions"]
        if n in (fewest, *sizes):
            values[f"steer_mae_{name}_from_{n}"] = row["mae"]
            values[f"steer_mae_{name}_local_from_{n}"] = row["local"]
            values[f"steer_kl_{name}_from_{n}"] = row["kl"]
        if n == fewest:
            values[f"steer_mae_{name}_from_{n}_worst"] = row["worst"]
    return values
