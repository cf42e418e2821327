"""What a model reads before every text, and what depends on it."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from probenc_support import corpora, generation, inference, models, steering
from probenc_support.errors import InputError
from probenc_support.models.first_token import probe_first_token

FIRST = "<|endoftext|>"


def tokenizer(*, puts_first: bool) -> PreTrainedTokenizerFast:
    """The tiny tokenizer, with or without a token that it puts before a text."""
    plain = tiny.tokenizer()
    made = PreTrainedTokenizerFast(
        tokenizer_object=type(plain.backend_tokenizer).from_str(plain.backend_tokenizer.to_str()),
        bos_token=FIRST,
        eos_token=FIRST,
    )
    if puts_first:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{FIRST} $A", pair=f"{FIRST} $A $B", special_tokens=[(FIRST, 0)]
        )
    return made


def wrapped(first_token: str, *, puts_first: bool = True, style: str = "untied") -> Any:
    return models.wrap(
        tiny.model(style), tokenizer(puts_first=puts_first), name="tiny", first_token=first_token
    )


@pytest.mark.parametrize(
    ("wanted", "puts_first", "expected"),
    [("auto", True, 0), ("auto", False, None), ("none", True, None), (FIRST, False, 0)],
)
def test_what_the_tokenizer_puts_first(wanted: str, puts_first: bool, expected: Any) -> None:
    lm = wrapped(wanted, puts_first=puts_first)
    assert lm.first_token == expected
    assert lm.first_token_text == ("none" if expected is None else FIRST)
    assert lm.context_length == tiny.CONTEXT - (expected is not None)


def test_an_unknown_first_token_is_refused() -> None:
    with pytest.raises(InputError, match="tokens of tiny"):
        wrapped("<bos>")


def test_several_tokens_before_a_text_are_named() -> None:
    made = tokenizer(puts_first=False)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} {FIRST} $A", pair=f"{FIRST} $A $B", special_tokens=[(FIRST, 0)]
    )
    with pytest.raises(InputError, match="puts 2 tokens before a text"):
        models.wrap(tiny.model("untied"), made, name="tiny", first_token="auto")


@pytest.mark.parametrize("style", tiny.STYLES)
def test_the_pass_reads_it_before_every_block_at_no_position(style: str, text_file: Path) -> None:
    """Against the model's own distribution after the token and the block, position by position."""
    lm = wrapped("auto", style=style)
    blocks = corpora.blocks(
        str(text_file), lm.tokenizer, n_positions=120, sequence_length=24,
        context_length=lm.context_length,
    )  # fmt: skip
    assert 0 not in blocks.ids
    found = inference.detect(lm, blocks, cache=False, progress=False)
    assert found.n_positions == blocks.n_positions
    ids = torch.cat([torch.zeros_like(blocks.ids[:, :1]), blocks.ids], dim=1)
    with torch.inference_mode():
        log_p = torch.log_softmax(lm.model(ids).logits[:, 1:].double(), dim=-1).flatten(0, 1)
    a = torch.logsumexp(log_p, dim=0) - torch.tensor(float(len(log_p))).log()
    torch.testing.assert_close(found.log_a_rows, a, rtol=0, atol=1e-5)
    plain = inference.detect(wrapped("none", style=style), blocks, cache=False, progress=False)
    change = (plain.log_a_rows - found.log_a_rows).abs().max()
    assert float(change) > 1e-3, "and it makes a difference"


def test_the_cache_tells_readings_apart(own_cache: Path, text_file: Path) -> None:
    for first_token in ("auto", "none"):
        lm = wrapped(first_token)
        blocks = corpora.blocks(str(text_file), lm.tokenizer, n_positions=48, sequence_length=24)
        assert not inference.detect(lm, blocks, progress=False).from_cache
        assert inference.detect(lm, blocks, progress=False).from_cache


def test_generation_and_edits_read_it(text_file: Path) -> None:
    lm = wrapped("auto")
    blocks = corpora.blocks(str(text_file), lm.tokenizer, n_positions=96, sequence_length=24)
    drawn = generation.sample(lm, blocks.ids[:, :8], n_tokens=1, temperature=0)
    with torch.inference_mode():
        ids = torch.cat([torch.zeros_like(blocks.ids[:, :1]), blocks.ids[:, :8]], dim=1)
        logits = lm.model(ids).logits[:, -1, 1:]  # the end of text, token 0, is not drawn
    assert drawn.ids[:, 0].tolist() == (logits.argmax(dim=1) + 1).tolist()
    assert torch.equal(drawn.prompts, blocks.ids[:, :8])
    h = models.hidden_states(lm, blocks.ids).flatten(0, 1)
    error = steering.closed_form_error(
        lm, blocks.ids, torch.tensor([70, 80]), (0.2, 5.0), steering.mean_hidden(h.double().mean(0))
    )
    assert error < 1e-4


class Wants:
    """A forward hook that makes a model's states far too large unless a text begins with FIRST."""

    def __call__(self, module: Any, arguments: Any, given: dict[str, Any], output: Any) -> Any:
        ids = given.get("input_ids", arguments[0] if arguments else None)
        if int(ids[0, 0]) != 0:
            output.last_hidden_state = output.last_hidden_state * 20
        return output


@pytest.mark.parametrize("wants", [True, False])
def test_a_choice_that_is_the_worse_by_far_is_warned_of(
    wants: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.model("untied")
    if wants:
        model.base_model.register_forward_hook(Wants(), with_kwargs=True)
    made = tokenizer(puts_first=True)
    probes = {
        first: probe_first_token(models.wrap(model, made, name="tiny", first_token=first))
        for first in ("auto", "none")
    }
    assert probes["auto"] is not None
    assert probes["none"] is not None
    assert probes["auto"].warning == ""
    assert probes["none"].losses == pytest.approx(probes["auto"].losses, rel=0.01)
    if wants:
        assert "no first token" in probes["none"].warning
        assert f"set the parameter first_token to '{FIRST}'" in probes["none"].warning
    else:
        assert probes["none"].warning == ""


def test_loading_by_name_takes_the_choice(tmp_path: Path) -> None:
    tiny.model("untied").save_pretrained(tmp_path)
    tokenizer(puts_first=True).save_pretrained(tmp_path)
    lm = models.load(tmp_path)
    assert (lm.first_token, lm.probe is not None) == (0, True)
    assert models.load(tmp_path, first_token="none").first_token is None
