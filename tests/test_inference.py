"""The pass against brute force over the model's own logits; cache, resuming, locking."""

import dataclasses
import math
import os
import signal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import warm
from hypothesis import given, settings
from hypothesis import strategies as st

from probenc_support import corpora, inference, theory
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.inference import detect


def _blocks(lm: Any, n_blocks: int = 8, length: int = 16) -> corpora.TokenBlocks:
    ids = lm.tokenizer(tiny.prose())["input_ids"][: n_blocks * length]
    return corpora.from_ids(torch.tensor(ids).reshape(n_blocks, length), corpus="prose")


def _brute_force(lm: Any, blocks: corpora.TokenBlocks) -> torch.Tensor:
    """[N, V] log-probabilities, one block at a time, from the model's own logits."""
    with torch.inference_mode():
        logits = [lm.model(row[None]).logits[0].double() for row in blocks.ids]
    return torch.log_softmax(torch.cat(logits), dim=-1)


def test_pass_equals_brute_force_on_every_head_style(tiny_lm: Any) -> None:
    blocks = _blocks(tiny_lm)
    found = detect(tiny_lm, blocks, cache=False, progress=False)
    log_p = _brute_force(tiny_lm, blocks)
    N = len(log_p)
    torch.testing.assert_close(
        found.log_a_rows, torch.logsumexp(log_p, 0) - math.log(N), rtol=0, atol=1e-5
    )
    torch.testing.assert_close(found.mean_log_p_rows, log_p.mean(0), rtol=0, atol=1e-5)
    known = found.targets >= 0
    expected = log_p[torch.arange(N)[known], found.targets[known]]
    torch.testing.assert_close(found.target_log_p[known], expected, rtol=0, atol=1e-5)
    assert found.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-5)
    assert int((~known).sum()) == len(blocks.ids)


def test_hidden_states_and_log_partition_give_every_log_probability(tiny_lm: Any) -> None:
    blocks = _blocks(tiny_lm)
    found = detect(tiny_lm, blocks, cache=False, progress=False)
    logits = found.h @ tiny_lm.E.T + (0 if tiny_lm.b is None else tiny_lm.b)
    expected = _brute_force(tiny_lm, blocks)
    torch.testing.assert_close(logits.double() - found.z[:, None], expected, rtol=0, atol=1e-5)


def test_first_order_is_exact_and_jensens_gap_is_never_negative(tiny_lm: Any) -> None:
    found = detect(tiny_lm, _blocks(tiny_lm), cache=False, progress=False)
    closed = theory.first_order(tiny_lm.head, found.h, found.z)
    torch.testing.assert_close(closed, -found.mean_log_p, rtol=0, atol=1e-5)
    assert bool((found.log_a_rows >= found.mean_log_p_rows - 1e-6).all())


def test_variance_of_log_probability_equals_brute_force(tiny_lm: Any) -> None:
    blocks = _blocks(tiny_lm)
    found = detect(tiny_lm, blocks, cache=False, progress=False)
    closed = theory.log_probability_variance(tiny_lm.E, found.h, found.z)
    expected = _brute_force(tiny_lm, blocks).var(0, correction=0)
    torch.testing.assert_close(closed, expected, rtol=1e-3, atol=1e-5)


def test_groups_make_up_the_whole_and_last_positions_are_the_blocks_ends(tiny_lm: Any) -> None:
    blocks = _blocks(tiny_lm, n_blocks=7)
    found = detect(tiny_lm, blocks, cache=False, progress=False)
    groups = torch.arange(len(found.log_a_groups_rows))
    torch.testing.assert_close(found.y_of_groups(groups), found.y, rtol=0, atol=1e-5)
    assert int(found.group_sizes.sum()) == found.n_positions == blocks.n_positions
    last = detect(tiny_lm, blocks, positions="last", cache=False, progress=False)
    assert last.n_positions == 7
    torch.testing.assert_close(last.h, found.h[15::16])
    assert bool((last.targets == -1).all())


