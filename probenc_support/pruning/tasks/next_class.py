"""Of which class is the next token: a word, the rest of one, a number, punctuation, a blank?"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from probenc_support.models import LanguageModel
from probenc_support.pruning.tasks.task import Classes, Task

_LEAST = 10
"""Positions below which a class is no answer."""


def token_classes(lm: LanguageModel) -> tuple[list[str], Tensor]:
    """Names of the classes, and [V] int64 the class of each row of the head.

    The kinds of `LanguageModel.token_kind`, with white space as a class of its own.
    """
    kinds = [_class(lm, token) for token in range(lm.V)]
    names = sorted(set(kinds))
    number = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([number[kind] for kind in kinds])


def _class(lm: LanguageModel, token: int) -> str:
    kind = lm.token_kind(token)
    blank = kind == "punctuation" and not lm.token_text(token).strip()
    return "blank" if blank else kind


def next_class(
    h: Tensor,
    targets: Tensor,
    group: Tensor,
    classes: Tensor,
    *,
    names: Sequence[str],
    n_items: int = 500,
    seed: int = 0,
) -> tuple[Task, list[str]]:
    """Draws positions of a text, as many of each class of the token that really comes next.

    A class that comes next at fewer than ten positions is no answer. Where a class has too few
    positions, the others have more, as evenly as can be.

    Args:
        h: [N, d] hidden states.
        targets: [N] int64 next tokens, -1 where there is none.
        group: [N] int64 document of each position.
        classes: [V] int64 and names: see `token_classes`.
        n_items: positions; seed: of the draws.

    Returns:
        The task, and the names of its answers.

    Raises:
        InputError: fewer than 20 positions are left.
    """
    own = torch.where(targets >= 0, classes[targets.clamp(min=0)], -1)
    counts = torch.bincount(own[own >= 0], minlength=len(names))
    asked = (counts >= _LEAST).nonzero()[:, 0].tolist()
    generator = torch.Generator().manual_seed(seed)
    picked: list[Tensor] = []
    left = n_items
    for rank, k in enumerate(sorted(asked, key=lambda k: int(counts[k]))):
        there = (own == k).nonzero()[:, 0]
        some = torch.randperm(len(there), generator=generator)[: left // (len(asked) - rank)]
        picked.append(there[some])
        left -= len(some)
    at = torch.cat(picked).sort().values if picked else torch.zeros(0, dtype=torch.int64)
    right = torch.searchsorted(torch.tensor(asked), own[at])
    most = torch.bincount(right).max() / len(at) if len(at) else 1.0
    task = Task(
        name="next_class",
        h=h[at],
        right=right,
        group=group[at],
        n_answers=len(asked),
        chance=float(most),
        reader=Classes(functional.one_hot(classes, len(names))[:, asked].float()),
    )
    return task, [names[k] for k in asked]
