"""Tokenizers from the vocabulary, the merges or scores, and the settings of a GGUF file alone.

Releases of transformers read these in different ways, some of them wrong (digits kept together,
runs of spaces that no text reaches), so that none of them is asked.
"""

from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

from probenc_support.errors import InputError

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
"""Kinds of tokens in a file (`tokenizer.ggml.token_type`). Merges make normal ones only."""


_SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
"""Settings of a file that name special tokens, by what transformers calls these."""


_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


SPLITS = {
    **dict.fromkeys(("", "default", "gpt-2", "phi-2", "mpt", "olmo", "jais"), "gpt-2"),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        "digits",
    ),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "smaug-bpe", "dbrx", "pixtral"), _LLAMA3
    ),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN2),
}
"""How a byte-level tokenizer splits text before it merges, by the name that llama.cpp gives to it
(`tokenizer.ggml.pre`): as GPT-2 does, as GPT-2 does with each digit by itself, or by a pattern."""


def tokenizer(path: Path, facts: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file, with the first token that the file wants before a text.

    Args:
        path: the file, for the message.
        facts: its settings and lists, by the names that the file gives them.

    Raises:
        InputError: it is of a kind, or splits text by a rule, that is not known here.
    """
    split = _split(path, facts)
    made = _sentencepiece(facts) if _is_sentencepiece(facts) else _byte_level(facts, split)
    pieces = facts["tokenizer.ggml.tokens"]
    kinds = zip(pieces, facts["tokenizer.ggml.token_type"], strict=True)
    added = [
        AddedToken(piece, normalized=False, special=kind == _CONTROL)
        for piece, kind in kinds
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    made.add_special_tokens([token for token in added if token.special])
    made.add_tokens([token for token in added if not token.special])
    named = {
        name: pieces[facts[key]] for name, key in _SPECIAL.items() if facts.get(key) is not None
    }
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, chat_template=facts.get("tokenizer.chat_template"), **named
    )
    _set_first_token(wrapped, facts)
    return wrapped


def _is_sentencepiece(facts: dict[str, Any]) -> bool:
    return facts.get("tokenizer.ggml.model") == "llama"


def _split(path: Path, facts: dict[str, Any]) -> str:
    """How the tokenizer splits text: a key or pattern of `SPLITS`; empty for sentencepiece."""
    if _is_sentencepiece(facts):
        return ""
    kind = str(facts.get("tokenizer.ggml.model", ""))
    name = str(facts.get("tokenizer.ggml.pre", ""))
    if kind != "gpt2" or name not in SPLITS:
        raise InputError(
            f"{path} has a tokenizer of kind {kind!r} that splits text by the rule {name!r}, which "
            "is not known here, so its tokens might be wrong: give the safetensors folder of the "
            "same model, which brings its own tokenizer."
        )
    return SPLITS[name]


def _byte_level(facts: dict[str, Any], split: str) -> Tokenizer:
    """Byte-pair encoding on bytes that are written as printable letters."""
    pieces = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in facts["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer = _pre_tokenizer(split)
    made.decoder = decoders.ByteLevel()
    return made


def _sentencepiece(facts: dict[str, Any]) -> Tokenizer:
    """Byte-pair encoding as sentencepiece does it: on characters, the pair whose joined piece has
    the best score first, spaces as a letter of their own, unknown characters as their bytes.
    """
    pieces = facts["tokenizer.ggml.tokens"]
    unknown = facts.get("tokenizer.ggml.unknown_token_id")
    made = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            _merges(facts),
            unk_token=None if unknown is None else pieces[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(facts.get("tokenizer.ggml.add_space_prefix", True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if prefix else "never", split=False
    )
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    return made


def _merges(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Every way to make a normal piece from two others, the pieces of better score first."""
    rows = zip(
        facts["tokenizer.ggml.tokens"],
        facts["tokenizer.ggml.scores"],
        facts["tokenizer.ggml.token_type"],
        strict=True,
    )
    scores = {piece: score for piece, score, kind in rows if kind == _NORMAL}
    return [
        (piece[:i], piece[i:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for i in range(1, len(piece))
        if piece[:i] in scores and piece[i:] in scores
    ]


def _pre_tokenizer(split: str) -> Any:
    """Splits text by one of the rules of `SPLITS`."""
    steps: list[Any] = []
    if split == "digits":
        steps = [pre_tokenizers.Digits(individual_digits=True)]
    elif split != "gpt-2":
        steps = [pre_tokenizers.Split(Regex(split), behavior="isolated")]
    own_rule = split in ("gpt-2", "digits")
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own_rule))
    return pre_tokenizers.Sequence(steps)


def _set_first_token(tokenizer: PreTrainedTokenizerFast, facts: dict[str, Any]) -> None:
    """Puts the first token before a text where the file says so, and nowhere else."""
    wanted = bool(facts.get("tokenizer.ggml.add_bos_token", _is_sentencepiece(facts)))
    bos = tokenizer.bos_token
    if wanted and bos is not None:
        post = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.bos_token_id)]
        )
    else:
        post = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.backend_tokenizer.post_processor = post
    # Where the class that reads it again makes its own template, the flag decides.
    tokenizer.init_kwargs["add_bos_token"] = wanted