def test_blocks_do_not_see_each_other() -> None:
    lm = tiny.language_model("untied")
    blocks = _blocks(lm)
    alone = detect(lm, blocks.select(3, 4), cache=False, progress=False)
    together = detect(lm, blocks, cache=False, progress=False)
    torch.testing.assert_close(alone.h, together.h[48:64])


def test_more_blocks_than_groups_keep_the_sum() -> None:
    lm = tiny.language_model("tied")
    blocks = _blocks(lm, n_blocks=inference.MAX_GROUPS + 9, length=8)
    found = detect(lm, blocks, cache=False, progress=False)
    assert len(found.log_a_groups_rows) == inference.MAX_GROUPS
    expected = torch.logsumexp(_brute_force(lm, blocks), 0) - math.log(blocks.n_positions)
    torch.testing.assert_close(found.log_a_rows, expected, rtol=0, atol=1e-5)


def test_groups_are_documents_also_where_these_end_within_a_block() -> None:
    ids = torch.zeros(4, 8, dtype=torch.int64)
    ends = torch.tensor([1, 5, 6, 13, 14, 20, 21, 30, 32])
    documents = torch.searchsorted(ends, torch.arange(32), right=True).reshape(4, 8)
    blocks = corpora.from_ids(ids, corpus="prose", documents=7 * documents)
    assert torch.equal(inference.groups_of_text(blocks), documents)
    assert inference.groups_of_text(blocks, "last").flatten().tolist() == [0, 1, 2, 3]
    few = corpora.from_ids(ids, corpus="prose", documents=documents.clamp(max=3))
    assert torch.equal(inference.groups_of_text(few)[:, 0], torch.arange(4))
    assert blocks.select(1, 2).n_documents == int(documents[1].unique().numel())


@given(sizes=st.lists(st.integers(1, 40), min_size=130, max_size=400))
@settings(max_examples=20, deadline=None)
def test_many_documents_share_groups_and_none_is_divided(sizes: list[int]) -> None:
    document = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    ids = torch.zeros(len(document), 1, dtype=torch.int64)
    blocks = corpora.from_ids(ids, corpus="prose", documents=document[:, None])
    groups = inference.groups_of_text(blocks).flatten()
    assert 2 <= int(groups.max()) + 1 <= inference.MAX_GROUPS
    for one in range(len(sizes)):
        assert len(groups[document == one].unique()) == 1
    assert bool((groups.diff() >= 0).all())
    assert int(groups.diff().max()) == 1


