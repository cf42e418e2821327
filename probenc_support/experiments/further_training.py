"""Pruned models under further training: do they stay beside the intact model?

A model that was trained here is pruned and then trained on another text, beside its intact twin on
the same batches. Where the mask is held, E stays in the space that pruning left; released, E may
take back what it lost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from probenc_support import pruning, regression
from probenc_support.corpora import TokenBlocks
from probenc_support.dynamics import Estimate, predictions, text_for
from probenc_support.dynamics.function_distance import divergence
from probenc_support.experiments import over_seeds
from probenc_support.inference import Detection, detect
from probenc_support.models import LanguageModel, checkpoints, readings, training
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.models.interventions import Intervention, Projected, Several
from probenc_support.pruning import Basis, orders, whole_head

INTACT = "intact"
"""The twin that is not pruned."""

METHODS = {
    "paper": "dimensions of small slopes set to zero",
    "compensated": "dimensions of small slopes predicted from the others",
    "rotated": "directions that carry least, predicted from the others",
    "random": "dimensions by lot set to zero: the control",
}
"""What is done to E, by method."""

HELD, RELEASED = "held", "released"
"""Whether E stays in the space that pruning left."""

ARMS = tuple((method, mask) for method in METHODS for mask in (HELD, RELEASED))
"""All arms beside the intact twin."""

KEPT_WELL = (("paper", HELD), ("rotated", HELD))
"""The arms that are asked about on other texts, too."""

RATE = 1e-3
"""Peak of the learning rate, a quarter of that of the first training."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A pruned output embedding of a model."""

    E: Tensor
    """[V, d] float32, rows in the space that is left."""
    b: Tensor
    """[V] float32 head bias."""
    basis: Tensor | None
    """[d, k] orthonormal columns that span that space; None: all of it."""

    def outside(self, E: Tensor) -> Tensor:
        """The part of E [V, d] that is not in the space that pruning left."""
        if self.basis is None:
            return torch.zeros_like(E)
        Q = self.basis.to(E)
        return E - E @ Q @ Q.T


class Start(Intervention):
    """Training goes on from given weights, with a pruned head."""

    def __init__(self, weights: Mapping[str, Tensor], head: Pruned) -> None:
        """`weights`: of the whole model, by name."""
        self.weights, self.head = weights, head

    def begin(self, model: PreTrainedModel) -> None:
        model.load_state_dict(dict(self.weights), strict=False)
        head = model.get_output_embeddings()
        with torch.no_grad():
            head.weight.copy_(self.head.E)
            head.bias.copy_(self.head.b)


def heads(lm: LanguageModel, detection: Detection, *, share: float, seed: int) -> dict[str, Pruned]:
    """The intact head, and one pruned by each method, by name.

    Args:
        detection: a pass over text of the first training's kind, on which the heads are made.
        share: of the dimensions that go, more than 0 and less than 1.
        seed: of the random order.
    """
    (removed,) = pruning.levels([share], lm.d)
    moments = detection.moments
    slopes = torch.as_tensor(regression.fit_tokens(lm, detection).slopes)
    order = orders.ascending(orders.slope_scores(slopes))
    weights = pruning.power_weights(detection.log_a_rows, 0.5)
    chosen: dict[str, Basis] = {
        "paper": pruning.zero_basis(order),
        "compensated": pruning.compensated_basis(order, moments),
        "rotated": pruning.rotated_basis(lm.head.E, moments, weights),
        "random": pruning.zero_basis(orders.random_order(lm.d, seed=seed)),
    }
    bias = torch.zeros(lm.head.V) if lm.head.b is None else lm.head.b.cpu()
    found = {INTACT: Pruned(lm.head.E.cpu().float(), bias.float(), None)}
    for name, basis in chosen.items():
        E, b = whole_head.whole_head(lm.head, basis, removed)
        Q = _space(basis, removed)
        found[name] = Pruned(E.float(), (bias.double() if b is None else b).float(), Q)
    return found


