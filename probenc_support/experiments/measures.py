"""What is measured over the checkpoints of one run of an experiment."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from probenc_support.corpora import TokenBlocks
from probenc_support.dynamics import counts_so_far, predictions
from probenc_support.dynamics.convergence import group_of
from probenc_support.dynamics.function_distance import Final
from probenc_support.dynamics.halfway_steps import halfway
from probenc_support.experiments.context_gain import gain_given_frequency
from probenc_support.experiments.routes import r2_by_route
from probenc_support.inference import detect
from probenc_support.models import interventions
from probenc_support.models.checkpoints import TrainingRun

AT_ONCE = 2048
"""Positions of a text on which predictions are compared and the frequencies given."""


def log_frequency(run: TrainingRun) -> Tensor:
    """[V] float64 log of the frequencies in what a run here read; see
    `interventions.log_frequency`."""
    counts = cast(NDArray[np.int64], counts_so_far(run))
    return interventions.log_frequency(counts[-1])


def measure(
    run: TrainingRun, blocks: TokenBlocks, *, read_at: Sequence[int], device: str = "auto"
) -> pd.DataFrame:
    """A row for each of some steps of a run.

    Columns: `step`; `r2 <route>`, see `r2_by_route`; `loss` in nats on the text; `gain`, what the
    loss is below that of the frequencies alone; `gain given frequency`, see
    `gain_given_frequency`; `KL` of the predictions from those of the run's end, in nats; and `CKA
    <layer>` with the states at its end.

    Args:
        blocks: text that the run was not trained on.
        read_at: steps, the run's last among them.
    """
    log_f = log_frequency(run)
    rows: list[dict[str, float]] = []
    final: Final | None = None
    for step in sorted(read_at, reverse=True):
        lm = run.load(step, device=device, probe=False)
        detection = detect(lm, blocks, progress=False, cache=False)
        chosen = predictions.positions(detection, AT_ONCE)
        own = predictions.Predictions.of(lm, detection, chosen)
        final = final or Final.of(lm, detection, own, blocks, chosen)
        function = final.compare(lm, own, blocks, step=step)
        h, targets = detection.h[chosen].to(lm.head.E), detection.targets[chosen]
        has_next = targets >= 0
        given = gain_given_frequency(lm.head, h[has_next], targets[has_next], log_f)
        everywhere = detection.targets >= 0
        log_p = detection.target_log_p[everywhere]
        rows.append(
            {
                "step": step,
                **{f"r2 {name}": r2 for name, r2 in r2_by_route(lm.head, h, log_f).items()},
                "loss": float(-log_p.mean()),
                "gain": float((log_p - log_f[detection.targets[everywhere]]).mean()),
                "gain given frequency": float(given.mean()),
                "KL": function.kl,
                **{f"CKA {name}": value for name, value in function.cka.items()},
            }
        )
    return pd.DataFrame(rows[::-1])


def cosines(run: TrainingRun) -> pd.DataFrame:
    """Columns `step`, and for each group of parameters its cosine with itself at the run's end."""
    last = run.steps[-1]
    names = run.head_names(last)
    ends = run.weights(last)
    groups = {name: group_of(name, names) for name in ends}
    rows = []
    for step in run.steps:
        now = run.weights(step)
        row: dict[str, float] = {"step": step}
        for group in dict.fromkeys(groups.values()):
            own = [name for name in ends if groups[name] == group]
            a, b = (torch.cat([w[name].flatten().double() for name in own]) for w in (now, ends))
            sizes = float(a.norm() * b.norm())
            row[group] = float(a @ b) / sizes if sizes else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def halves(measured: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The half-way step of each of some columns, by arm and seed: see `dynamics.halfway`.

    Args:
        measured: with columns `arm`, `seed` and `step`.
    """
    found = {
        key: {name: halfway(own["step"].tolist(), own[name].to_numpy()) for name in columns}
        for key, own in measured.groupby(["arm", "seed"], sort=False)
    }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(index=["arm", "seed"])
