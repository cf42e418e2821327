"""The paper's claims and open questions, and the rules that turn a run's metrics into verdicts.

A criterion names one metric, what it measures, and a threshold. Interval-aware: a criterion is met
when the near end of the metric's 95 % interval passes the threshold, too; where the value passes
and the near end does not, it is `unsure`. The claims page shows every threshold beside the number.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from probenc_support import run_files


class Verdict(StrEnum):
    """What a run, or all runs together, say about a claim."""

    HOLDS = "holds"
    """Every criterion is met and every control fails as it must."""
    IN_PART = "holds in part"
    """Some criteria are met, or one of them or a control could not be tested."""
    DOES_NOT_HOLD = "does not hold"
    """No criterion is met, or a control succeeds, so that the measure shows nothing."""
    NOT_TESTED = "not tested here"
    """No metric of the claim is there, or a precondition is not met."""


class State(StrEnum):
    """What one number says about one criterion."""

    MET = "met"
    UNSURE = "unsure"
    """The value passes the threshold; the near end of its interval does not."""
    NOT_MET = "not met"
    ABSENT = "absent"


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

    @property
    def rule(self) -> str:
        """The threshold as a reader sees it, such as `≥ 0.8` or `≤ 0.5 × kl_paper_30`."""
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {bound:g}" + (f" × {self.times}" if self.times else "")


@dataclass(frozen=True)
class Claim:
    """One claim of the paper, one of its open questions, or a check that its readers ask for."""

    id: str
    """`C1` to `C7`, `Q1` to `Q3`, `N1` to `N3`, `B1` (our own)."""
    section: str
    """Where the paper makes it."""
    words: str
    """What it says, in our words."""
    paper: str
    """The paper's value where it is known, else a sentence that says so."""
    criteria: tuple[Criterion, ...] = ()
    """All must be met for the claim to hold."""
    controls: tuple[Criterion, ...] = ()
    """Must be met too: each says that the measure fails where it has to fail."""
    needs: tuple[Criterion, ...] = ()
    """Preconditions: where one is not met, the claim counts as not tested."""
    figure: tuple[str, str] = ("", "")
    """Notebook, and name of the figure that shows it."""
    remark: str = ""
    """What a reader should know besides; for an untested claim, what a test would need."""


@dataclass(frozen=True)
class Evidence:
    """One criterion and what one run measured."""

    criterion: Criterion
    value: float | None
    low: float | None
    """Ends of the 95 % interval, where the run gives one."""
    high: float | None
    state: State


@dataclass(frozen=True)
class Finding:
    """A claim judged by one run."""

    claim: Claim
    model: str
    verdict: Verdict
    criteria: tuple[Evidence, ...]
    controls: tuple[Evidence, ...]


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


def runs(folder: Path) -> list[Run]:
    """Every complete run below a folder of runs, by model and then by notebook.

    A run with a file that is empty, cut off or damaged is named on stderr and left out.
    """
    found = []
    for path in sorted(folder.glob("*/[0-9]*.metrics.json")):
        name = path.name.removesuffix(".metrics.json")
        page = path.with_name(f"{name}.ipynb")
        if not page.is_file():
            continue
        if wrong := run_files.damage(page):
            run_files.tell(f"{wrong}: this run is left out until it is made again.")
            continue
        found.append(
            Run(
                model=path.parent.name,
                notebook=name,
                metrics=run_files.read_object(path),
                provenance=run_files.read_object(path.with_name(f"{name}.provenance.json")),
                page=page,
            )
        )
    return found


def metrics_by_model(found: Iterable[Run]) -> dict[str, dict[str, Mapping[str, float]]]:
    """Metrics as `[model][notebook]`."""
    table: dict[str, dict[str, Mapping[str, float]]] = {}
    for run in found:
        table.setdefault(run.model, {})[run.notebook] = run.metrics
    return table


