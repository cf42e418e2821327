"""What a speech model's encoder makes of spoken text: made once, kept in the user's cache.

The encoder is the costly part of such a model, and its output depends on the text alone: not on
what the decoder reads, nor on an edit of the head. It is kept, and read when it was just made, too,
in 16 bits, so that no number depends on what the cache held.
"""

import hashlib
import importlib.metadata
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, WhisperFeatureExtractor

from probenc_support import cache
from probenc_support.corpora import speech

_VERSION = 1
"""Increase it when the way from text to states changes, so that kept ones are made again."""

_POSITIONS_A_SECOND = 50
"""Positions of the encoder: one for two frames of 10 ms."""


@dataclass(frozen=True)
class Hearing:
    """How a text was spoken and how much of it was heard."""

    rate: int
    """Words a minute, one of `speech.RATES`"""
    heard: float
    """Share of the speech, by time, that the encoder has room for"""


def seconds(model: PreTrainedModel) -> int:
    """How long a speech the encoder has room for."""
    return int(model.config.max_source_positions) // _POSITIONS_A_SECOND


def longest_text(model: PreTrainedModel) -> int:
    """Tokens of English that are spoken in the time that there is: 128 in 30 seconds.

    At espeak-ng's own rate 64 tokens take 12 to 18 seconds, so 128 need the faster ones at times.
    """
    return 128 * seconds(model) // 30


def facts() -> list[Any]:
    """All that decides how a text sounds, for the cache's keys."""
    return [_VERSION, speech.version(), speech.VOICE, list(speech.RATES)]


@torch.inference_mode()
def heard(model: PreTrainedModel, texts: list[str]) -> tuple[Tensor, list[Hearing]]:
    """The encoder's states [B, S, d] of spoken texts, in the model's precision and at its place.

    Raises:
        InputError: espeak-ng is not installed, or the cache cannot be written.
    """
    by = [*facts(), _identity(model)]
    found, made = [], None
    for text in texts:
        path = _path([*by, text])
        kept = _read(path)
        if kept is None:
            # One by one, since rounding depends on how many there are.
            kept, made = _encoded(model, text), path
            _write(path, *kept)
        found.append(kept)
    if made is not None:
        cache.shrink("speech", keep=made)
        _tell([hearing for _, hearing in found], seconds(model))
    states = torch.stack([states for states, _ in found])
    return states.to(device=model.device, dtype=model.dtype), [hearing for _, hearing in found]


def _tell(hearings: list[Hearing], room: int) -> None:
    """Says on stderr of how many texts the end is not heard."""
    if cut := sum(hearing.heard < 1 for hearing in hearings):
        print(
            f"{cut} of {len(hearings)} texts take more than {room} seconds even when they are "
            f"spoken fast ({speech.RATES[-1]} words a minute), so their ends are not heard; give "
            "a smaller sequence_length.",
            file=sys.stderr,
        )


def _encoded(model: PreTrainedModel, text: str) -> tuple[Tensor, Hearing]:
    """States [S, d] float16 of a text, by the model."""
    spoken = speech.spoken(text, seconds=seconds(model))
    extract = WhisperFeatureExtractor(
        feature_size=model.config.num_mel_bins, chunk_length=seconds(model)
    )
    features = extract(spoken.samples, sampling_rate=speech.SAMPLING_RATE, return_tensors="pt")[
        "input_features"
    ]
    encoder: Any = model.get_encoder()
    states = encoder(features.to(device=model.device, dtype=model.dtype)).last_hidden_state
    return states[0].cpu().half(), Hearing(spoken.rate, spoken.heard)


def _path(what: list[Any]) -> Path:
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    return cache.cache_dir() / "speech" / f"{digest[:32]}.safetensors"


_IDENTITIES: "WeakKeyDictionary[PreTrainedModel, list[Any]]" = WeakKeyDictionary()


def _identity(model: PreTrainedModel) -> list[Any]:
    """All that the encoder's numbers depend on. An edited head leaves it as it is."""
    if model not in _IDENTITIES:
        encoder: Any = model.get_encoder()
        digest = hashlib.sha256()
        for name, weight in sorted(encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]
        config = model.config
        shape = [config.num_mel_bins, config.max_source_positions, config.encoder_attention_heads]
        _IDENTITIES[model] = [
            digest.hexdigest(), str(model.dtype), model.device.type, versions, shape,
            config.activation_function,
        ]  # fmt: skip
    return _IDENTITIES[model]


def _write(path: Path, states: Tensor, hearing: Hearing) -> None:
    metadata = {"rate": str(hearing.rate), "heard": repr(hearing.heard), "sha256": _hash(states)}
    with cache.atomic_path(path) as temporary:
        save_file({"states": states.contiguous()}, temporary, metadata=metadata)


def _read(path: Path) -> tuple[Tensor, Hearing] | None:
    """What is kept, or None where there is nothing or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            states, told = file.get_tensor("states"), file.metadata() or {}
        if told["sha256"] == _hash(states):
            path.touch()
            return states, Hearing(int(told["rate"]), float(told["heard"]))
    except (OSError, SafetensorError, ValueError, KeyError):
        pass
    print(f"{path.name} in the cache is damaged; making it again.", file=sys.stderr)
    return None


def _hash(states: Tensor) -> str:
    values = states.contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
