"""How a run's metrics turn into verdicts: criteria, controls, preconditions.

A criterion names one metric, what it measures, and a threshold. It is met when the near end of the
metric's 95 % interval passes the threshold, too; where only the value passes, it is `unsure`. The
claims themselves, with their thresholds, are in `rule_book`. Nothing else in the book judges.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from probenc_support.runs import run_files


class Verdict(StrEnum):
    """What a run, or all runs together, say about a claim."""

    HOLDS = "holds"
    """Every criterion is met, and what has to fail fails."""
    IN_PART = "holds in part"
    """Some criteria are met, or none failed but one of them or a control could not be decided."""
    DOES_NOT_HOLD = "does not hold"
    """No criterion is met and one failed, or a control succeeds, so that nothing is shown."""
    NOT_TESTED = "not tested here"
    """No metric of the claim is there, or a precondition is not met."""


class State(StrEnum):
    """What one number says about one criterion."""

    MET = "met"
    UNSURE = "unsure"
    """The value passes the threshold; the near end of its interval does not."""
    NOT_MET = "not met"
    ABSENT = "absent"


class Stated(StrEnum):
    """When a threshold was set, as far as this project's history tells."""

    BEFORE = "before"
    """Before a first result of its metric was seen here."""
    AFTER = "after"
    """After a first result was seen, so that it cannot count as a prediction."""


class Kind(StrEnum):
    """Who makes a claim, or asks a question."""

    PAPER = "The paper claims"
    OPEN = "The paper leaves open"
    READERS = "Its readers ask"
    OURS = "This book asks"


@dataclass(frozen=True)
class Criterion:
    """One threshold on one metric."""

    notebook: str
    """Which notebook leaves the metric."""
    metric: str
    """Its name in `<notebook>.metrics.json`."""
    says: str
    """What it measures, in words."""
    at_least: float | None = None
    at_most: float | None = None
    times: str = ""
    """If given: the threshold is multiplied by this other metric of the same run."""
    stated: Stated = Stated.AFTER
    """When the threshold was set."""
    beside: str = ""
    """If given: another metric of the same run that the threshold can be held against."""
    beside_says: str = ""
    """What that metric measures, in words."""

    @property
    def rule(self) -> str:
        """The threshold as a reader sees it, such as `≥ 0.8` or `≤ 0.5 × kl_paper_30`."""
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {bound:g}" + (f" × {self.times}" if self.times else "")


def stated_before(notebook: str) -> partial[Criterion]:
    """Makes criteria on the metrics of a notebook whose thresholds were set before a result."""
    return partial(Criterion, notebook, stated=Stated.BEFORE)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, one of its open questions, or a question of others."""

    id: str
    """Short and unique, such as `C1`; letters and digits, since it is an anchor on pages."""
    title: str
    """Two or three words, for tables and headings."""
    kind: Kind
    words: str
    """What it says, in our words."""
    section: str = ""
    """Where the paper makes it; empty for what is not in the paper."""
    paper: str = "Not in the paper."
    """The paper's value where it is known, else a sentence that says so."""
    criteria: tuple[Criterion, ...] = ()
    """All must be met for the claim to hold."""
    controls: tuple[Criterion, ...] = ()
    """Must be met too: each says that something fails which has to fail, and could succeed."""
    needs: tuple[Criterion, ...] = ()
    """Preconditions: where one is not met, the claim counts as not tested."""
    figure: tuple[str, str] = ("", "")
    """Notebook, and name of the figure that shows it."""
    remark: str = ""
    """What else a reader should know; for an untested claim, what a test would need."""
    changed: str = ""
    """What was changed in its rule after the first edition of the book, and why."""

    @property
    def measured(self) -> tuple[Criterion, ...]:
        """Criteria, controls and preconditions: all metrics that the claim reads."""
        return (*self.criteria, *self.controls, *self.needs)

    @property
    def notebooks(self) -> frozenset[str]:
        """The notebooks that leave these metrics."""
        return frozenset(one.notebook for one in self.measured)


@dataclass(frozen=True)
class Evidence:
    """One criterion and what one run measured."""

    criterion: Criterion
    value: float | None
    low: float | None
    """Ends of the 95 % interval, where the run gives one."""
    high: float | None
    state: State
    beside: float | None = None
    """What the threshold can be held against, where the run gives it."""