def judge(claim: Claim, model: str, metrics: Mapping[str, Mapping[str, float]]) -> Finding:
    """What one model's metrics (`[notebook][metric]`) say about a claim."""
    criteria = tuple(_weigh(criterion, metrics) for criterion in claim.criteria)
    controls = tuple(_weigh(criterion, metrics) for criterion in claim.controls)
    ready = all(_weigh(need, metrics).state is State.MET for need in claim.needs)
    verdict = _verdict(criteria, controls) if ready else Verdict.NOT_TESTED
    return Finding(claim, model, verdict, criteria, controls)


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
    if any(state in (State.MET, State.UNSURE) for state in states):
        return Verdict.IN_PART
    return Verdict.DOES_NOT_HOLD


def _weigh(criterion: Criterion, metrics: Mapping[str, Mapping[str, float]]) -> Evidence:
    of_run = metrics.get(criterion.notebook, {})
    value, low, high = (
        _number(of_run.get(f"{criterion.metric}{end}")) for end in ("", "_low", "_high")
    )
    factor = _number(of_run.get(criterion.times)) if criterion.times else 1.0
    if value is None or factor is None:
        return Evidence(criterion, value, low, high, State.ABSENT)
    near = low if criterion.at_least is not None else high
    state = State.NOT_MET
    if _passes(criterion, value, factor):
        firm = near is None or _passes(criterion, near, factor)
        state = State.MET if firm else State.UNSURE
    return Evidence(criterion, value, low, high, state)


def _passes(criterion: Criterion, value: float, factor: float) -> bool:
    if criterion.at_least is not None:
        return value >= criterion.at_least * factor
    return criterion.at_most is None or value <= criterion.at_most * factor


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


