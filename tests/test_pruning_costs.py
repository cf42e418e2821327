"""Costs of methods side by side, bounds, yardsticks, checks: planted and brute-force truth."""

from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from test_pruning import D, N, V, bases, problem

from probenc_support import pruning, quantisation
from probenc_support.head import Head
from probenc_support.pruning import MatrixBasis, checks, costs, intervals, pruned_head
from probenc_support.pruning.costs import Costs, Method

GROUP = torch.arange(N) // 20


def test_methods_together_cost_what_each_does_alone() -> None:
    E, h, targets = problem()
    reference = pruning.Reference(Head(E), h, targets)
    made = bases(E, h)
    drawn = [pruning.zero_basis(torch.randperm(D)) for _ in range(3)]
    methods = {
        "rotated": Method([made["rotated"]], [0.25, 0.5]),
        "random": Method(drawn, [0.5]),
    }
    scored = Costs.of(reference, methods, GROUP)
    alone = pruning.sweep(Head(E), made["rotated"], h, [3, 6], targets=targets)
    torch.testing.assert_close(scored.kl("rotated", 0.5), alone.kl[1:])
    torch.testing.assert_close(
        scored.nll_increase("rotated", 0.25), alone.nll_increase[0], equal_nan=True
    )
    by_draw = [pruning.sweep(Head(E), basis, h, [6]).kl[0] for basis in drawn]
    torch.testing.assert_close(scored.kl("random", 0.5), torch.stack(by_draw))
    table = scored.table()
    assert table[["method", "share"]].to_numpy().tolist() == [
        ["rotated", 0.25], ["rotated", 0.5], ["random", 0.5]
    ]  # fmt: skip
    expected = intervals.table(alone, [0.25, 0.5], GROUP)
    pd.testing.assert_frame_equal(table[:2].drop(columns="method"), expected)
    ratio = scored.ratio("random", "rotated", 0.5)
    assert ratio.estimate == pytest.approx(float(torch.stack(by_draw).mean() / alone.kl[1].mean()))
    assert ratio.low < ratio.estimate < ratio.high
    scored.add("rotated", 0.5, alone.at(0))
    torch.testing.assert_close(scored.kl("rotated", 0.5), alone.kl[:1])


def rows(method: str, kl: list[float], top1: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"method": method, "share": [0.1, 0.2, 0.3], "kl": kl, "top1": top1})


def test_the_largest_share_keeps_within_both_bounds_all_the_way() -> None:
    table = pd.concat([
        rows("all", [0.0, 0.1, 0.1], [1.0, 0.9, 0.9]),
        rows("top", [0.0, 0.1, 0.1], [1.0, 0.9, 0.7]),
        rows("back", [0.0, 0.3, 0.1], [1.0, 0.9, 0.9]),
        rows("none", [0.3, 0.0, 0.0], [1.0, 1.0, 1.0]),
    ]).sample(frac=1, random_state=0)  # fmt: skip
    reach = costs.largest_shares(table, ["all", "top", "back", "none"], max_kl=0.1, min_top1=0.9)
    assert reach == {"all": 0.3, "top": 0.2, "back": 0.1, "none": 0.0}


def test_metrics_are_named_by_measure_method_and_share() -> None:
    E, h, targets = problem()
    method = Method([bases(E, h)["zero"]], [0.1, 0.3])
    scored = Costs.of(pruning.Reference(Head(E), h, targets), {"paper": method}, GROUP)
    table = scored.table()
    named = costs.metrics(table, [0.3])
    assert set(named) == {
        "kl_paper_30", "kl_paper_30_low", "kl_paper_30_high", "js_paper_30", "top1_paper_30",
        "top1_paper_30_low", "top1_paper_30_high", "nll_increase_paper_30",
    }  # fmt: skip
    assert named["top1_paper_30_low"] == table.loc[1, "top1_low"]
    assert costs.at_share(table).loc["paper", "kl"] == named["kl_paper_30"]


def test_rounded_heads_are_the_heads_of_rounded_rows() -> None:
    E, h, _ = problem()
    b = torch.linspace(-1, 1, V).double()
    rounded = pruning.rounded_heads(pruning.Reference(Head(E, b), h))
    rows_of_8 = quantisation.rounded(E, 8)
    expected = pruning.evaluate(Head(E, b), lambda x: x @ rows_of_8.T + b, h)
    torch.testing.assert_close(rounded["int8"].kl, expected.kl)
    assert 0 < float(rounded["int8"].kl.mean()) < 0.1 * float(rounded["int4"].kl.mean())


def test_the_sweeps_error_is_rounding_and_a_wrong_sweep_shows() -> None:
    E, h, _ = problem(dtype=torch.float32)
    made = bases(E.double(), h.double())
    error = checks.sweep_errors(Head(E), list(made.values()), h[:16], [1, 4, 9])
    assert error.exact < 1e-10
    assert 0 < error.level <= error.position < 1e-4
    basis = made["rotated"]
    assert isinstance(basis, MatrixBasis)
    torn = MatrixBasis(basis.mean, basis.encode, 1.1 * basis.decode)
    assert checks.sweep_errors(Head(E), [torn], h[:16], [4]).exact > 1e-3, "the control"


def test_a_swapped_head_differs_from_its_own_map_by_rounding(tiny_lm: Any) -> None:
    lm = tiny_lm
    ids = torch.randint(0, tiny.VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(0))
    basis = pruning.zero_basis(torch.arange(lm.d))
    head = pruned_head.from_basis(lm, basis, 5)
    assert checks.swapped_head_error(lm, head, lambda h: basis.kept(h, 5), ids) < 1e-4
    other = checks.swapped_head_error(lm, head, lambda h: basis.kept(h, 6), ids)
    assert other > 1e-3, "the control: the map of another head"


def test_participation_counts_plain_dimensions() -> None:
    plain = pruning.zero_basis(torch.arange(4))
    assert pruning.participation(plain, 3) == pytest.approx(1.0)
    signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).double()
    spread = MatrixBasis(torch.zeros(4).double(), signs.T / 4, 3 * signs)
    assert pruning.participation(spread, 2) == pytest.approx(4.0), "of any length"


def test_losses_by_class_are_means_over_the_tokens_of_each() -> None:
    lm = tiny.language_model("untied")
    log_a = -torch.arange(float(lm.V))  # token i has rank i + 1
    targets = torch.tensor([0, 99, 100, 319, -1, 5])
    increase = {"one": torch.tensor([1.0, 2.0, 30.0, 50.0, torch.nan, 3.0])}
    table = pruning.loss_by_class(lm, log_a, targets, increase)
    ranked = table[table["next token"].str.startswith("rank ")].set_index("next token")
    assert ranked["one"].to_dict() == {"rank 1 to 100": 2.0, "rank 101 to 320": 40.0}
    assert ranked["positions"].tolist() == [3, 2]
    kinds = table[~table["next token"].str.startswith("rank ")].set_index("next token")
    assert kinds["positions"].sum() == 5
    for kind, mean in kinds["one"].items():
        of_kind = [t >= 0 and lm.token_kind(int(t)) == kind for t in targets]
        assert mean == pytest.approx(float(increase["one"][torch.tensor(of_kind)].mean()))
