"""rxn-albert: a masked model of chemical reactions, as a folder that transformers loads.

The package rxnmapper (MIT licence) carries an ALBERT that was trained to restore masked tokens of
1.3 million reactions out of patents (Schwaller et al. 2021, *Science Advances* 7, eabe4166): its
configuration, vocabulary and weights, as a release of transformers of 2020 left them. They are read
as data; no code of that package is installed or run. Its tokenizer is made anew: a SMILES is split
by a regular expression, and each piece is one token.
"""

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import AlbertConfig, AlbertForMaskedLM, PreTrainedTokenizerFast

from probenc_support import cache
from probenc_support.errors import InputError
from probenc_support.models.runtime import first_line, quiet
from probenc_support.wheels import Packed, WheelSet

_FOLDER = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"

WHEEL = WheelSet(
    wheels=(
        (
            "rxnmapper==0.4.3",
            "27876a4286881aafd286fd6f24a6a56a4ca6ba22d68e035a0ea120106c541ba5",
        ),
    ),
    files=(
        Packed(
            "pytorch_model.bin",
            "8541f3f500dae71abe678d546bd035ca946e2d1c819f6b2cf41a97faedd7e6a2",
            (f"{_FOLDER}/pytorch_model.bin",),
        ),
        Packed(
            "config.json",
            "ea0f3144af1d13a5d5928cff01abd8e7c14ab831ff7b6d73a14d4162864a876f",
            (f"{_FOLDER}/config.json",),
        ),
        Packed(
            "vocab.txt",
            "399868a653e85549ce150af4a1f6cd2776240c6a3d951ced2120565f00f027fd",
            (f"{_FOLDER}/vocab.txt",),
        ),
    ),
    name="rxn-albert",
    megabytes=3,
)
"""Where it comes from."""


SPLIT = (
    r"\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$"
    r"|\%[0-9]{2}|[0-9]"
)
"""What is one token of a reaction: an atom (in brackets with its charge, isotope and hydrogens), a
bond, a ring closure, a branch, a dot, an arrow. This is the expression that the model was trained
with (`SMI_REGEX_PATTERN` of rxnmapper 0.4.3, after Schwaller et al. 2018)."""


_SETTINGS = (
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_hidden_groups",
    "num_attention_heads", "intermediate_size", "inner_group_num", "hidden_act",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings",
    "type_vocab_size", "initializer_range", "layer_norm_eps", "pad_token_id",
)  # fmt: skip
"""What of the old configuration is the architecture's. The rest are settings of generation and of
classifiers, which releases of today keep elsewhere or refuse."""


_AROUND: dict[str, Any] = {"bos_token_id": 12, "eos_token_id": 13}
"""Ids of `[CLS]` and `[SEP]`; the old configuration says 0, which is the padding."""


_POOLER = ("albert.pooler.weight", "albert.pooler.bias")
"""Weights without a part in the prediction of masked tokens: the pooler sums up a whole text for
classifiers. (There is no head for the order of sentences.)"""


_VERSION = 1
"""Increase it when the conversion changes, so that a folder made before is not used any more."""


def converted_path() -> Path:
    """Where the conversion lies, or will lie; it depends on the release that writes it."""
    facts = f"{WHEEL.sha256}-{_VERSION}-{importlib.metadata.version('transformers')}"
    name = f"rxn-albert-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    return cache.cache_dir() / "models" / name


def convert(path: Path, target: Path) -> Path:
    """Writes the model as safetensors with a fast tokenizer; returns `target`.

    Args:
        path: `pytorch_model.bin`, with `config.json` and `vocab.txt` beside it.

    Raises:
        InputError: the weights are not those of the model that the configuration describes.
    """
    print("Converting rxn-albert ...", file=sys.stderr)
    model = _model(path)
    vocabulary = path.with_name("vocab.txt").read_text(encoding="utf-8").splitlines()
    made = tokenizer(vocabulary, longest=model.config.max_position_embeddings - 2)
    with cache.atomic_path(target) as temporary, quiet():
        model.save_pretrained(temporary)
        made.save_pretrained(temporary)
    return target


def _model(path: Path) -> AlbertForMaskedLM:
    """The model with every weight of the file in its place, and none of its own."""
    try:
        settings: dict[str, Any] = json.loads(path.with_name("config.json").read_text("utf-8"))
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        kept: dict[str, Any] = {key: settings[key] for key in _SETTINGS}
        model = AlbertForMaskedLM(AlbertConfig(**kept, **_AROUND))
        weights = {name: tensor for name, tensor in state.items() if name not in _POOLER}
        model.load_state_dict(weights, strict=True)
        model.eval()
    except Exception as error:
        raise InputError(
            f"{path} does not hold the weights of the model that its config.json describes "
            f"({first_line(error)}); fetch it again."
        ) from error
    return model


def tokenizer(vocabulary: list[str], *, longest: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer of SMILES: pieces by `SPLIT`, each a token of the vocabulary or `[UNK]`.

    White space, which no SMILES holds, becomes `[SEP]`: the model has seen that at the end of each
    reaction, and never several reactions in one text.

    Args:
        vocabulary: tokens in the order of their ids.
        longest: tokens of a text that fit the model.
    """
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.normalizer = normalizers.Replace(Regex(r"\s+"), "[SEP]")
    made.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    made.decoder = decoders.Fuse()
    around = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=around
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=longest,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
    )
