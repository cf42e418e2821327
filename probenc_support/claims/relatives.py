"""Models that are trained here on one text and differ in one thing, by the names of the roster.

A comparison whose models have not all run is left out.
"""

from dataclasses import dataclass

CAUSAL_TWIN = "nano-causal"
"""The causal model whose text, tokenizer, width, architecture and steps the twins share."""


TWINS = {"masked": "nano-masked", "encoder_decoder": "nano-seq2seq"}
"""The same with another objective (the encoder-decoder takes another architecture, too), by what
its kind is in the names of metrics."""


SIZES = ("pythia-nano-64", "pythia-nano", "pythia-nano-256")
"""One architecture and one text in three widths and depths, the smallest first."""


@dataclass(frozen=True)
class Contrast:
    """Two models that differ in one thing."""

    differs: str
    """What it is, in a few words."""
    first: str
    second: str
    """The difference of a metric is that of the second less that of the first."""


CONTRASTS = (
    Contrast("tied and not untied, as GPT-2 is built", "nano-gpt2-untied", "nano-gpt2"),
    Contrast("tied and not untied, as Llama is built", "nano-llama-untied", "nano-llama"),
    Contrast("built as Llama and not as GPT-2, tied", "nano-gpt2", "nano-llama"),
    Contrast("built as Llama and not as GPT-2, untied", "nano-gpt2-untied", "nano-llama-untied"),
    Contrast("masked and not causal", CAUSAL_TWIN, TWINS["masked"]),
    Contrast("encoder-decoder and not causal", CAUSAL_TWIN, TWINS["encoder_decoder"]),
    Contrast("twice as wide and deep", SIZES[0], SIZES[1]),
    Contrast("twice as wide and deep again", SIZES[1], SIZES[2]),
)
"""What sparsity may depend on, one thing at a time (Q1)."""
