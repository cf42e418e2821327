"""Intervals over documents: known truths, pairing, and what positions alone would claim."""

import itertools

import numpy as np
import pytest
import torch
from test_pruning import N, bases, problem

from probenc_support import pruning
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.pruning import intervals


def test_intervals_cover_the_truth_and_shrink_with_blocks() -> None:
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for n_blocks, _ in itertools.product((10, 160), range(40)):
        offsets = rng.normal(size=n_blocks)
        values = torch.tensor(np.repeat(offsets, 20) + 0.1 * rng.normal(size=20 * n_blocks))
        block = torch.arange(n_blocks).repeat_interleave(20)
        interval = intervals.mean_interval(values, block, n_replicates=300)
        covered += interval.low <= 0.0 <= interval.high
        widths.append(interval.high - interval.low)
    assert covered >= 0.85 * 80
    assert np.mean(widths[40:]) < 0.4 * np.mean(widths[:40])
    # The control: positions taken for independent give intervals that miss the truth.
    naive = torch.arange(len(values))
    assert intervals.mean_interval(values, naive).high - intervals.mean_interval(
        values, naive
    ).low < 0.6 * np.mean(widths[40:])


def test_intervals_leave_unknown_targets_out() -> None:
    values = torch.tensor([1.0, torch.nan, 3.0, torch.nan])
    assert intervals.mean_interval(values, torch.tensor([0, 0, 1, 1])).estimate == 2.0


def test_the_table_holds_means_and_their_intervals() -> None:
    E, h, targets = problem()
    found = pruning.sweep(Head(E), bases(E, h)["zero"], h, [0, 6], targets=targets)
    block = torch.arange(N) // 20
    rows = intervals.table(found, [0.0, 0.5], block)
    assert rows["share"].tolist() == [0.0, 0.5]
    assert rows.loc[0, ["kl", "kl_low", "kl_high", "nll_increase"]].abs().max() == 0
    assert rows.loc[0, "top1"] == 1
    assert rows.loc[1, "kl"] == pytest.approx(float(found.kl[1].mean()))
    assert rows.loc[1, "kl_low"] < rows.loc[1, "kl"] < rows.loc[1, "kl_high"]
    ratio = np.exp(float(found.nll_increase[1].nanmean()))
    assert rows.loc[1, "perplexity_ratio"] == pytest.approx(ratio)


def test_a_ratio_is_paired_by_document() -> None:
    """What two costs share cancels: their ratio is known far better than either."""
    rng = np.random.default_rng(0)
    group = torch.arange(40).repeat_interleave(25)
    shared = torch.tensor(np.exp(rng.normal(size=40)))[group]
    noise = torch.tensor(1 + 0.1 * rng.normal(size=(2, 1000)))
    top, bottom = 2.0 * shared * noise[0], shared * noise[1]
    ratio = intervals.ratio_interval(top, bottom, group)
    alone = intervals.mean_interval(top, group)
    assert ratio.low < 2.0 < ratio.high
    assert ratio.estimate == pytest.approx(float(top.mean() / bottom.mean()))
    width = (ratio.high - ratio.low) / ratio.estimate
    assert width < 0.1 * (alone.high - alone.low) / alone.estimate
    # The control: pairs torn apart know no more than the parts do.
    torn = intervals.ratio_interval(top, bottom.flip(0), group)
    assert torn.high - torn.low > 5 * (ratio.high - ratio.low)


def test_random_orders_are_drawn_besides_documents() -> None:
    """Where rows differ and documents do not, the width is that of a mean of R draws."""
    rng = np.random.default_rng(1)
    group = torch.arange(30).repeat_interleave(10)
    rows = torch.tensor(5 + rng.normal(size=40))
    values = rows[:, None].expand(40, 300)
    interval = intervals.mean_interval(values, group, n_replicates=4000)
    assert interval.estimate == pytest.approx(float(rows.mean()))
    expected = 2 * 1.96 * float(rows.std()) / 40**0.5
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)
    one = intervals.mean_interval(values[0], group)
    assert one.high - one.low < 1e-9, "the control: one row of one value knows of no spread"
    ratio = intervals.ratio_interval(values, torch.ones(300), group, n_replicates=4000)
    assert ratio.high - ratio.low == pytest.approx(expected, rel=0.1)


def test_the_table_averages_random_orders() -> None:
    E, h, targets = problem()
    found = [
        pruning.sweep(Head(E), pruning.zero_basis(torch.randperm(12)), h, [2, 6], targets=targets)
        for _ in range(3)
    ]
    rows = intervals.table(found, [0.2, 0.5], torch.arange(N) // 20)
    mean = float(torch.stack([f.kl[1] for f in found]).mean())
    assert rows.loc[1, "kl"] == pytest.approx(mean)
    assert rows.loc[1, "perplexity_ratio_low"] < rows.loc[1, "perplexity_ratio"]
    alone = intervals.table(found[0], [0.2, 0.5], torch.arange(N) // 20)
    widths = [t.loc[1, "kl_high"] - t.loc[1, "kl_low"] for t in (rows, alone)]
    assert widths[0] > widths[1], "other luck widens the interval"


def test_halves_of_a_text_differ_as_theory_says() -> None:
    """The gap of two halves' means of G normal documents is normal with s.d. 2 sigma / sqrt(G)."""
    rng = np.random.default_rng(2)
    group = torch.arange(100).repeat_interleave(10)
    nll = torch.tensor(3 + 0.5 * rng.normal(size=100))[group]
    found = np.log(intervals.halves_ratio(nll, group, n_splits=4000))
    sd = float(nll[::10].std())
    assert found == pytest.approx(0.6745 * 2 * sd / 10, rel=0.1)
    flat = intervals.halves_ratio(torch.full((1000,), 3.0), group)
    assert flat == pytest.approx(1.0), "the control: all documents alike"
    with pytest.raises(InputError, match="at least two documents"):
        intervals.halves_ratio(nll, torch.zeros(1000, dtype=torch.int64))


def test_nothing_known_has_no_mean() -> None:
    with pytest.raises(InputError, match="No value is known"):
        intervals.mean_interval(torch.full((4,), torch.nan), torch.arange(4))
