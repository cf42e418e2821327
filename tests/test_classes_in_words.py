"""The table of classes in words, of planted classes."""

import tiny
import torch

from probenc_support.head import Head
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


def test_the_last_token_read_is_that_of_the_position():
    ids = torch.arange(12).reshape(3, 4)
    assert classes_in_words.tokens_read_last(ids).tolist() == list(range(12))
    assert classes_in_words.tokens_read_last(ids, "last").tolist() == [3, 7, 11]
