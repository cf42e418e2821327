"""Whisper as CTranslate2 keeps it (`model.bin`), as a folder that transformers loads.

The arrays are the same ones: CTranslate2 joins the projections of one attention (query, key and
value; key and value where it reads the encoder) and writes down a bias of zero for the key, which
Whisper has not. So the conversion renames and cuts, and no number changes. The configuration is
read off the shapes; the tokenizer is the `tokenizer.json` beside the file, with the one merge that
such files lack.
"""

import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.models.ctranslate2_file import Contents, read
from probenc_support.models.runtime import first_line, quiet

_VERSION = 1
"""Increase it when the conversion changes, so that folders made before are not used any more."""

FILES = ("model.bin", "tokenizer.json", "config.json")
"""What a folder of CTranslate2 holds of a Whisper: weights, tokenizer, and which tokens its
authors suppress."""

_SETTINGS = {
    "decoder/activation": 3,
    "decoder/alibi": 0,
    "decoder/pre_norm": 1,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
"""Numbers in the file that must be these for transformers' Whisper to compute the same: GELU, and
norms before the attention."""

_IGNORED = {"decoder/alignment_heads", "decoder/alignment_layer"}
"""Numbers that say how times are read from attention, which is no part of the model."""


def converted_path(parts: list[str]) -> Path:
    """Where the conversion of files with these SHA-256 (in the order of `FILES`) lies, or will."""
    facts = [str(_VERSION), importlib.metadata.version("transformers"), *parts]
    by = hashlib.sha256("-".join(facts).encode()).hexdigest()[:8]
    return cache.cache_dir() / "models" / f"ctranslate2-{parts[0][:16]}-{by}"


def is_ctranslate2(folder: Path) -> bool:
    """Whether a folder holds a model of CTranslate2 and none of transformers."""
    return (folder / FILES[0]).is_file() and not list(folder.glob("*.safetensors"))


def convert(folder: Path) -> Path:
    """Converts a folder of CTranslate2 once, into a folder of the cache that transformers loads.

    Args:
        folder: holds `FILES`.

    Raises:
        InputError: a file is missing, damaged, or of a model that is not Whisper.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise InputError(
            f"{folder} holds no {missing[0]}: a Whisper of CTranslate2 is {', '.join(FILES)}."
        )
    target = converted_path([cache.file_hash(folder / name) for name in FILES])
    if target.is_dir():
        return target
    with cache.locked(target.name):
        if target.is_dir():
            return target
        print("Converting the model from CTranslate2 ...", file=sys.stderr)
        contents = read(folder / FILES[0])
        config = configuration(contents, folder)
        weights = renamed(contents, config, folder)
        tokenizer = _tokenizer(folder / FILES[1])
        generation = _generation(folder, tokenizer, config)
        with cache.atomic_path(target) as temporary, quiet():
            temporary.mkdir()
            save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
            config.save_pretrained(temporary)
            generation.save_pretrained(temporary)
            _feature_extractor(config).save_pretrained(temporary)
            _save_tokenizer(tokenizer, temporary)
    return target


# ------------------------------------------------------------------------------------------ weights


def configuration(contents: Contents, where: Path) -> WhisperConfig:
    """What the shapes say of a Whisper.

    Args:
        where: of which file or folder to speak in a message.

    Raises:
        InputError: it is no Whisper, or one that transformers' model does not compute.
    """
    if contents.specification != "WhisperSpec":
        raise InputError(
            f"{where} is a model of the kind {contents.specification} of CTranslate2, of which "
            "only Whisper can be read here: give the safetensors folder of the same model."
        )
    found = contents.variables
    for name, value in _SETTINGS.items():
        if name in found and int(found[name]) != value:
            raise InputError(
                f"{where} is a Whisper with {name} = {int(found[name])} and not {value}, which "
                "transformers' Whisper does not compute."
            )
    try:
        vocabulary, width = found["decoder/embeddings/weight"].shape
        positions = [
            len(found[f"{part}/position_encodings/encodings"]) for part in ("encoder", "decoder")
        ]
        return WhisperConfig(
            vocab_size=vocabulary,
            d_model=width,
            num_mel_bins=found["encoder/conv1/weight"].shape[1],
            max_source_positions=positions[0],
            max_target_positions=positions[1],
            encoder_layers=_layers(found, "encoder"),
            decoder_layers=_layers(found, "decoder"),
            encoder_attention_heads=int(found["encoder/num_heads"]),
            decoder_attention_heads=int(found["decoder/num_heads"]),
            encoder_ffn_dim=len(found["encoder/layer_0/ffn/linear_0/weight"]),
            decoder_ffn_dim=len(found["decoder/layer_0/ffn/linear_0/weight"]),
            activation_function="gelu",
            tie_word_embeddings=True,
            # The tokenizer knows them.
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    except KeyError as error:
        raise InputError(f"{where} lacks {error.args[0]}, so it is no whole Whisper.") from error


def _layers(names: dict[str, Tensor], part: str) -> int:
    found = [re.match(rf"{part}/layer_(\d+)/", name) for name in names]
    return 1 + max((int(each[1]) for each in found if each), default=-1)


def renamed(contents: Contents, config: WhisperConfig, where: Path) -> dict[str, Tensor]:
    """The weights of transformers' `WhisperForConditionalGeneration` by its names, as they are.

    Raises:
        InputError: a variable is missing, left over, of a wrong shape, or quantised; the bias of
            a key is not zero; or the output embedding is not the decoder's input embedding.
    """
    left = dict(contents.variables)
    made: dict[str, Tensor] = {}
    for theirs, ours in _names(config):
        if theirs not in left:
            raise InputError(f"{where} lacks {theirs}, so it is no whole Whisper.")
        joined = left.pop(theirs)
        if len(joined) % len(ours):
            raise InputError(f"{where} is damaged: {theirs} is not {len(ours)} arrays in one.")
        for name, piece in zip(ours, joined.chunk(len(ours)), strict=True):
            if name:
                made[name] = piece.contiguous()
            elif bool(piece.any()):
                raise InputError(f"{where} has a bias of the key in {theirs}, and Whisper has not.")
    numbers = {"encoder/num_heads", "decoder/num_heads", *_SETTINGS, *_IGNORED}
    if over := sorted(set(left) - numbers):
        quantised = any(name.endswith("_scale") for name in over)
        raise InputError(
            f"{where} holds {over[0]}, for which Whisper has no place"
            + (": it is quantised; give one in float16 or float32." if quantised else ".")
        )
    if contents.aliases != {"decoder/projection/weight": "decoder/embeddings/weight"}:
        raise InputError(f"{where} does not tie its output embedding to the decoder's input.")
    _check_shapes(made, config, where)
    return made


def _check_shapes(weights: dict[str, Tensor], config: WhisperConfig, where: Path) -> None:
    """Refuses what transformers' model does not have in just these sizes."""
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    del wanted["proj_out.weight"]
    wrong = {name for name in wanted.keys() | weights if _shape(weights, name) != wanted.get(name)}
    if wrong:
        name = min(wrong)
        raise InputError(
            f"{where} is damaged: {name} would be {list(_shape(weights, name) or ())} and not "
            f"{list(wanted.get(name, ()))}."
        )


def _shape(weights: dict[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


def _names(config: WhisperConfig) -> Iterator[tuple[str, list[str]]]:
    """CTranslate2's name of each array, and transformers' names of what it joins; an empty name:
    the bias of a key, which is zero."""
    yield "decoder/embeddings/weight", ["model.decoder.embed_tokens.weight"]
    for layer in ("conv1", "conv2"):
        yield from _linear(f"encoder/{layer}", [f"model.encoder.{layer}"])
    for part, n_layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        ours = f"model.{part}"
        yield f"{part}/position_encodings/encodings", [f"{ours}.embed_positions.weight"]
        yield from _norm(f"{part}/layer_norm", f"{ours}.layer_norm")
        for i in range(n_layers):
            yield from _layer(f"{part}/layer_{i}", f"{ours}.layers.{i}", part == "decoder")


def _layer(theirs: str, ours: str, reads_encoder: bool) -> Iterator[tuple[str, list[str]]]:
    joined = [f"{ours}.self_attn.{name}_proj" for name in "qkv"]
    yield from _norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
    yield from _linear(f"{theirs}/self_attention/linear_0", joined)
    yield from _linear(f"{theirs}/self_attention/linear_1", [f"{ours}.self_attn.out_proj"])
    if reads_encoder:
        query, *joined = [f"{ours}.encoder_attn.{name}_proj" for name in "qkv"]
        yield from _norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
        yield from _linear(f"{theirs}/attention/linear_0", [query])
        yield from _linear(f"{theirs}/attention/linear_1", joined)
        yield from _linear(f"{theirs}/attention/linear_2", [f"{ours}.encoder_attn.out_proj"])
    yield from _norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    yield from _linear(f"{theirs}/ffn/linear_0", [f"{ours}.fc1"])
    yield from _linear(f"{theirs}/ffn/linear_1", [f"{ours}.fc2"])


def _norm(theirs: str, ours: str) -> Iterator[tuple[str, list[str]]]:
    yield f"{theirs}/gamma", [f"{ours}.weight"]
    yield f"{theirs}/beta", [f"{ours}.bias"]


def _linear(theirs: str, ours: list[str]) -> Iterator[tuple[str, list[str]]]:
    yield f"{theirs}/weight", [f"{name}.weight" for name in ours]
    yield f"{theirs}/bias", ["" if name.endswith("k_proj") else f"{name}.bias" for name in ours]


# ------------------------------------------------------------------------- tokens, speech, settings

END, START, PREVIOUS = "<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>"
TASKS = {"transcribe": "<|transcribe|>", "translate": "<|translate|>"}
NO_TIMES = "<|notimestamps|>"


def _tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer as the file has it, and the merge that it may lack."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        restore_first_merge(made["model"])
        backend = Tokenizer.from_str(json.dumps(made))
    except Exception as error:
        raise InputError(
            f"{path} cannot be read as a tokenizer ({first_line(error)}): fetch it again."
        ) from error
    if backend.token_to_id(END) is None or backend.token_to_id(START) is None:
        raise InputError(f"{path} is no tokenizer of Whisper: it lacks {END} or {START}.")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, bos_token=END, unk_token=END, pad_token=END
    )


def restore_first_merge(model: dict[str, Any]) -> None:
    """Puts back the first merge of a byte-pair encoding, where a file has lost it.

    Files of Whisper that were made from `merges.txt` lack it: its line was taken for the header
    that other models have. So " the" falls into a space and "the", which Whisper never writes.
    Merges have the order of the numbers of what they make, and what the first one makes are two
    characters, so nothing about it is open.

    Args:
        model: `vocab` and `merges` of a tokenizer.json; changed in place.
    """
    vocabulary, merges = model["vocab"], model["merges"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    made = {first + second for first, second in pairs}
    longer = [piece for piece in vocabulary if len(piece) > 1 and not piece.startswith("<|")]
    if not longer:
        return
    first = min(longer, key=vocabulary.__getitem__)
    if len(first) == 2 and first not in made:
        as_text = all(isinstance(merge, str) for merge in merges)
        merges.insert(0, " ".join(first) if as_text else list(first))


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes the tokenizer, under the name of the class that transformers' Whisper asks for."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "WhisperTokenizer"
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _feature_extractor(config: WhisperConfig) -> WhisperFeatureExtractor:
    """Speech to log-mel features, for as many seconds as the encoder has positions: two frames
    each, of 10 ms."""
    return WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=config.max_source_positions // 50
    )


def _generation(
    folder: Path, tokenizer: PreTrainedTokenizerFast, config: WhisperConfig
) -> GenerationConfig:
    """How to transcribe, from the tokens that the tokenizer has and CTranslate2's settings; the
    tokens of beginning and end go into `config`, too."""
    theirs = _settings(folder / FILES[2])
    tokens = {str(token): int(i) for token, i in tokenizer.get_vocab().items()}
    pieces = {i: token for token, i in tokens.items()}
    languages = {pieces[i]: i for i in theirs.get("lang_ids", []) if i in pieces}
    ends = {f"{name}_token_id": tokens[END] for name in ("bos", "eos", "pad")}
    config.update(ends | {"decoder_start_token_id": tokens[START]})
    return GenerationConfig(
        **ends,
        decoder_start_token_id=tokens[START],
        max_length=config.max_target_positions,
        is_multilingual=len(languages) > 0,
        lang_to_id=languages,
        task_to_id={task: tokens[token] for task, token in TASKS.items() if token in tokens},
        no_timestamps_token_id=tokens.get(NO_TIMES),
        prev_sot_token_id=tokens.get(PREVIOUS),
        suppress_tokens=theirs.get("suppress_ids", []),
        begin_suppress_tokens=theirs.get("suppress_ids_begin", []),
        alignment_heads=theirs.get("alignment_heads", []),
        return_timestamps=False,
    )


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}).") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} holds no settings of a Whisper.")
    return settings
