"""Runs that came with the repository: which of them an earlier version of a notebook made."""

from collections.abc import Collection, Sequence
from pathlib import Path

from probenc_support.claims.judging import Run
from probenc_support.runs import kept


def default_metrics(runs: Sequence[Run], default: Collection[str]) -> dict[str, set[str]]:
    """Names of the metrics that the default models' runs left in this copy, by notebook.

    Args:
        default: folders of the default models.
    """
    own = [run for run in runs if run.model in default and not kept.is_kept(run.page)]
    return {
        run.notebook: kept.names_of(one.metrics for one in own if one.notebook == run.notebook)
        for run in own
    }


def aged(
    runs: Sequence[Run], default: Collection[str], notebooks: Path
) -> dict[tuple[str, str], str]:
    """Kept runs that the present notebooks would make otherwise, each with the reason.

    Args:
        runs: of all models, made here or kept; default: see `default_metrics`.
        notebooks: folder of the notebooks as they are now.

    Returns:
        The reason, see `kept.what_changed`, by model and notebook.
    """
    present = default_metrics(runs, default)
    found = {
        (run.model, run.notebook): kept.what_changed(
            run.page, notebooks / f"{run.notebook}.ipynb", present.get(run.notebook, set())
        )
        for run in runs
        if kept.is_kept(run.page)
    }
    return {name: reason for name, reason in found.items() if reason}
