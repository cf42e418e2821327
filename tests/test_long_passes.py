"""Passes of many positions: streamed sums, the sample of hidden states, sharing, and memory."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import warm
from safetensors import safe_open

from probenc_support import corpora, inference, pruning, theory
from probenc_support.errors import InputError
from probenc_support.inference import detect, kept_places
from probenc_support.models import hidden_states
from probenc_support.moments import Moments
from probenc_support.notebook import results
from probenc_support.regression import Halves

LENGTH, N_BLOCKS, SAMPLE = 16, 80, 300
N = LENGTH * N_BLOCKS


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks a shard: forty shards, more than are added at once."""
    monkeypatch.setattr(inference, "_SHARD_POSITIONS", {"cpu": 2 * LENGTH})
    assert N_BLOCKS / 2 > inference._AT_ONCE


def text(n_blocks: int = N_BLOCKS) -> corpora.TokenBlocks:
    """Blocks of prose in documents of uneven lengths, some of a token or two."""
    ids = torch.tensor((tiny.tokenizer()(tiny.prose())["input_ids"] * 9)[: n_blocks * LENGTH])
    ends = torch.tensor([3, 4, 90, 92, 300, 500, 501, 700, 1000, 1100, n_blocks * LENGTH])
    documents = torch.searchsorted(ends, torch.arange(len(ids)), right=True)
    shape = (n_blocks, LENGTH)
    return corpora.from_ids(ids.reshape(shape), corpus="prose", documents=documents.reshape(shape))


def equal(one: inference.Detection, other: inference.Detection) -> None:
    """Bit for bit, but for the time it took."""
    for field in dataclasses.fields(inference.Detection):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, torch.Tensor):
            torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)
    assert one.perplexity == other.perplexity
    assert torch.equal(one.moments.mean, other.moments.mean)
    assert torch.equal(one.moments.cov, other.moments.cov)


# ------------------------------------------------------------------------------------ what it gives


