"""GGUF files: whole, converted once, and with the tokenizer that the model was trained with."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import regex
import tiny
import torch
from test_models import gguf_file

from probenc_support import cache, models
from probenc_support.errors import InputError
from probenc_support.models import gguf_conversion, wrapping

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEXTS = (
    "It's 1984, and they'll say we've 12,345.67 reasons; she'd know.",
    "two  spaces,   three 3   and 4    digits  5\n\n\n  six\n\t7 tabs\t\t8\r\n",
    "x=10**3+0x7F; v1.2.3-rc4 2026-11-25T10:00",
    "\u4e2d\u6587\u548c\u65e5\u672c\u8a9e\u3001 \ud55c\uad6d\uc5b4 \u0661\u0662\u0663 \u00bd\u00b2",
    "caf\u00e9 na\u00efve e\u0301 \U0001f600\U0001f1e9\U0001f1ea \U0001f468\u200d\U0001f469 end ",
    " leading, trailing  ",
    "   1",
)
"""Digits, contractions, runs of spaces, newlines, scripts, emoji."""


# --------------------------------------------------------------------------------- whole or refused


def test_a_file_without_a_tensor_is_refused(own_cache: Path, tmp_path: Path) -> None:
    """huggingface/transformers#32266: the rest was filled with random numbers, and cached."""
    path = gguf_file(tmp_path / "part.gguf", leave_out=("blk.1.ffn_down.weight",))
    with pytest.raises(InputError, match=r"lack model\.layers\.1\.mlp\.down_proj\.weight"):
        models.load(path)
    assert not list((own_cache / "models").glob("*"))
    path = gguf_file(tmp_path / "empty.gguf", leave_out=("token_embd.weight",))
    with pytest.raises(InputError, match=r"no token_embd\.weight"):
        models.load(path)


def test_a_tensor_without_a_place_is_refused(own_cache: Path, tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "more.gguf", n_layers_said=1)
    with pytest.raises(InputError, match="does not read this file as it was meant"):
        models.load(path)
    assert not list((own_cache / "models").glob("*"))


def test_one_part_of_a_split_file_is_refused(own_cache: Path, tmp_path: Path) -> None:
    path = gguf_file(
        tmp_path / "tiny-00001-of-00003.gguf", more=lambda w: w.add_uint16("split.count", 3)
    )
    with pytest.raises(InputError, match="one of 3 parts"):
        models.load(path)


