"""Does the verb agree with its subject? Minimal pairs of two forms of one verb.

The subject's number decides, whatever stands between it and the verb: in "The keys to the cabinet"
the noun nearest to the verb, the attractor, is of the other number (Linzen et al. 2016).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from probenc_support import models
from probenc_support.corpora import encode
from probenc_support.errors import InputError
from probenc_support.models import LanguageModel
from probenc_support.pruning.tasks.task import Task, Tokens

VERBS = (
    ("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"), ("needs", "need"),
    ("seems", "seem"), ("looks", "look"), ("comes", "come"), ("makes", "make"), ("works", "work"),
)  # fmt: skip
"""Singular and plural of each verb."""

SUBJECTS = (
    ("key", "keys"), ("letter", "letters"), ("picture", "pictures"), ("teacher", "teachers"),
    ("doctor", "doctors"), ("machine", "machines"), ("song", "songs"), ("book", "books"),
    ("report", "reports"), ("window", "windows"), ("student", "students"), ("farmer", "farmers"),
    ("road", "roads"), ("answer", "answers"), ("rule", "rules"), ("tool", "tools"),
    ("child", "children"), ("woman", "women"), ("house", "houses"), ("method", "methods"),
    ("train", "trains"), ("guest", "guests"), ("writer", "writers"), ("result", "results"),
)  # fmt: skip
"""Singular and plural of each subject."""

THINGS = (
    ("cabinet", "cabinets"), ("door", "doors"), ("garden", "gardens"), ("table", "tables"),
    ("village", "villages"), ("bridge", "bridges"), ("box", "boxes"), ("school", "schools"),
)  # fmt: skip
"""Singular and plural of things that come between subject and verb."""

PEOPLE = (
    ("friend", "friends"), ("engineer", "engineers"), ("lawyer", "lawyers"),
    ("neighbour", "neighbours"), ("visitor", "visitors"), ("boy", "boys"), ("king", "kings"),
    ("nurse", "nurses"),
)  # fmt: skip
"""The same of people."""

FRAMES = (
    "The {subject}",
    "The {subject} near the {thing}",
    "The {subject} behind the {thing}",
    "The {subject} that the {person} liked",
    "We think that the {subject} next to the {person}",
)
"""What stands before the verb; in the first nothing comes between."""

_TRIES = 100
"""Draws of one turn until a sentence is new."""


@dataclass(frozen=True)
class Pairs:
    """Sentences up to their verb, each with the form that agrees and the one that does not."""

    texts: Sequence[str]
    """[I] what the model reads."""
    right: Sequence[str]
    """[I] the form that agrees, with the space before it."""
    wrong: Sequence[str]
    """[I] the other form."""
    attractor: Sequence[str]
    """[I] `none`, `same` or `other`: the number of the noun that comes between."""
    group: Sequence[int]
    """[I] number of the subject in `SUBJECTS`."""


def minimal_pairs(lm: LanguageModel, *, n_items: int = 500, seed: int = 0) -> Pairs:
    """Draws different sentences, as many with a singular as with a plural subject.

    Frame, number of the noun between and number of the subject go in turn; the words are drawn.
    Only verbs of which both forms are one token take part.

    Args:
        n_items: sentences; seed: of the draws.

    Raises:
        InputError: no verb has two forms of one token each.
    """
    verbs = [pair for pair in VERBS if all(_is_one_token(lm, form) for form in pair)]
    if not verbs:
        raise InputError(
            f"{lm.name} has no token for both forms of any verb of the task of agreement, such as "
            "' is' and ' are'; it asks models of English."
        )
    generator = torch.Generator().manual_seed(seed)

    def drawn(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    found: dict[tuple[str, str], tuple[str, str, int]] = {}
    turns = itertools.cycle(itertools.product(range(len(FRAMES)), range(2), range(2)))
    for frame, between, number in itertools.islice(turns, 10 * n_items):
        for _ in range(_TRIES * (len(found) < n_items)):
            subject, verb = drawn(len(SUBJECTS)), verbs[drawn(len(verbs))]
            nouns = {"subject": SUBJECTS[subject][number]}
            nouns |= {"thing": THINGS[drawn(len(THINGS))][between]}
            nouns |= {"person": PEOPLE[drawn(len(PEOPLE))][between]}
            key = (FRAMES[frame].format(**nouns), f" {verb[number]}")
            if key not in found:
                kind = "none" if not frame else "same" if between == number else "other"
                found[key] = (f" {verb[1 - number]}", kind, subject)
                break
    wrong, attractor, group = zip(*found.values(), strict=True)
    texts, right = zip(*found, strict=True)
    return Pairs(texts, right, wrong, attractor, group)


def _is_one_token(lm: LanguageModel, form: str) -> bool:
    try:
        token = lm.token_id(f" {form}")
    except InputError:
        return False
    after = list(encode(lm.tokenizer, f"The key {form}"))
    return bool(after) and after[-1] == token


def agreement(lm: LanguageModel, pairs: Pairs) -> Task:
    """The task, with the hidden states of a model that has read up to the verb."""
    n = len(pairs.texts)
    read = [list(encode(lm.tokenizer, text)) for text in pairs.texts]
    h = torch.empty(n, lm.d)
    for length in sorted({len(ids) for ids in read}):
        items = torch.tensor([i for i, ids in enumerate(read) if len(ids) == length])
        for some in items.split(128):
            ids = torch.tensor([read[i] for i in some.tolist()])
            h[some] = models.next_state(lm, ids).float().cpu()
    forms = {form: lm.token_id(form) for form in {*pairs.right, *pairs.wrong}}
    token = torch.tensor(
        [[forms[r], forms[w]] for r, w in zip(pairs.right, pairs.wrong, strict=True)]
    )
    return Task(
        name="agreement",
        h=h,
        right=torch.zeros(n, dtype=torch.int64),
        group=torch.tensor(pairs.group),
        n_answers=2,
        chance=0.5,
        reader=Tokens(
            torch.arange(n).repeat_interleave(2),
            token.flatten(),
            torch.arange(n).repeat_interleave(2),
            torch.tensor([0, 1]).repeat(n),
        ),
    )