@pytest.mark.parametrize("cache", [False, True])
def test_sums_over_all_positions_equal_brute_force(own_cache: Path, *, cache: bool) -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    tiny.need_float64_logits(lm)
    blocks = text()
    found = detect(lm, blocks, sample=SAMPLE, cache=cache, progress=False)
    with torch.inference_mode():
        log_p = torch.log_softmax(lm.model(blocks.ids).logits.flatten(0, 1), dim=1)
        h = hidden_states(lm, blocks.ids).flatten(0, 1)
    close = {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(found.log_a_rows, torch.logsumexp(log_p, 0) - math.log(N), **close)
    torch.testing.assert_close(found.mean_log_p_rows, log_p.mean(0), **close)
    assert blocks.documents is not None
    document = blocks.documents.flatten()
    assert torch.equal(found.group_sizes, torch.bincount(document))
    for group in range(found.n_groups):
        mine = log_p[document == group]
        expected = torch.logsumexp(mine, 0) - math.log(len(mine))
        torch.testing.assert_close(
            found.log_a_groups_rows[group].double(), expected, rtol=0, atol=1e-5
        )
    goal = blocks.ids[:, 1:].reshape(-1, 1)
    loss = log_p.reshape(N_BLOCKS, LENGTH, -1)[:, :-1].flatten(0, 1).gather(1, goal)
    assert found.perplexity == pytest.approx(math.exp(-loss.mean()), rel=1e-6)  # h is in float32
    moments = Moments.of(h.float())
    torch.testing.assert_close(found.moments.mean, moments.mean, **close)
    torch.testing.assert_close(found.moments.cov, moments.cov, **close)
    assert found.moments.n == found.n_positions == N
    assert found.n_kept == SAMPLE


def test_the_sample_is_of_the_rows_of_the_whole_pass() -> None:
    lm, blocks = tiny.language_model("bias"), text()
    whole = detect(lm, blocks, cache=False, progress=False)
    some = detect(lm, blocks, sample=SAMPLE, cache=False, progress=False)
    for name in ("h", "z", "group", "block", "targets", "target_log_p"):
        expected = getattr(whole, name)[some.places]
        torch.testing.assert_close(getattr(some, name), expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(some.log_a_rows, whole.log_a_rows)
    assert some.perplexity == pytest.approx(whole.perplexity, rel=1e-12)
    torch.testing.assert_close(some.moments.cov, whole.moments.cov, rtol=0, atol=1e-10)
    assert not torch.equal(Moments.of(some.h).cov, whole.moments.cov)


def test_a_text_no_longer_than_the_sample_is_kept_whole() -> None:
    lm, blocks = tiny.language_model("tied"), text()
    whole = detect(lm, blocks, cache=False, progress=False)
    equal(whole, detect(lm, blocks, sample=N, cache=False, progress=False))
    assert torch.equal(whole.places, torch.arange(N))
    assert whole.all_moments is None
    moments = Moments.of(whole.h)
    assert torch.equal(whole.moments.cov, moments.cov)
    assert torch.equal(whole.moments.mean, moments.mean)


def test_every_place_is_as_likely_to_be_kept() -> None:
    places = kept_places(100_000, 10_000)
    assert bool((places.diff() > 0).all())
    assert 0 <= int(places[0]) <= int(places[-1]) < 100_000
    tenths = torch.bincount(places // 10_000, minlength=10)
    # Standard deviation of each is 28.
    assert int((tenths - 1000).abs().max()) < 140
    assert torch.equal(places, kept_places(100_000, 10_000))
    assert kept_places(7, 7).tolist() == list(range(7))


def test_no_position_at_all_is_no_sample() -> None:
    with pytest.raises(InputError, match="at least one position"):
        detect(tiny.language_model("tied"), text(4), sample=0)


def test_whole_blocks_are_read_again_where_a_sample_lacks_some_of_their_positions() -> None:
    lm, blocks = tiny.language_model("tied"), text()
    whole = detect(lm, blocks, cache=False, progress=False)
    some = detect(lm, blocks, sample=SAMPLE, cache=False, progress=False)
    chosen = torch.tensor([3, 40, 77])
    for of in (inference.states_of_blocks, inference.groups_of_blocks):
        there, again = (of(lm, blocks, one, chosen) for one in (whole, some))
        torch.testing.assert_close(again, there)
    # Tokens before are matched with the positions that a pass keeps.
    before = theory.tokens_before(lm, blocks.ids)
    assert torch.equal(before[some.places], blocks.ids.flatten()[some.places])


def test_halves_hold_documents_that_a_sample_has_no_position_of() -> None:
    lm, blocks = tiny.language_model("tied"), text()
    some = detect(lm, blocks, sample=40, cache=False, progress=False)
    assert len(some.group.unique()) < some.n_groups
    halves = Halves.by_lot(some)
    both = torch.cat([halves.fitting, halves.judging]).sort().values
    assert torch.equal(both, torch.arange(some.n_groups))
    assert len(halves.in_fitting) == 40


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_states_of_a_body_in_half_precision_are_kept_so_and_nothing_is_lost(
    own_cache: Path, dtype: torch.dtype
) -> None:
    lm, blocks = tiny.language_model("untied", dtype=dtype), text(8)
    first = detect(lm, blocks, progress=False)
    again = detect(lm, blocks, progress=False)
    assert again.from_cache
    equal(first, again)
    path = next((own_cache / "passes").rglob("00000.safetensors"))
    with safe_open(path, framework="pt") as file:
        kept = file.get_tensor("h")
    assert kept.dtype == dtype
    with torch.inference_mode():
        # In batches as the pass reads them, which decide how products are rounded.
        h = torch.cat([hidden_states(lm, ids).flatten(0, 1) for ids in blocks.ids.split(2)])
    assert again.h.dtype == torch.float32
    assert torch.equal(again.h, h)
    assert torch.equal(kept.float(), h[: len(kept)])
    torch.testing.assert_close(again.log_a, lm.head.log_mean_p(h), rtol=0, atol=1e-6)


def test_states_that_half_precision_would_round_stay_in_single_precision() -> None:
    h = torch.tensor([[1.0, 1.0 + 2**-12]])
    assert inference._compact(h, torch.bfloat16).dtype == torch.float32
    assert inference._compact(h.bfloat16().float(), torch.bfloat16).dtype == torch.bfloat16
    assert inference._compact(h.double(), torch.float64).dtype == torch.float32


def test_a_page_names_the_sample_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    said: list[str] = []
    monkeypatch.setattr(results, "_say", said.append)
    parameters: Any = SimpleNamespace(positions="all")
    lm = tiny.language_model("tied")
    results.Results(parameters, lm, text())
    assert not [words for words in said if "drawn evenly" in words]
    monkeypatch.setattr(results, "SAMPLE", N - 1)
    results.Results(parameters, lm, text())
    (words,) = [words for words in said if "drawn evenly" in words]
    assert "over all 1,280 positions of `prose`" in words
    assert "those of 1,279 positions" in words
    parameters.positions = "last"
    results.Results(parameters, lm, text())
    assert len([words for words in said if "drawn evenly" in words]) == 1


def test_more_positions_than_a_pass_keeps_judge_no_pruning() -> None:
    with pytest.raises(InputError, match="65,792 positions are too many to judge on"):
        pruning.parts_of_text(
            tiny.language_model("tied"), "docstrings", n_fitted=64, n_judging=65792,
            sequence_length=32,
        )  # fmt: skip


def test_positions_that_are_thinned_out_are_among_those_that_are_kept() -> None:
    chosen = pruning.thinned(2**20, 1024)
    assert len(chosen) == 1024
    assert int(chosen.max()) < inference.SAMPLE
    assert torch.equal(pruning.thinned(100, 25), torch.arange(0, 100, 4))


# -------------------------------------------------------------------------------- several processes


def _prepare(part: tuple[int, int]) -> None:
    inference._SHARD_POSITIONS["cpu"] = 2 * LENGTH
    inference.prepare(tiny.language_model("untied"), text(), part=part, progress=False)


def test_parts_made_by_four_processes_are_the_pass_of_one(own_cache: Path) -> None:
    lm = tiny.language_model("untied")
    alone = detect(lm, text(), sample=SAMPLE, cache=False, progress=False)
    workers = [warm.start(_prepare, (i, 4)) for i in (1, 2, 3, 4)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    together = detect(lm, text(), sample=SAMPLE, progress=False)
    assert together.from_cache
    equal(alone, together)
    assert len(list((own_cache / "passes").rglob("0*.safetensors"))) == N_BLOCKS // 2


def _detect_counted(made: Any, both: Any) -> None:
    """A pass whose shards are counted; the first waits until the other process makes one, too."""
    inference._SHARD_POSITIONS["cpu"] = 2 * LENGTH
    compute = inference._Plan.compute

    def counted(plan: Any, shard: range, progress: Any) -> Any:
        if not made.value:
            both.wait(120)
        made.value += 1
        return compute(plan, shard, progress)

    inference._Plan.compute = counted  # type: ignore[method-assign]
    detect(tiny.language_model("untied"), text(), progress=False)


def test_two_processes_make_every_shard_of_one_pass_once(own_cache: Path) -> None:
    both = warm.CONTEXT.Barrier(2)
    counts = [warm.CONTEXT.Value("i", 0, lock=False) for _ in range(2)]
    workers = [warm.start(_detect_counted, made, both) for made in counts]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert all(made.value for made in counts), "both made some"
    assert sum(made.value for made in counts) == N_BLOCKS // 2


def test_a_part_says_what_is_there(own_cache: Path) -> None:
    lm = tiny.language_model("untied")
    first = inference.prepare(lm, text(), part=(2, 3), progress=False)
    assert (first.n_shards, first.n_own, first.n_made, first.n_there) == (40, 13, 13, 13)
    again = inference.prepare(lm, text(), part=(2, 3), progress=False)
    assert (again.n_made, again.n_there) == (0, 13)
    assert not detect(lm, text(), progress=False).from_cache
    rest = inference.prepare(lm, text(), part=(3, 3), progress=False)
    assert (rest.n_made, rest.n_there) == (0, 40)
    assert inference.prepare(lm, text(4), part=(9, 9), progress=False).n_own == 0
    for part in ((0, 4), (5, 4)):
        with pytest.raises(InputError, match=f"no part {part[0]} of 4"):
            inference.prepare(lm, text(), part=part, progress=False)


def test_damaged_files_of_a_long_pass_are_made_again(
    own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tiny.language_model("untied")
    first = detect(lm, text(), sample=SAMPLE, progress=False)
    (folder,) = (own_cache / "passes").iterdir()
    for name in ("00007.safetensors", "moments.safetensors"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-9])
    again = detect(lm, text(), sample=SAMPLE, progress=False)
    assert not again.from_cache
    assert "00007.safetensors in the cache is damaged" in capsys.readouterr().err
    equal(first, again)
    assert detect(lm, text(), sample=SAMPLE, progress=False).from_cache


def test_a_full_disk_is_one_sentence_also_from_the_thread_that_writes(own_cache: Path) -> None:
    lm = tiny.language_model("untied")
    with tiny.no_space(), pytest.raises(InputError, match=r"Cannot write .*free some space"):
        detect(lm, text(), progress=False)
    left = [path for path in (own_cache / "passes").rglob("*") if path.is_file()]
    assert all(path.suffix == ".lock" for path in left), left
    assert not list(own_cache.rglob(".tmp-*"))
    assert not detect(lm, text(), progress=False).from_cache


# ------------------------------------------------------------------------------------------- memory

MEASURE = """
import pathlib, re, resource, sys
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
import tiny
from probenc_support import corpora, inference
from probenc_support.models import wrap

config = GPTNeoXConfig(
    vocab_size=320, hidden_size=256, intermediate_size=32, num_hidden_layers=1,
    num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
)
lm = wrap(GPTNeoXForCausalLM(config).eval(), tiny.tokenizer(), name="wide")

def peak(log_n, **options):
    ids = torch.randint(0, 320, (2**log_n // 64, 64), generator=torch.Generator().manual_seed(0))
    blocks = corpora.from_ids(ids, corpus="noise")
    inference.detect(lm, blocks, progress=False, **options)
    # On Linux, ru_maxrss would be that of the process which started this one, if that is larger.
    if sys.platform == "linux":
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

for cache in (False, True):
    print(*(peak(log_n, sample=2**12, cache=cache) for log_n in (14, 16)))
print(peak(16, sample=2**16, cache=False))
"""
"""Peaks of one process in megabytes, in which what is to take more memory comes later."""


def test_memory_does_not_grow_with_the_text(own_cache: Path) -> None:
    """Hidden states of the longest text are 67 MB, and those of the sample 4 MB."""
    command = [sys.executable, "-c", MEASURE]
    tests = str(Path(__file__).parent)
    done = subprocess.run(
        command, cwd=tests, capture_output=True, text=True, check=True, timeout=300
    )
    *flat, whole = [list(map(float, line.split())) for line in done.stdout.splitlines()]
    for short, long in flat:
        assert long - short < 25, flat
    assert whole[0] - flat[-1][-1] > 35, "the control: so much would be seen"
