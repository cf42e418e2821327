"""Arithmetic stays where E and h lie, and finds the numbers of the CPU there.

Once on a device that computes on the CPU (`second_device`), which also counts what is fetched, and
once on a real GPU where there is one.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
import torch
from second_device import put, second_device
from torch import Tensor

from probenc_support import corpora, inference, pruning, regression, sparsity, steering, theory
from probenc_support.head import Head
from probenc_support.models import wrap
from probenc_support.moments import Moments, covariance, moments_of, variances_along
from probenc_support.pruning import checks, orders, pruned_head, tuning, whole_head, yardsticks
from probenc_support.pruning.bases import shift
from probenc_support.regression import Design, few_positions, few_tokens, head_bias, slopes
from probenc_support.sparsity import Components, Statistics, controls, correlations, slope_noise
from probenc_support.sparsity.replicates import Replicates
from probenc_support.steering import (
    candidates,
    closed_form,
    directions,
    exact_bias,
    frontier,
    joint,
)

V, D, N, G = 600, 5, 512, 6


class Problem(NamedTuple):
    """A head, a text, and what a pass would leave of it."""

    E: Tensor
    b: Tensor
    h: Tensor
    z: Tensor
    log_p: Tensor
    log_a: Tensor
    groups: Tensor
    sizes: Tensor
    group: Tensor
    targets: Tensor

    @property
    def head(self) -> Head:
        return Head(self.E, self.b)

    @property
    def design(self) -> Design:
        return Design.of(self.E)

    @property
    def weights(self) -> Tensor:
        return pruning.power_weights(self.log_a, 0.5)

    @property
    def order(self) -> Tensor:
        return torch.arange(D).flip(0)

    @property
    def reference(self) -> Any:
        return pruning.Reference(self.head, self.h, self.targets, chunk=64)


def problem() -> Problem:
    g = torch.Generator().manual_seed(0)
    E, b = torch.randn(V, D, generator=g), torch.randn(V, generator=g)
    h = 0.5 + torch.randn(N, D, generator=g) * torch.linspace(0.3, 1, D)
    logits = h.double() @ E.double().T + b
    z = torch.logsumexp(logits, dim=1)
    log_p = logits - z[:, None]
    group = torch.arange(N) // (N // G + 1)
    each = [torch.logsumexp(log_p[group == k], 0) - (group == k).sum().log() for k in range(G)]
    log_a = torch.logsumexp(log_p, 0) - np.log(N)
    targets = torch.randint(0, V, (N,), generator=g)
    sizes = torch.bincount(group)
    return Problem(
        E, b, h, z, log_p[:, :20].contiguous(), log_a, torch.stack(each), sizes, group, targets
    )


def fits(p: Problem) -> Any:
    design, y = p.design, -p.log_a
    yield design.fit(y), design.fit(y, robust=True), design.left_one_out(y)
    yield design.without(np.arange(9)).fit(y), design.without(torch.arange(9)).fit_many(y)
    yield regression.r2_heldout(design, y), regression.out_of_fold(design, y, n_folds=3)
    yield regression.r2_shuffled(design, y), design.standard_deviations, design.covariance
    yield design.fit(y).predict(p.E)


def ill_conditioned(p: Problem) -> Any:
    E = p.E.double()
    E[:, 1] = E[:, 0] + 1e-5 * E[:, 1]
    yield Design.of(E).fit(-p.log_a, robust=True)


def bootstraps(p: Problem) -> Any:
    yield regression.bootstrap_fits(p.design, p.groups, p.sizes, n_replicates=7)
    yield regression.bootstrap_r2_adj(p.design, p.groups, p.sizes, n_replicates=7)
    yield regression.bootstrap_r2_of(p.log_a, p.groups, p.sizes, n_replicates=7)
    yield slope_noise.redraw(p.design, np.ones(D), p.groups, p.sizes, n_replicates=7).replicates


def sparse(p: Problem) -> Any:
    design, y = p.design, -p.log_a
    statistics = Statistics.of(design, y)
    components = Components.of(statistics)
    log_a = regression.bootstrap_log_a(p.groups, p.sizes, n_replicates=7)
    yield statistics, components, components.scores(p.E, 1), components.score(p.E, 2)
    yield sparsity.forward_selection(statistics), sparsity.lasso_path(statistics, n_penalties=5)
    yield sparsity.heldout_curve(design, y, sparsity.forward_order)
    yield Replicates.of(design, statistics, components, -log_a).component_r
    yield controls.shuffled(design, y, n_shuffles=2)
    yield correlations.spearman(p.E[:, :2], y)


def heads(p: Problem) -> Any:
    head = p.head
    yield head.logits(p.h.to(p.E)), head.log_partition(p.h), head.log_p(p.h, torch.tensor([3, 1]))
    yield head.log_mean_p(p.h), Head(p.E, p.b, torch.arange(9)).log_mean_p(p.h)
    sums = head.sums(chunk=100)
    yield sums.add(p.h.to(p.E)), sums.log_a, sums.mean_log_p
    yield head.chosen(torch.tensor([7, 3])).log_p(p.h)


def moments(p: Problem) -> Any:
    found = Moments.of(p.h)
    yield moments_of(p.h), found.ridged(1e-3), found.solved(1e-3), Moments.pool([found, found])
    yield Moments.pool([found, Moments.of(p.h[:100])], shares=[1, 3])
    yield variances_along(found.cov, p.E), covariance(p.h, p.z), found.unevenness(found.mean)


def steered(p: Problem) -> Any:
    found = Moments.of(p.h)
    A = torch.from_numpy(p.design.fit(-p.log_a).slopes).to(p.E.device)
    runs = steering.moments_of_runs(p.h)
    vector = steering.min_variance(found, steering.choose_ridge(runs))
    yield vector, steering.paper_direction(A, 3), steering.min_norm(A)
    yield steering.mean_hidden(found.mean), directions.random_unit(found, seed=0)
    yield directions.random_direction(A, seed=0), frontier.path(found)
    yield frontier.of_length(found, 1.0), exact_bias.evenness(vector, p.h)
    yield exact_bias.permuted(vector, found.mean)
    g, steps = p.h.double() @ vector, torch.tensor([[0.7, 0.0, -2.0]]).double().expand(20, -1)
    yield closed_form.effects(p.log_p, g, steps, group=p.group)
    yield closed_form.effects(p.log_p, g, steps)
    yield closed_form.mean_errors(p.log_p, torch.stack([g, 2 * g], dim=1), 0.7)
    yield closed_form.sums_by_group(p.log_p, p.group)
    yield steering.solve_steps(p.log_p, g, torch.tensor([0.7, -2.0]))
    yield steering.solve_steps(p.log_p, g, steps)
    yield joint.solve_jointly(p.log_p[:, :3], g, torch.tensor([0.3, -0.5, 0.1]).double())


def bases(p: Problem) -> Any:
    states, weights = Moments.of(p.h), p.weights
    made = orders.bases_of({"some": p.order}, states) | {
        "rotated": pruning.rotated_basis(p.E, states, weights),
        "keeping": pruning.keeping_basis(p.E, p.h, weights, torch.ones(D)),
        "mean of h": pruning.mean_basis(p.order, p.h),
    }
    for basis in made.values():
        # Eigenvectors have no sign, what is kept has no choice.
        yield basis.kept(p.h, 2), basis.kept(p.h.double(), 4), basis.mean
        yield pruning.lost_variance(basis, p.E, p.h, weights)
        yield whole_head.whole_head(p.head, basis, 2), shift(basis, 2)
    for plain in (made["some"], made["mean of h"]):
        yield plain.codes(p.h, slice(2)), plain.encoded(p.h, slice(2)), plain.decoded(p.E)
    yield pruning.participation(made["some_compensated"], 3), pruning.token_metric(p.E, weights)


def scores(p: Problem) -> Any:
    slopes = torch.linspace(-1, 1, D)
    fisher = orders.fisher_scores(p.head, p.h)
    yield fisher, orders.wanda_scores(p.E, p.h), orders.variance_scores(p.h)
    yield orders.standardised_scores(slopes, p.E), orders.combined_scores(fisher, slopes)
    yield orders.ascending(orders.variance_scores(Moments.of(p.h)))
    drawn = orders.random_bases(p.h, n_zero=2)
    yield [basis.kept(p.h, 2) for some in drawn.values() for basis in some]


def divergences(p: Problem) -> Any:
    made = orders.bases_of({"some": p.order}, p.h)
    made["rotated"] = pruning.rotated_basis(p.E, p.h, p.weights)
    swept = p.reference.sweeps({name: (basis, [0, 2, 4]) for name, basis in made.items()})
    yield swept, p.reference.evaluate(lambda h: p.head.logits(made["rotated"].kept(h, 2)))
    yield orders.mean_kl(p.reference, made, 3), yardsticks.rounded_heads(p.reference)
    yield pruning.choose_power(p.reference, p.log_a, p.h, removed=2).kl
    yield checks.sweep_errors(p.head, list(made.values()), p.h[:20], [1, 3]).exact


def pass_of(p: Problem) -> Any:
    """What `tuning.tune` reads of a pass."""
    return inference.Detection(
        h=p.h, z=p.z, tokens=torch.arange(V), log_a_rows=p.log_a, mean_log_p_rows=p.log_a,
        log_a_groups_rows=p.groups.float(), group_sizes=p.sizes, mean_target_log_p=0.0,
        places=torch.arange(N), group=p.group, block=p.group, targets=p.targets,
        target_log_p=p.z, seconds=0.0, peak_memory_mb=0.0, from_cache=False,
    )  # fmt: skip


def few(p: Problem) -> Any:
    """Draws of documents and of positions, and what a bias adds."""
    draws = regression.draws_of_groups(G, 7)
    drawn = regression.bootstrap_fits(p.design, p.groups, p.sizes, n_replicates=7).slopes
    yield slopes.correlation_with_mean_hidden(p.design, drawn, p.h, p.group, draws)
    y = -p.log_a
    table = few_positions.growth(p.head, p.design, p.h, y, draws={256: 1})
    yield table.to_numpy(dtype=float), head_bias.BesideBias.of(p.head, y)
    yield candidates.row_length(p.head), few_tokens.FewTokens.of(p.design, y)


def tuned(p: Problem) -> Any:
    start = pruning.rotated_basis(p.E, p.h, p.weights)
    made = tuning.tune(
        p.reference, [pass_of(p)], start=start, n_steps={2: 3}, weights=p.weights, batch=64,
        n_tokens=200,
    )  # fmt: skip
    yield made[2].kept(p.h), [check.kl for check in made[2].checks]


def theories(p: Problem) -> Any:
    yield theory.logit_spread.log_a_at_scales(p.head, p.h, [0.5, 1.0])
    yield theory.logit_spread.spread_over_tokens(p.design.covariance, p.h)


CASES: dict[str, tuple[Callable[[Problem], Iterator[Any]], float, int]] = {
    "head": (heads, 1e-6, 2 * N),
    "moments": (moments, 1e-11, D * D),
    "fits": (fits, 1e-9, V),
    "ill conditioned": (ill_conditioned, 1e-6, D * D),
    "bootstraps": (bootstraps, 1e-9, V),
    "sparsity": (sparse, 1e-9, 7 * V),
    "steering": (steered, 1e-9, 60 * G),
    "bases": (bases, 1e-5, V * D),
    "scores": (scores, 1e-5, D * D),
    "divergences": (divergences, 1e-4, 12 * N),
    "tuning": (tuned, 1e-3, D * D + N),
    "few": (few, 1e-6, V),
    "theory": (theories, 1e-6, 2 * V),
}
"""What is done, the relative difference that another order of sums may make, and the most numbers
that may be fetched at once: results, never E or h."""


def flat(result: Any) -> Iterator[Tensor]:
    """The numbers in a result of whatever kind."""
    if isinstance(result, Tensor):
        yield result.detach().cpu()
    elif isinstance(result, str) or result is None:
        return
    elif isinstance(result, np.ndarray | float | int):
        yield torch.as_tensor(result)
    elif isinstance(result, dict):
        yield from flat(list(result.values()))
    elif dataclasses.is_dataclass(result):
        yield from flat(vars(result))
    else:
        for part in result:
            yield from flat(part)


DEVICES = ["second device", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "cuda":
        yield None
    else:
        with second_device() as device:
            yield device


def test_a_pass_is_that_of_the_cpu(device: Any) -> None:
    ids = torch.randint(0, tiny.VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))
    blocks = corpora.from_ids(ids, corpus="ids")
    here = tiny.language_model("bias")
    model = tiny.model("bias")
    there = wrap(model.cuda() if device is None else put(model), tiny.tokenizer(), name="there")
    assert there.E.device.type == "cuda"
    found, expected = (
        inference.detect(lm, blocks, cache=False, progress=False, sample=100)
        for lm in (there, here)
    )
    for name in ("h", "z", "log_a", "mean_log_p", "log_a_groups", "target_log_p", "all_moments"):
        pairs = zip(flat(getattr(found, name)), flat(getattr(expected, name)), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4, equal_nan=True)
    fits = [regression.fit_tokens(lm, d).slopes for lm, d in ((there, found), (here, expected))]
    np.testing.assert_allclose(*fits, rtol=1e-3)
    head = pruned_head.from_basis(there, pruning.mean_basis(torch.arange(there.d), found.h), 3)
    assert head.decode.device.type == "cuda"


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("whole", [True, False], ids=["all there", "E there, text here"])
def test_numbers_are_those_of_the_cpu(what: str, whole: bool, device: Any) -> None:
    run, tolerance, limit = CASES[what]
    here = problem()
    if whole:
        there = Problem(*(part.cuda() for part in here))
    else:
        there = here._replace(E=here.E.cuda(), b=here.b.cuda())
    found = list(run(there))
    if device is not None:
        assert device.fetched <= limit
    for one, other in zip(flat(found), flat(list(run(here))), strict=True):
        scale = float(other.double().nan_to_num().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(
            one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True
        )


@pytest.mark.parametrize("style", ["bias", "untied"])
def test_a_pass_in_half_precision_multiplies_the_weights_as_they_are(
    style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(0, tiny.VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))
    blocks = corpora.from_ids(ids, corpus="ids")
    here = tiny.language_model(style, dtype=torch.bfloat16)
    expected = inference.detect(here, blocks, cache=False, progress=False)
    factors, product = [], torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: factors.append(a[1].dtype) or product(*a, **k))
    with second_device():
        model = put(tiny.model(style).to(torch.bfloat16))
        there = wrap(model, tiny.tokenizer(), name="there")
        assert there.E.dtype == torch.float32
        found = inference.detect(there, blocks, cache=False, progress=False)
    assert set(factors) == {torch.bfloat16}
    assert found.h.dtype == torch.float32
    for name in ("h", "z", "log_a", "mean_log_p", "log_a_groups"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6
        )
