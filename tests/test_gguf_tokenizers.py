"""Sentencepiece tokenizers out of GGUF files, on a tiny Gemma 3 that the test writes."""

import functools
import itertools
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiny
import torch
from test_gguf import TEXTS
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from probenc_support import corpora, models
from probenc_support.models import gguf_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
SPACE = "\u2581"


@functools.cache
def vocabulary() -> list[tuple[str, float, int]]:
    """Pieces of a vocabulary, their scores, and their kinds, as llama.cpp writes Gemma's."""
    bpe = Tokenizer(tokenizer_models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=420, show_progress=False)
    bpe.train_from_iterator([tiny.prose().replace("\n", " ")], trainer)
    ids = bpe.get_vocab()
    special = [(piece, -1000.0, CONTROL) for piece in ("<pad>", "<eos>", "<bos>", "<unk>")]
    runs = ["\n", "\n\n", "\n\n\n", "  ", "   ", "    ", "\t", "\t\t", "<b>", "</b>"]
    added = [(piece, -1000.0, USER_DEFINED) for piece in runs]
    numbers = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    letters = [piece for piece in ids if len(piece) == 1]
    merged = sorted((piece for piece in ids if len(piece) > 1), key=ids.__getitem__)
    normal = [(piece, -float(i), NORMAL) for i, piece in enumerate([*merged, *sorted(letters)])]
    return [*special, *added, *numbers, *normal]


def facts(**settings: Any) -> dict[str, Any]:
    """The part of a file's settings that its tokenizer is made from."""
    pieces, scores, kinds = map(list, zip(*vocabulary(), strict=True))
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_space_prefix": False,
    } | {f"tokenizer.ggml.{name}": value for name, value in settings.items()}  # fmt: skip


def made(**settings: Any) -> Any:
    return gguf_tokenizers.tokenizer(Path("tiny.gguf"), facts(**settings))


def oracle(rows: list[tuple[str, float, int]], text: str) -> list[int]:
    """Sentencepiece's byte-pair encoding by its definition, one merge at a time.

    Pieces that a user defined stand where they are, the longest first; of the others the pair that
    makes the piece of best score is joined, the leftmost of equals; what is no piece is its bytes.
    """
    ids = {piece: i for i, (piece, _, _) in enumerate(rows)}
    scores = {piece: score for piece, score, kind in rows if kind == NORMAL}
    fixed = sorted((p for p, _, kind in rows if kind == USER_DEFINED), key=len, reverse=True)
    parts: list[tuple[str, bool]] = []
    while text:
        found = next((piece for piece in fixed if text.startswith(piece)), "")
        parts.append((found, True) if found else (text[0].replace(" ", SPACE), False))
        text = text[len(found) or 1 :]
    while True:
        joins = [
            (-scores[a + b], i)
            for i, ((a, a_fixed), (b, b_fixed)) in enumerate(itertools.pairwise(parts))
            if a + b in scores and not a_fixed and not b_fixed
        ]
        if not joins:
            break
        _, i = min(joins)
        parts[i : i + 2] = [(parts[i][0] + parts[i + 1][0], False)]
    spelt = [[p] if p in ids else [f"<0x{byte:02X}>" for byte in p.encode()] for p, _ in parts]
    return [ids[piece] for pieces in spelt for piece in pieces]


@pytest.mark.parametrize("text", [*TEXTS, "<b>bold</b> \n\n x     y\t\t\tz", SPACE, "a  b", ""])
def test_text_is_read_as_sentencepiece_defines_it(text: str) -> None:
    found = made()(text, add_special_tokens=False)["input_ids"]
    assert found == oracle(vocabulary(), text)


def test_prose_is_read_as_sentencepiece_defines_it_and_comes_back() -> None:
    tokenizer, text = made(), tiny.prose()[3000:5000]
    found = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found == oracle(vocabulary(), text)
    assert len(found) < 0.6 * len(text), "and it is more than letters"
    assert tokenizer.decode(found) == text


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_comes_back(text: str) -> None:
    for prefix in (False, True):
        tokenizer = made(add_space_prefix=prefix)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        # A space that begins a text stands for the one that is put before it, as in transformers.
        assert tokenizer.decode(ids) == (text.removeprefix(" ") if prefix else text)


