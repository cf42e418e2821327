"""Text to blocks: the definition, its errors, and the built-in corpora."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from probenc_support import corpora
from probenc_support.errors import InputError

TOKENIZER = tiny.tokenizer()


def test_blocks_are_the_text_cut_in_order(text_file: Path) -> None:
    blocks = corpora.blocks(str(text_file), TOKENIZER, n_positions=1000, sequence_length=32)
    assert blocks.ids.shape == (31, 32)
    whole = TOKENIZER(text_file.read_text(), add_special_tokens=False)["input_ids"]
    assert blocks.ids.flatten().tolist() == whole[: 31 * 32]
    assert TOKENIZER.eos_token_id not in blocks.ids


def test_blocks_of_a_short_text_are_as_many_as_it_has(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text(tiny.prose()[:2000])
    ids = TOKENIZER(path.read_text())["input_ids"]
    blocks = corpora.blocks(str(path), TOKENIZER, n_positions=10**6, sequence_length=16)
    assert len(blocks.ids) == len(ids) // 16


def test_hash_depends_on_the_tokens_alone(text_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.txt"
    copy.write_bytes(text_file.read_bytes())
    sizes = {"n_positions": 256, "sequence_length": 16}
    first = corpora.blocks(str(text_file), TOKENIZER, **sizes)
    assert corpora.blocks(str(copy), TOKENIZER, **sizes).hash == first.hash
    copy.write_text("X" + text_file.read_text())
    assert corpora.blocks(str(copy), TOKENIZER, **sizes).hash != first.hash


def test_token_counts_sum_to_the_tokens_of_the_text(text_file: Path) -> None:
    counts = corpora.token_counts(str(text_file), TOKENIZER, tiny.VOCABULARY + 5)
    ids = TOKENIZER(text_file.read_text())["input_ids"]
    assert counts.sum() == len(ids)
    assert np.array_equal(counts, np.bincount(ids, minlength=tiny.VOCABULARY + 5))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("ab c\n", min_size=1, max_size=9), min_size=1, max_size=20),
    st.integers(1, 30),
)
def test_pieces_end_between_documents_and_lose_nothing(documents: list[str], size: int) -> None:
    assert "".join(corpora._pieces(documents, size)).strip() == "\n\n".join(documents).strip()


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, content in (("b.txt", "second"), ("a.md", "first"), ("c.json", "no text")):
        (tmp_path / name).write_text(content)
    assert corpora.documents(str(tmp_path)) == ["first", "second"]


def test_docstrings_of_a_package_are_english_without_doctests(own_cache: Path) -> None:
    documents = corpora.documents("docstrings:networkx")
    text = "\n\n".join(documents)
    assert len(documents) > 500
    assert len(set(documents)) == len(documents)
    assert ">>>" not in text
    assert text.count(" the ") > 1000
    assert corpora.documents("docstrings:networkx") == documents, "the second time from the cache"
    (kept,) = (own_cache / "corpora").iterdir()
    kept.write_text("{damaged")
    assert corpora.documents("docstrings:networkx") == documents


def test_python_manual_is_there() -> None:
    assert len(corpora.text("python-manual")) > 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text"),
        (b"  \n \n", "tokens, too few|holds no text"),
        (b"only a few words here", "too few for one block"),
        (b"\xff\xfe\x00bad", "not UTF-8"),
        (b"GIF89a\x00\x01\x00", "binary"),
    ],
)
def test_files_that_are_no_corpus(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        corpora.blocks(str(path), TOKENIZER, n_positions=64, sequence_length=32)


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ("no-such-file.txt", "no corpus 'no-such-file.txt'"),
        ("docstrings:nope", "no corpus docstrings:nope"),
        ("hf:missing-parts", "reads hf:name/config:split:column"),
    ],
)
def test_unknown_corpora(corpus: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corpora.blocks(corpus, TOKENIZER)


def test_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.txt"):
        corpora.documents(str(tmp_path))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"n_positions": 0}, "must be at least sequence_length"),
        ({"n_positions": -5}, "must be at least sequence_length"),
        ({"n_positions": 64, "sequence_length": 1}, "at least 2"),
        ({"n_positions": 64, "sequence_length": 65}, "must be at least sequence_length"),
        ({"sequence_length": 100, "context_length": 64}, "longer than the model's context of 64"),
    ],
)
def test_impossible_sizes(text_file: Path, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        corpora.blocks(str(text_file), TOKENIZER, **sizes)


def _rows(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    """Puts a local stand-in where the hub's data sets are read from; returns the calls it gets."""
    calls: list[Any] = []

    def load_dataset(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_hub_data_set_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _rows(monkeypatch, [{"text": "one"}, {"text": " "}, {"text": "two"}])
    assert corpora.documents("hf:owner/name/config:train[:10]:text") == ["one", "two"]
    assert calls == [(("owner/name", "config"), {"split": "train[:10]", "streaming": True})]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ValueError("Unknown split 'nope'"), "Unknown split 'nope'"),
        (ConnectionError("no route"), r"cannot be read \(no route\)"),
        ([{"body": "x"}], "no text column 'text'; it has body"),
        ([{"text": 3}], "no text column"),
    ],
)
def test_hub_data_set_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, answer: Any, message: str
) -> None:
    _rows(monkeypatch, answer)
    with pytest.raises(InputError, match=message):
        corpora.documents("hf:owner/name:nope:text")


def test_hub_data_set_offline_ends_in_one_sentence() -> None:
    """The real client, which finds no hub."""
    with pytest.raises(InputError, match="cannot be read"):
        corpora.documents("hf:owner/there-is-no-such-set:train:text")
