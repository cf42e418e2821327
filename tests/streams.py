"""Tiny models of architectures that add to their residual stream in different ways, in float64."""

import copy
from typing import Any

import tiny
import torch
import transformers as t

from probenc_support.models import LanguageModel, wrap

SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
TWO_STACKS: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY, "d_model": 16, "encoder_layers": 1, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0, "decoder_start_token_id": 0, "forced_eos_token_id": None,
}  # fmt: skip

ADDITIVE = (
    "neox", "neox sequential", "gpt2", "llama", "gemma3", "olmo2", "cohere", "opt", "t5", "mbart"
)  # fmt: skip
"""Whose layers add to one stream before the final norm."""


def model(name: str) -> Any:
    """All weights of norms are drawn anew: a fresh model has ones and zeros."""
    torch.manual_seed(0)
    if name.startswith("neox"):
        config = t.GPTNeoXConfig(**SIZES, use_parallel_residual=name == "neox")
        made: Any = t.GPTNeoXForCausalLM(config)
    elif name == "gpt2":
        made = t.GPT2LMHeadModel(
            t.GPT2Config(
                vocab_size=tiny.VOCABULARY, n_embd=16, n_layer=3, n_head=2, n_positions=64,
                bos_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
    elif name == "llama":
        made = t.LlamaForCausalLM(t.LlamaConfig(**SIZES))
    elif name == "gemma3":
        config = t.Gemma3TextConfig(
            **SIZES, head_dim=8, num_key_value_heads=1, query_pre_attn_scalar=8, sliding_window=8
        )
        made = t.Gemma3ForCausalLM(config)
    elif name == "olmo2":
        made = t.Olmo2ForCausalLM(t.Olmo2Config(**SIZES))
    elif name == "cohere":
        made = t.CohereForCausalLM(t.CohereConfig(**SIZES, logit_scale=0.25))
    elif name == "opt":
        made = t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=tiny.VOCABULARY, hidden_size=16, ffn_dim=32, num_hidden_layers=3,
                num_attention_heads=2, max_position_embeddings=64, word_embed_proj_dim=16,
                bos_token_id=0, eos_token_id=0, pad_token_id=0,
            )
        )  # fmt: skip
    elif name == "t5":
        made = t.T5ForConditionalGeneration(
            t.T5Config(
                vocab_size=tiny.VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                decoder_start_token_id=0, pad_token_id=0, eos_token_id=0,
            )
        )  # fmt: skip
    elif name == "mbart":
        made = t.MBartForConditionalGeneration(t.MBartConfig(**TWO_STACKS))
    elif name == "bert":
        made = t.BertForMaskedLM(t.BertConfig(**{**SIZES, "vocab_size": tiny.VOCABULARY + 1}))
    elif name == "bart":
        made = t.BartForConditionalGeneration(t.BartConfig(**TWO_STACKS))
    else:
        raise ValueError(name)
    made = made.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in made.modules():
            if "norm" in type(module).__name__.lower():
                for parameter in module.parameters():
                    parameter.add_(0.5 * torch.randn(parameter.shape, generator=generator))
    return made


def language_model(name: str) -> LanguageModel:
    """The tiny model as the package sees it."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    if name == "bert":
        tokenizer.add_special_tokens({"mask_token": "<|mask|>"})
    return wrap(model(name), tokenizer, name=f"tiny-{name}")
