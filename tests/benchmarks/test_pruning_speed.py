"""A sweep of 20 levels beside 20 evaluations from scratch, and pruned heads beside the intact one.

    pytest tests/benchmarks/test_pruning_speed.py

At the size of SmolLM2-135M's output embedding. Every way must end with the same divergences. What
is counted are the operations of the matrix products that make logits, and the exponentials and
logarithms that the measures need at least: one of each logit, one of each mixed probability.
"""

import pytest
import torch
import yardsticks
from torch.nn import functional

from probenc_support import pruning
from probenc_support.head import Head
from probenc_support.pruning import orders, pruned_head

V, D, N = 49_152, 576, 96
SHARES = [0.045 * i for i in range(1, 21)]


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(0)
    E = torch.randn(V, D, generator=g) * 0.15
    h = torch.randn(N, D, generator=g) * torch.logspace(0, -1, D)[torch.randperm(D, generator=g)]
    targets = torch.randint(0, V, (N,), generator=g)
    return E, h, targets, orders.random_order(D, seed=0), pruning.levels(SHARES, D)


@torch.inference_mode()
def compared(P, Q, targets):
    """KL, JS, same top token, loss from log-probabilities P and Q [N, V], as one writes it down."""
    M = torch.logaddexp(P, Q) - torch.log(torch.tensor(2.0))
    kl = functional.kl_div(Q, P, log_target=True, reduction="none").sum(1)
    js = 0.5 * functional.kl_div(M, P, log_target=True, reduction="none").sum(1)
    js += 0.5 * functional.kl_div(M, Q, log_target=True, reduction="none").sum(1)
    nll = functional.nll_loss(Q, targets, reduction="none")
    return torch.stack([kl, js, P.argmax(1) == Q.argmax(1), nll])


def log_p(h, E):
    return (h @ E.T).log_softmax(1)


def zeroed(h, order, count):
    kept = h.clone()
    kept[:, order[:count]] = 0
    return kept


@torch.inference_mode()
def by_textbook(E, h, targets, order, removed):
    """Twenty direct evaluations: the head applied to the zeroed hidden states, level by level."""
    found = []
    for count in removed:
        parts = zip(h.split(64), zeroed(h, order, count).split(64), targets.split(64), strict=True)
        measures = [compared(log_p(x, E), log_p(y, E), goal) for x, y, goal in parts]
        found.append(torch.cat(measures, 1)[0])
    return torch.stack(found)


@torch.inference_mode()
def by_cached_intact(E, h, targets, order, removed):
    """The same with the intact head's probabilities made once; only the pruned head's are anew."""
    intact = [log_p(x, E) for x in h.split(64)]
    found = []
    for count in removed:
        parts = zip(intact, zeroed(h, order, count).split(64), targets.split(64), strict=True)
        measures = [compared(P, log_p(y, E), goal) for P, y, goal in parts]
        found.append(torch.cat(measures, 1)[0])
    return torch.stack(found)


@torch.inference_mode()
def by_cached_and_subtracted(E, h, targets, order, removed):
    """The same algorithm as the sweep in a few lines: a level's logits are those of the one before,
    less what the coordinates add that go."""
    columns = E.T[order]
    found = []
    for x, goal in zip(h.split(64), targets.split(64), strict=True):
        logits, before, levels = x @ E.T, 0, []
        P = logits.log_softmax(1)
        for count in removed:
            logits.addmm_(x[:, order[before:count]], columns[before:count], alpha=-1)
            levels.append(compared(P, logits.log_softmax(1), goal)[0])
            before = count
        found.append(torch.stack(levels))
    return torch.cat(found, 1)


def by_evaluate(E, h, targets, order, removed):
    """Twenty direct evaluations with this package's own divergences, which are fast themselves."""
    basis = pruning.zero_basis(order)
    heads_ = [lambda x, m=m: basis.kept(x, m) @ E.T for m in removed]
    found = [pruning.evaluate(Head(E), head, h, targets=targets).kl for head in heads_]
    return torch.cat(found)


def by_sweep(E, h, targets, order, removed):
    return pruning.sweep(Head(E), pruning.zero_basis(order), h, removed, targets=targets).kl


HEADS = {
    by_textbook: 2 * len(SHARES),
    by_cached_intact: 1 + len(SHARES),
    by_cached_and_subtracted: 1 + SHARES[-1],
    by_evaluate: 2 * len(SHARES),
    by_sweep: 1 + SHARES[-1],
}
"""Products with the whole head that a way makes, or as many columns of it as make one."""


SOFTMAXES = {way: 2 * len(SHARES) if n == 2 * len(SHARES) else 1 + len(SHARES)
             for way, n in HEADS.items()}  # fmt: skip
"""Distributions that a way makes: that of the intact head once, or again for each level."""


@pytest.mark.benchmark(
    group=f"KL at 20 levels of pruning, {N} positions, {V:,} x {D}", min_rounds=2, max_time=1.0
)
@pytest.mark.parametrize("way", HEADS, ids=lambda way: way.__name__.removeprefix("by_"))
def test_sweep(benchmark, data, way):
    product, exp = yardsticks.product(torch.float32).rate(), yardsticks.exponentials().rate()
    found = benchmark(way, *data)
    seconds = benchmark.stats.stats.median
    operations = HEADS[way] * 2 * N * V * D
    logarithms = len(SHARES)
    benchmark.extra_info["billion_operations"] = operations / 1e9
    benchmark.extra_info["share_of_float32_product_rate"] = operations / seconds / product
    benchmark.extra_info["share_of_exp_rate"] = (
        (SOFTMAXES[way] + logarithms) * N * V / seconds / exp
    )
    torch.testing.assert_close(found[:, :16], by_evaluate(*data)[:, :16], atol=1e-4, rtol=1e-4)


def module(E, h, name, share):
    removed = pruning.levels([share], D)[0]
    if name == "intact":
        head = torch.nn.Linear(D, V, bias=False).requires_grad_(False)
        head.weight.copy_(E)
        return head
    if name == "plain":
        kept = orders.random_order(D, seed=0)[removed:]
        return pruned_head.PrunedHead(E[:, kept], kept=kept, bias=torch.zeros(V))
    return pruned_head.PrunedHead(
        E[:, removed:], encode=torch.eye(D)[removed:], bias=torch.zeros(V)
    )


CASES = {
    "intact": ("intact", 0.0),
    "plain, 30 % removed": ("plain", 0.3),
    "rotated, 30 % removed": ("rotated", 0.3),
    "plain, 50 % removed": ("plain", 0.5),
    "rotated, 50 % removed": ("rotated", 0.5),
}


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("case", CASES)
def test_head(benchmark, data, case, batch):
    benchmark.group = f"A pruned head, {batch} position{'s' * (batch > 1)} at a time"
    benchmark.name = f"test_head[{case}]"
    name, share = CASES[case]
    E, h, *_ = data
    head = module(E, h, name, share)
    benchmark.extra_info["memory_mb"] = pruned_head.memory_mb(head)
    with torch.inference_mode():
        assert benchmark(head, h[:batch]).shape == (batch, V)