def test_conversions_of_other_code_are_not_trusted(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf_file(tmp_path / "tiny.gguf")
    old = own_cache / "models" / f"gguf-{cache.file_hash(path)[:16]}"
    tiny.save(old, "tied", seed=5)
    lm = models.load(path)
    torch.testing.assert_close(lm.E, tiny.language_model("tied").E, rtol=0, atol=1e-6)
    before = gguf_conversion.converted_path("0" * 64)
    monkeypatch.setattr(gguf_conversion, "_VERSION", gguf_conversion._VERSION + 1)
    assert gguf_conversion.converted_path("0" * 64) != before


def test_a_file_says_in_how_few_bits_it_holds_its_weights(own_cache: Path, tmp_path: Path) -> None:
    assert models.load(gguf_file(tmp_path / "tiny.gguf")).quantisation == ""
    body = {"blk.0.a.weight": 900, "blk.1.a.weight": 600, "blk.0.norm.weight": 4}
    sizes = body | {"token_embd.weight": 50}
    types = dict(zip(sizes, ("Q4_1", "Q6_K", "F32", "Q8_0"), strict=True))
    assert gguf_conversion.stored_as(sizes, types) == "Q4_1 and Q6_K body, Q8_0 output embedding"
    untied = types | {"output.weight": "F16"}
    assert gguf_conversion.stored_as(sizes | {"output.weight": 50}, untied) == (
        "Q4_1 and Q6_K body, F16 output embedding"
    )
    assert gguf_conversion.stored_as(sizes, dict.fromkeys(sizes, "BF16")) == ""


def test_what_a_file_says_outlives_its_conversion(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_conversion, "stored_as", lambda sizes, types: "Q4_1 body")
    path = gguf_file(tmp_path / "tiny.gguf")
    assert models.load(path).quantisation == models.load(path).quantisation == "Q4_1 body"


def test_quantised_models_of_transformers_are_told_by_their_configuration() -> None:
    config = tiny.model("tied").config
    assert wrapping.quantisation(config) == ""
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    assert wrapping.quantisation(config) == "gptq, 4 bits"


# ---------------------------------------------------------------------------------------- tokenizer


def merged(piece: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one pre-token by its definition: the lowest rank first."""
    parts = list(piece)
    while len(parts) > 1:
        pairs = [ranks.get(pair, 10**9) for pair in pairwise(parts)]
        if min(pairs) == 10**9:
            break
        i = pairs.index(min(pairs))
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def oracle(
    vocabulary: dict[str, int], merges: list[Any], *, digits_apart: bool
) -> Callable[[str], list[int]]:
    """A byte-level tokenizer from vocabulary and merges alone, written out."""
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    ranks: dict[tuple[str, str], int] = {pair: i for i, pair in enumerate(pairs)}  # type: ignore[misc]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}

    def ids(text: str) -> list[int]:
        pieces = regex.findall(r"\p{N}|\P{N}+", text) if digits_apart else [text]
        words = [word for piece in pieces for word in regex.findall(GPT2, piece)]
        spelt = ["".join(letters[b] for b in word.encode()) for word in words]
        return [vocabulary[part] for word in spelt for part in merged(word, ranks)]

    return ids


def test_digits_stand_alone_where_the_file_says_so(own_cache: Path, tmp_path: Path) -> None:
    """huggingface/transformers#31630, on a vocabulary in which it shows."""
    bpe = json.loads(tiny.tokenizer().backend_tokenizer.to_str())["model"]
    found = {}
    for pre in ("smollm", "gpt-2"):
        lm = models.load(gguf_file(tmp_path / f"{pre}.gguf", pre=pre))
        found[pre] = [lm.tokenizer(t, add_special_tokens=False)["input_ids"] for t in TEXTS]
        expected = oracle(bpe["vocab"], bpe["merges"], digits_apart=pre == "smollm")
        assert found[pre] == [expected(text) for text in TEXTS]
    assert found["smollm"] != found["gpt-2"]


def test_an_unknown_rule_is_refused(own_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="splits text by the rule 'future'"):
        models.load(gguf_file(tmp_path / "tiny.gguf", pre="future"))


@pytest.mark.parametrize("flag", [True, False, None])
def test_the_first_token_is_the_files(own_cache: Path, tmp_path: Path, flag: bool | None) -> None:
    def more(writer: gguf.GGUFWriter) -> None:
        if flag is not None:
            writer.add_add_bos_token(flag)

    lm = models.load(gguf_file(tmp_path / "tiny.gguf", more=more))
    assert lm.first_token == (0 if flag else None)
    assert models.load(tmp_path / "tiny.gguf").first_token == lm.first_token, "from the cache, too"


@pytest.mark.real_model
def test_the_real_model_is_known_to_be_quantised(real_lm: Any) -> None:
    assert real_lm.quantisation == "Q4_1 body, Q8_0 output embedding"


@pytest.mark.real_model
def test_the_real_models_tokenizer_is_the_one_of_its_vocabulary_and_merges(real_lm: Any) -> None:
    """SmolLM2 sets every digit apart; against an independent tokenizer, on many kinds of text."""
    bpe = json.loads(real_lm.tokenizer.backend_tokenizer.to_str())["model"]
    expected = oracle(bpe["vocab"], bpe["merges"], digits_apart=True)
    for text in (*TEXTS, tiny.prose()[:20_000]):
        assert real_lm.tokenizer(text, add_special_tokens=False)["input_ids"] == expected(text)
    tokens = [i for i in real_lm.tokens.tolist() if real_lm.token_kind(i) != "byte or special"]
    chosen = np.random.default_rng(0).choice(tokens, 500, replace=False).tolist()
    assert [real_lm.token_id(real_lm.token_text(i)) for i in chosen] == chosen


def test_what_loading_keeps_is_known_to_the_cache(own_cache: Path, tmp_path: Path) -> None:
    """Else it would be neither listed nor cleared."""
    models.load(gguf_file(tmp_path / "tiny.gguf"))
    listed = [entry.path for entry in cache.entries()]
    assert listed == list((own_cache / "models").iterdir())
    assert cache.clear("models") > 0
    assert not list((own_cache / "models").iterdir())
