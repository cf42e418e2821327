"""Models that are trained here on one text and differ in one thing, by the names of the roster.

A comparison whose models have not all run is left out.
"""

from dataclasses import dataclass

CAUSAL_TWIN = "pythia-nano"
"""The causal model whose text, tokenizer, width and steps the twins share."""


TWINS = ("nano-masked", "nano-seq2seq")
"""The same with another objective: masked, and encoder-decoder."""


SIZES = ("nano-half", "pythia-nano", "nano-double")
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
    Contrast("tied, not untied (GPT-2's architecture)", "gpt2-nano", "gpt2-nano-tied"),
    Contrast("tied, not untied (Llama's architecture)", "llama-nano", "llama-nano-tied"),
    Contrast("Llama's architecture, not GPT-2's (untied)", "gpt2-nano", "llama-nano"),
    Contrast("Llama's architecture, not GPT-2's (tied)", "gpt2-nano-tied", "llama-nano-tied"),
    Contrast("masked, not causal", CAUSAL_TWIN, TWINS[0]),
    Contrast("encoder-decoder, not causal", CAUSAL_TWIN, TWINS[1]),
    Contrast("larger", SIZES[0], SIZES[1]),
    Contrast("larger again", SIZES[1], SIZES[2]),
)
"""What sparsity may depend on, one thing at a time (Q1)."""