def test_sums_of_documents_that_lie_in_several_shards(monkeypatch: Any) -> None:
    monkeypatch.setattr(inference, "_SHARD_POSITIONS", {"cpu": 16})
    lm = tiny.language_model("tied")
    plain = _blocks(lm, n_blocks=9, length=8)
    documents = torch.repeat_interleave(
        torch.arange(9), torch.tensor([1, 30, 1, 9, 1, 2, 20, 7, 1])
    )
    blocks = corpora.from_ids(plain.ids, corpus="prose", documents=documents.reshape(9, 8))
    found = detect(lm, blocks, cache=False, progress=False)
    assert torch.equal(found.group, documents)
    log_p = _brute_force(lm, blocks)
    for group in range(9):
        mine = log_p[documents == group]
        expected = torch.logsumexp(mine, 0) - math.log(len(mine))
        torch.testing.assert_close(
            found.log_a_groups_rows[group].double(), expected, rtol=0, atol=1e-5
        )
    torch.testing.assert_close(found.y_of_groups(torch.arange(9)), found.y, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40),
    chunk=st.integers(1, 17),
    scale=st.sampled_from([0.1, 3.0, 60.0]),
    seed=st.integers(0, 10**6),
)
def test_head_sums_for_any_chunk_also_where_probabilities_underflow(
    n: int, chunk: int, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    E = torch.randn(50, 6, generator=generator) * scale
    h, b = torch.randn(n, 6, generator=generator), torch.randn(50, generator=generator)
    log_p = torch.log_softmax(h.double() @ E.double().T + b.double(), dim=1)
    sums = Head(E, b).sums(chunk=chunk)
    z = sums.add(h)
    tolerance = 1e-5 * max(1.0, scale)
    expected = torch.logsumexp(log_p, 0) - math.log(n)
    torch.testing.assert_close(sums.log_a, expected, rtol=1e-5, atol=tolerance)
    torch.testing.assert_close(sums.mean_log_p, log_p.mean(0), rtol=1e-5, atol=tolerance)
    assert z.shape == (n,)
    assert bool(sums.log_a.isfinite().all()), "no token is lost to underflow"


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_sums_of_groups_are_those_of_each_alone_wherever_chunks_end(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(50, 6, generator=generator) * 40
    h, b, sizes = torch.randn(17, 6, generator=generator), torch.randn(50), [1, 5, 0, 9, 2]
    sums = Head(E, b).sums(chunk=chunk)
    z = sums.add(h, sizes)
    assert sums.log_sum_groups.shape == (5, 50)
    for size, part, level, found in zip(
        sizes, h.split(sizes), z.split(sizes), sums.log_sum_groups, strict=True
    ):
        alone = Head(E, b).sums()
        if size:
            torch.testing.assert_close(alone.add(part), level, rtol=0, atol=1e-5)
            torch.testing.assert_close(found, alone.log_sum, rtol=1e-5, atol=1e-4)
        else:
            assert bool((found == -torch.inf).all()), "a group without positions has no probability"
    torch.testing.assert_close(sums.log_sum, torch.logsumexp(sums.log_sum_groups, 0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hidden_states_in_half_precision_are_taken_as_the_numbers_that_they_are(
    dtype: torch.dtype,
) -> None:
    generator = torch.Generator().manual_seed(0)
    half = (torch.randn(50, 6, generator=generator) * 0.3).to(dtype)
    h = torch.randn(17, 6, generator=generator).to(dtype)
    E = 0.125 * half.float()
    kept, plain = Head(E, half=half, scale=0.125).sums(), Head(E).sums()
    torch.testing.assert_close(kept.add(h), plain.add(h.float()), rtol=0, atol=0)
    torch.testing.assert_close(kept.log_a, plain.log_a, rtol=0, atol=0)
    torch.testing.assert_close(kept.mean_log_p, plain.mean_log_p, rtol=0, atol=0)


def test_logits_of_the_mean_are_the_mean_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(50, 6, generator=generator), torch.randn(50, generator=generator))
    h = torch.randn(17, 6, generator=generator)
    expected = head.logits(h).double().mean(0)
    torch.testing.assert_close(head.logits_of_mean(h.double().mean(0)), expected)


def test_underflowing_tokens_are_beyond_float32() -> None:
    """The control: without log space some of these sums are zero."""
    E = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 60
    h = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    assert bool((torch.softmax(h @ E.T, dim=1).sum(0) == 0).any())
    assert bool(Head(E).log_mean_p(h).isfinite().all())


def test_float64_model_agrees_to_rounding() -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    tiny.need_float64_logits(lm)
    blocks = _blocks(lm)
    sums = lm.head.sums()
    with torch.inference_mode():
        from probenc_support.models import hidden_states

        sums.add(hidden_states(lm, blocks.ids).flatten(0, 1))
    expected = torch.logsumexp(_brute_force(lm, blocks), 0) - math.log(blocks.n_positions)
    torch.testing.assert_close(sums.log_a, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_what_a_nearly_certain_token_leaves_keeps_its_digits(seed: int) -> None:
    """1 - p, from a float64 logit and z; the logits are sums of large terms that cancel."""
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(40, 256, generator=generator) * 20
    E = torch.randn(300, 256, generator=generator) * 0.01
    best, b = torch.arange(40), torch.randn(300, generator=generator)
    E[best] += 12.0 * h / h.square().sum(1, keepdim=True)
    common = torch.randn(256, generator=generator)
    E, h = E + 10 * common, h - torch.outer(h @ common, common) / (common @ common)
    logits = h.double() @ E.double().T + b.double()
    rest = logits.index_put((best, best), torch.tensor(-torch.inf, dtype=torch.float64))
    expected = (torch.logsumexp(rest, 1) - torch.logsumexp(logits, 1)).exp()
    likely = expected < 0.5
    assert int(likely.sum()) >= 20
    top = logits[best, best]
    plain = torch.logsumexp((h @ E.T + b).double(), 1)
    for z, holds in ((Head(E, b).sums(chunk=16).add(h), True), (plain, False)):
        off = (-torch.expm1(top - z) - expected)[likely].abs()
        # Between the rounding of the other tokens' logits (2e-3 in the worst arithmetic tried) and
        # that of the likely one (0.17 in the mildest), ten times from either.
        assert bool((off <= 2e-2 * expected[likely] + 5e-6).all()) == holds


# ------------------------------------------------------------------------------------------- cache


def _equal(one: inference.Detection, other: inference.Detection) -> None:
    for field in dataclasses.fields(inference.Detection):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, torch.Tensor):
            torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)


def test_second_pass_comes_from_the_cache_and_is_the_same(own_cache: Path) -> None:
    lm = tiny.language_model("untied")
    first = detect(lm, _blocks(lm), progress=False)
    second = detect(lm, _blocks(lm), progress=False)
    assert not first.from_cache
    assert second.from_cache
    assert second.seconds == first.seconds
    _equal(first, second)


def test_other_model_text_or_positions_are_other_entries(own_cache: Path) -> None:
    lm, other = tiny.language_model("untied"), tiny.language_model("untied", seed=1)
    blocks = _blocks(lm)
    detect(lm, blocks, progress=False)
    assert not detect(other, blocks, progress=False).from_cache
    assert not detect(lm, blocks.select(0, 4), progress=False).from_cache
    assert not detect(lm, blocks, positions="last", progress=False).from_cache


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_part_is_made_again(
    own_cache: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tiny.language_model("untied")
    first = detect(lm, _blocks(lm), progress=False)
    (part,) = (own_cache / "passes").rglob("*.safetensors")
    content = bytearray(part.read_bytes())
    if damage == "flipped":
        content[-1000] ^= 0xFF
    part.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "text": b"not a tensor"}.get(
            damage, bytes(content)
        )
    )
    again = detect(lm, _blocks(lm), progress=False)
    assert not again.from_cache
    assert "damaged" in capsys.readouterr().err
    again = detect(lm, _blocks(lm), progress=False)
    assert again.from_cache
    _equal(first, again)


def _detect_in_parts(made: Any, killed_after: int) -> None:
    """A pass in parts of 16 positions, which are counted; signal 9 at one of them."""
    inference._SHARD_POSITIONS["cpu"] = 16
    compute = inference._Plan.compute

    def counted(plan: Any, shard: int, progress: Any) -> Any:
        made.value += 1
        if made.value == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(plan, shard, progress)

    inference._Plan.compute = counted  # type: ignore[method-assign]
    lm = tiny.language_model("untied")
    detect(lm, _blocks(lm), progress=False)


def test_killed_pass_resumes_where_it_stood(own_cache: Path) -> None:
    # What is computed and what is written are lost, so of the three before at least two are kept.
    for killed_after, exit_code, parts in ((4, -signal.SIGKILL, (4,)), (99, 0, (5, 6))):
        made = warm.CONTEXT.Value("i", 0, lock=False)
        process = warm.start(_detect_in_parts, made, killed_after)
        process.join()
        assert process.exitcode == exit_code
        assert made.value in parts
    lm = tiny.language_model("untied")
    fresh = detect(lm, _blocks(lm), cache=False, progress=False)
    old = inference._SHARD_POSITIONS["cpu"]
    inference._SHARD_POSITIONS["cpu"] = 16
    try:
        kept = detect(lm, _blocks(lm), progress=False)
    finally:
        inference._SHARD_POSITIONS["cpu"] = old
    assert kept.from_cache
    torch.testing.assert_close(kept.h, fresh.h)
    torch.testing.assert_close(kept.log_a, fresh.log_a, rtol=0, atol=1e-6)


def _detect_in_process(queue: Any) -> None:
    lm = tiny.language_model("untied")
    queue.put(detect(lm, _blocks(lm), progress=False).from_cache)


def test_two_processes_share_one_pass(own_cache: Path) -> None:
    queue = warm.CONTEXT.Queue()
    workers = [warm.start(_detect_in_process, queue) for _ in range(2)]
    answers = sorted(queue.get(timeout=240) for _ in workers)
    for worker in workers:
        worker.join()
    assert answers == [False, True], "one made it, the other waited and read it"


def test_size_limit_drops_the_oldest_pass(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny.language_model("untied")
    detect(lm, _blocks(lm), progress=False)
    (old,) = (own_cache / "passes").iterdir()
    os.utime(old, (1, 1))
    monkeypatch.setenv("PROBENC_CACHE_GB", "0.0000001")
    detect(lm, _blocks(lm, n_blocks=4), progress=False)
    (kept,) = (own_cache / "passes").iterdir()
    assert kept != old


@pytest.mark.parametrize(("n", "count"), [(1, 1), (7, 1), (9, 7), (16384, 2048), (151643, 500)])
def test_places_are_evenly_spread_in_whole_numbers(n: int, count: int) -> None:
    """A rounded `torch.linspace` gives the last two otherwise, with and without AVX2 even unlike
    one another."""
    exact = [Fraction(i * (n - 1), max(1, count - 1)) for i in range(count)]
    found = inference.evenly(n, count).tolist()
    assert found == [math.floor(place + Fraction(1, 2)) for place in exact]


def test_bad_positions_and_long_sequences_are_refused() -> None:
    lm = tiny.language_model("untied")
    with pytest.raises(InputError, match="use all or last"):
        detect(lm, _blocks(lm), positions="first")
    with pytest.raises(InputError, match="longer than the context"):
        detect(lm, _blocks(lm, n_blocks=2, length=tiny.CONTEXT + 1))


@pytest.mark.gpu
def test_gpu_pass_agrees_with_the_cpu() -> None:
    on_cpu = tiny.language_model("bias")
    reference = detect(on_cpu, _blocks(on_cpu), cache=False, progress=False)
    from probenc_support.models import wrap

    on_gpu = wrap(tiny.model("bias").cuda(), tiny.tokenizer(), name="gpu")
    found = detect(on_gpu, _blocks(on_gpu), cache=False, progress=False)
    torch.testing.assert_close(found.log_a_rows, reference.log_a, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [1.0, 0.0625])
def test_a_product_of_half_precision_on_a_gpu_is_as_exact_as_one_of_float32(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    half = (torch.randn(5000, 512, generator=generator) * 0.3 / scale).bfloat16().cuda()
    h = (torch.randn(700, 512, generator=generator) / 8).bfloat16().cuda()
    E, sizes = scale * half.float(), [100, 400, 200]
    exact = Head(E.double().cpu()).sums()
    z = exact.add(h.double().cpu(), sizes)
    for head in (Head(E, half=half, scale=scale), Head(E)):
        sums = head.sums(chunk=256)
        torch.testing.assert_close(sums.add(h, sizes).cpu(), z, rtol=0, atol=2e-5)
        found = sums.log_sum_groups.cpu()
        torch.testing.assert_close(found, exact.log_sum_groups, rtol=0, atol=2e-5)
        torch.testing.assert_close(sums.mean_log_p.cpu(), exact.mean_log_p, rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_sums_on_a_gpu_wait_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    half = (torch.randn(5000, 512) * 0.05).bfloat16().cuda()
    h, sums = torch.randn(700, 512).bfloat16().cuda(), Head(half.float(), half=half).sums(chunk=64)
    monkeypatch.setattr(sums, "_logs", lambda p_sums, *_: p_sums)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums.add(h, [100, 400, 200])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.real_model
def test_real_pass_equals_the_models_own_logits(real_lm: Any) -> None:
    blocks = corpora.blocks("python-manual", real_lm.tokenizer, n_positions=128, sequence_length=64)
    found = detect(real_lm, blocks, cache=False, progress=False)
    log_p = _brute_force(real_lm, blocks)
    expected = torch.logsumexp(log_p, 0) - math.log(len(log_p))
    torch.testing.assert_close(found.log_a_rows, expected, rtol=0, atol=1e-5)
