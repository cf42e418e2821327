"""What the encoding should be without a fit: expansions, spread of logits, classes of contexts,
parts of the mean hidden state."""

from probenc_support.theory.beside_untrained import BesideUntrained
from probenc_support.theory.carrying_classes import Carrying
from probenc_support.theory.class_predictions import Prediction, Refinement
from probenc_support.theory.classes_in_words import in_words, texts_of, tokens_before
from probenc_support.theory.context_classes import ContextClasses, k_means, logit_coordinates
from probenc_support.theory.directions_and_tokens import BY_LOT, directions_and_tokens
from probenc_support.theory.logit_spread import ScaledFits, SmallVocabulary, spread_over_tokens
from probenc_support.theory.mean_hidden_parts import MeanHiddenParts
from probenc_support.theory.neurons_of_mean import NeuronShares, without
from probenc_support.theory.orders import (
    along,
    cumulant_series,
    cumulants,
    first_order,
    jensen_gap,
    log_probability_variance,
    order_table,
    second_order,
    without_bias,
)

__all__ = [
    "BY_LOT",
    "BesideUntrained",
    "Carrying",
    "ContextClasses",
    "MeanHiddenParts",
    "NeuronShares",
    "Prediction",
    "Refinement",
    "ScaledFits",
    "SmallVocabulary",
    "along",
    "cumulant_series",
    "cumulants",
    "directions_and_tokens",
    "first_order",
    "in_words",
    "jensen_gap",
    "k_means",
    "log_probability_variance",
    "logit_coordinates",
    "order_table",
    "second_order",
    "spread_over_tokens",
    "texts_of",
    "tokens_before",
    "without",
    "without_bias",
]