def _space(basis: Basis, removed: int) -> Tensor:
    """[d, k] float64 orthonormal columns that span what is read of h when coordinates are gone."""
    if basis.axes is None:
        Q: Tensor = torch.linalg.qr(basis.encode[removed:].T).Q
    else:
        Q = functional.one_hot(basis.axes[removed:], basis.d).double().T
    return Q


@dataclass(frozen=True, eq=False)
class Trained:
    """One arm from one seed."""

    method: str
    mask: str
    """`held` or `released`; empty for the intact twin."""
    seed: int
    head: Pruned
    run: TrainingRun

    @property
    def name(self) -> str:
        """Such as `rotated, held`."""
        return f"{self.method}, {self.mask}" if self.mask else self.method


def train(
    model: str,
    intervention: str,
    *,
    seed: int,
    domain: str,
    arms: Sequence[tuple[str, str]] = ARMS,
    steps: int = 200,
    share: float = 0.3,
    corpus: str = "docstrings",
    first_steps: int = 0,
    device: str = "auto",
) -> list[Trained]:
    """The arms of one seed, the intact twin first; what is there already is not trained again.

    Args:
        arms: method and mask of each.
        model, intervention: recipe of the first training, whose head has a bias.
        domain: text of the further training, by the same tokenizer.
        steps: of the further training.
        corpus: text of the first training.
        first_steps: of the first training; 0: the recipe's.

    Raises:
        InputError: see `training.train` and `readings.of`.
    """
    recipe = replace(training.named(model), intervention=intervention)
    if first_steps:
        recipe = replace(recipe, steps=first_steps, every=max(1, first_steps // 3))
    base = training.trained(recipe, seed=seed, corpus=corpus, device=device)
    run = checkpoints.training_run(str(base))
    lm = run.load(run.steps[-1], device=device, probe=False)
    detection = detect(lm, text_for(run, corpus), progress=False)
    found = heads(lm, detection, share=share, seed=seed)
    weights = run.weights(run.steps[-1])
    further = replace(
        recipe,
        name=f"{recipe.name}-further",
        reading=f"{readings.INSTEAD}:{domain}",
        steps=steps,
        every=max(1, steps // 2),
        learning_rate=RATE,
        early=False,
    )
    trained = []
    for method, mask in ((INTACT, ""), *arms):
        name = f"after:{base.name}:{method}:{mask}:{share:g}"
        start: Intervention = Start(weights, found[method])
        if mask == HELD:
            start = Several(start, Projected(found[method].outside))
        own = replace(further, intervention=name)
        folder = training.trained(own, seed=seed, corpus=corpus, device=device, intervention=start)
        after = checkpoints.training_run(str(folder))
        trained.append(Trained(method, mask, seed, found[method], after))
    return trained


def measure(
    arms: Sequence[Trained], texts: Mapping[str, TokenBlocks], *, device: str = "auto"
) -> pd.DataFrame:
    """Losses and divergences of the arms of one seed, a row an arm, text, and begin or end.

    Columns: `arm`, `seed`, `text`, `step`, `loss` in nats, `KL` of the intact twin's predictions at
    the same step from the arm's, and `regrowth`: the length of what E has outside of the space that
    pruning left, over that of the intact E before.

    Args:
        arms: the intact twin first, see `train`.
        texts: by name, none of which any arm was trained on.
    """
    rows = []
    intact = arms[0].head.E
    for step in (arms[0].run.steps[0], arms[0].run.steps[-1]):
        twins: dict[str, predictions.Predictions] = {}
        for arm in arms:
            lm = arm.run.load(step, device=device, probe=False)
            before = arm.head.outside(intact).norm()
            outside = arm.head.outside(lm.head.E.cpu()).norm()
            for name, blocks in texts.items():
                detection = detect(lm, blocks, progress=False, cache=False)
                chosen = predictions.positions(detection, 2048)
                own = predictions.Predictions.of(lm, detection, chosen)
                twin = twins.setdefault(name, own)
                known = detection.targets >= 0
                rows.append(
                    {
                        "arm": arm.name,
                        "seed": arm.seed,
                        "text": name,
                        "step": step,
                        "loss": float(-detection.target_log_p[known].mean()),
                        "KL": float(divergence(twin, own).mean()),
                        "regrowth": float(outside / before) if float(before) else 0.0,
                    }
                )
    return pd.DataFrame(rows)


def changes(measured: pd.DataFrame) -> pd.DataFrame:
    """What the further training changed, by arm and seed, all in nats but the last two.

    Columns: `excess before` and `excess after`, loss on the new text beyond the intact twin's;
    `growth`, their difference; `forgot`, what the loss on the first text rose by, and `forgot less
    intact`; `KL before` and `KL after` on the new text; `KL ratio`; `regrowth` at the end.

    Args:
        measured: of all seeds, see `measure`.
    """
    by = measured.set_index(["arm", "seed", "text", "step"])
    first, last = min(measured["step"]), max(measured["step"])

    def at(column: str, text: str, step: int) -> pd.Series:
        found: pd.Series = by[column].xs((text, step), level=("text", "step"))
        return found

    def beyond(values: pd.Series) -> pd.Series:
        twin = values.xs(INTACT, level="arm")
        less: pd.Series = values - twin.reindex(values.index.get_level_values("seed")).to_numpy()
        return less

    before, after = (beyond(at("loss", "new", step)) for step in (first, last))
    forgot = at("loss", "first", last) - at("loss", "first", first)
    kl_before, kl_after = (at("KL", "new", step) for step in (first, last))
    return pd.DataFrame(
        {
            "excess before": before,
            "excess after": after,
            "growth": after - before,
            "forgot": forgot,
            "forgot less intact": beyond(forgot),
            "KL before": kl_before,
            "KL after": kl_after,
            "KL ratio": kl_after / kl_before.where(kl_before > 0),
            "regrowth": at("regrowth", "new", last),
        }
    )


def by_arm(table: pd.DataFrame, column: str) -> dict[str, Estimate]:
    """The mean over seeds of a column of `changes`, with its interval, by arm."""
    groups = table[column].groupby("arm", sort=False)
    return {str(arm): over_seeds.mean(values.to_numpy()) for arm, values in groups}


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds with their intervals as text, a row an arm; see `changes`."""
    columns = [str(name) for name in table if name not in ("regrowth", "KL ratio")]
    return pd.DataFrame(
        {name: {arm: str(e) for arm, e in by_arm(table, name).items()} for name in columns}
    )


def most_over_domains(tables: Mapping[str, pd.DataFrame], column: str, arm: str) -> Estimate:
    """The largest of an arm's means over seeds, of those of several domains, with its interval.

    Args:
        tables: see `changes`, by domain.
    """
    return max((by_arm(table, column)[arm] for table in tables.values()), key=lambda e: e.value)


def over_domains(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """As text, a row an arm of `KEPT_WELL`, by domain: what the excess grew by, and what was
    forgotten beyond the intact twin."""
    columns = {
        f"{domain}: {column}": {arm: str(e) for arm, e in by_arm(table, column).items()}
        for domain, table in tables.items()
        for column in ("growth", "forgot less intact")
    }
    return pd.DataFrame(columns).loc[[", ".join(arm) for arm in KEPT_WELL]]


def metrics(table: pd.DataFrame) -> dict[str, float]:
    """With intervals, by arm, such as `rotated_held`: `excess_<arm>_before` and `_after`,
    `excess_growth_<arm>`, `forgot_<arm>_less_intact`, `kl_<arm>_after_over_before`; and
    `forgot_intact`."""
    names = {
        "excess before": "excess_{}_before",
        "excess after": "excess_{}_after",
        "growth": "excess_growth_{}",
        "forgot less intact": "forgot_{}_less_intact",
        "KL ratio": "kl_{}_after_over_before",
    }
    found: dict[str, float] = {}
    for column, name in names.items():
        for arm, estimate in by_arm(table, column).items():
            if arm != INTACT:
                found |= estimate.metrics(name.format(arm.replace(", ", "_")))
    return found | by_arm(table, "forgot")[INTACT].metrics("forgot_intact")
