"""Tokens that training hardly saw: areas by brute force, planted rows, the notebook."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from probenc_support import undertrained
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models import checkpoints, training, training_text
from probenc_support.models.recipes import RECIPES, Recipe
from probenc_support.models.vocabulary import Vocabulary
from probenc_support.notebook import results
from probenc_support.regression import fit
from probenc_support.runs import execute

NONE = torch.tensor([], dtype=torch.int64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
@settings(deadline=None)
def test_area_is_that_of_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    values, positive = (np.array(each) for each in zip(*pairs, strict=True))
    if positive.all() or not positive.any():
        return
    wanted = roc_auc_score(positive, values)
    assert undertrained.auroc(values.astype(float), positive) == pytest.approx(wanted)
    assert undertrained.auroc(-values.astype(float), positive) == pytest.approx(1 - wanted)


def planted() -> tuple[Head, torch.Tensor, np.ndarray]:
    """A head whose first 20 rows were never seen: they lie far along one direction."""
    E = random(300, 6)
    E[:20, 0] += 6.0
    y = E @ torch.tensor([1.0, 0.2, 0, 0, 0, 0]).double() + 5.0
    counts = np.arange(300)
    counts[:20] = 0
    counts[20:] += 1
    return Head(E.float()), y, counts


def test_planted_tokens_are_found_along_A_and_not_before() -> None:
    head, y, counts = planted()
    own = fit(head.rows, y)
    table = undertrained.indicators(head, own, -torch.eye(6)[0], -y, reference=torch.arange(5))
    assert table["along A"].to_numpy() == pytest.approx(y.numpy(), abs=1e-4)
    assert table["along mean h"].to_numpy() == pytest.approx(head.E[:, 0].numpy())
    assert table["-log a"].to_numpy() == pytest.approx(y.numpy())
    assert table["short row"].to_numpy() == pytest.approx(-head.E.norm(dim=1).numpy(), rel=1e-5)
    judged = undertrained.judge(table, counts, without=torch.arange(5), n_replicates=50)
    assert (judged.n_unseen, judged.n_seen) == (15, 280)
    assert judged.areas["along A"] > 0.99
    assert judged.areas["near unused rows"] > 0.95
    assert judged.areas["short row"] < 0.2
    before = Head(random(300, 6, seed=1).float())
    noise = undertrained.indicators(before, fit(before.rows, random(300)), random(6), random(300))
    assert "near unused rows" not in noise
    found = undertrained.judge(noise, counts, without=NONE, n_replicates=20)
    assert abs(found.areas["along A"] - 0.5) < 0.15


def test_random_directions_are_turned_the_better_way() -> None:
    head, _, counts = planted()
    found = undertrained.random_directions(head, counts, without=NONE)
    assert len(found) == 20
    assert min(found) >= 0.5
    plain = undertrained.random_directions(Head(random(300, 6, seed=2)), counts, without=NONE)
    assert np.mean(plain) < np.mean(found)


def test_harder_tokens_are_those_seen_rarely() -> None:
    head, y, counts = planted()
    table = undertrained.indicators(head, fit(head.rows, y), torch.ones(6), -y)
    judged = undertrained.judge(table, counts, without=NONE, seen_at_most=30, n_replicates=5)
    assert judged.n_seen == int(((counts > 0) & (counts <= 30)).sum())


def test_intervals_hold_the_area_and_shrink_with_tokens() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (60, 960):
        positive = np.arange(n) < n // 3
        values = {"x": rng.normal(size=n) + positive}
        draws = undertrained.auroc_draws(values, positive, n_replicates=300)["x"]
        low, high = draws.quantile([0.025, 0.975])
        assert low < undertrained.auroc(values["x"], positive) < high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_metrics_compare_with_the_best_rival_by_the_same_draws() -> None:
    head, y, counts = planted()
    table = undertrained.indicators(
        head, fit(head.rows, y), torch.ones(6), -y, reference=torch.arange(5)
    )
    judged = [undertrained.judge(table, counts, without=NONE, n_replicates=40)]
    found = undertrained.metrics(judged, lambda name: name.replace(" ", "_"))
    best = max(judged[0].areas[name] for name in undertrained.RIVALS)
    assert found["auroc_along_A_less_rival"] == pytest.approx(judged[0].areas["along A"] - best)
    assert (
        found["auroc_along_A_low"] <= found["auroc_along_A"] <= found["auroc_along_A_high"] + 1e-9
    )


def test_overlap() -> None:
    values = np.arange(100.0)
    assert undertrained.overlap(values, values, 0.1) == 1.0
    assert undertrained.overlap(values, -values, 0.1) == 0.0
    assert undertrained.overlap(values, np.roll(values, -5), 0.1) == 0.5


def test_nothing_to_tell_apart_is_one_sentence() -> None:
    head, y, counts = planted()
    table = undertrained.indicators(head, fit(head.rows, y), torch.ones(6), -y)
    with pytest.raises(InputError, match="nothing to tell apart"):
        undertrained.judge(table, counts + 1, without=NONE)


def test_classes_of_counts_hold_every_token_once() -> None:
    table = pd.DataFrame({"token": np.arange(300), "along A": np.arange(300.0)})
    counts = np.repeat([0, 1, 3, 5000], 75)
    found = undertrained.by_count(table, counts)
    assert found["tokens"].tolist() == [75, 75, 75, 75]
    assert list(found.index) == ["0", "1", "2–3", "1024 and more"]
    assert found["median"].is_monotonic_increasing


@pytest.mark.usefixtures("module_cache")
def test_bytes_that_no_text_has_are_never_made(text_file: Path) -> None:
    recipe = Recipe("tiny", 1, 8, 1, 320, 32, 4, 4, 2, 1e-2)
    text = training_text.prepare(recipe, str(text_file))
    vocabulary = Vocabulary(text.tokenizer, 320)
    found = undertrained.never_used(vocabulary)
    assert len(found) == 13
    everything = "".join(map(chr, [*range(32, 0x3000), 0x1F600, 0x10FFFF]))
    made = set(text.tokenizer(everything, add_special_tokens=False)["input_ids"])
    assert not made & set(found.tolist())


class Pieces:
    """A tokenizer that has a vocabulary and nothing else."""

    def __init__(self, *pieces: str) -> None:
        self.pieces = pieces

    def get_vocab(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(self.pieces)}


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        (("a", "\u0120", "\u00c0", "\u00e9", "\u00ff"), [2, 4]),
        (("a", "\u2581", "\u00c0", "<0xC0>", "<0xE9>", "<0xFF>"), [3, 5]),
        (("a", "\u2581", "\u00c0"), []),
    ],
    ids=["byte-level", "bytes by name, letters are letters", "no bytes"],
)
def test_bytes_that_no_text_has_by_how_a_tokenizer_writes_them(
    pieces: tuple[str, ...], wanted: list[int]
) -> None:
    vocabulary = Vocabulary(Pieces(*pieces), len(pieces))  # type: ignore[arg-type]
    assert undertrained.never_used(vocabulary).tolist() == wanted


@pytest.mark.usefixtures("module_cache")
def test_notebook_on_a_model_whose_text_is_not_known(
    text_file: Path, tmp_path: Path, warm_kernels: None
) -> None:
    """A folder has no counts that are known, so the notebook lists and does not judge."""
    recipe = Recipe("tiny", 2, 16, 2, 320, 32, 4, 12, 4, 1e-2)
    folder = training.trained(recipe, corpus=str(text_file), device="cpu")
    last = Path(checkpoints.training_run(str(folder)).source) / "step12"
    page = execute.run(
        "10",
        model=str(last),
        results_dir=tmp_path / "out",
        parameters={
            "corpus": str(text_file),
            "n_positions": 256,
            "sequence_length": 32,
            "n_listed": 5,
        },
    )
    found = results.load_metrics(page.parent, "10_undertrained_tokens")
    assert found["n_never_used"] == 13
    assert "auroc_along_A" not in found
    listed = pd.read_parquet(page.with_name("10_undertrained_tokens.tokens.parquet"))
    assert len(listed) == 5
    assert listed["along A"].is_monotonic_decreasing


@pytest.mark.usefixtures("module_cache")
def test_runs_have_the_seeds_and_the_counts_of_their_names(
    text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe("pythia-nano", 1, 8, 1, 320, 32, 4, 4, 2, 1e-2)
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    own = partial(training.trained, corpus=str(text_file), device="cpu")
    monkeypatch.setattr(training, "trained", lambda name, *, seed, device: own(name, seed=seed))
    found = undertrained.runs_of("pythia-nano-seed3", 1, 2)
    assert list(found) == ["pythia-nano-seed4", "pythia-nano-seed5"]
    for name, counts in found.items():
        folder = own(recipe.name, seed=int(name[-1]))
        assert np.array_equal(counts, np.load(folder / "token_counts.npy"))
    assert list(undertrained.runs_of("pythia-nano", 2, 1)) == ["pythia-nano-seed2"]


@pytest.mark.parametrize("model", ["gpt2", "some/folder"])
def test_what_training_saw_of_other_models_is_not_known(model: str) -> None:
    assert undertrained.runs_of(model, 0, 3) == {model: None}
