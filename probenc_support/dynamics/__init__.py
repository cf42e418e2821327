"""When in training the encoding of frequency appears (section 5).

`early_frequency`, `emergence`, `rivals` and `tables` are imported by name.
"""

from probenc_support.dynamics.behaviour import Behaviour, unigram_divergence, unigram_loss
from probenc_support.dynamics.convergence import (
    BODY,
    EMBEDDING,
    WHOLE,
    Convergence,
    Distances,
    group_of,
)
from probenc_support.dynamics.cooccurrence import texts_read
from probenc_support.dynamics.emergence import (
    FREQUENCY,
    KL,
    LOSS,
    by_length,
    emergence_table,
    halfway_estimates,
    is_earliest,
    over_runs,
)
from probenc_support.dynamics.evaluation_text import shortened, text_for, thinned
from probenc_support.dynamics.frequency import (
    Frequencies,
    counts_so_far,
    frequencies,
    read_counts,
)
from probenc_support.dynamics.frequency_fit import (
    FrequencyFit,
    bootstrap_r2_adj,
    fit_frequency,
    r2_of_text_so_far,
)
from probenc_support.dynamics.frequency_part import FREQUENCY_PART, REST, split_distances
from probenc_support.dynamics.halfway_steps import Estimate, crossing, halfway, share_by
from probenc_support.dynamics.learnt_tokens import by_frequency, examples, learnt_at
from probenc_support.dynamics.properties import token_properties
from probenc_support.dynamics.run_dynamics import Dynamics, measure
from probenc_support.dynamics.straight_line import Ahead, ahead_of, straight_line, straight_line_of
from probenc_support.dynamics.unigram_phase import UnigramPhase
from probenc_support.models.checkpoints import training_runs, training_speed

__all__ = [
    "BODY",
    "EMBEDDING",
    "FREQUENCY",
    "FREQUENCY_PART",
    "KL",
    "LOSS",
    "REST",
    "WHOLE",
    "Ahead",
    "Behaviour",
    "Convergence",
    "Distances",
    "Dynamics",
    "Estimate",
    "Frequencies",
    "FrequencyFit",
    "UnigramPhase",
    "ahead_of",
    "bootstrap_r2_adj",
    "by_frequency",
    "by_length",
    "counts_so_far",
    "crossing",
    "emergence_table",
    "examples",
    "fit_frequency",
    "frequencies",
    "group_of",
    "halfway",
    "halfway_estimates",
    "is_earliest",
    "learnt_at",
    "measure",
    "over_runs",
    "r2_of_text_so_far",
    "read_counts",
    "share_by",
    "shortened",
    "split_distances",
    "straight_line",
    "straight_line_of",
    "text_for",
    "texts_read",
    "thinned",
    "token_properties",
    "training_runs",
    "training_speed",
    "unigram_divergence",
    "unigram_loss",
]
