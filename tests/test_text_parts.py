"""Text to fit, to choose and to judge on: no part shares text with another."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from test_corpora import TOKENIZER

from probenc_support import corpora, inference, pruning
from probenc_support.errors import InputError


def parts(corpus: str, n_further: int = 0, **sizes: int) -> pruning.Parts:
    lm: Any = SimpleNamespace(tokenizer=TOKENIZER, context_length=1024)
    options = {"n_fitted": 2048, "n_judging": 1024, "sequence_length": 256} | sizes
    return pruning.parts_of_text(lm, corpus, n_further=n_further, **options)


@pytest.mark.parametrize(("corpus", "n_further"), [("docstrings", 2048), ("python-manual", 0)])
def test_nothing_is_judged_on_text_on_which_something_was_chosen(
    corpus: str, n_further: int
) -> None:
    apart = parts(corpus, n_further)
    assert len(apart.further) == (n_further > 0)
    assert apart.fitted.n_positions == 2048
    assert apart.judging.n_positions == apart.choosing.n_positions == 1024
    for one, other in itertools.combinations(apart.all, 2):
        assert one.sources is not None
        assert other.sources is not None
        assert not one.sources & other.sources


def test_too_short_a_text_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text(tiny.prose()[:2500], encoding="utf-8")
    with pytest.raises(InputError, match=r"short\.txt has [3-7] blocks of 256 tokens"):
        parts(str(text))


def test_positions_are_thinned_evenly_to_no_fewer_than_wanted() -> None:
    assert pruning.thinned(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert pruning.thinned(11, 4).tolist() == [0, 2, 4, 6, 8, 10]
    assert pruning.thinned(3, 8).tolist() == [0, 1, 2]


def test_other_text_is_read_at_its_own_positions(text_file: Path) -> None:
    lm = tiny.language_model("untied")
    apart = pruning.parts_of_text(
        lm, str(text_file), n_fitted=512, n_judging=256, sequence_length=32
    )
    reference, group = pruning.read_elsewhere(lm, "python-manual", apart, n_positions=40)
    assert len(reference.h) == len(group) == 43, "every third of 128"
    blocks = corpora.blocks(
        "python-manual", lm.tokenizer, n_positions=128, sequence_length=32, exclude=apart.all
    )
    there = inference.detect(lm, blocks, progress=False)
    torch.testing.assert_close(reference.h, there.h[::3])
    assert torch.equal(group, there.group[::3])
    assert reference.targets is not None
    assert torch.equal(reference.targets, there.targets[::3])
