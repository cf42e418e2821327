"""Tiny models with random weights, one an architecture that is not causal, each with a tokenizer.

Sizes are as in `tiny`. Every vector of a model is drawn at random, also those that transformers
fills with zeros or ones, so that no bias can be forgotten without a difference.
"""

import functools
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

START, PAD, END, MASK, SENTINEL = range(5)
"""Ids of the special tokens."""

_SPECIAL = ["<s>", "<pad>", "</s>", "<mask>", "<extra_id_0>"]

MASKED = ("bert", "roberta", "albert", "electra", "distilbert", "modernbert")
ENCODER_DECODER = ("t5", "t5-untied", "mt5", "bart", "marian", "pegasus")
ARCHITECTURES = (*MASKED, *ENCODER_DECODER)


@functools.cache
def tokenizer(architecture: str = "bert") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 320 tokens that frames a text as the architecture's do."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=tiny.VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator([tiny.prose()], trainer)
    ends_only = architecture in ENCODER_DECODER and architecture != "bart"
    bpe.post_processor = processors.TemplateProcessing(
        single="$A </s>" if ends_only else "<s> $A </s>",
        special_tokens=[("<s>", START), ("</s>", END)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        cls_token="<s>",
        bos_token="<s>",
        sep_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        **(
            {} if architecture in ("t5", "t5-untied", "mt5", "marian") else {"mask_token": "<mask>"}
        ),
    )


def model(architecture: str, *, seed: int = 0) -> PreTrainedModel:
    """A model of one or two layers and width 16, float32."""
    torch.manual_seed(seed)
    made = _CLASSES[architecture](_config(architecture)).eval()
    generator = torch.Generator().manual_seed(seed)
    if architecture in ("t5-untied", "mt5"):  # whose configurations tie in every case
        own = torch.randn(made.lm_head.weight.shape, generator=generator)
        made.lm_head.weight = torch.nn.Parameter(own)
    with torch.no_grad():
        for name, vector in made.named_parameters():
            if vector.ndim == 1:
                centre = 1.0 if name.endswith("weight") else 0.0
                vector.copy_(centre + 0.3 * torch.randn(vector.shape, generator=generator))
        if hasattr(made, "final_logits_bias"):
            shape = made.final_logits_bias.shape
            made.final_logits_bias.copy_(torch.randn(shape, generator=generator))
    return made


def language_model(architecture: str, *, dtype: torch.dtype = torch.float64) -> Any:
    """The tiny model as the package sees it."""
    from probenc_support.models import wrap

    made = model(architecture).to(dtype)
    return wrap(made, tokenizer(architecture), name=f"tiny-{architecture}")


def save(folder: Path, architecture: str) -> Path:
    """Writes a model folder that transformers loads; returns the folder."""
    model(architecture).save_pretrained(folder)
    tokenizer(architecture).save_pretrained(folder)
    return folder


_CLASSES: dict[str, Any] = {
    "bert": transformers.BertForMaskedLM,
    "roberta": transformers.RobertaForMaskedLM,
    "albert": transformers.AlbertForMaskedLM,
    "electra": transformers.ElectraForMaskedLM,
    "distilbert": transformers.DistilBertForMaskedLM,
    "modernbert": transformers.ModernBertForMaskedLM,
    "t5": transformers.T5ForConditionalGeneration,
    "t5-untied": transformers.T5ForConditionalGeneration,
    "mt5": transformers.MT5ForConditionalGeneration,
    "bart": transformers.BartForConditionalGeneration,
    "marian": transformers.MarianMTModel,
    "pegasus": transformers.PegasusForConditionalGeneration,
}


def _config(architecture: str) -> Any:
    ids = {"bos_token_id": START, "pad_token_id": PAD, "eos_token_id": END}
    encoder = {
        "vocab_size": tiny.VOCABULARY, "hidden_size": tiny.WIDTH, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3,
        "max_position_embeddings": tiny.CONTEXT, **ids,
    }  # fmt: skip
    both = {
        "vocab_size": tiny.VOCABULARY, "d_model": tiny.WIDTH, "encoder_layers": 1,
        "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.3,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "scale_embedding": True,
        "max_position_embeddings": tiny.CONTEXT, **ids,
    }  # fmt: skip
    t5 = {
        "vocab_size": tiny.VOCABULARY, "d_model": tiny.WIDTH, "d_kv": 8, "d_ff": 32,
        "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "decoder_start_token_id": PAD,
        **ids,
    }  # fmt: skip
    new = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    made: dict[str, Any] = {
        "bert": lambda: transformers.BertConfig(**encoder),
        "roberta": lambda: transformers.RobertaConfig(
            **encoder | {"max_position_embeddings": tiny.CONTEXT + PAD + 1}
        ),
        "albert": lambda: transformers.AlbertConfig(**encoder, embedding_size=8),
        "electra": lambda: transformers.ElectraConfig(**encoder, embedding_size=8),
        "distilbert": lambda: transformers.DistilBertConfig(
            vocab_size=tiny.VOCABULARY, dim=tiny.WIDTH, hidden_dim=32, n_layers=2, n_heads=2,
            initializer_range=0.3, max_position_embeddings=tiny.CONTEXT, pad_token_id=PAD,
        ),
        "modernbert": lambda: transformers.ModernBertConfig(
            **encoder, cls_token_id=START, sep_token_id=END, local_attention=8,
            initializer_cutoff_factor=2.0,
        ),
        "t5": lambda: transformers.T5Config(**t5),
        "t5-untied": lambda: transformers.T5Config(**t5, **new),
        "mt5": lambda: transformers.MT5Config(**t5, **new),
        "bart": lambda: transformers.BartConfig(
            **both, decoder_start_token_id=END, forced_bos_token_id=START
        ),
        "marian": lambda: transformers.MarianConfig(**both, decoder_start_token_id=PAD),
        "pegasus": lambda: transformers.PegasusConfig(**both, decoder_start_token_id=PAD),
    }  # fmt: skip
    return made[architecture]()
