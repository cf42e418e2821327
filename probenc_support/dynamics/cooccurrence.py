"""What stands beside what in a text: a property of tokens that a model has to learn, as frequency.

Co-occurrence within a window is turned into positive pointwise mutual information with the
smoothing of Levy, Goldberg and Dagan (2015, TACL 3), and factorised: the leading left singular
vectors are properties of tokens, several numbers each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from probenc_support.errors import InputError
from probenc_support.models import checkpoints, readings, recipes, training_text
from probenc_support.models.checkpoints import TrainingRun
from probenc_support.regression.arrays import Array

WINDOW = 4
"""Tokens on each side that count as beside a token."""


_PIECE = 2**22
"""Tokens whose pairs are held at a time."""


@dataclass(frozen=True)
class TextRead:
    """The text that a run was trained on, in the order in which it was read."""

    blocks: NDArray[np.int64]
    """[n, T] token ids."""
    until: list[int]
    """[n_steps] how many blocks had been read at each checkpoint, ascending."""


def texts_read(runs: Sequence[TrainingRun]) -> list[TextRead | None]:
    """The training text of each of some runs that were trained here; None where it cannot be had
    any more. It is prepared once for runs that have it in common."""
    prepare = cache(_prepared)
    return [_text_read(run, prepare) for run in runs]


def _prepared(recipe: recipes.Recipe, corpus: str) -> training_text.Text | None:
    try:
        return training_text.prepare(recipe, corpus)
    except InputError:
        return None


def _text_read(
    run: TrainingRun, prepare: Callable[[recipes.Recipe, str], training_text.Text | None]
) -> TextRead | None:
    record = checkpoints.record(run)
    if not record:
        return None
    recipe = recipes.Recipe(**record["recipe"])
    text = prepare(recipe, record["corpus"])
    if text is None or text.hash != record["text_hash"]:
        return None
    text = readings.of(recipe, text, record["seed"])
    rows = [text.order(recipe, record["seed"], step) for step in range(run.steps[-1])]
    blocks = text.train[np.concatenate(rows)]
    return TextRead(blocks, [step * recipe.batch_size for step in run.steps])


def pairs(blocks: NDArray[np.int64], n_rows: int, *, window: int = WINDOW) -> Any:
    """[V, V] symmetric sparse counts of pairs at most `window` apart within blocks [n, T]."""
    shape = (n_rows, n_rows)
    one_way = sparse.csr_array(shape, dtype=np.float64)
    length = blocks.shape[1]
    rows = max(1, _PIECE // length)
    for start in range(0, len(blocks), rows):
        piece = blocks[start : start + rows]
        for gap in range(1, min(window, length - 1) + 1):
            left, right = piece[:, :-gap].ravel(), piece[:, gap:].ravel()
            ones = np.ones(len(left))
            one_way = one_way + sparse.coo_array((ones, (left, right)), shape=shape).tocsr()
    return one_way + one_way.T


def ppmi(counts: Any, *, smoothing: float = 0.75) -> Any:
    """[V, V] sparse max(0, log P(w, c) / (P(w) P(c)^s)), in nats, of pair counts; s: smoothing."""
    table = sparse.coo_array(counts)
    if table.nnz == 0:
        return table.tocsr()
    by_word = np.asarray(counts.sum(1)).ravel()
    by_context = np.asarray(counts.sum(0)).ravel() ** smoothing
    row, column = table.coords
    log_p = np.log(table.data / table.data.sum())
    log_word = np.log(by_word[row] / by_word.sum())
    log_context = np.log(by_context[column] / by_context.sum())
    values = np.maximum(log_p - log_word - log_context, 0.0)
    information = sparse.coo_array((values, table.coords), shape=table.shape).tocsr()
    information.eliminate_zeros()
    return information


@dataclass(frozen=True)
class Factors:
    """Leading left singular vectors of a text's PPMI, and how much of them its beginning tells."""

    vectors: Array
    """[V, k]; zero for tokens that never occur."""
    ceiling: Array
    """[n_steps] see `factors`."""


def factors(read: TextRead, n_rows: int, tokens: NDArray[np.int64], *, k: int = 10) -> Factors:
    """Factorises the PPMI of a whole training text, and judges its beginnings.

    The ceiling at a checkpoint: the mean R^2, over the k vectors, of their regression on the same
    vectors *as the text so far gives them*, its PPMI times the right singular vectors of the whole.
    It is 0 before anything was read and 1 at the end.

    Args:
        tokens: [n_seen] ids over which R^2 is taken.
    """
    parts = np.split(read.blocks, read.until)[: len(read.until)]
    so_far = list(accumulate(pairs(part, n_rows) for part in parts))
    whole = ppmi(so_far[-1])
    k = min(k, n_rows - 2)
    rng = np.random.default_rng(0)
    left, _, right = svds(whole, k=k, v0=rng.normal(size=n_rows))
    vectors = left[tokens] - left[tokens].mean(0)
    r2 = [r2_on(vectors, np.asarray(ppmi(part) @ right.T)[tokens]) for part in so_far]
    return Factors(cast(Array, left), np.array([float(columns.mean()) for columns in r2]))


def r2_on(Y: Array, X: Array) -> Array:
    """[m] R^2 of the columns of Y [n, m] on X [n, k] with an intercept; X may lack rank."""
    X, Y = X - X.mean(0), Y - Y.mean(0)
    basis, sizes, _ = np.linalg.svd(X, full_matrices=False)
    basis = basis[:, sizes > 1e-10 * max(float(sizes.max(initial=0.0)), 1e-300)]
    return cast(Array, ((basis.T @ Y) ** 2).sum(0) / (Y**2).sum(0))
