"""Readings of a training text: other frequencies, another order, no context, another text.

A reading is named in a recipe. It makes a text of a text, from the recipe, the text and the seed
alone, so that an interrupted run goes on with the same one. What a run without any would read, the
blocks `rows_of` in their order, is the yardstick: each reading changes one thing about it.

- `aliases-...`: each token is split into several ids, its aliases, and each of its occurrences
  becomes one of them by lot. What stands around it stays, and its frequency is divided. The
  vocabulary at most doubles. `flat` splits so that frequent ids end about equally frequent, `0.5`
  until counts are about the square roots of what they were (in units of the count up to which a
  token stays whole), and `even` splits each token in two, so that the vocabulary is larger and the
  spread of frequencies is as it was.
- `rare-first`, `common-first`: the same blocks, ordered by the mean log frequency of their tokens.
- `shuffled`: the same tokens, dealt out anew over all places of the text.
- `planted`: some tokens, by lot, are never read; at each of their places stands another by lot.
- `other-half:<corpus>`: from half of the steps on, blocks of another corpus in the same tokens.
- `instead:<corpus>`: nothing but such blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from probenc_support.errors import InputError
from probenc_support.models import training_text
from probenc_support.models.recipes import ALIASES, MASKED, Recipe
from probenc_support.models.training_text import Text

Ids = NDArray[np.int64]

_LOT, _SHUFFLE, _OTHER, _PLANTED = 2, 3, 4, 5
"""Of random numbers, beside the seed: no two readings share any, nor any with `Text.order`."""

PLANTED = "planted"
"""The name of the reading that keeps tokens out of a text which would have them."""

N_PLANTED = 200
"""How many these are, or a tenth of the text's where that is less."""

POWERS = {"flat": 0.0, "0.5": 0.5}
"""To which power aliases bring the counts of the tokens that are split, by the end of a name."""

EVEN = "even"
"""The end of the name of the reading that splits each token in two."""

OTHER_HALF = "other-half"
"""The name of the reading of two texts, before a colon and the name of the second."""

INSTEAD = "instead"
"""The name of the reading of another text alone, before a colon and its name."""


@dataclass(frozen=True, eq=False)
class Split:
    """Into which aliases each token is split."""

    n: Ids
    """[V] aliases of each token, at least one."""
    up_to: int
    """The count up to which a token stays whole; 0 where that depends on nothing."""

    @property
    def parent(self) -> Ids:
        """[V + more] the token that each id stands for. The first alias of a token has its id."""
        tokens = np.arange(len(self.n))
        return np.concatenate([tokens, np.repeat(tokens, self.n - 1)])

    def of_parents(self, counts: Ids) -> Ids:
        """[V] counts of the tokens, from those [ids] of the aliases."""
        parent = self.parent
        sums = np.bincount(parent, counts[: len(parent)], minlength=len(self.n))
        return sums.astype(np.int64)

    def aliases(self, tokens: Ids, seed: int) -> Ids:
        """An alias of each token, all of a token's being equally likely; any shape."""
        drawn = np.random.default_rng((seed, _LOT)).random(tokens.shape)
        number = (drawn * self.n[tokens]).astype(np.int64)
        more = self.n - 1
        starts = len(self.n) + np.cumsum(more) - more
        return np.where(number == 0, tokens, starts[tokens] + number - 1)


def split_by(counts: Ids, power: float) -> Split:
    """The split that brings counts c above a bound b to about b (c / b)^power.

    The bound is the smallest whole number with which there are no more than twice as many ids.

    Args:
        counts: [V] of the tokens.
        power: 0 up to, not including, 1.
    """
    low, high = 1, max(1, int(counts.max()))
    while low < high:
        middle = (low + high) // 2
        fits = int(_numbers(counts, middle, power).sum()) <= 2 * len(counts)
        low, high = (low, middle) if fits else (middle + 1, high)
    return Split(_numbers(counts, low, power), low)


def _numbers(counts: Ids, bound: int, power: float) -> Ids:
    # Rounded before it is rounded up, so that the last bit of a power makes no alias.
    exact = np.round((counts / bound) ** (1.0 - power), 9)
    return np.maximum(1, np.ceil(exact)).astype(np.int64)


def split_of(recipe: Recipe, text: Text) -> Split:
    """How a recipe's reading splits the tokens of a text (as it is before that).

    Raises:
        InputError: it has no such reading.
    """
    name = recipe.reading.removeprefix(ALIASES)
    if name == EVEN:
        return Split(np.full(recipe.vocabulary, 2), 0)
    if name not in POWERS:
        raise InputError(_unknown(recipe))
    counts = np.bincount(text.train.ravel(), minlength=recipe.vocabulary)
    return split_by(counts, POWERS[name])


