"""Text to blocks: the definition, its errors, and the built-in corpora."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from probenc_support import corpora
from probenc_support.corpora import blocks_of_text, encoding, texts
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


# ------------------------------------------------------------------------------- pieces and windows


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is read and tokenised in small windows, so that little text has many."""
    monkeypatch.setattr(texts, "_WINDOW", 64)
    monkeypatch.setattr(texts, "_PARAGRAPH", 16)
    monkeypatch.setattr(encoding, "_PIECES", (64, 128, 256))


SCRAPS = st.lists(
    st.sampled_from(["ab", "c", " ", "\n", "\n\n", "x" * 200, "de fg. "]), max_size=150
)


@given(SCRAPS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_documents_of_a_file_are_its_text(
    small_windows: None, tmp_path: Path, scraps: list[str]
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("".join(scraps))
    found = list(corpora.stream(str(path)))
    assert "".join(found) == "".join(scraps)
    assert all(len(document) <= 2 * 64 for document in found)


@given(SCRAPS, SCRAPS)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_documents_do_not_depend_on_what_follows(
    small_windows: None, tmp_path: Path, first: list[str], more: list[str]
) -> None:
    """All but the last two windows."""
    ends = []
    for name, scraps in (("short.txt", first), ("long.txt", first + more)):
        (tmp_path / name).write_text("".join(scraps))
        lengths = map(len, corpora.stream(str(tmp_path / name)))
        ends.append(list(itertools.accumulate(lengths)))
    settled = len("".join(first)) - 4 * 64
    assert [e for e in ends[0] if e <= settled] == [e for e in ends[1] if e <= settled]


@pytest.mark.parametrize("kind", ["file", "folder", "data set"])
def test_first_tokens_do_not_depend_on_how_many_are_wanted(
    small_windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    documents = tiny.prose()[:20_000].split("\n\n")
    corpus = _corpus_of(kind, documents, tmp_path, monkeypatch)
    sizes = {"sequence_length": 16}
    whole = corpora.blocks(corpus, TOKENIZER, n_positions=10**6, **sizes)
    for n in (16, 160, 1600, 3200):
        part = corpora.blocks(corpus, TOKENIZER, n_positions=n, **sizes)
        assert torch.equal(part.ids, whole.ids[: n // 16])
        assert part.sources is not None
        assert whole.sources is not None
        assert part.sources < whole.sources


def _corpus_of(
    kind: str, documents: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The name of a corpus of some documents."""
    if kind == "data set":
        _rows(monkeypatch, [{"text": document} for document in documents])
        return "hf:owner/name:train:text"
    if kind == "file":
        (folder / "text.txt").write_text("\n\n".join(documents))
        return str(folder / "text.txt")
    for i, document in enumerate(documents):
        (folder / f"{i:05}.txt").write_text(document)
    return str(folder)


@pytest.mark.parametrize("between", ["\n\n", "\n", " "])
def test_few_tokens_of_a_large_file_cost_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    """huggingface/tokenizers#1847: what was tokenised at once was the whole file."""
    path = tmp_path / "large.txt"
    path.write_text(" ".join(tiny.prose().split())[:50_000].replace(". ", f".{between}") * 200)
    lengths = []
    encode = corpora.encode
    monkeypatch.setattr(
        blocks_of_text, "encode", lambda t, text: lengths.append(len(text)) or encode(t, text)
    )
    corpora.blocks(str(path), TOKENIZER, n_positions=1024)
    assert path.stat().st_size > 8_000_000
    assert max(lengths) < 300_000
    assert sum(lengths) < 20 * 300_000


# ------------------------------------------------------------------------------ text as it is saved


def _same_tokens(one: str, other: str) -> bool:
    first, second = (
        corpora.blocks(c, TOKENIZER, n_positions=10**5, sequence_length=8) for c in (one, other)
    )
    return first.hash == second.hash


@pytest.mark.parametrize("saved", ["mark", "CRLF", "CR", "mark and CRLF", "two files in one"])
@pytest.mark.parametrize("kind", ["file", "folder", "data set"])
def test_marks_and_line_ends_of_an_editor_change_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, saved: str
) -> None:
    lines = tiny.prose()[:3000]
    halves = [lines[:1500], lines[1500:]]
    as_saved = {
        "mark": lambda half: "\ufeff" + half,
        "CRLF": lambda half: half.replace("\n", "\r\n"),
        "CR": lambda half: half.replace("\n", "\r"),
        "mark and CRLF": lambda half: "\ufeff" + half.replace("\n", "\r\n"),
        "two files in one": lambda half: half[:700] + "\ufeff" + half[700:],
    }[saved]
    plain = tmp_path / "plain"
    plain.mkdir()
    wanted = _corpus_of("folder", halves, plain, monkeypatch)
    changed = list(map(as_saved, halves))
    if kind == "data set":
        _rows(monkeypatch, [{"text": half} for half in changed])
        assert _same_tokens(wanted, "hf:owner/name:train:text")
        return
    other = tmp_path / "other"
    other.mkdir()
    if kind == "file":
        text = "\n\n".join(changed)
        (other / "one.txt").write_bytes(text.encode())
    else:
        for i, half in enumerate(changed):
            (other / f"{i}.txt").write_bytes(half.encode())
    assert _same_tokens(wanted, str(other))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_encodings_are_refused_by_name(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "wide.txt"
    path.write_bytes("Some text, saved as Unicode.".encode(encoding))
    named = "binary" if encoding == "utf-16-le" else encoding.upper()
    with pytest.raises(InputError, match=named):
        corpora.text(str(path))


# --------------------------------------------------------------------------- literal special tokens


def _byte_level() -> PreTrainedTokenizerFast:
    return deepcopy(tiny.tokenizer())


def _metaspace(model: Any, trainer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that marks spaces, and prepends one, as sentencepiece does."""
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator([tiny.prose()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


_OPTIONS: dict[str, Any] = {
    "vocab_size": 400,
    "special_tokens": ["<unk>", "<s>", "</s>"],
    "show_progress": False,
}
STYLES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level BPE": _byte_level,
    "sentencepiece BPE": lambda: _metaspace(
        models.BPE(unk_token="<unk>"), trainers.BpeTrainer(**_OPTIONS)
    ),
    "unigram": lambda: _metaspace(
        models.Unigram(), trainers.UnigramTrainer(unk_token="<unk>", **_OPTIONS)
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_a_literal_special_token_in_a_text_stays_text(style: str) -> None:
    tokenizer = STYLES[style]()
    tokenizer.add_tokens([AddedToken("<name>", special=False)])
    special = set(tokenizer.all_special_ids)
    before = tokenizer.backend_tokenizer.to_str()
    for literal in tokenizer.all_special_tokens:
        text = f"the value {literal} and{literal}the <name> {literal}"
        ids = corpora.encode(tokenizer, text)
        assert special & set(tokenizer(text, add_special_tokens=False)["input_ids"]), "the control"
        assert not special & set(ids)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip() == text
        assert tokenizer.convert_tokens_to_ids("<name>") in ids, "added, and not special"
    assert tokenizer.backend_tokenizer.to_str() == before
    assert not tokenizer.backend_tokenizer.encode_special_tokens, "nothing is left behind"
    assert special & set(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_literal_special_token_stays_text_for_a_tokenizer_in_python() -> None:
    tokenizer = ByT5Tokenizer()
    text = "the value </s> and</s>the"
    ids = corpora.encode(tokenizer, text)
    assert tokenizer.eos_token_id in tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("style", STYLES)
def test_text_without_special_tokens_is_encoded_as_ever(style: str) -> None:
    tokenizer = STYLES[style]()
    text = tiny.prose()[:5000]
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert corpora.encode(tokenizer, text) == wanted
    copied = encoding._without_special_tokens(
        tokenizer.backend_tokenizer.to_str(), frozenset(tokenizer.all_special_tokens)
    )
    assert copied.encode(text, add_special_tokens=False).ids == wanted


# ----------------------------------------------------------------- long text, tokenised in windows


def _read_lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the lengths of the texts that a tokenizer reads at once."""
    lengths: list[int] = []
    reader = encoding._reader

    def counting(tokenizer: Any, text: str) -> Any:
        read = reader(tokenizer, text)
        return lambda part: lengths.append(len(part)) or read(part)

    monkeypatch.setattr(encoding, "_reader", counting)
    return lengths


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_windows_give_the_tokens_of_the_whole_text(
    monkeypatch: pytest.MonkeyPatch, style: str, *, special: bool
) -> None:
    tokenizer = STYLES[style]()
    literal = f"the {tokenizer.all_special_tokens[-1]}" if special else ""
    text = f"{tiny.prose()[:5000]} {literal} d\u00e9j\u00e0 vu \u65e5\u672c \U0001f642\t\n  " * 4
    monkeypatch.setattr(encoding, "_WINDOW", 1000)
    monkeypatch.setattr(encoding, "_BESIDE", 100)
    lengths = _read_lengths(monkeypatch)
    for end in (1000, 1100, 1101, 2099, len(text)):
        whole = encoding._reader(tokenizer, text[:end])(text[:end])
        lengths.clear()
        in_windows = encoding.encoded(tokenizer, text[:end])
        assert np.array_equal(in_windows, whole)
        # The scores of a unigram model are added up from the beginning of what it reads.
        assert max(lengths) <= (end if style == "unigram" else 1200)


@pytest.mark.parametrize(("window", "agree"), [(300, True), (301, False)])
def test_windows_that_meet_within_a_run_are_joined_where_they_agree(
    window: int, *, agree: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs are formed from the beginning of what is read, whether that is odd or even."""
    pairs = Tokenizer(models.BPE(vocab={"x": 0, "xx": 1}, merges=[("x", "x")]))
    tokenizer, text = PreTrainedTokenizerFast(tokenizer_object=pairs), "x" * 1001
    monkeypatch.setattr(encoding, "_WINDOW", window)
    monkeypatch.setattr(encoding, "_BESIDE", 100)
    lengths = _read_lengths(monkeypatch)
    ids, ends = encoding.encoded(tokenizer, text)
    assert ids.tolist() == [1] * 500 + [0]
    assert ends is not None
    assert ends.tolist() == [*range(2, 1001, 2), 1001]
    assert (max(lengths) < 1001) == agree


def test_a_word_that_is_longer_than_a_window_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token ends where the windows meet, which is no agreement."""
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    monkeypatch.setattr(encoding, "_WINDOW", 300)
    monkeypatch.setattr(encoding, "_BESIDE", 100)
    lengths = _read_lengths(monkeypatch)
    text = "a " * 50 + "x" * 800 + " a" * 50
    assert corpora.encode(tokenizer, text) == [1] * 50 + [0] + [1] * 50
    assert max(lengths) == len(text)


def test_blocks_and_counts_hold_no_special_token(text_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "literal.txt"
    path.write_text(text_file.read_text()[:5000].replace("the", "<|endoftext|>"))
    blocks = corpora.blocks(str(path), TOKENIZER, n_positions=2048, sequence_length=16)
    assert TOKENIZER.eos_token_id not in blocks.ids
    counts = corpora.token_counts(str(path), TOKENIZER, tiny.VOCABULARY)
    assert counts[TOKENIZER.eos_token_id] == 0


# ---------------------------------------------------------------------------------- text kept apart


def _paragraphs(blocks: corpora.TokenBlocks) -> set[str]:
    """Paragraphs of 40 characters or more that lie whole in some blocks."""
    text = TOKENIZER.decode(blocks.ids.ravel(), clean_up_tokenization_spaces=False)
    folded = (" ".join(paragraph.split()) for paragraph in text.split("\n\n")[1:-1])
    return {paragraph for paragraph in folded if len(paragraph) >= 40}


def _share(one: corpora.TokenBlocks, other: corpora.TokenBlocks) -> bool:
    return bool(_paragraphs(one) & _paragraphs(other))


@pytest.mark.parametrize("kind", ["file", "folder", "data set"])
def test_parts_share_no_paragraph_and_the_first_is_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    documents = [d for d in tiny.prose().split("\n\n") if d.strip()]
    # Every third document comes again, later and beside something else.
    again = [d + "\n\nSomething else that is long enough to tell." for d in documents[::3]]
    corpus = _corpus_of(kind, documents + again, tmp_path, monkeypatch)
    sizes = {"sequence_length": 32}
    found = corpora.parts(corpus, TOKENIZER, sizes=[8000, 2000, 1000], **sizes)
    assert [len(part.ids) for part in found] == [250, 62, 31]
    corpora.check_apart(*found)
    for one, other in itertools.combinations(found, 2):
        assert not _share(one, other)
    first = corpora.blocks(corpus, TOKENIZER, n_positions=8000, **sizes)
    assert torch.equal(found[0].ids, first.ids)
    assert all(len(_paragraphs(part)) > 3 for part in found)


def test_the_document_in_which_a_part_ends_belongs_to_it_to_its_end(tmp_path: Path) -> None:
    """The rest of it is not text of another part, though the part has no token of it."""
    documents = [f"Document {i} begins. {tiny.prose()[99 * i : 99 * i + 900]}" for i in range(9)]
    for i, document in enumerate(documents):
        (tmp_path / f"{i}.txt").write_text(document.replace("\n", " "))
    first, second = corpora.parts(str(tmp_path), TOKENIZER, sizes=[576, 576], sequence_length=32)
    ends_in = TOKENIZER.decode(first.ids.ravel()).count("begins.")
    assert TOKENIZER.decode(second.ids.ravel()).startswith(f"Document {ends_in} ")


def test_parts_become_smaller_where_text_is_short(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text(tiny.prose()[:8000])
    sizes = [16384, 4096, 1024]
    found = corpora.parts(str(path), TOKENIZER, sizes=sizes, sequence_length=16)
    corpora.check_apart(*found)
    lengths = [part.n_positions for part in found]
    whole = corpora.blocks(str(path), TOKENIZER, sequence_length=16).n_positions
    assert 0.5 * whole < sum(lengths) < whole
    assert lengths[0] / lengths[1] == pytest.approx(4, rel=0.2)
    assert lengths[1] / lengths[2] == pytest.approx(4, rel=0.3)


@pytest.mark.parametrize("between", ["\n\n", "\n", " "])
def test_a_single_file_can_be_divided_whatever_its_lines(tmp_path: Path, between: str) -> None:
    path = tmp_path / "one.txt"
    path.write_text(" ".join(tiny.prose().split()).replace(". ", f".{between}"))
    found = corpora.parts(str(path), TOKENIZER, sizes=[4096, 1024], sequence_length=32)
    assert [part.n_positions for part in found] == [4096, 1024]
    corpora.check_apart(*found)


def test_text_that_cannot_be_divided_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(" ".join(tiny.prose().split())[:4000])
    with pytest.raises(InputError, match="too short for 3 parts of different documents"):
        corpora.parts(str(tmp_path), TOKENIZER, sizes=[512] * 3, sequence_length=32)


def test_what_all_documents_share_costs_no_document(tmp_path: Path) -> None:
    """A licence in each file: the second part has no paragraph of it, and documents enough."""
    licence = "Copyright of everyone. You may copy this text as often as you like."
    prose = [d for d in tiny.prose().split("\n\n") if len(d) > 300][:60]
    for i, document in enumerate(prose):
        (tmp_path / f"{i:02}.txt").write_text(f"{licence}\n\n{document}\n\nEnd of it.")
    found = corpora.parts(str(tmp_path), TOKENIZER, sizes=[2048, 2048], sequence_length=32)
    assert [part.n_positions for part in found] == [2048, 2048]
    corpora.check_apart(*found)
    assert licence in _paragraphs(found[0])
    assert licence not in _paragraphs(found[1])
    assert TOKENIZER.decode(found[1].ids.ravel()).count("End of it.") > 3


@pytest.mark.parametrize("lines", [False, True])
def test_text_is_known_again_however_it_is_laid_out(tmp_path: Path, lines: bool) -> None:
    """As one file, whose long paragraph counts as lines, and as a document of a folder."""
    body = " ".join(tiny.prose().split())[:9000].replace(". ", ".\n")
    text = body if lines else f"A title\n\n{body}"
    (tmp_path / "one.txt").write_text(text)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text(text)
    (folder / "b.txt").write_text("Something else. " * 40)
    first = corpora.blocks(
        str(tmp_path / "one.txt"), TOKENIZER, n_positions=10**5, sequence_length=32
    )
    other = corpora.blocks(
        str(folder), TOKENIZER, n_positions=10**5, sequence_length=32, exclude=[first]
    )
    assert TOKENIZER.decode(other.ids.ravel()).startswith("Something else.")
    assert other.n_left_out == 1


def test_excluded_text_is_left_out_also_from_another_corpus(
    text_file: Path, tmp_path: Path
) -> None:
    sizes = {"n_positions": 2048, "sequence_length": 32}
    first = corpora.blocks(str(text_file), TOKENIZER, **sizes)
    copy = tmp_path / "copy.txt"
    copy.write_text("Something before it.\r\n\r\n" + text_file.read_text())
    assert _share(first, corpora.blocks(str(copy), TOKENIZER, **sizes)), "the control"
    other = corpora.blocks(str(copy), TOKENIZER, exclude=[first], **sizes)
    assert not _share(first, other)
    assert other.n_left_out > 3
    with pytest.raises(InputError, match="share text, so what is chosen"):
        corpora.check_apart(first, corpora.blocks(str(copy), TOKENIZER, **sizes))
    corpora.check_apart(first, other)
    with pytest.raises(InputError, match="are known, so it cannot be checked"):
        corpora.check_apart(first, corpora.from_ids(first.ids, corpus="random"))
    everything = corpora.blocks(str(text_file), TOKENIZER, n_positions=10**6, sequence_length=32)
    whole = corpora.fingerprints(text_file.read_text())
    with pytest.raises(InputError, match="documents that are left out"):
        corpora.blocks(str(text_file), TOKENIZER, exclude=[everything, whole], **sizes)


# ------------------------------------------------------------------------------------------ corpora


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, content in (("b.txt", "second"), ("a.md", "first"), ("c.json", "no text")):
        (tmp_path / name).write_text(content)
    assert corpora.documents(str(tmp_path)) == ["first", "second"]


def test_what_else_lies_in_a_folder_of_text_is_passed_over(tmp_path: Path) -> None:
    for name in (".git", ".ipynb_checkpoints", "folder.txt", "sub"):
        (tmp_path / name).mkdir()
    for name, content in {
        "a.TXT": "first",
        "b.txt": "",
        "c.md": " \n\n",
        "sub/d.Md": "second",
        "folder.txt/e.txt": "third",
        ".hidden.txt": "hidden",
        ".git/notes.txt": "hidden",
        ".ipynb_checkpoints/a-checkpoint.txt": "hidden",
        "picture.png": "no text",
    }.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "sub" / "round").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.txt")
    assert corpora.documents(str(tmp_path)) == ["first", "third", "second"]
    assert corpora.text(str(tmp_path)) == "first\n\nthird\n\nsecond"


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / ".texts").mkdir()
    (tmp_path / ".texts" / "a.txt").write_text("some text")
    assert corpora.documents(str(tmp_path / ".texts")) == ["some text"]


def test_what_cannot_be_read_in_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    bad = tmp_path / "b.txt"
    bad.symlink_to(tmp_path / "gone.txt")
    with pytest.raises(InputError, match=r"b\.txt is a link to a file that is not there"):
        corpora.documents(str(tmp_path))
    bad.unlink()
    for content, message in ((b"\xff\xfea\0", "UTF-16"), (b"\x80", "not UTF-8"), (b"\0", "binary")):
        bad.write_bytes(content)
        with pytest.raises(InputError, match=message) as caught:
            corpora.documents(str(tmp_path))
        assert str(bad) in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt", "folder"])
def test_what_one_may_not_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "folder").mkdir()
    (tmp_path / name).chmod(0)
    if os.geteuid() == 0:  # root may read everything, so the system's answer is put in its place
        refuse = PermissionError(13, "Permission denied", str(tmp_path / name))
        method = "open" if name == "a.txt" else "iterdir"
        real = getattr(Path, method)

        def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path == tmp_path / name:
                raise refuse
            return real(path, *args, **kwargs)

        monkeypatch.setattr(Path, method, refusing)
    with pytest.raises(InputError, match=rf"{name} cannot be read \(Permission denied\)"):
        corpora.documents(str(tmp_path))
    (tmp_path / name).chmod(0o700)


def test_folder_without_text_says_what_is_there(tmp_path: Path) -> None:
    for name in ("a.json", "b.PDF", "README"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"what is there has \.json, \.pdf, no suffix"):
        corpora.documents(str(tmp_path))


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
        ("hf:missing-parts", "as hf:name/config:split:column does"),
        ("Docstrings", r"did you mean docstrings\?"),
        ("python_manual", r"did you mean python-manual\?"),
        ("Docstrings:SciPy", r"did you mean docstrings:scipy\?"),
        ("A text, not the name of one. " * 30, "There is no corpus 'A text, not"),
        ("~no-such-user/text.txt", "There is no corpus"),
        ("zero\0byte.txt", "There is no corpus"),
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


@pytest.mark.parametrize("place", [0, 1, 2])
def test_cells_without_a_value_are_skipped(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    rows: list[dict[str, str | None]] = [{"text": "one"}, {"text": "two"}]
    rows.insert(place, {"text": None})
    _rows(monkeypatch, rows)
    assert corpora.documents("hf:owner/name:train:text") == ["one", "two"]
    _rows(monkeypatch, [{"text": None}] * 3)
    with pytest.raises(InputError, match="holds no text"):
        corpora.documents("hf:owner/name:train:text")


@pytest.mark.parametrize("later", [{"text": 3}, {"text": ["a"]}, {"other": "x"}])
def test_a_column_that_ceases_to_be_text_is_refused(
    monkeypatch: pytest.MonkeyPatch, later: dict[str, Any]
) -> None:
    _rows(monkeypatch, [{"text": "one"}, later])
    with pytest.raises(InputError, match="no text column 'text'"):
        corpora.documents("hf:owner/name:train:text")


def test_counting_an_endless_data_set_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    given = itertools.count()

    def endless() -> Iterator[dict[str, str]]:
        for _ in given:
            yield {"text": "one more of them, " * 500}

    _rows(monkeypatch, endless())
    counts = corpora.token_counts("hf:o/n:train:text", TOKENIZER, tiny.VOCABULARY, limit=100_000)
    assert counts.sum() == 100_000
    assert next(given) < 1000


def test_a_connection_that_breaks_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[dict[str, str]]:
        yield {"text": "one"}
        raise ConnectionError("reset by peer")

    _rows(monkeypatch, broken())
    with pytest.raises(InputError, match="reset by peer"):
        corpora.documents("hf:owner/name:train:text")


def test_counts_beyond_the_rows_of_a_model_are_refused(text_file: Path) -> None:
    with pytest.raises(InputError, match="the model has 100 rows"):
        corpora.token_counts(str(text_file), TOKENIZER, 100)


def test_a_file_named_like_a_built_in_corpus_is_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("python-manual").write_text("a text of one's own")
    with pytest.warns(UserWarning, match=r"write \./python-manual for the latter"):
        assert len(corpora.text("python-manual")) > 100_000
    assert corpora.text("./python-manual") == "a text of one's own"
    assert corpora.label("python-manual") == "python-manual"


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


def test_every_token_knows_its_document(tmp_path: Path) -> None:
    """Whether the ends come from the tokenizer or not: what a document's tokens say is its text."""
    written = [f"Text number {i} is about {'the sea ' * (i % 5)}and ends here." for i in range(12)]
    for i, document in enumerate(written):
        (tmp_path / f"{i:02d}.txt").write_text(document)
    lm = tiny.language_model("tied")
    blocks = corpora.blocks(str(tmp_path), lm.tokenizer, n_positions=256, sequence_length=8)
    assert blocks.documents is not None
    assert blocks.documents.shape == blocks.ids.shape
    ids, documents = blocks.ids.flatten(), blocks.documents.flatten()
    for i in documents.unique()[:-1].tolist():
        said = lm.tokenizer.decode(ids[documents == i])
        assert said.strip() == written[i]
    assert blocks.n_documents == len(documents.unique())


SOUGHT = ["<s>", "</s>", "<unused0>", "<unused1>", "<unused10>", "A", "[MASK]", "\u2581<X>", " b "]


@given(st.lists(st.sampled_from([*SOUGHT, "<unused", "unused1>", "<", "x", " ", "[mask"])))
def test_special_tokens_are_found_in_a_text_as_by_seeking_each(parts: list[str]) -> None:
    text = "".join(parts)
    tokenizer: Any = SimpleNamespace(
        added_tokens_decoder={i: AddedToken(t, special=True) for i, t in enumerate(SOUGHT)},
        all_special_tokens=["<s>"],
    )
    each = any(token.strip().casefold() in text.casefold() for token in SOUGHT)
    assert encoding._names_a_special_token(tokenizer, text) == each
