"""The table of classes in words, of planted classes."""

from dataclasses import replace

import tiny
import torch

from probenc_support.head import Head
from probenc_support.models.kinds import EncoderDecoder, Masked
from probenc_support.theory import classes_in_words
from probenc_support.theory.context_classes import ContextClasses


def test_classes_in_words():
    """Two classes, each of which raises one token: what the table must say."""
    E = 4.0 * torch.eye(3, dtype=torch.float64)
    label = torch.tensor([0, 0, 0, 1, 1])
    h = torch.eye(3, dtype=torch.float64)[label]
    z = torch.logsumexp(h @ E.T, dim=1)
    log_a = torch.softmax(h @ E.T, dim=1).mean(dim=0).log()
    table = classes_in_words.in_words(
        ContextClasses.of(h, z, label), Head(E), log_a,
        before=["the", "the", "a", ".", "."], after=["x", "x", "y", "x", ""],
        texts=["x", "y", "z"], n_tokens=1,
    )  # fmt: skip
    assert table["share"].tolist() == [0.6, 0.4]
    assert table["last read"].tolist() == ["'the'", "'.'"]
    assert table["comes next"].tolist() == ["'x'", "'x'"]
    assert table["raised most"].tolist() == ["'x'", "'y'"]


def test_texts_of_ids_are_the_tokens_and_nothing_where_there_is_none():
    lm = tiny.language_model("untied")
    ids = lm.tokens[[40, 41]]
    texts = classes_in_words.texts_of(lm, torch.cat([ids, torch.tensor([-1])]))
    assert texts == [lm.token_text(int(ids[0])), lm.token_text(int(ids[1])), ""]


def test_the_token_before_what_is_predicted():
    lm, ids = tiny.language_model("untied"), torch.arange(12).reshape(3, 4)
    assert classes_in_words.tokens_before(lm, ids).tolist() == list(range(12)), "it was read last"
    assert classes_in_words.tokens_before(lm, ids, "last").tolist() == [3, 7, 11]
    both_sides = replace(lm, kind=Masked(mask=5))
    assert classes_in_words.tokens_before(both_sides, ids)[:6].tolist() == [-1, 0, 1, 2, -1, 4]
    halves = replace(lm, kind=EncoderDecoder(start=(0,)))
    assert classes_in_words.tokens_before(halves, ids).tolist() == [1, 2, 5, 6, 9, 10]