def test_a_run_of_spaces_is_the_token_that_the_file_names() -> None:
    """transformers sought it as letters that stand for spaces, and the file has spaces."""
    ids = {piece: i for i, (piece, _, _) in enumerate(vocabulary())}
    found = made()("a   b", add_special_tokens=False)["input_ids"]
    assert ids["   "] in found


def test_a_space_goes_before_a_text_where_the_file_says_so_or_nothing() -> None:
    ids = {piece: i for i, (piece, _, _) in enumerate(vocabulary())}
    for settings, first in (({"add_space_prefix": True}, SPACE), ({}, "x")):
        assert made(**settings)("x", add_special_tokens=False)["input_ids"][0] == ids[first]
    silent = facts()
    del silent["tokenizer.ggml.add_space_prefix"]
    tokenizer = gguf_tokenizers.tokenizer(Path("tiny.gguf"), silent)
    assert tokenizer("x", add_special_tokens=False)["input_ids"][0] == ids[SPACE]


@pytest.mark.parametrize(("flag", "first"), [(True, [2]), (False, []), (None, [2])])
def test_the_beginning_of_text_is_the_files(flag: bool | None, first: list[int]) -> None:
    settings = {} if flag is None else {"add_bos_token": flag}
    tokenizer = made(**settings)
    assert tokenizer("")["input_ids"] == first


# ------------------------------------------------------------------------------------------ Gemma 3

NAMES = {
    "model.layers.": "blk.", "model.embed_tokens": "token_embd", "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
"""What transformers and llama.cpp call the same tensor."""


@functools.cache
def gemma() -> Gemma3ForCausalLM:
    """Seven layers, of which the sixth reads far and the others six tokens back."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(vocabulary()), hidden_size=16, intermediate_size=24, num_hidden_layers=7,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=6,
        max_position_embeddings=64, initializer_range=0.3, bos_token_id=2, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def gemma_file(path: Path, *, add_bos: bool = True) -> Path:
    model = gemma()
    config = model.config
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    pieces, scores, kinds = map(list, zip(*vocabulary(), strict=True))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(False)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        # llama.cpp keeps what a norm multiplies by, Gemma what it adds to one.
        array = tensor.numpy() + (1 if "norm" in name else 0)
        for old, new in NAMES.items():
            name = name.replace(old, new)
        writer.add_tensor(name, array.astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gemma_gives_its_own_logits_after_its_beginning_of_text(
    own_cache: Path, tmp_path: Path
) -> None:
    lm = models.load(gemma_file(tmp_path / "gemma.gguf"))
    assert (lm.first_token, lm.first_token_text, lm.tied) == (2, "<bos>", True)
    assert len(lm.tokens) == lm.V == len(vocabulary())
    ids = torch.arange(270, 300)[None]
    with torch.inference_mode():
        expected = gemma()(torch.cat([torch.tensor([[2]]), ids], dim=1)).logits[:, 1:]
        plain = gemma()(ids).logits
    found = models.logits(lm, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert float((found - plain).abs().max()) > 0.01, "and it makes a difference"


def test_gemma_without_a_beginning_of_text_where_the_file_wants_none(
    own_cache: Path, tmp_path: Path
) -> None:
    path = gemma_file(tmp_path / "gemma.gguf", add_bos=False)
    assert models.load(path).first_token is None
    assert models.load(path, first_token="<bos>").first_token == 2


def test_gemma_reads_a_text_out_of_its_conversion(own_cache: Path, tmp_path: Path) -> None:
    """What is read again from the cache is the tokenizer that was made."""
    lm = models.load(gemma_file(tmp_path / "gemma.gguf"))
    for text in TEXTS:
        assert corpora.encode(lm.tokenizer, text) == oracle(vocabulary(), text)
    named = "a literal <bos> and <unk> in a text"
    assert not {0, 1, 2, 3} & set(corpora.encode(lm.tokenizer, named))
