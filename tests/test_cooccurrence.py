"""Co-occurrence: counts by brute force, PPMI by its definition, factors of planted classes."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_training import TINY

from probenc_support import dynamics
from probenc_support.dynamics import cooccurrence
from probenc_support.dynamics.cooccurrence import TextRead
from probenc_support.models import checkpoints, training

pytestmark = pytest.mark.usefixtures("module_cache")


@given(st.integers(0, 10), st.integers(1, 6), st.booleans())
def test_pairs_are_those_of_a_brute_force_count(seed: int, window: int, small: bool) -> None:
    blocks = np.random.default_rng(seed).integers(0, 7, size=(5, 9))
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(cooccurrence, "_PIECE", 9)
        found = cooccurrence.pairs(blocks, 8, window=window).toarray()
    direct: Counter[tuple[int, int]] = Counter()
    for block in blocks:
        for i, left in enumerate(block):
            for j in range(max(0, i - window), min(9, i + window + 1)):
                if j != i:
                    direct[int(left), int(block[j])] += 1
    wanted = np.zeros((8, 8))
    for (row, column), count in direct.items():
        wanted[row, column] = count
    assert np.array_equal(found, wanted)


def test_ppmi_is_its_definition() -> None:
    counts = np.random.default_rng(0).integers(0, 5, size=(6, 6)).astype(float)
    counts += counts.T
    found = cooccurrence.ppmi(cooccurrence.sparse.csr_array(counts)).toarray()
    P = counts / counts.sum()
    contexts = counts.sum(0) ** 0.75
    with np.errstate(divide="ignore"):
        direct = np.log(P / np.outer(P.sum(1), contexts / contexts.sum()))
    assert found == pytest.approx(np.maximum(direct, 0))
    empty = cooccurrence.ppmi(cooccurrence.sparse.csr_array((4, 4), dtype=float))
    assert empty.nnz == 0


def test_factors_of_a_text_in_two_languages() -> None:
    """Planted: blocks of tokens 0 to 29 or of 30 to 59, never mixed: one vector tells which."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 30, size=(400, 16)) + 30 * rng.integers(0, 2, size=(400, 1))
    until = [0, 4, 40, 400]
    found = cooccurrence.factors(TextRead(blocks, until), 64, np.arange(60), k=4)
    assert found.vectors.shape == (64, 4)
    assert found.vectors[60:] == pytest.approx(np.zeros((4, 4)), abs=1e-12)
    language = (np.arange(60) >= 30).astype(float)[:, None]
    assert cooccurrence.r2_on(language, found.vectors[:60])[0] > 0.99
    assert found.ceiling[0] == 0.0
    assert found.ceiling[-1] == pytest.approx(1.0)
    assert (np.diff(found.ceiling) > 0).all()
    again = cooccurrence.factors(TextRead(blocks, until), 64, np.arange(60), k=4)
    assert np.array_equal(again.vectors, found.vectors), "no number of chance that is not seeded"


def test_r2_on_columns_that_lack_rank() -> None:
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(50, 2)), rng.normal(size=(50, 1))
    doubled = np.concatenate([X, X, np.ones((50, 1))], axis=1)
    Y = np.concatenate([X @ [[1.0], [2.0]] + 5, noise], axis=1)
    found = cooccurrence.r2_on(Y, doubled)
    assert found[0] == pytest.approx(1.0)
    assert found[1] == pytest.approx(cooccurrence.r2_on(noise, X)[0])
    assert cooccurrence.r2_on(Y, np.zeros((50, 3))).tolist() == [0.0, 0.0]


def test_text_of_a_run_is_what_it_counted(text_file: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, dense=6)
    folder = training.train(
        recipe, folder=tmp_path / "run", corpus=str(text_file), device="cpu", progress=False
    )
    run = checkpoints.training_run(str(folder))
    read, again = cooccurrence.texts_read([run, run])
    counts = dynamics.counts_so_far(run)
    assert read is not None
    assert again is not None
    assert np.array_equal(read.blocks, again.blocks)
    assert counts is not None
    for until, row in zip(read.until, counts, strict=True):
        assert np.array_equal(np.bincount(read.blocks[:until].ravel(), minlength=320), row)
    copy = tmp_path / "other.txt"
    copy.write_text("something else " * 5000)
    record = (folder / "training.json").read_text()
    (folder / "training.json").write_text(record.replace(str(text_file), str(copy)))
    assert cooccurrence.texts_read([run]) == [None], "another text is not the one that was read"
    (folder / "training.json").write_text(record.replace(str(text_file), str(tmp_path / "gone")))
    assert cooccurrence.texts_read([run]) == [None]
