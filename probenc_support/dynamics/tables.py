"""What was measured over checkpoints, as tables: one row a step, group of parameters or state."""

from collections.abc import Callable, Sequence

import pandas as pd

from probenc_support.dynamics.convergence import Convergence
from probenc_support.dynamics.run_dynamics import Dynamics


def of_runs(table: Callable[[Dynamics], pd.DataFrame], runs: Sequence[Dynamics]) -> pd.DataFrame:
    """One of the tables below for several runs, one after the other, with a last column `run`."""
    return pd.concat([table(each).assign(run=each.run.name) for each in runs])


def by_step(measured: Dynamics) -> pd.DataFrame:
    """One row a step: the frequency fit with its control, the ceiling of the text, and what the
    model does where the text was read; NaN at other steps."""
    table = pd.DataFrame(
        {
            "step": measured.steps,
            "r2_adj_frequency": measured.r2_adj,
            "spearman_frequency": [fit.spearman for fit in measured.fits],
            "r2_adj_shuffled": [float(fit.r2_adj_shuffled.mean()) for fit in measured.fits],
            "r2_adj_shuffled_largest": [float(f.r2_adj_shuffled.max()) for f in measured.fits],
        }
    )
    if measured.r2_text_so_far is not None:
        table["r2_text_so_far"] = measured.r2_text_so_far
    for name in ("loss", "r2_adj_log_a", "kl_unigram", "kl_average_unigram"):
        if measured.behaviour:
            by_step = {at.step: getattr(at, name) for at in measured.behaviour}
            table[name] = table["step"].map(by_step)
    if measured.function:
        table["kl_to_final"] = table["step"].map({at.step: at.kl for at in measured.function})
    return table


def by_state(measured: Dynamics) -> pd.DataFrame:
    """CKA with the final model's hidden states: columns step, state, cka."""
    rows = [(at.step, name, value) for at in measured.function for name, value in at.cka.items()]
    return pd.DataFrame(rows, columns=["step", "state", "cka"])


def by_group(measured: Dynamics) -> pd.DataFrame:
    """One row a step and group of parameters: columns step, group, distance, change_a_step, cosine.

    Raises:
        TypeError: the run was cut short, so that how the parameters move is not known.
    """
    convergence = measured.convergence
    if not isinstance(convergence, Convergence):
        raise TypeError("A run that was cut short tells no moves of its parameters.")
    tables = [
        pd.DataFrame(
            {
                "step": convergence.steps,
                "group": group,
                "distance": convergence.distance(group),
                "change_a_step": convergence.change[group],
                "cosine": convergence.cosine[group],
            }
        )
        for group in convergence.groups
    ]
    return pd.concat(tables, ignore_index=True)
