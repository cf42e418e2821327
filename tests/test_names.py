"""What a name means, what a page calls it, and which folder it gets."""

import shlex
from pathlib import Path

import pytest
import tiny

from probenc_support import corpora, models, names
from probenc_support.errors import InputError
from probenc_support.models import checkpoints
from probenc_support.notebook import parameters, results
from probenc_support.runs import matrix


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    names.tell_which.cache_clear()
    return tmp_path


def test_a_name_of_the_roster_is_the_rosters_whatever_lies_in_the_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.save(here / "elsewhere")
    (here / "gpt2").symlink_to(here / "elsewhere")
    assert names.model_path("gpt2") is None
    assert names.slug("gpt2") == names.shown("gpt2") == "gpt2"
    assert "write ./gpt2 for the latter" in capsys.readouterr().err
    names.slug("gpt2")
    assert not capsys.readouterr().err, "said once"
    with pytest.raises(InputError, match="gpt2 is not in the cache and the hub cannot be reached"):
        models.fetch("gpt2")
    assert models.fetch("./gpt2") == Path("gpt2")
    assert names.model_source("gpt2") == "roster: openai-community/gpt2"
    assert names.model_source("./gpt2") == "folder"
    assert names.model_source("owner/name") == "hub"


def test_provenance_says_what_a_name_was_taken_as(here: Path) -> None:
    from test_parameters import GOOD

    (here / "gpt2").mkdir()
    for model, source in (("gpt2", "roster: openai-community/gpt2"), ("./gpt2", "folder")):
        p = parameters.check("x", {**GOOD, "model": model})
        facts = results.Results(p).provenance()
        assert (facts["model"], facts["model_source"]) == ("gpt2", source)


def test_a_training_run_in_a_folder_named_like_a_roster_name(here: Path) -> None:
    for step in (0, 1, 2):
        tiny.save(here / "pythia-14m" / f"step{step}")
    run = checkpoints.training_run("./pythia-14m")
    assert run.local
    assert run.load(1, device="cpu").V == tiny.VOCABULARY
    with pytest.raises(InputError, match="hub"):
        checkpoints.training_run("pythia-14m")


def test_a_corpus_of_the_package_is_named_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "texts").mkdir()
    (here / "docstrings").symlink_to(here / "texts")
    assert corpora.label("docstrings") == "docstrings"
    assert "docstrings means the built-in corpus" in capsys.readouterr().err
    assert corpora.label("./texts") == "texts"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/somewhere/deep/corpus.txt", "corpus.txt"),
        ("~/models/mine", "mine"),
        ("../gone/folder", "folder"),
        ("gpt2", "gpt2"),
        ("owner/name", "owner/name"),
        ("hf:Salesforce/wikitext/wikitext-2-raw-v1:validation:text",) * 2,
        ("The king and/or the queen", "The king and/or the queen"),
        ("/", "/"),
        ("~", "~"),
        ("", ""),
        ("a\0/b", "a\0/b"),
        ("x" * 5000, "x" * 5000),
    ],
)
def test_pages_show_paths_by_their_last_part(text: str, shown: str) -> None:
    assert names.shown(text) == shown


def test_no_home_is_no_fault(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names.expanded("~no-such-user/x") == Path("~no-such-user/x")
    assert names.on_disk("~no-such-user/x") is None
    assert names.slug("~no-such-user/x") == "no-such-user--x"


def test_models_with_blanks_in_their_paths(here: Path) -> None:
    mine = tiny.save(here / "my models" / "a b")
    text = str(mine)
    assert names.split(text) == [text]
    assert names.split("my models/a b") == ["my models/a b"]
    assert names.split(f"gpt2 {shlex.quote(text)} owner/name") == ["gpt2", text, "owner/name"]
    assert names.split(" gpt2  qwen3-4b ") == ["gpt2", "qwen3-4b"]
    assert names.split("") == []
    with pytest.raises(InputError, match="quotation mark"):
        names.split("gpt2 'my models/a b")
    config = {"models": {}, "added_models": {"notebooks": ["01"]}}
    for given in (shlex.quote(text), text, [text]):
        (cell,) = matrix.cells({**config, "MODELS": given})
        assert (cell.model, cell.slug) == (text, "a-b")


@pytest.mark.parametrize("given", ["x/B x/b", "All-Models", "Gpt2 gpt2"])
def test_folders_that_differ_in_capitals_only_are_refused(given: str) -> None:
    config = {"models": {}, "added_models": {"notebooks": ["01"]}, "MODELS": given}
    with pytest.raises(InputError, match="share the folder"):
        matrix.cells(config)


def test_long_and_foreign_names_get_folders_of_their_own(here: Path) -> None:
    slugs = [names.slug(f"{'long-' * 60}{end}") for end in "ab"]
    assert len(set(slugs)) == 2
    assert all(len(slug) <= names.LONGEST for slug in slugs)
    foreign = [names.slug(name) for name in ("模型", "модель", "모델")]
    assert len(set(foreign)) == 3
    assert all(slug.isascii() and slug.startswith("model-") for slug in foreign)
    with pytest.raises(InputError, match="no letter or digit"):
        names.slug("///")
