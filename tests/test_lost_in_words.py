"""What a pruned head loses: parts of a divergence sum to it, by class of position and by token."""

from typing import Any

import pytest
import tiny
import torch

from probenc_support import pruning
from probenc_support.pruning import lost_in_words


@pytest.fixture(scope="module")
def lm() -> Any:
    return tiny.language_model("bias")


def planted(lm: Any, n: int = 60) -> tuple[torch.Tensor, pruning.Basis]:
    h = torch.randn(n, lm.d, generator=torch.Generator().manual_seed(0))
    return h, pruning.rotated_basis(lm.E, h, torch.ones(lm.V))


def test_the_tokens_parts_sum_to_the_divergence(lm: Any) -> None:
    h, basis = planted(lm)
    kl = pruning.Reference(lm.head, h).sweep(basis, [8]).kl[0]
    parts = lost_in_words.parts_of_tokens(lm.head, lambda x: basis.kept(x, 8), h)
    assert float(parts.sum()) == pytest.approx(float(kl.mean()), abs=1e-5)
    moved = lost_in_words.tokens_lost(lm, parts, n=4)
    assert moved["lost, nats"].is_monotonic_decreasing
    assert float(moved["lost, nats"][0]) == pytest.approx(float(parts.max()))
    assert float(moved["gained, nats"][0]) == pytest.approx(float(parts.min()))
    nothing = lost_in_words.parts_of_tokens(lm.head, lambda x: x, h)
    assert float(nothing.abs().max()) == 0.0


def test_classes_divide_the_divergence() -> None:
    kl = torch.arange(60.0)
    classes = {
        "half": ["low" if i < 30 else "high" for i in range(60)],
        "rare": ["few" if i < 3 else "many" for i in range(60)],
    }
    table = lost_in_words.by_class(kl, classes, torch.arange(60))
    half = table[table["by"] == "half"].set_index("class")
    assert half.index.tolist() == ["high", "low"], "the largest first"
    assert half.loc["low", "kl"] == pytest.approx(14.5)
    assert half["part"].sum() == pytest.approx(1.0)
    assert (half["kl_low"] < half["kl"]).all()
    assert table["class"].tolist()[2:] == ["many"], "three positions are not shown"


def test_certainty_is_the_largest_probability(lm: Any) -> None:
    h, _ = planted(lm)
    found = lost_in_words.certainty(lm.head, h)
    torch.testing.assert_close(found, lm.head.logits(h).softmax(dim=1).amax(dim=1))
    names = lost_in_words.certainty_classes(torch.tensor([0.05, 0.3, 0.7, 0.95]))
    assert names == ["below 0.1", "0.1 to 0.5", "0.5 to 0.9", "above 0.9"]


def test_examples_show_both_heads_and_the_text_before(lm: Any) -> None:
    h, basis = planted(lm, 40)
    ids = torch.arange(40).reshape(4, 10) + 60
    positions = torch.tensor([0, 13])
    contexts = lost_in_words.contexts_of(lm, ids, positions, n=3)
    assert contexts[0] == lm.tokenizer.decode([60]).strip()
    assert contexts[1] == lm.tokenizer.decode([71, 72, 73])
    table = lost_in_words.examples(
        lm, lambda x: basis.kept(x, 8), h[positions],
        contexts=contexts, targets=torch.tensor([61, -1]),
    )  # fmt: skip
    assert table["comes next"].tolist() == [repr(lm.token_text(61)), ""]
    kl = pruning.Reference(lm.head, h).sweep(basis, [8]).kl[0]
    assert table["KL"].tolist() == pytest.approx(kl[positions].tolist(), abs=1e-4)
    best = lm.head.logits(h[positions]).softmax(dim=1).max(dim=1)
    for shown, p, token in zip(table["intact"], best.values, best.indices, strict=True):
        assert shown.startswith(f"{lm.token_text(int(token))!r} {float(p):.2f}")
