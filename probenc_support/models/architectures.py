"""New models with random weights, one function an architecture.

Sizes come from the recipe. The rest is the architecture's own: positions, norms, activations,
biases, the initialisation that transformers gives it, and whether it has a layer before the head.
"""

from collections.abc import Callable
from typing import Any

from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertDecoderConfig,
    ModernBertDecoderForCausalLM,
    ModernBertForMaskedLM,
    PreTrainedModel,
    StableLmConfig,
    StableLmForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from probenc_support.errors import InputError
from probenc_support.models.recipes import CAUSAL, ENCODER_DECODER, MASKED, Recipe

_START = 0
"""Id of the end of text, which never occurs in a text. T5's decoder starts with it."""


def new(recipe: Recipe) -> PreTrainedModel:
    """A model of a recipe in float32, its weights drawn from torch's own generator.

    Raises:
        InputError: no such architecture, or it cannot be trained for the recipe's objective.
    """
    if recipe.architecture not in _ARCHITECTURES:
        raise InputError(
            f"The architecture of {recipe.name} is {recipe.architecture!r}; name one of "
            f"{', '.join(_ARCHITECTURES)}."
        )
    make, objectives = _ARCHITECTURES[recipe.architecture]
    if recipe.objective not in objectives:
        raise InputError(
            f"The objective of {recipe.name} is {recipe.objective!r}, and {recipe.architecture} "
            f"can be trained for {' or '.join(objectives)}."
        )
    return make(recipe)


def _common(recipe: Recipe) -> dict[str, Any]:
    """Sizes and settings by the names that most architectures have for them."""
    return {
        "vocab_size": recipe.rows,
        "hidden_size": recipe.d,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "max_position_embeddings": recipe.sequence_length,
        "attention_dropout": recipe.dropout,
        "bos_token_id": _START,
        "eos_token_id": _START,
        "tie_word_embeddings": recipe.tied,
    }


def _gpt_neox(recipe: Recipe) -> PreTrainedModel:
    """Pythia's: parallel blocks, rotary positions, LayerNorm."""
    config = GPTNeoXConfig(
        **_common(recipe),
        intermediate_size=4 * recipe.d,
        hidden_dropout=recipe.dropout,
    )
    return GPTNeoXForCausalLM(config)


def _gpt2(recipe: Recipe) -> PreTrainedModel:
    """Learned positions, LayerNorm before each part of a block."""
    config = GPT2Config(
        vocab_size=recipe.rows,
        n_embd=recipe.d,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        n_positions=recipe.sequence_length,
        resid_pdrop=recipe.dropout,
        embd_pdrop=recipe.dropout,
        attn_pdrop=recipe.dropout,
        bos_token_id=_START,
        eos_token_id=_START,
        tie_word_embeddings=recipe.tied,
    )
    return GPT2LMHeadModel(config)


def _gptj(recipe: Recipe) -> PreTrainedModel:
    """GPT-J's: parallel blocks behind one LayerNorm, rotary positions (in a quarter of each head's
    dimensions, as in Pythia), and a bias in the head."""
    config = GPTJConfig(
        vocab_size=recipe.rows,
        n_embd=recipe.d,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        n_positions=recipe.sequence_length,
        rotary_dim=recipe.d // recipe.heads // 4,
        resid_pdrop=recipe.dropout,
        embd_pdrop=recipe.dropout,
        attn_pdrop=recipe.dropout,
        bos_token_id=_START,
        eos_token_id=_START,
        tie_word_embeddings=recipe.tied,
    )
    return GPTJForCausalLM(config)


def _llama(recipe: Recipe) -> PreTrainedModel:
    """RMSNorm, rotary positions, SwiGLU, no biases."""
    config = LlamaConfig(
        **_common(recipe),
        intermediate_size=_gated(recipe.d),
    )
    return LlamaForCausalLM(config)


def _stablelm(recipe: Recipe) -> PreTrainedModel:
    """As `_llama`, but with LayerNorm, which subtracts the mean over dimensions and has a bias."""
    config = StableLmConfig(
        **_common(recipe),
        num_key_value_heads=recipe.heads,
        intermediate_size=_gated(recipe.d),
        partial_rotary_factor=1.0,  # type: ignore[call-arg]
    )
    return StableLmForCausalLM(config)


def _modernbert(recipe: Recipe) -> PreTrainedModel:
    """ModernBERT's (Warner et al. 2024), and its decoder's for the next token: rotary positions,
    LayerNorm and GeGLU without biases, a layer before the head, and a head bias.

    Every second layer attends to all positions, the others, from the first on, to four on each side
    (the decoder's: on the left). The authors' attend to 64 in long texts, and their first layer to
    all; a small network that hears its neighbours first learns to use them much sooner.
    """
    layers = ("sliding_attention", "full_attention")
    options: dict[str, Any] = {
        **_common(recipe),
        "intermediate_size": _gated(recipe.d),
        "layer_types": [layers[number % 2] for number in range(recipe.layers)],
        "local_attention": 8,
        "embedding_dropout": recipe.dropout,
        "mlp_dropout": recipe.dropout,
        **dict.fromkeys((f"{name}_token_id" for name in ("pad", "cls", "sep")), _START),
    }
    if recipe.objective == CAUSAL:
        return ModernBertDecoderForCausalLM(ModernBertDecoderConfig(**options))
    return ModernBertForMaskedLM(ModernBertConfig(**options))


def _gated(d: int) -> int:
    """Width of a gated layer, which has three matrices in place of two: two thirds of 4 d."""
    return 8 * -(-d // 3)


def _t5(recipe: Recipe) -> PreTrainedModel:
    """As many layers in the encoder as in the decoder; relative positions, RMSNorm, no biases; the
    head reads d^-1/2 times the decoder's states. Always tied, as transformers has it since 5.0."""
    if not recipe.tied:
        raise InputError(f"{recipe.name} is a T5 model, whose embeddings are tied: say so.")
    config = T5Config(
        vocab_size=recipe.rows,
        d_model=recipe.d,
        d_kv=recipe.d // recipe.heads,
        d_ff=4 * recipe.d,
        num_layers=recipe.layers,
        num_heads=recipe.heads,
        dropout_rate=recipe.dropout,
        pad_token_id=_START,
        eos_token_id=_START,
        decoder_start_token_id=_START,  # type: ignore[call-arg]
    )
    return T5ForConditionalGeneration(config)


_ARCHITECTURES: dict[str, tuple[Callable[[Recipe], PreTrainedModel], tuple[str, ...]]] = {
    "gpt-neox": (_gpt_neox, (CAUSAL,)),
    "gpt2": (_gpt2, (CAUSAL,)),
    "gptj": (_gptj, (CAUSAL,)),
    "llama": (_llama, (CAUSAL,)),
    "stablelm": (_stablelm, (CAUSAL,)),
    "modernbert": (_modernbert, (MASKED, CAUSAL)),
    "t5": (_t5, (ENCODER_DECODER,)),
}
"""What makes a model, and the objectives that it serves."""
