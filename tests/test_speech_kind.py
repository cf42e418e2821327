"""Models that hear: what is spoken, what is heard once and kept, and what the decoder is given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import need_espeak
from torch import Tensor
from transformers import WhisperFeatureExtractor

from probenc_support import __main__ as command_line
from probenc_support import cache, corpora, generation, inference, models, pruning
from probenc_support.corpora import speech
from probenc_support.errors import InputError
from probenc_support.models.kinds import Speech, heard
from probenc_support.pruning import pruned_head, spoken
from probenc_support.steering import editing

pytestmark = [need_espeak, pytest.mark.usefixtures("module_cache")]

START = tuple(tiny.VOCABULARY + i for i in (0, 1, 4, 8))
"""Beginning, English, transcribe, no times."""


def whisper(**changes: Any) -> Any:
    """The tiny Whisper as the package sees it."""
    made = tiny.whisper(seed=changes.pop("seed", 0))
    return models.wrap(made, tiny.whisper_tokenizer(), name="tiny-whisper", **changes)


@pytest.fixture(scope="module")
def lm(module_cache: None) -> Any:
    return whisper()


def ids_of(text: str, n: int = 24) -> Tensor:
    ids = tiny.whisper_tokenizer().encode(text, add_special_tokens=False)
    return torch.tensor([ids[:n], ids[n : 2 * n]])


IDS = ids_of(tiny.prose()[300:900])


# ------------------------------------------------------------------------------------- what it is


def test_a_whisper_is_told_and_knows_its_start(lm: Any) -> None:
    assert isinstance(lm.kind, Speech)
    assert lm.kind.start == START
    assert lm.first_token is None
    assert lm.context_length == 128 * tiny.SECONDS // 30
    assert lm.tied


def test_only_text_is_text(lm: Any) -> None:
    """Control tokens and the rows of times beyond the tokenizer's own are in E and no tokens."""
    assert tiny.VOCABULARY + len(tiny.CONTROL) + 7 == lm.V
    # Token 0 of this tokenizer is the end of the text.
    assert lm.tokens.tolist() == list(range(1, tiny.VOCABULARY))
    assert torch.equal(models.targets(lm, IDS), IDS)


def test_a_whisper_of_english_alone_is_told_neither_language_nor_task() -> None:
    made = tiny.whisper()
    made.generation_config.is_multilingual = False
    lm = models.wrap(made, tiny.whisper_tokenizer(), name="tiny")
    assert lm.kind.start == (START[0], START[3])


def test_what_is_no_whisper_is_refused() -> None:
    with pytest.raises(InputError, match=r"no token <\|startoftranscript\|>"):
        models.wrap(tiny.whisper(), tiny.tokenizer(), name="tiny")
    with pytest.raises(InputError, match="is a speech model"):
        whisper(first_token="a")
    other = tiny.whisper()
    other.config.model_type = "moonshine"
    with pytest.raises(InputError, match="Whisper alone"):
        models.wrap(other, tiny.whisper_tokenizer(), name="tiny")


# -------------------------------------------------------------------------------- what it computes


@torch.inference_mode()
def by_hand(lm: Any, prompts: Tensor, new: Tensor) -> Tensor:
    """[B, n + 1, d] block by block and token by token, from the waveform on."""
    extract = WhisperFeatureExtractor(feature_size=tiny.MELS, chunk_length=tiny.SECONDS)
    rows = []
    for block, written in zip(prompts, new, strict=True):
        text = lm.tokenizer.decode(block.tolist(), clean_up_tokenization_spaces=False)
        samples = speech.spoken(text.replace("\ufffd", ""), seconds=tiny.SECONDS).samples
        features = extract(samples, sampling_rate=16_000, return_tensors="pt").input_features
        said = lm.model.model.encoder(features).last_hidden_state.half().float()
        states = []
        for n in range(len(written) + 1):
            read = torch.tensor([[*START, *written[:n].tolist()]])
            out = lm.model.model.decoder(input_ids=read, encoder_hidden_states=said)
            states.append(out.last_hidden_state[0, -1])
        rows.append(torch.stack(states))
    return torch.stack(rows)


@torch.inference_mode()
def test_states_are_those_of_a_decoder_that_has_written_the_tokens_before(lm: Any) -> None:
    wanted = by_hand(lm, IDS, IDS[:, :-1])
    found = models.hidden_states(lm, IDS)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(models.logits(lm, IDS), wanted @ lm.E.T, rtol=0, atol=1e-3)
    spread = (found[:, 1:] - found[:, :-1]).abs().amax()
    assert spread > 0.1, "a position too early or too late would be seen"


