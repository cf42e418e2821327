"""How often the files of a run are read, and how much of them is in memory at a time."""

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from probenc_support import corpora, dynamics
from probenc_support.dynamics import (
    BODY,
    EMBEDDING,
    WHOLE,
    Frequencies,
    convergence,
    emergence,
    frequency_part,
    rivals,
)
from probenc_support.models import checkpoints, runtime, weights
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.notebook import training_figures

pytestmark = pytest.mark.usefixtures("module_cache")

FORMATS = ("float32", "bfloat16", "pickle")


def made(folder: Path, n: int, kind: str = "float32") -> TrainingRun:
    """A run of n checkpoints at steps 0, 1, 2, 4 and so on, each with random weights of its own."""
    for i, step in enumerate([0, *(2**k for k in range(n - 1))]):
        path = tiny.save(folder / f"step{step}", seed=i)
        model = tiny.model("untied", seed=i)
        if kind == "bfloat16":
            with runtime.quiet():
                model.to(torch.bfloat16).save_pretrained(path)
        if kind == "pickle":
            (path / "model.safetensors").unlink()
            state = {name: tensor.half() for name, tensor in model.state_dict().items()}
            torch.save(state, path / "pytorch_model.bin")
    return checkpoints.training_run(str(folder))


@pytest.fixture(scope="module", params=FORMATS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    return made(tmp_path_factory.mktemp("run") / "run", 7, request.param)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counts") / "counts.npy"
    np.save(path, np.random.default_rng(0).integers(1, 99, tiny.VOCABULARY))
    return path


def known(counts: Path) -> Frequencies:
    table = np.load(counts)
    return Frequencies(table, "made up", np.arange(3, len(table)), 3)


# -------------------------------------------------------------------------------------------- reads


@pytest.mark.parametrize("n", [6, 12])
def test_reads_of_a_checkpoint_do_not_grow_with_the_run(
    n: int, tmp_path: Path, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What notebook 05 does but for the text: each read is of E alone, but for the two sweeps."""
    opened: Counter[int] = Counter()

    def counting(path: Path, **options: Any) -> Any:
        opened[int(path.parent.name.removeprefix("step"))] += 1
        return safe_open(path, **options)

    run = made(tmp_path / "run", n)
    monkeypatch.setattr(weights, "safe_open", counting)
    found = dynamics.measure(run, counts=str(counts))
    dynamics.emergence_table([found], n_replicates=3, seed=0)
    rivals.probe(run, found.frequencies, dynamics.token_properties(run, found.frequencies))
    dynamics.straight_line_of(found)
    training_figures.of_parts([found])
    of_E = ["distinct", "fits", "split_distances", "of_parts", "probe"]
    ends = {run.steps[0]: 1, run.steps[-1]: 5}  # which others are compared with
    assert opened == {step: 1 + len(of_E) + ends.get(step, 0) for step in run.steps}
    opened.clear()
    table = dynamics.by_length([found], before=[EMBEDDING, BODY], n_replicates=3, seed=0)
    last = table["stopped_at"].iloc[-1] if len(table) else -1
    assert opened == {step: 2 for step in run.steps if step <= last}
    assert len(table) == max(0, (n - 4) // 2)


def test_every_byte_of_a_run_is_read_once_in_a_sweep(
    run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Tensor]] = [[] for _ in run.steps]
    given_out = convergence.pieces

    def counting(tensors: Sequence[Tensor]) -> Iterator[Any]:
        for part, now in given_out(tensors):
            for number, rows in enumerate(now):
                seen[number].append(rows.flatten())
            yield part, now

    monkeypatch.setattr(convergence, "pieces", counting)
    convergence.of_parameters(run)
    for number, step in enumerate(run.steps):
        whole = torch.cat([tensor.flatten() for tensor in run.weights(step).values()])
        assert torch.equal(torch.cat(seen[number]).sort().values, whole.sort().values)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="no list of maps on this system")
def test_tensors_are_maps_of_their_files(run: TrainingRun) -> None:
    tensors = run.mapped(4)
    E = run.mapped(4, embedding_only=True)["E"]
    maps = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(run.source) in line:
            maps.append([int(end, 16) for end in line.split()[0].split("-")])
    for tensor in (*tensors.values(), E):
        assert any(low <= tensor.data_ptr() < high for low, high in maps)


def test_only_E_is_asked_of_a_file_where_only_E_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(tmp_path / "run", 3)
    asked: list[str] = []
    given_out = weights.tensors

    def counting(*arguments: Any) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in given_out(*arguments):
            asked.append(name)
            yield name, tensor

    monkeypatch.setattr(weights, "tensors", counting)
    convergence.of_parameters(run, embedding_only=True)
    assert asked == ["embed_out.weight"] * 3


# ------------------------------------------------------------------------------------------- memory


@given(st.lists(st.integers(1, 9), min_size=0, max_size=3), st.integers(1, 5), st.integers(1, 2000))
def test_pieces_are_the_rows_once_and_fit(shape: list[int], n: int, at_once: int) -> None:
    rng = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=rng).half() for _ in range(n)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convergence, "AT_ONCE", at_once)
        found = list(convergence.pieces(tensors))
    size = int(np.prod(shape[1:]))
    for part, now in found:
        assert {rows.shape for rows in now} == {(part.stop - part.start, size)}
        assert 2 * 4 * n * now[0].numel() <= max(at_once, 2 * 4 * n * size)
    for number, tensor in enumerate(tensors):
        rows = torch.cat([now[number] for _, now in found])
        assert torch.equal(rows.flatten(), tensor.float().flatten())


@pytest.mark.parametrize("n", [6, 12])
@pytest.mark.parametrize("kind", FORMATS)
def test_memory_does_not_grow_with_the_run(
    n: int, kind: str, tmp_path: Path, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tensor that a sweep makes is larger than the part of one checkpoint in what is held at a
    time, and nothing is kept but the squares of rows, once."""
    run, at_once = made(tmp_path / "run", n, kind), 2**13
    monkeypatch.setattr(convergence, "AT_ONCE", at_once)
    monkeypatch.setattr(TrainingRun, "weights", None)
    monkeypatch.setattr(TrainingRun, "embedding", None)
    made_here: list[int] = []
    for name in ("float", "double"):
        original = getattr(Tensor, name)

        def counting(tensor: Tensor, original: Any = original) -> Tensor:
            made_here.append(tensor.numel())
            return original(tensor)

        monkeypatch.setattr(Tensor, name, counting)
    found = convergence.of_parameters(run)
    ends = convergence.to_earlier_ends(run, run.steps[2:-1])
    frequency_part.split_to_earlier_ends(run, known(counts), run.steps[2:-1])
    assert 2 * 4 * max(made_here) * (n - 1) <= at_once, (
        "the shortest sweep leaves one checkpoint out"
    )
    for each in (found, *ends.values()):
        whole = each.to_final[WHOLE]
        assert whole.base is None
        assert whole.shape == (len(each.steps), n_rows(run))
        for rows in each.to_final.values():
            assert rows is whole or rows.base is whole, "views of one table"


def test_what_the_page_says_of_a_large_run_follows_from_its_shape() -> None:
    """Pythia-12B: V = 50,688, d = 5,120, 36 layers, checkpoints at 154 steps."""
    config = GPTNeoXConfig(
        vocab_size=50_688, hidden_size=5120, intermediate_size=20_480, num_hidden_layers=36,
        num_attention_heads=40, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        parameters = list(GPTNeoXForCausalLM(config).parameters())
    steps = [0, *(2**k for k in range(10)), *range(1000, 143_001, 1000)]
    ends = [step for step in dynamics.thinned(steps, 2.5)[:-1] if step >= emergence.LEAST_END]
    until = [steps.index(end) + 1 for end in ends]
    size, rows = sum(p.numel() for p in parameters), sum(map(len, parameters))
    E = 50_688 * 5120
    to_end, to_ends = 8 * rows * len(steps), 8 * rows * sum(until)
    in_by_length = to_end + to_ends + convergence.AT_ONCE
    in_random_targets = to_end + 6 * 8 * E  # rows of E, centred, and four in NumPy's decomposition
    most = max(in_by_length, in_random_targets)
    assert (len(steps), len(ends)) == (154, 9)
    assert most < 20e9
    page = (Path(__file__).parents[1] / "book" / "performance.md").read_text(encoding="utf-8")
    for number in (
        f"{size / 1e9:.1f} billion parameters in {rows / 1e6:.1f} million rows",
        f"{2 * size / 1e9:.1f} GB a checkpoint, {2 * size * len(steps) / 1e12:.1f} TB in all",
        f"{2 * size * max(until) / 1e12:.1f} TB for nine earlier ends",
        f"{2 * E / 1e9:.1f} GB a checkpoint, six times",
        f"the end | {to_end / 1e9:.1f} GB |",
        f"earlier ends | {to_ends / 1e9:.1f} GB |",
        f"in a sweep | {convergence.AT_ONCE / 1e9:.1f} GB |",
        f"about {most / 1e9:.0f} GB |",
    ):
        assert number in page


def n_rows(run: TrainingRun) -> int:
    return sum(len(tensor) for tensor in run.mapped(0).values())


def test_one_model_is_in_memory_at_a_time(
    tmp_path: Path, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, alive = made(tmp_path / "run", 4), weakref.WeakSet[Any]()
    load = TrainingRun.load

    def counting(self: TrainingRun, *words: Any, **options: Any) -> Any:
        assert not alive
        lm = load(self, *words, **options)
        alive.add(lm.model)
        return lm

    monkeypatch.setattr(TrainingRun, "load", counting)
    ids = torch.randint(0, tiny.VOCABULARY, (8, 16), generator=torch.Generator().manual_seed(0))
    blocks = corpora.from_ids(ids, corpus="made up")
    assert dynamics.measure(run, counts=str(counts), blocks=blocks, device="cpu").read_steps


# ----------------------------------------------------------------------------------- what comes out


def test_pieces_change_no_distance(
    run: TrainingRun, counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The squares of rows are the same to the last bit; sums over rows are so but for rounding."""

    def all_of_it() -> Any:
        ends = run.steps[2:-1]
        return (
            convergence.of_parameters(run),
            convergence.to_earlier_ends(run, ends),
            frequency_part.split_to_earlier_ends(run, known(counts), ends, n_replicates=4),
        )

    whole, by_end, parts = all_of_it()
    monkeypatch.setattr(convergence, "AT_ONCE", 3000)
    in_pieces, by_end_in_pieces, parts_in_pieces = all_of_it()
    for group in whole.groups:
        assert np.array_equal(in_pieces.to_final[group], whole.to_final[group])
        for name in ("change", "cosine"):
            values = (getattr(each, name)[group] for each in (in_pieces, whole))
            np.testing.assert_allclose(*values, rtol=1e-11, atol=1e-12)
    for end in by_end:
        for group in whole.groups:
            here, there = (each[end].to_final[group] for each in (by_end, by_end_in_pieces))
            assert np.array_equal(here, there)
        for name in parts[end]:
            np.testing.assert_allclose(parts_in_pieces[end][name], parts[end][name], rtol=1e-11)


def test_parts_to_an_earlier_end_are_those_of_a_run_that_ended_there(
    run: TrainingRun, counts: Path
) -> None:
    ends = run.steps[2:]
    found = frequency_part.split_to_earlier_ends(run, known(counts), ends, n_replicates=5, seed=1)
    for end in ends:
        shorter = run.select(range(end + 1))
        direct = dynamics.split_distances(shorter, known(counts), n_replicates=5, seed=1)
        for name, values in direct.items():
            assert np.array_equal(found[end][name], values)
