"""Tiny models with random weights, one a style of head, made from explicit configurations."""

import functools
import os
import pydoc
import resource
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from probenc_support.corpora import speech
from probenc_support.models import LanguageModel, wrap

PICKLES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)
"""Whether transformers reads pickled weights: it refuses to with an older torch."""

VOCABULARY = 320
CONTEXT = 64
WIDTH = 16

STYLES = ("tied", "untied", "bias", "padded", "multiplied", "divided")
"""Tied and untied heads, a head bias, rows that no token owns, logits times and over a scale."""


def prose() -> str:
    """Real English that every Python carries: the documentation of `pydoc` and its topics."""
    from pydoc_data.topics import topics

    return (pydoc.__doc__ or "") + "\n\n".join(str(topics[name]) for name in sorted(topics)[:12])


VERBS = (" is", " are", " was", " were", " has", " have", " does", " do")
"""Words that are tokens of a tokenizer that knows them."""


@functools.cache
def tokenizer(*, english: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 320 tokens, trained on `prose`; with `english` on so much of
    `VERBS` that each of them is a token, too."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([prose(), "".join(VERBS) * (9_000 * english)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def model(style: str, *, seed: int = 0) -> PreTrainedModel:
    """A model of two layers and width 16, float32."""
    torch.manual_seed(seed)
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    if style == "tied":
        made: Any = LlamaForCausalLM(LlamaConfig(**common, tie_word_embeddings=True))
    elif style == "untied":
        made = GPTNeoXForCausalLM(GPTNeoXConfig(**common, tie_word_embeddings=False))
    elif style == "padded":
        common["vocab_size"] = VOCABULARY + 24
        made = GPTNeoXForCausalLM(GPTNeoXConfig(**common, tie_word_embeddings=False))
    elif style == "bias":
        made = GPTJForCausalLM(
            GPTJConfig(
                vocab_size=VOCABULARY,
                n_embd=WIDTH,
                n_layer=2,
                n_head=2,
                n_positions=CONTEXT,
                rotary_dim=4,
                bos_token_id=0,
                eos_token_id=0,
                tie_word_embeddings=False,
                initializer_range=0.3,
            )
        )
        torch.nn.init.normal_(made.lm_head.bias, std=0.5)
    elif style == "multiplied":
        made = CohereForCausalLM(CohereConfig(**common, logit_scale=0.25, tie_word_embeddings=True))
    elif style == "divided":
        made = GraniteForCausalLM(
            GraniteConfig(**common, logits_scaling=4.0, tie_word_embeddings=False)
        )
    else:
        raise ValueError(style)
    return made.eval()


MELS, SECONDS = 16, 8
"""Frequencies that the tiny Whisper hears, and for how long."""

CONTROL = (
    "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>",
)  # fmt: skip
"""Tokens of a Whisper that are no text, besides the end of the text."""


@functools.cache
def whisper_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer, with Whisper's control tokens after the text tokens."""
    own = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    own.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    return PreTrainedTokenizerFast(tokenizer_object=own, **dict.fromkeys(_ENDS, "<|endoftext|>"))


def whisper(*, seed: int = 0) -> WhisperForConditionalGeneration:
    """A Whisper of two layers, width 16, some rows of timestamps at the end, float32."""
    torch.manual_seed(seed)
    n_tokens = VOCABULARY + len(CONTROL)
    start, end = VOCABULARY, 0
    config = WhisperConfig(
        vocab_size=n_tokens + 7,
        d_model=WIDTH,
        num_mel_bins=MELS,
        max_source_positions=50 * SECONDS,
        max_target_positions=CONTEXT,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        init_std=0.3,
        decoder_start_token_id=start,
        **{f"{name}_id": end for name in _ENDS if name != "unk_token"},
    )
    return WhisperForConditionalGeneration(config).eval()


_ENDS = ("eos_token", "bos_token", "unk_token", "pad_token")


need_espeak = pytest.mark.skipif(
    shutil.which(speech.PROGRAM) is None,
    reason="espeak-ng, which speaks the text, is not installed: apt-get install espeak-ng",
)
"""Marks a test in which a model hears."""


def language_model(
    style: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, english: bool = False
) -> Any:
    """The tiny model as the package sees it; english: see `tokenizer`."""
    words = tokenizer(english=english)
    lm: LanguageModel = wrap(model(style, seed=seed).to(dtype), words, name=f"tiny-{style}")
    return lm


def need_float64_logits(lm: LanguageModel) -> None:
    """Skips a test to float64's rounding where the model's own logits are no such oracle: GPT-J
    gives them in float32 in old releases of transformers."""
    with torch.inference_mode():
        found = lm.model(lm.tokens[None, :2]).logits.dtype
    if found != torch.float64:
        pytest.skip(f"this transformers gives the logits of {lm.name} in {found}")


def save(folder: Path, style: str = "untied", *, seed: int = 0, english: bool = False) -> Path:
    """Writes a tiny model folder that transformers loads; returns the folder.

    english: see `tokenizer`.
    """
    model(style, seed=seed).save_pretrained(folder)
    tokenizer(english=english).save_pretrained(folder)
    return folder


def wheel(folder: Path, member: str, content: bytes) -> Path:
    """A wheel `tiny-package` 1.0 with one file besides what a wheel must have; returns its path."""
    return wheel_of(folder, "tiny-package", {member: content})


def wheel_of(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """A wheel of version 1.0 with files besides what a wheel must have; returns its path."""
    folder.mkdir(exist_ok=True)
    archive = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{name.replace('-', '_')}-1.0.dist-info"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for member, content in members.items():
            zipped.writestr(member, content)
        zipped.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        zipped.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        zipped.writestr(f"{info}/RECORD", "")
    return archive


def only_index(monkeypatch: pytest.MonkeyPatch, folder: Path | str) -> None:
    """Lets pip find what lies in a folder, and nothing else."""
    for name, value in {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@contextmanager
def no_space() -> Iterator[None]:
    """Within it no file grows beyond 2 kB, which fails as a full disk does.

    The limit must end with the test's own code: what pytest itself writes is under it too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
