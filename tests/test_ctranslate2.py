"""Whisper in CTranslate2's format: read exactly as it was written, or refused with a sentence."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from probenc_support.errors import InputError
from probenc_support.models import ctranslate2_conversion, ctranslate2_file

TYPES = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4, torch.bfloat16: 5}
SETTINGS = {"lang_ids": [], "suppress_ids": [1, 2], "suppress_ids_begin": [3]}


def name(text: str) -> bytes:
    kept = text.encode() + b"\0"
    return struct.pack("<H", len(kept)) + kept


def file_of(
    variables: list[tuple[str, Tensor]],
    aliases: dict[str, str],
    *,
    version: int = 6,
    kind: str = "WhisperSpec",
) -> bytes:
    """The format, written out by its description."""
    made = struct.pack("<I", version) + name(kind) + struct.pack("<II", 3, len(variables))
    for text, array in variables:
        made += name(text) + struct.pack(f"<B{array.dim()}I", array.dim(), *array.shape)
        values = array.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        made += struct.pack("<BI", TYPES[array.dtype], len(values)) + values
    made += struct.pack("<I", len(aliases))
    return made + b"".join(name(a) + name(b) for a, b in aliases.items())


def variables_of(model: WhisperForConditionalGeneration) -> dict[str, Tensor]:
    """What CTranslate2's own converter makes of a model, in float16, written out by hand."""
    state = {key: value.half() for key, value in model.state_dict().items()}
    zero = torch.zeros(model.config.d_model, dtype=torch.float16)
    made: dict[str, Tensor] = {
        "decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"]
    }

    def norm(theirs: str, ours: str) -> None:
        made[f"{theirs}/gamma"] = state[f"{ours}.weight"]
        made[f"{theirs}/beta"] = state[f"{ours}.bias"]

    def linear(theirs: str, *ours: str) -> None:
        made[f"{theirs}/weight"] = torch.cat([state[f"{each}.weight"] for each in ours])
        made[f"{theirs}/bias"] = torch.cat([state.get(f"{each}.bias", zero) for each in ours])

    def attention(theirs: str, ours: str, n_joined: int) -> None:
        q, k, v, out = (f"{ours}.{each}_proj" for each in ("q", "k", "v", "out"))
        if n_joined == 3:
            linear(f"{theirs}/linear_0", q, k, v)
        else:
            linear(f"{theirs}/linear_0", q)
            linear(f"{theirs}/linear_1", k, v)
        linear(f"{theirs}/linear_{4 - n_joined}", out)

    for part in ("encoder", "decoder"):
        made[f"{part}/position_encodings/encodings"] = state[f"model.{part}.embed_positions.weight"]
        made[f"{part}/num_heads"] = torch.tensor(2, dtype=torch.int16)
        norm(f"{part}/layer_norm", f"model.{part}.layer_norm")
        for i in range(2):
            theirs, ours = f"{part}/layer_{i}", f"model.{part}.layers.{i}"
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            attention(f"{theirs}/self_attention", f"{ours}.self_attn", 3)
            if part == "decoder":
                norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
                attention(f"{theirs}/attention", f"{ours}.encoder_attn", 2)
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
    for layer in ("conv1", "conv2"):
        linear(f"encoder/{layer}", f"model.encoder.{layer}")
    for setting, value in {"activation": 3, "pre_norm": 1, "scale_embeddings": 0}.items():
        made[f"decoder/{setting}"] = torch.tensor(value, dtype=torch.int8)
    return made


TIED = {"decoder/projection/weight": "decoder/embeddings/weight"}