_FIT = "01_log_linear_fit"
_SPARSITY = "02_sparsity"
_STEERING = "03_steering"
_PRUNING = "04_pruning"
_DYNAMICS = "05_training_dynamics"
_ACROSS = "06_across_models"
_UNKNOWN = "Shown as figures; no number is known here."

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="C1",
        section="2.1",
        words="A token's average output probability is encoded log-linearly, along one direction "
        "that all tokens share, in its row of the output embedding; a linear regression over the "
        "vocabulary recovers it.",
        paper=_UNKNOWN,
        criteria=(
            Criterion(_FIT, "r2_adj", "adjusted R² over the vocabulary", at_least=0.8),
            Criterion(_FIT, "r2_heldout_tokens", "R² on tokens left out of the fit", at_least=0.75),
        ),
        controls=(
            Criterion(_FIT, "r2_shuffled", "R² with the probabilities shuffled", at_most=0.1),
        ),
        figure=(_FIT, "fig-measured-predicted"),
    ),
    Claim(
        id="C2",
        section="2.1",
        words="It holds because the log-sum-exp is common to all tokens and the logits are "
        "concentrated.",
        paper="An argument, no number.",
        criteria=(
            Criterion(
                _FIT,
                "first_order_r2",
                "R² of the mean log-probability on the embedding (an identity if the log-sum-exp "
                "is common)",
                at_least=0.999999,
            ),
            Criterion(
                _FIT,
                "second_order_theory_r2",
                "R² of the theory that keeps mean and variance of the logits, nothing fitted",
                at_least=0.5,
            ),
            Criterion(
                _FIT,
                "cos_direction_mean_hidden",
                "cosine between the fitted direction and minus the mean hidden state",
                at_least=0.8,
            ),
        ),
        controls=(
            Criterion(_FIT, "r2_shuffled", "R² with the probabilities shuffled", at_most=0.1),
        ),
        figure=(_FIT, "fig-theory"),
        remark="The first criterion is an identity and a check of the code; what is left of the "
        "argument is whether the logits are concentrated enough for the next order to suffice.",
    ),
    Claim(
        id="C3",
        section="2.1, appendix",
        words="The encoding is stable: found in models of all sizes, and from few examples.",
        paper="Four models (GPT-2, GPT-2-XL, Pythia-2.8B, GPT-J); no number is known here.",
        criteria=(
            Criterion(_FIT, "r2_adj", "adjusted R² over the vocabulary", at_least=0.8),
            Criterion(
                _FIT,
                "r2_transfer",
                "R² of the fit on the probabilities of another corpus",
                at_least=0.6,
            ),
            Criterion(
                _FIT,
                "cosine_fewest",
                "cosine between the direction from the fewest positions and that from all",
                at_least=0.9,
            ),
        ),
        controls=(
            Criterion(_FIT, "r2_shuffled", "R² with the probabilities shuffled", at_most=0.1),
        ),
        figure=(_FIT, "fig-growth"),
    ),
    Claim(
        id="C4",
        section="2.2",
        words="The encoding is sparse: few principal components and few raw dimensions carry it; "
        "most slopes are near zero.",
        paper="GPT-2-XL is less sparse than GPT-J; no number is known here.",
        criteria=(
            Criterion(
                _SPARSITY,
                "r2_top3_pcs",
                "share of −log a explained by three principal components",
                at_least=0.5,
            ),
            Criterion(
                _SPARSITY,
                "gini_abs_slope",
                "Gini coefficient of the slopes' sizes, against that after a random rotation",
                at_least=1.2,
                times="gini_abs_slope_rotated",
            ),
            Criterion(
                _SPARSITY,
                "n_dims_90",
                "raw dimensions for 90 % of R², against that after a random rotation",
                at_most=0.5,
                times="n_dims_90_rotated",
            ),
        ),
        controls=(
            Criterion(
                _SPARSITY,
                "gini_abs_slope_rotated",
                "Gini coefficient after a random rotation (0.41 for normal slopes)",
                at_most=0.5,
            ),
        ),
        figure=(_SPARSITY, "fig-cumulative"),
    ),
    Claim(
        id="C5",
        section="3",
        words="The encoding is causal: moving a token's row along the direction scales its "
        "probability as wanted, up to twentyfold, in and out of domain.",
        paper="Accurate up to about 20-fold; no number is known here.",
        criteria=(
            Criterion(
                _STEERING,
                "steer_mae_paper_2x_local",
                "the paper's edit, twofold: mean error of the log scale, detecting corpus",
                at_most=0.1,
            ),
            Criterion(
                _STEERING,
                "steer_mae_paper_20x_local",
                "the same, twentyfold",
                at_most=0.25,
            ),
            Criterion(
                _STEERING,
                "steer_mae_paper_20x_ood",
                "the same, twentyfold, another domain",
                at_most=0.25,
            ),
        ),
        controls=(
            Criterion(
                _STEERING,
                "steer_mae_random_20x_local",
                "a random direction of equal length, twentyfold",
                at_least=1.0,
            ),
        ),
        figure=(_STEERING, "fig-expected-actual"),
        remark="An error of 0.1 in the log scale is ten per cent of the wanted factor, 0.25 a "
        "quarter. The edit of least variance is judged as a question of its own, B1.",
    ),
    Claim(
        id="C6",
        section="4",
        words="More than 30 % of the dimensions, those of smallest slope, can be zeroed without "
        "significant movement of the output.",
        paper="30 to 40 % for Pythia-2.8B with MAUVE above 0.8.",
        criteria=(
            Criterion(
                _PRUNING, "kl_paper_30", "KL divergence at 30 % removed, in nats", at_most=0.1
            ),
            Criterion(
                _PRUNING,
                "top1_paper_30",
                "share of positions with the same top token",
                at_least=0.8,
            ),
            Criterion(_PRUNING, "mauve_paper_30", "MAUVE of generated text", at_least=0.8),
        ),
        controls=(
            Criterion(
                _PRUNING,
                "kl_random_30",
                "KL divergence for random dimensions, against the paper's order",
                at_least=1.2,
                times="kl_paper_30",
            ),
        ),
        figure=(_PRUNING, "fig-curves"),
    ),
    Claim(
        id="C7",
        section="5",
        words="During training the output embedding encodes token frequency at very early steps, "
        "before the parameters visibly converge.",
        paper=_UNKNOWN,
        criteria=(
            Criterion(
                _DYNAMICS,
                "frequency_first",
                "whether the frequency fit is half-way before E itself and before the body",
                at_least=1,
            ),
            Criterion(
                _DYNAMICS,
                "frequency_part_first",
                "whether the part of E that goes with frequency arrives before the rest, distance "
                "against distance",
                at_least=1,
            ),
            Criterion(
                _DYNAMICS,
                "r2_frequency_final",
                "adjusted R² of −log frequency at the end",
                at_least=0.5,
            ),
        ),
        controls=(
            Criterion(
                _DYNAMICS, "r2_frequency_step0", "the same at step 0, nothing learnt", at_most=0.1
            ),
        ),
        figure=(_DYNAMICS, "fig-emergence"),
    ),
    Claim(
        id="Q1",
        section="limitations",
        words="How does sparsity vary with architecture and size, and what drives it?",
        paper="Open.",
        needs=(Criterion(_ACROSS, "n_models_sparsity", "models with a sparsity run", at_least=5),),
        criteria=(
            Criterion(
                _ACROSS,
                "p_best_gini",
                "p value of the strongest rank correlation of the slopes' Gini coefficient with "
                "size, width or vocabulary (Holm)",
                at_most=0.05,
            ),
        ),
        figure=(_ACROSS, "fig-against-size"),
        remark="Needs five models or more; the comparison shows those at hand.",
    ),
    Claim(
        id="Q2",
        section="limitations",
        words="Can the encoding give better pruning?",
        paper="Open.",
        criteria=(
            Criterion(
                _PRUNING,
                "kl_rotated_30",
                "KL divergence of the rotated basis at 30 %, against the paper's order",
                at_most=0.5,
                times="kl_paper_30",
            ),
            Criterion(
                _PRUNING,
                "top1_rotated_30",
                "share of positions with the same top token",
                at_least=0.8,
            ),
            Criterion(_PRUNING, "mauve_best_30", "MAUVE of generated text", at_least=0.8),
        ),
        controls=(
            Criterion(
                _PRUNING,
                "kl_random_30",
                "KL divergence for random dimensions, against the rotated basis",
                at_least=1.2,
                times="kl_rotated_30",
            ),
        ),
        figure=(_PRUNING, "fig-curves"),
        remark="Judged on language modelling; other tasks are not tested here.",
    ),
    Claim(
        id="Q3",
        section="limitations",
        words="Does the early encoding of frequency influence how the rest converges?",
        paper="Open.",
        remark="Needs an intervention: training runs that differ only in whether the output "
        "embedding knows the frequencies from the start.",
    ),
    Claim(
        id="N1",
        section="readers",
        words="Does it hold for masked and for encoder-decoder models?",
        paper="Not in the paper.",
        remark="The loader refuses models that do not predict the next token.",
    ),
    Claim(
        id="N2",
        section="readers",
        words="Does a pruned model stay stable under further training?",
        paper="Not in the paper.",
        remark="Needs training runs that start from a pruned head.",
    ),
    Claim(
        id="N3",
        section="readers",
        words="Is the early encoding of frequency a property of training, or of this training's "
        "text and order?",
        paper="Not in the paper.",
        remark="Needs the same model trained on texts of other frequency distributions.",
    ),
    Claim(
        id="B1",
        section="this book",
        words="Is there an edit that scales a probability more precisely than the paper's?",
        paper="Not in the paper.",
        criteria=(
            Criterion(
                _STEERING,
                "steer_mae_min_variance_20x_local",
                "the edit of least variance, twentyfold: mean error of the log scale",
                at_most=0.25,
                times="steer_mae_paper_20x_local",
            ),
            Criterion(
                _STEERING,
                "steer_mae_robust_20x_ood",
                "the edit fitted on several corpora, twentyfold, another domain",
                at_most=0.25,
            ),
        ),
        controls=(
            Criterion(
                _STEERING,
                "steer_mae_random_20x_local",
                "a random direction of equal length, twentyfold",
                at_least=1.0,
            ),
        ),
        figure=(_STEERING, "fig-expected-actual"),
    ),
)
"""In the paper's order. The thresholds are ours: the paper gives none."""