def rows_of(recipe: Recipe, text: Text, seed: int) -> Ids:
    """[steps * batch_size] blocks of a text in the order in which a run reads them."""
    return np.concatenate([text.order(recipe, seed, step) for step in range(recipe.steps)])


def _with_aliases(recipe: Recipe, text: Text, seed: int) -> Text:
    if recipe.objective == MASKED:
        raise InputError(
            f"{recipe.name} has a mask token, whose id an alias would have: tokens are split for "
            "other objectives only."
        )
    return replace(text, train=split_of(recipe, text).aliases(text.train, seed))


def _by_frequency(recipe: Recipe, text: Text, seed: int, *, sign: int) -> Text:
    rows = rows_of(recipe, text, seed)
    log_f = np.log(np.bincount(text.train.ravel(), minlength=recipe.vocabulary) + 1.0)
    means = log_f[text.train].mean(1)
    # A stable sort of what the seed has ordered: it breaks ties.
    return replace(text, plan=rows[np.argsort(sign * means[rows], kind="stable")])


def _shuffled(recipe: Recipe, text: Text, seed: int) -> Text:
    read = text.train[rows_of(recipe, text, seed)]
    dealt = np.random.default_rng((seed, _SHUFFLE)).permutation(read.ravel())
    return replace(text, train=dealt.reshape(read.shape), plan=np.arange(len(read)))


def planted(recipe: Recipe, text: Text, seed: int) -> Ids:
    """Ids, ascending, that the reading `planted` keeps out: by lot of those that the text has."""
    there = np.flatnonzero(np.bincount(text.train.ravel(), minlength=recipe.vocabulary))
    random = np.random.default_rng((seed, _PLANTED))
    return np.sort(random.choice(there, min(N_PLANTED, len(there) // 10), replace=False))


def _without_planted(recipe: Recipe, text: Text, seed: int) -> Text:
    """At each place of a planted token stands what stands at some other place, by lot."""
    out = np.isin(text.train, planted(recipe, text, seed))
    random = np.random.default_rng((seed, _PLANTED, 1))
    train = text.train.copy()
    train[out] = random.choice(text.train[~out], int(out.sum()))
    return replace(text, train=train)


def _another(recipe: Recipe, text: Text, seed: int, *, after: int) -> Text:
    """Blocks of the corpus that the reading names, from step `after` on.

    Where that is all there is to read, a short corpus is read again, in another order.
    """
    corpus = recipe.reading.partition(":")[2]
    rows = rows_of(recipe, text, seed)
    first = after * recipe.batch_size
    wanted = len(rows) - first
    fewest = wanted if first else recipe.batch_size
    blocks, sources = training_text.blocks_of(text, corpus, wanted, fewest=fewest)
    random = np.random.default_rng((seed, _OTHER))
    epochs = [random.permutation(len(blocks)) for _ in range(-(-wanted // len(blocks)))]
    order = np.concatenate(epochs)[:wanted]
    return replace(
        text,
        train=np.concatenate([text.train, blocks]),
        sources=text.sources | sources,
        plan=np.concatenate([rows[:first], len(text.train) + order]),
    )


def half_of(recipe: Recipe) -> int:
    """The step after which `other-half` reads the other text."""
    return recipe.steps // 2


READINGS: dict[str, Callable[[Recipe, Text, int], Text]] = {
    **{f"{ALIASES}{name}": _with_aliases for name in (*POWERS, EVEN)},
    "rare-first": lambda recipe, text, seed: _by_frequency(recipe, text, seed, sign=1),
    "common-first": lambda recipe, text, seed: _by_frequency(recipe, text, seed, sign=-1),
    "shuffled": _shuffled,
    PLANTED: _without_planted,
    OTHER_HALF: lambda recipe, text, seed: _another(recipe, text, seed, after=half_of(recipe)),
    INSTEAD: lambda recipe, text, seed: _another(recipe, text, seed, after=0),
}
"""Functions of the recipe, the text and the seed, by name."""

_NAMING = (OTHER_HALF, INSTEAD)
"""Readings whose name goes on with a colon and the other text."""


def of(recipe: Recipe, text: Text, seed: int) -> Text:
    """The text as a recipe reads it.

    Raises:
        InputError: there is no such reading, it does not fit the recipe, or the other text is
            unknown or too short.
    """
    if not recipe.reading:
        return text
    name, _, corpus = recipe.reading.partition(":")
    if name not in READINGS or bool(corpus) != (name in _NAMING):
        raise InputError(_unknown(recipe))
    return READINGS[name](recipe, text, seed)


def _unknown(recipe: Recipe) -> str:
    named = ", ".join(f"{name}:CORPUS" if name in _NAMING else name for name in READINGS)
    return f"The reading of {recipe.name} is {recipe.reading!r}; name one of {named}."
