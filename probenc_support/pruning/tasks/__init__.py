"""Tasks that a pruned head is judged on, besides the divergence from the intact one.

A body is read once. Every head then answers all items of a task from the same hidden states, so
that a further head costs matrix products and no forward pass.
"""

from probenc_support.pruning.tasks.agreement import Pairs, agreement, minimal_pairs
from probenc_support.pruning.tasks.answers import INTACT, MEASURES, Answers, over_tasks
from probenc_support.pruning.tasks.continuation import Choices, continuation, true_and_others
from probenc_support.pruning.tasks.next_class import next_class, token_classes
from probenc_support.pruning.tasks.task import Classes, Task, Tokens

__all__ = [
    "INTACT",
    "MEASURES",
    "Answers",
    "Choices",
    "Classes",
    "Pairs",
    "Task",
    "Tokens",
    "agreement",
    "continuation",
    "minimal_pairs",
    "next_class",
    "over_tasks",
    "token_classes",
    "true_and_others",
]
