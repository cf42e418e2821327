"""Pruned heads in real models: what is swapped in equals the closed evaluation, and comes out."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from probenc_support import corpora, generation, inference, models, pruning
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel
from probenc_support.pruning import Basis, orders, pruned_head

IDS = torch.randint(0, tiny.VOCABULARY, (6, 20), generator=torch.Generator().manual_seed(3))
METHODS = ("zero", "mean", "compensated", "rotated")


def hidden(lm: LanguageModel) -> Tensor:
    return models.hidden_states(lm, IDS).flatten(0, 1).clone()


def basis(lm: LanguageModel, method: str) -> Basis:
    h = hidden(lm)
    order = orders.ascending(orders.wanda_scores(lm.E, h))
    if method == "rotated":
        return pruning.rotated_basis(lm.E, h, torch.ones(lm.V))
    made: Basis = getattr(pruning, f"{method}_basis")(
        *([order] if method == "zero" else [order, h])
    )
    return made


def logits(lm: LanguageModel) -> Tensor:
    with torch.inference_mode():
        out: Tensor = lm.model(input_ids=IDS).logits.flatten(0, 1)
    return out


@pytest.mark.parametrize("method", METHODS)
def test_a_swapped_head_equals_the_closed_evaluation(tiny_lm: Any, method: str) -> None:
    removed = 5
    made = basis(tiny_lm, method)
    intact, h = logits(tiny_lm), hidden(tiny_lm)
    with pruned_head.swapped(tiny_lm, pruned_head.from_basis(tiny_lm, made, removed)):
        inside = logits(tiny_lm)
    P, Q = intact.double().log_softmax(1), inside.double().log_softmax(1)
    closed = pruning.sweep(tiny_lm.head, made, h, [removed])
    torch.testing.assert_close(
        (P.exp() * (P - Q)).sum(1), closed.kl[0].double(), atol=1e-4, rtol=1e-4
    )
    assert float((inside - intact).abs().max()) > 1e-3, "the control: the head did change"
    assert torch.equal(logits(tiny_lm), intact), "the intact head is back"


@pytest.mark.parametrize("method", ["zero", "mean", "compensated"])
def test_removing_no_plain_dimension_changes_nothing_bit_for_bit(method: str) -> None:
    lm = tiny.language_model("untied")
    intact = logits(lm)
    with pruned_head.swapped(lm, pruned_head.from_basis(lm, basis(lm, method), 0)):
        assert torch.equal(logits(lm), intact)


def test_a_rotation_that_keeps_all_changes_logits_by_rounding_only(tiny_lm: Any) -> None:
    intact = logits(tiny_lm)
    with pruned_head.swapped(
        tiny_lm, pruned_head.from_basis(tiny_lm, basis(tiny_lm, "rotated"), 0)
    ):
        inside = logits(tiny_lm)
    torch.testing.assert_close(inside, intact, atol=1e-4, rtol=1e-4)


def test_generation_with_a_pruned_head_follows_the_closed_logits(tiny_lm: Any) -> None:
    """Greedy text of the swapped model, token by token the argmax of the closed-form logits."""
    made = basis(tiny_lm, "compensated")
    head = pruned_head.from_basis(tiny_lm, made, 6)
    with pruned_head.swapped(tiny_lm, head):
        drawn = generation.sample(tiny_lm, IDS[:2], n_tokens=8, temperature=0)
    h = models.hidden_states(tiny_lm, drawn.sequences[:, :-1])[:, IDS.shape[1] - 1 :]
    kept = made.kept(h.flatten(0, 1).double(), 6)
    closed = kept @ tiny_lm.E.double().T + (0 if tiny_lm.b is None else tiny_lm.b.double())
    closed[:, 0] = -torch.inf  # the end of the text is not drawn
    best, chosen = closed.amax(1), closed.gather(1, drawn.ids.flatten()[:, None])[:, 0]
    torch.testing.assert_close(chosen, best, atol=1e-4, rtol=1e-4)


def test_a_tied_input_embedding_is_not_touched() -> None:
    lm = tiny.language_model("tied")
    before = lm.model.get_input_embeddings().weight.clone()
    with pruned_head.swapped(lm, pruned_head.from_basis(lm, basis(lm, "zero"), 8)):
        assert torch.equal(lm.model.get_input_embeddings().weight, before)
    assert lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight


def test_the_intact_head_comes_back_after_an_error() -> None:
    lm = tiny.language_model("untied")
    intact = lm.model.get_output_embeddings()
    pruned = pruned_head.from_basis(lm, basis(lm, "zero"), 2)
    with pytest.raises(RuntimeError, match="on purpose"), pruned_head.swapped(lm, pruned):
        raise RuntimeError("on purpose")
    assert lm.model.get_output_embeddings() is intact


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_head_is_the_same_head(tmp_path: Path, method: str) -> None:
    lm = tiny.language_model("bias")
    head = pruned_head.from_basis(lm, basis(lm, method), 5)
    again = pruned_head.load(pruned_head.save(head, tmp_path / "head.safetensors"))
    h = hidden(lm)
    assert torch.equal(again(h), head(h))
    assert again.n_parameters == head.n_parameters


def test_a_full_disk_leaves_no_head(tmp_path: Path) -> None:
    lm = tiny.language_model("untied")
    head = pruned_head.from_basis(lm, basis(lm, "zero"), 2)
    with tiny.no_space(), pytest.raises(InputError, match="Cannot write"):
        pruned_head.save(head, tmp_path / "head.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_pruned_heads_are_smaller() -> None:
    lm = tiny.language_model("untied")
    intact = lm.model.get_output_embeddings()
    zero = pruned_head.from_basis(lm, basis(lm, "zero"), 8)
    assert zero.n_parameters == lm.V * (lm.d - 8)
    rotated = pruned_head.from_basis(lm, basis(lm, "rotated"), 8)
    assert rotated.n_parameters == lm.V * (lm.d - 8) + (lm.d - 8) * lm.d + lm.V
    assert pruned_head.memory_mb(zero) < pruned_head.memory_mb(intact)
    assert pruned_head.n_parameters(intact) == lm.V * lm.d


def test_latencies_time_every_head() -> None:
    lm = tiny.language_model("untied")
    found = pruned_head.latencies(
        {
            "intact": lm.model.get_output_embeddings(),
            "pruned": pruned_head.from_basis(lm, basis(lm, "zero"), 4),
        },
        hidden(lm),
        n_repeats=5,
    )
    assert all(0 < t.low <= t.seconds <= t.high for t in found.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_heads_have_the_models_precision(dtype: torch.dtype) -> None:
    lm = tiny.language_model("untied", dtype=dtype)
    head = pruned_head.from_basis(lm, basis(lm, "rotated"), 4)
    assert head.decode.dtype == dtype
    with pruned_head.swapped(lm, head):
        assert logits(lm).dtype == dtype


def test_the_cost_table_holds_sizes_and_ratios_to_the_first_head() -> None:
    lm = tiny.language_model("untied")
    zero = pruned_head.from_basis(lm, basis(lm, "zero"), 8)
    intact = lm.model.get_output_embeddings()
    table = pruned_head.cost_table({"intact": intact, "half": zero}, hidden(lm)[:64])
    assert table["head"].tolist() == ["intact", "half"]
    assert table["parameters"].tolist() == [lm.V * lm.d, lm.V * (lm.d - 8)]
    assert table["memory_mb"].tolist() == [pruned_head.memory_mb(h) for h in (intact, zero)]
    for column in ("memory_mb", "ms_1", "ms_64"):
        assert table[f"{column}_ratio"][0] == 1
        assert table[f"{column}_ratio"][1] == pytest.approx(table[column][1] / table[column][0])


def test_the_books_example_prunes_a_model_and_saves_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "book" / "pruning.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    lm = tiny.language_model("tied")
    detection = inference.detect(
        lm, corpora.from_ids(IDS, corpus="random"), cache=False, progress=False
    )
    names = {"lm": lm, "detection": detection, "ids": IDS[:1, :4]}
    intact = logits(lm)
    exec(example, names)
    saved = pruned_head.load(tmp_path / "head.safetensors")
    assert saved.k == lm.d - round(0.3 * lm.d)
    assert torch.equal(logits(lm), intact), "the intact head is back"
    assert names["text"].shape[1] > 4


# -------------------------------------------------------------------------------------- bad input


def test_heads_that_cannot_be_swapped_are_refused(tmp_path: Path) -> None:
    lm = tiny.language_model("untied")
    other = tiny.language_model("padded")
    foreign = pruned_head.from_basis(other, basis(other, "zero"), 2)
    with pytest.raises(InputError, match="another"), pruned_head.swapped(lm, foreign):
        pass
    wider = nn.Linear(lm.d + 1, lm.V)
    with pytest.raises(InputError, match="does not read"), pruned_head.swapped(lm, wider):
        pass
    lm.model.set_output_embeddings(nn.Sequential(lm.model.get_output_embeddings()))
    fitting = nn.Linear(lm.d, lm.V)
    with pytest.raises(InputError, match="no linear layer"), pruned_head.swapped(lm, fitting):
        pass
    with pytest.raises(InputError, match="leaves no model"):
        pruned_head.from_basis(other, basis(other, "zero"), other.d)
    with pytest.raises(InputError, match="no pruned head"):
        pruned_head.load(tmp_path / "absent.safetensors")
    (tmp_path / "bad").write_bytes(b"no head")
    with pytest.raises(InputError, match="no pruned head"):
        pruned_head.load(tmp_path / "bad")
    with pytest.raises(InputError, match="give one"):
        pruned_head.PrunedHead(torch.zeros(4, 2))


@pytest.mark.real_model
def test_the_real_model_speaks_through_a_pruned_head(real_lm: Any, real_detection: Any) -> None:
    fit, test = real_detection.h[:1536], real_detection.h[1536:1792]
    weights = pruning.power_weights(real_detection.log_a_rows, 0.75)
    made = pruning.rotated_basis(real_lm.E, fit, weights)
    removed = pruning.levels([0.3], real_lm.d)[0]
    swept = pruning.sweep(real_lm.head, made, test, [removed])
    head = pruned_head.from_basis(real_lm, made, removed)
    direct = pruning.evaluate(real_lm.head, head, test)
    torch.testing.assert_close(swept.kl, direct.kl, atol=1e-4, rtol=1e-3)
    paper = pruning.zero_basis(orders.random_order(real_lm.d, seed=0))
    at_random = pruning.sweep(real_lm.head, paper, test, [removed])
    assert float(swept.kl.mean()) < 0.5 * float(at_random.kl.mean())
    with pruned_head.swapped(real_lm, head):
        ids = real_lm.tokenizer("The function returns", return_tensors="pt")["input_ids"]
        out = real_lm.model.generate(input_ids=ids, do_sample=False, max_new_tokens=8)
    assert out.shape[1] == ids.shape[1] + 8
