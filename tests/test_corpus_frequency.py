"""Counts by documents against counts of the whole; frequency that is planted in E."""

from pathlib import Path

import numpy as np
import pytest
import tiny

from probenc_support import corpora
from probenc_support.errors import InputError
from probenc_support.regression import Design, corpus_frequency
from probenc_support.regression.corpus_frequency import GroupCounts


def test_groups_add_up_to_the_text(text_file: Path) -> None:
    found = corpus_frequency.counted(str(text_file), tiny.tokenizer(), tiny.VOCABULARY)
    text = "".join(corpora.stream(str(text_file)))
    whole = "".join(corpus_frequency._groups(corpora.stream(str(text_file)), 10**9, 1))
    assert whole == text
    assert found.counts.shape[1] == tiny.VOCABULARY
    assert abs(found.total / len(corpora.encode(tiny.tokenizer(), text)) - 1.0) < 0.01


def test_as_much_text_is_counted_as_is_asked_for(text_file: Path) -> None:
    sizes = [len(t) for t in corpus_frequency._groups(iter(["ab" * 500] * 100), 20_000, 10)]
    assert sizes == [2000] * 10


def test_a_short_text_has_groups_too() -> None:
    pieces = [f"document {i} " for i in range(30)]
    groups = list(corpus_frequency._groups(iter(pieces), 2_000_000, 10))
    assert "".join(groups) == "".join(pieces)
    assert 8 <= len(groups) <= 10


def test_of_one_document_the_interval_is_not_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = GroupCounts(rng.poisson(5.0, size=(1, 300)))
    found = corpus_frequency.r2_log_frequency(Design.of(rng.normal(size=(300, 6))), one, range(300))
    assert np.isfinite(found.estimate)
    assert np.isnan([found.low, found.high]).all()


def test_frequency_that_is_planted_in_the_rows_is_found() -> None:
    rng = np.random.default_rng(0)
    E = rng.normal(size=(300, 6))
    rates = np.exp(E @ np.linspace(-1.0, 1.0, 6) + 4.0)
    counts = GroupCounts(rng.poisson(rates / 20.0, size=(20, 300)))
    found = corpus_frequency.r2_log_frequency(Design.of(E), counts, np.arange(300))
    assert found.low <= found.estimate <= found.high
    assert found.estimate > 0.9
    dealt = GroupCounts(counts.counts[:, rng.permutation(300)])
    assert corpus_frequency.r2_log_frequency(Design.of(E), dealt, np.arange(300)).estimate < 0.1


def test_draws_count_each_group_as_often_as_it_is_drawn() -> None:
    counts = GroupCounts(np.array([[3, 1, 0], [0, 2, 5]]))
    y = counts.minus_log_frequency(np.array([[2, 1]]), np.array([0, 2]))
    np.testing.assert_allclose(y[:, 0], -np.log(np.array([6.5, 5.5]) / 12.0))
    np.testing.assert_allclose(counts.whole([0, 1, 2]), -np.log(np.array([3.5, 3.5, 5.5]) / 12.5))


def test_a_tokenizer_of_another_model_is_refused(text_file: Path) -> None:
    with pytest.raises(InputError, match="tokenizer of another model"):
        corpus_frequency.counted(str(text_file), tiny.tokenizer(), 10)