@torch.inference_mode()
def test_the_decoder_goes_on_after_prompts_that_it_hears(lm: Any) -> None:
    prompts, new = IDS[:, :12], IDS[:, 12:16]
    wanted = by_hand(lm, prompts, new)
    torch.testing.assert_close(models.continued(lm, prompts, new), wanted, rtol=0, atol=1e-4)
    for n in range(5):
        # Other prompts in between, since what was made of the last ones is kept.
        for order in ([0, 1], [1, 0], [0, 1]):
            state = models.next_state(lm, prompts[order], new[order, :n])
            torch.testing.assert_close(state, wanted[order, n], rtol=0, atol=1e-4)
    many = prompts.repeat(10, 1)
    state = models.next_state(lm, many, new.repeat(10, 1))
    torch.testing.assert_close(state, wanted[:, -1].repeat(10, 1), rtol=0, atol=1e-4)


def test_what_was_said_changes_all_positions_and_what_is_written_later_ones(lm: Any) -> None:
    other = IDS.clone()
    other[:, 10] = (other[:, 10] + 1) % tiny.VOCABULARY
    written = models.continued(lm, IDS, other[:, :-1]) - models.hidden_states(lm, IDS)
    assert written[:, :11].abs().max() < 1e-5
    assert (written[:, 11:].abs().amax(dim=(0, 2)) > 1e-4).all()
    said = models.continued(lm, other, IDS[:, :-1]) - models.hidden_states(lm, IDS)
    assert (said.abs().amax(dim=(0, 2)) > 1e-6).all()


def test_a_pass_predicts_every_token_of_the_text(lm: Any, text_file: Path) -> None:
    blocks = corpora.blocks(str(text_file), lm.tokenizer, n_positions=96, sequence_length=24)
    found = inference.detect(lm, blocks, progress=False)
    assert torch.equal(found.targets.reshape(4, 24), blocks.ids)
    log_p = torch.log_softmax(models.logits(lm, blocks.ids).double(), dim=2)
    own = log_p.gather(2, blocks.ids[:, :, None]).flatten()
    torch.testing.assert_close(found.target_log_p, own, rtol=0, atol=1e-4)
    assert len(found.y) == len(lm.tokens)
    with pytest.raises(InputError, match=f"sequence_length 35 .* {lm.context_length}"):
        inference.detect(lm, corpora.from_ids(torch.ones(1, 35).long(), corpus="x"))


def test_many_texts_are_drawn_in_parts(lm: Any) -> None:
    """Word by word the same as one text at a time, and only text."""
    prompts = IDS[:, :8].repeat(9, 1)
    drawn = generation.sample(lm, prompts, n_tokens=4, temperature=0).ids
    assert drawn.shape == (18, 4)
    assert torch.isin(drawn, lm.tokens).all()
    for i in range(2):
        alone = generation.sample(lm, prompts[i : i + 1], n_tokens=4, temperature=0).ids
        assert (drawn[i::2] == alone).all()
        assert torch.equal(by_greed(lm, prompts[i : i + 1], 4), alone)