def folder_of(folder: Path, content: bytes) -> Path:
    """A folder as CTranslate2's programs read it."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(content)
    tiny.whisper_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    return folder


@pytest.fixture(scope="module")
def model() -> WhisperForConditionalGeneration:
    made = tiny.whisper()
    # Biases are zero and gains one in a fresh model, so that one mistaken for another looks right.
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.fixture(scope="module")
def content(model: WhisperForConditionalGeneration) -> bytes:
    return file_of(list(variables_of(model).items()), TIED)


# ------------------------------------------------------------------------------------------- format


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    arrays = [
        ("half", torch.randn(3, 5).half()), ("brain", torch.randn(2, 2, 2).bfloat16()),
        ("wide", torch.randn(7)), ("one", torch.tensor(-8, dtype=torch.int16)),
        ("\u00e9", torch.tensor([1, -1], dtype=torch.int8)), ("none", torch.zeros(0, 4)),
    ]  # fmt: skip
    path = tmp_path / "model.bin"
    path.write_bytes(file_of(arrays, {"other": "wide"}, kind="AnySpec"))
    contents = ctranslate2_file.read(path)
    assert (contents.specification, contents.revision) == ("AnySpec", 3)
    assert contents.aliases == {"other": "wide"}
    assert list(contents.variables) == [text for text, _ in arrays]
    for text, array in arrays:
        assert contents.variables[text].dtype == array.dtype
        assert contents.variables[text].shape == array.shape
        assert torch.equal(contents.variables[text], array)


def test_a_file_that_ends_anywhere_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    whole = file_of(
        [("a", torch.randn(2, 3).half()), ("b", torch.tensor(1, dtype=torch.int8))], {"c": "a"}
    )
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="ends early"):
            ctranslate2_file.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="1 bytes follow its end"):
        ctranslate2_file.read(path)
    path.write_bytes(whole)
    ctranslate2_file.read(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read"),
        (b"GGUF" + bytes(100), "no model of CTranslate2"),
        (file_of([], {}, version=3), "another version"),
        (file_of([], {}, version=7), "another version"),
        (file_of([("a", torch.ones(2))] * 2, {}), "there twice"),
        (file_of([("a", torch.ones(2))], {"b": "c"}), "stands for c"),
        (file_of([("a", torch.ones(2))], {}).replace(b"\0\x08\0\0\0", b"\0\x07\0\0\0"), "7 bytes"),
        (file_of([("a", torch.ones(2))], {}).replace(b"\0\x08\0\0\0", b"\x09\x08\0\0\0"), "type 9"),
        (file_of([("a", torch.ones(2))], {}).replace(b"a\0", b"aa"), "no end"),
        (file_of([("a", torch.ones(2))], {}).replace(b"a\0", b"\xff\0"), "no text"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        ctranslate2_file.read(path)


# ------------------------------------------------------------------------------------------ Whisper


def test_a_whisper_comes_back_exactly(
    own_cache: Path, tmp_path: Path, model: WhisperForConditionalGeneration, content: bytes
) -> None:
    made = ctranslate2_conversion.convert(folder_of(tmp_path / "theirs", content))
    read: WhisperForConditionalGeneration
    read, report = WhisperForConditionalGeneration.from_pretrained(made, output_loading_info=True)
    assert not any(report.values())
    ours = model.half().float().state_dict()
    theirs = read.float().state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(theirs[key], value), key
    assert read.get_output_embeddings().weight is read.get_input_embeddings().weight
    for setting in ("d_model", "encoder_layers", "decoder_layers", "decoder_ffn_dim", "vocab_size"):
        assert getattr(read.config, setting) == getattr(model.config, setting)
    assert read.config.encoder_attention_heads == read.config.decoder_attention_heads == 2
    features = torch.randn(1, read.config.num_mel_bins, 2 * read.config.max_source_positions)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        given = {"input_features": features, "decoder_input_ids": ids}
        torch.testing.assert_close(read(**given).logits, model.half().float()(**given).logits)


def test_its_folder_has_all_that_transformers_reads(
    own_cache: Path, tmp_path: Path, content: bytes
) -> None:
    made = ctranslate2_conversion.convert(folder_of(tmp_path / "theirs", content))
    tokenizer, own = AutoTokenizer.from_pretrained(made), tiny.whisper_tokenizer()
    for text in ("It was 1984, they said.", "  two  spaces"):
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == own.encode(
            text, add_special_tokens=False
        )
    assert tokenizer.get_vocab() == own.get_vocab()
    heard = WhisperFeatureExtractor.from_pretrained(made)
    assert (heard.feature_size, heard.n_samples) == (tiny.MELS, 16_000 * tiny.SECONDS)
    settings = GenerationConfig.from_pretrained(made)
    assert settings.decoder_start_token_id == own.convert_tokens_to_ids("<|startoftranscript|>")
    assert settings.suppress_tokens == [1, 2]
    assert settings.begin_suppress_tokens == [3]


@pytest.mark.parametrize("as_text", [True, False])
def test_the_first_merge_that_a_tokenizer_lost_is_put_back(as_text: bool) -> None:
    """A line of merges that was read as a header: " the" was a space and "the"."""
    whole = json.loads(tiny.whisper_tokenizer().backend_tokenizer.to_str())["model"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in whole["merges"]]
    merges = [" ".join(pair) for pair in pairs] if as_text else pairs
    lost = {"vocab": whole["vocab"], "merges": merges[1:]}
    ctranslate2_conversion.restore_first_merge(lost)
    assert lost["merges"] == merges
    ctranslate2_conversion.restore_first_merge(lost)
    assert lost["merges"] == merges, "once"
    # The last one is not known from its piece alone, so it is not made up.
    other = {"vocab": whole["vocab"], "merges": merges[:-1]}
    ctranslate2_conversion.restore_first_merge(other)
    assert other["merges"] == merges[:-1]


def test_it_is_converted_once(own_cache: Path, tmp_path: Path, content: bytes) -> None:
    folder = folder_of(tmp_path / "theirs", content)
    made = ctranslate2_conversion.convert(folder)
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert ctranslate2_conversion.convert(folder) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    (folder / "config.json").write_text(json.dumps(SETTINGS | {"suppress_ids": [7]}))
    assert ctranslate2_conversion.convert(folder) != made, "another model"


def changed(**changes: Tensor | None) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Variables added, replaced or (None) left out, by the name with `.` for `/`."""

    def change(variables: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {key.replace("__", "/"): value for key, value in changes.items()}
        merged = variables | {key: value for key, value in named.items() if value is not None}
        return {key: value for key, value in merged.items() if named.get(key, value) is not None}

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            changed(decoder__layer_1__ffn__linear_0__bias=None),
            r"lacks decoder/layer_1/ffn/linear_0",
        ),
        (changed(encoder__conv1__weight=None), "lacks encoder/conv1/weight"),
        (changed(decoder__layer_0__ffn__linear_0__weight_scale=torch.ones(1)), "quantised"),
        (changed(decoder__extra=torch.ones(1)), "no place"),
        (changed(decoder__activation=torch.tensor(0, dtype=torch.int8)), "activation = 0"),
        (changed(decoder__layer_norm__gamma=torch.ones(3).half()), "would be"),
        (changed(decoder__layer_0__attention__linear_1__bias=torch.ones(3).half()), "2 arrays"),
        (
            changed(decoder__layer_0__attention__linear_1__bias=torch.ones(2 * tiny.WIDTH).half()),
            "bias of the key",
        ),
    ],
)
def test_a_whisper_that_is_not_whole_or_not_plain_is_refused(
    own_cache: Path,
    tmp_path: Path,
    model: WhisperForConditionalGeneration,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    says: str,
) -> None:
    variables = change(variables_of(model))
    with pytest.raises(InputError, match=says):
        ctranslate2_conversion.convert(
            folder_of(tmp_path / "theirs", file_of(list(variables.items()), TIED))
        )
    assert not list((own_cache / "models").glob("*"))


def test_other_models_and_folders_that_are_not_whole_are_refused(
    own_cache: Path, tmp_path: Path, model: WhisperForConditionalGeneration, content: bytes
) -> None:
    variables = list(variables_of(model).items())
    with pytest.raises(InputError, match="does not tie"):
        ctranslate2_conversion.convert(folder_of(tmp_path / "untied", file_of(variables, {})))
    other = file_of(variables, TIED, kind="TransformerSpec")
    with pytest.raises(InputError, match="kind TransformerSpec"):
        ctranslate2_conversion.convert(folder_of(tmp_path / "other", other))
    folder = folder_of(tmp_path / "theirs", content)
    for file, says in (("config.json", "cannot be read"), ("tokenizer.json", "as a tokenizer")):
        kept = (folder / file).read_bytes()
        (folder / file).write_bytes(b"{")
        with pytest.raises(InputError, match=says):
            ctranslate2_conversion.convert(folder)
        (folder / file).unlink()
        with pytest.raises(InputError, match=f"holds no {file}"):
            ctranslate2_conversion.convert(folder)
        (folder / file).write_bytes(kept)
    assert not list((own_cache / "models").glob("*"))