@dataclass(frozen=True)
class Finding:
    """A claim judged by one run."""

    claim: Claim
    model: str
    verdict: Verdict
    criteria: tuple[Evidence, ...]
    controls: tuple[Evidence, ...]
    needs: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Run:
    """What one notebook left for one model."""

    model: str
    """Folder below `book/runs`."""
    notebook: str
    metrics: Mapping[str, float]
    provenance: Mapping[str, Any]
    page: Path
    """The executed notebook."""


def runs(*folders: Path) -> list[Run]:
    """Every complete run below folders of runs, by model and then by notebook.

    A run with a file that is empty, cut off or damaged is named on stderr and left out. Where
    several folders have a run of one model and notebook, that of the first counts: what a build has
    made stands in the place of what came with the repository.
    """
    found: dict[tuple[str, str], Run] = {}
    for folder in folders:
        for run in _runs(folder):
            found.setdefault((run.model, run.notebook), run)
    return [found[name] for name in sorted(found)]


def _runs(folder: Path) -> list[Run]:
    complete = []
    for path in sorted(folder.glob("*/[0-9]*.metrics.json")):
        name = path.name.removesuffix(".metrics.json")
        page = path.with_name(f"{name}.ipynb")
        if not page.is_file():
            continue
        if wrong := run_files.damage(page):
            run_files.tell(f"{wrong}: this run is left out until it is made again.")
            continue
        complete.append(
            Run(
                model=path.parent.name,
                notebook=name,
                metrics=run_files.read_object(path),
                provenance=run_files.read_object(path.with_name(f"{name}.provenance.json")),
                page=page,
            )
        )
    return complete


def metrics_by_model(all_runs: Iterable[Run]) -> dict[str, dict[str, Mapping[str, float]]]:
    """Metrics as `[model][notebook]`."""
    table: dict[str, dict[str, Mapping[str, float]]] = {}
    for run in all_runs:
        table.setdefault(run.model, {})[run.notebook] = run.metrics
    return table


def judge(claim: Claim, model: str, metrics: Mapping[str, Mapping[str, float]]) -> Finding:
    """What one model's metrics (`[notebook][metric]`) say about a claim."""
    criteria = tuple(_weigh(criterion, metrics) for criterion in claim.criteria)
    controls = tuple(_weigh(criterion, metrics) for criterion in claim.controls)
    needs = tuple(_weigh(criterion, metrics) for criterion in claim.needs)
    ready = all(need.state is State.MET for need in needs)
    verdict = _verdict(criteria, controls) if ready else Verdict.NOT_TESTED
    return Finding(claim, model, verdict, criteria, controls, needs)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict over the models that tested a claim: theirs if they agree, else `in part`."""
    tested = {verdict for verdict in verdicts if verdict is not Verdict.NOT_TESTED}
    if not tested:
        return Verdict.NOT_TESTED
    return tested.pop() if len(tested) == 1 else Verdict.IN_PART


def _verdict(criteria: tuple[Evidence, ...], controls: tuple[Evidence, ...]) -> Verdict:
    states = [evidence.state for evidence in criteria]
    guards = [evidence.state for evidence in controls]
    if not states or all(state is State.ABSENT for state in states):
        return Verdict.NOT_TESTED
    if State.NOT_MET in guards:
        return Verdict.DOES_NOT_HOLD
    if all(state is State.MET for state in [*states, *guards]):
        return Verdict.HOLDS
    # Where one criterion is not met, another that is unsure does not make half of a claim.
    if State.MET in states or State.NOT_MET not in states:
        return Verdict.IN_PART
    return Verdict.DOES_NOT_HOLD


def _weigh(criterion: Criterion, metrics: Mapping[str, Mapping[str, float]]) -> Evidence:
    of_run = metrics.get(criterion.notebook, {})
    value, low, high = (
        _number(of_run.get(f"{criterion.metric}{end}")) for end in ("", "_low", "_high")
    )
    factor = _number(of_run.get(criterion.times)) if criterion.times else 1.0
    beside = _number(of_run.get(criterion.beside)) if criterion.beside else None
    if value is None or factor is None:
        return Evidence(criterion, value, low, high, State.ABSENT, beside)
    near = low if criterion.at_least is not None else high
    state = State.NOT_MET
    if _passes(criterion, value, factor):
        firm = near is None or _passes(criterion, near, factor)
        state = State.MET if firm else State.UNSURE
    return Evidence(criterion, value, low, high, state, beside)


def _passes(criterion: Criterion, value: float, factor: float) -> bool:
    if criterion.at_least is not None:
        return value >= criterion.at_least * factor
    return criterion.at_most is None or value <= criterion.at_most * factor


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