def test_pruned_heads_write_what_they_hear(lm: Any) -> None:
    """Several heads over one body, in parts: the states are those of what each has written."""
    head = pruned_head.from_basis(lm, pruning.zero_basis(torch.arange(lm.d)), lm.d // 2)
    prompts = IDS[:, :8].repeat(9, 1)
    heads = {"own": None, "half": head}
    found = spoken.speak(lm, heads, prompts, n_tokens=3, seeds={"own": 0, "half": 0})
    assert not torch.equal(found["own"].samples.ids, found["half"].samples.ids)
    for one in found.values():
        assert torch.isin(one.samples.ids, lm.tokens).all()
        last = by_hand(lm, prompts[:2], one.samples.ids[:2])[:, -1]
        torch.testing.assert_close(torch.from_numpy(one.features[:2]), last, rtol=0, atol=1e-4)
    with pruned_head.swapped(lm, head):
        logits = models.logits(lm, IDS)
    given = head(models.hidden_states(lm, IDS))
    torch.testing.assert_close(logits, given, rtol=0, atol=1e-4)


def by_greed(lm: Any, prompts: Tensor, n: int) -> Tensor:
    """The likeliest text token after the other, from states by hand."""
    new = prompts[:, :0]
    for _ in range(n):
        with torch.inference_mode():
            logits = by_hand(lm, prompts, new)[:, -1] @ lm.E.T
        best = lm.tokens[logits[:, lm.tokens].argmax(dim=1)]
        new = torch.cat([new, best[:, None]], dim=1)
    return new


# --------------------------------------------------------------------------------- what it keeps


def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing can be spoken."""

    def spoken(text: str, *, seconds: float) -> speech.Speech:
        raise AssertionError(f"spoken again: {text}")

    monkeypatch.setattr(speech, "spoken", spoken)


def test_a_text_is_heard_once(monkeypatch: pytest.MonkeyPatch, lm: Any) -> None:
    first = models.hidden_states(lm, IDS)
    deaf(monkeypatch)
    assert torch.equal(models.hidden_states(lm, IDS), first)
    assert torch.equal(models.hidden_states(whisper(), IDS), first), "the same model, loaded anew"
    plain = models.logits(lm, IDS)
    change = torch.arange(lm.d, dtype=torch.float64)[None]
    with editing.edited_rows(lm, torch.tensor([5]), change) as edited:
        assert torch.equal(models.hidden_states(edited, IDS), first), "its encoder is the same"
        assert not torch.equal(models.logits(edited, IDS), plain)
    with pytest.raises(AssertionError, match="spoken again"):
        whisper(seed=1)


def test_what_is_damaged_is_made_again(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = whisper()
    first = models.hidden_states(lm, IDS)
    files = sorted((own_cache / "speech").iterdir())
    assert {entry.path for entry in cache.entries()} == set(files), "listed, so that it is bounded"
    for file in files:
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
    assert torch.equal(models.hidden_states(lm, IDS), first)
    assert "damaged" in capsys.readouterr().err
    files[0].write_bytes(b"")
    assert torch.equal(models.hidden_states(lm, IDS), first)


def test_the_cache_lists_spoken_texts_in_one_line(
    own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models.hidden_states(whisper(), IDS)
    capsys.readouterr()
    assert command_line.main(["cache"]) == 0
    listed = capsys.readouterr().out
    assert f"speech ({len(list((own_cache / 'speech').iterdir()))} spoken texts)" in listed
    assert ".safetensors" not in listed


def test_what_is_kept_stays_within_the_limit(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = whisper()
    size = next((own_cache / "speech").iterdir()).stat().st_size
    monkeypatch.setenv("PROBENC_CACHE_GB", str(2.5 * size / 1e9))
    for start in range(0, 20, 5):
        models.hidden_states(lm, IDS[:, start : start + 4])
        assert len(list((own_cache / "speech").iterdir())) <= 2


def test_a_text_that_is_too_long_is_told(
    own_cache: Path, capsys: pytest.CaptureFixture[str], lm: Any
) -> None:
    long = "one hundred and twenty three thousand four hundred and fifty six, " * 4
    ids = torch.tensor([lm.tokenizer.encode(long, add_special_tokens=False)])
    assert isinstance(lm.kind, Speech)
    (hearing,) = lm.kind.hearings(lm.model, ids)
    assert hearing.rate == speech.RATES[-1]
    assert 0.2 < hearing.heard < 0.95
    assert "sequence_length" in capsys.readouterr().err
    (short,) = lm.kind.hearings(lm.model, IDS[:1])
    assert (short.rate, short.heard) == (speech.RATES[0], 1)
    assert capsys.readouterr().err == ""


def test_what_was_spoken_and_not_heard_is_in_the_provenance(own_cache: Path, lm: Any) -> None:
    told = lm.kind.told(lm.model, IDS)
    assert told["blocks_spoken_faster"] == told["blocks_not_heard_to_their_end"] == 0
    assert told["speech"].startswith(speech.version())
    ids = lm.tokenizer.encode("999,999,999 " * 12, add_special_tokens=False)
    both = lm.kind.told(lm.model, torch.tensor([ids, (ids[:4] + [221] * len(ids))[: len(ids)]]))
    assert both["blocks_spoken_faster"] == both["blocks_not_heard_to_their_end"] == 1


def test_halves_of_characters_at_the_ends_of_a_block_are_not_spoken(lm: Any) -> None:
    whole = lm.tokenizer.encode("\u4e2d caf\u00e9", add_special_tokens=False)
    assert lm.kind._texts(torch.tensor([whole[1:]])) == [" caf\u00e9"]


def test_without_the_program_a_sentence_says_what_to_install(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, lm: Any
) -> None:
    speech.version.cache_clear()
    monkeypatch.setattr(speech, "PROGRAM", "espeak-ng-that-is-not-there")
    with pytest.raises(InputError, match="apt-get install espeak-ng"):
        models.hidden_states(replace(lm, name="other"), IDS)


def test_kept_states_depend_on_how_text_is_spoken(monkeypatch: pytest.MonkeyPatch, lm: Any) -> None:
    before = heard.facts()
    monkeypatch.setattr(speech, "RATES", (150, 200))
    assert heard.facts() != before
    assert lm.kind.facts[-len(before) :] == heard.facts()
