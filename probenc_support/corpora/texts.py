"""Where text comes from: built-in corpora, files and folders, data sets of the hub.

A corpus is a sequence of documents. What is a document depends on the text alone, so that the
beginning of a corpus does not change with how much of it is read.
"""

import difflib
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from probenc_support import names
from probenc_support.corpora import built_in_texts
from probenc_support.errors import InputError

SUFFIXES = (".md", ".rst", ".text", ".txt")
"""Files that are read in a folder of text, in lower or upper case."""


_WINDOW = 2**17
"""Characters of a file that are read at a time, and the length from which a document counts as
its paragraphs."""


_PARAGRAPH = 2**12
"""Characters above which a paragraph counts as its lines, and a line as runs of words."""


def built_in() -> list[str]:
    """Names of the built-in corpora."""
    return built_in_texts.names()


def label(corpus: str) -> str:
    """Name of a corpus for a page: of a file or folder its own name, without the machine's path."""
    if corpus in built_in() and names.on_disk(corpus):
        names.tell_which(corpus, "the built-in corpus of that name")
    return names.shown(corpus)


def text(corpus: str) -> str:
    """The whole text of a corpus, documents joined by an empty line.

    Args:
        corpus: built-in name, path of a text file or folder, or `hf:name/config:split:column`.

    Raises:
        InputError: no such corpus, or it has no text, or is no text.
    """
    whole = "".join(stream(corpus))
    if not whole.strip():
        raise InputError(f"The corpus {corpus} holds no text; name one that does.")
    return whole


def documents(corpus: str) -> list[str]:
    """The documents of a corpus, in a fixed order and without what stands between them.

    Raises:
        InputError: no such corpus, or it has no text, or is no text.
    """
    parts = [document.strip() for document in stream(corpus)]
    if not any(parts):
        raise InputError(f"The corpus {corpus} holds no text; name one that does.")
    return [document for document in parts if document]


def stream(corpus: str) -> Iterator[str]:
    """Documents one by one, read only as far as needed; concatenated, they are the text.

    So a document begins with what separates it from the one before. The documents of a corpus that
    is one file are its paragraphs, since it could not be divided otherwise; a document of
    131,072 characters or more counts as its paragraphs, too, and a paragraph of more than 4,096 as
    its lines. Byte-order marks are dropped, and all line ends are a newline.

    Raises:
        InputError: no such corpus, or it is no text.
    """
    if corpus in built_in() and _path(corpus):
        warnings.warn(
            f"The built-in corpus {corpus} is read, not the file or folder of that name here; "
            f"write ./{corpus} for the latter.",
            stacklevel=2,
        )
    if (own := built_in_texts.documents(corpus)) is not None:
        return _joined([document] for document in own)
    if corpus.startswith("hf:"):
        return _joined([cell] for cell in _hub_documents(corpus))
    path = _path(corpus)
    if path is None:
        raise InputError(_unknown(corpus))
    files = _files(path)
    if len(files) == 1:
        return filter(None, itertools.chain.from_iterable(map(_paragraphs, _read(files[0]))))
    return _joined(map(_read, files))


def _path(corpus: str) -> Path | None:
    """The file or folder that a corpus names, if there is one."""
    try:
        path = Path(corpus).expanduser()
        return path if path.is_file() or path.is_dir() else None
    except PermissionError as error:
        raise InputError(f"{corpus} cannot be read ({error.strerror}).") from error
    except (OSError, RuntimeError):  # a name too long for a file; no such user's home
        return None


def _unknown(corpus: str) -> str:
    shown = corpus if len(corpus) <= 80 else f"{corpus[:77]}..."
    near = difflib.get_close_matches(corpus.lower(), built_in(), n=1, cutoff=0.75)
    if not near and corpus.lower().startswith("docstrings"):
        near = ["docstrings"]
    return (
        f"There is no corpus {shown!r}"
        + (f" (did you mean {near[0]}?)" if near else "")
        + ": it is no file or folder, and the built-in ones are docstrings, docstrings:<part> "
        f"({built_in_texts.HELD_OUT}, {', '.join(built_in_texts.DOCSTRING_PACKAGES)}), "
        "python-manual, bible and reactions (:near, :held-out); a data set of the hub reads "
        "hf:name/config:split:column."
    )


# --------------------------------------------------------------------------------------- documents


def _joined(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    """Documents, each in one window or several, with an empty line between one and the next."""
    separator = ""
    for windows in documents:
        is_first = True
        for window in filter(str.strip, windows):
            is_long = not is_first or len(window) >= _WINDOW
            text = separator + window if is_first else window
            yield from _paragraphs(text) if is_long else [text]
            is_first, separator = False, "\n\n"


def divisions(document: str) -> list[str]:
    """Paragraphs of a document, or lines where it is one paragraph; concatenated they are it."""
    paragraphs = _paragraphs(document)
    return paragraphs if len(paragraphs) > 1 else _lines(document)


def _paragraphs(document: str) -> list[str]:
    """Paragraphs of a text, each with the white space before it; long ones are divided further."""
    paragraphs: list[str] = []
    for paragraph in re.split(r"(?<=\S)(?=\s*?\n\s*?\n)", document):
        paragraphs += [paragraph] if len(paragraph) <= _PARAGRAPH else _lines(paragraph)
    return paragraphs


def _lines(paragraph: str) -> list[str]:
    lines: list[str] = []
    for line in re.split(r"(?<=\S)(?=\s*?\n)", paragraph):
        lines += [line] if len(line) <= 2 * _PARAGRAPH else _runs(line)
    return lines


def _runs(line: str) -> list[str]:
    """Runs of whole words; a word that has no end in sight is cut."""
    return re.findall(rf"(?s).{{1,{_PARAGRAPH}}}\S{{0,{_PARAGRAPH}}}", line)


# ------------------------------------------------------------------------------- files and folders


def _files(path: Path) -> list[Path]:
    """The text files of a folder in the order of their names, or the one file that `path` is."""
    if path.is_file():
        return [path]
    everything = [file for file in _walk(path, set()) if not file.is_dir()]
    named = sorted(file for file in everything if file.suffix.lower() in SUFFIXES)
    for file in named:
        if file.is_symlink() and not file.exists():
            raise InputError(f"{file} is a link to a file that is not there: mend or remove it.")
    there = [file for file in named if file.is_file()]
    if not there:
        others = sorted({file.suffix.lower() or "no suffix" for file in everything})
        raise InputError(
            f"The folder {path} holds no .txt, .md or .rst file"
            + (f" (what is there has {', '.join(others[:8])})." if others else ".")
        )
    return there


def _walk(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Everything in a folder and the folders in it, also linked ones, once; nothing hidden."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}).") from error
    for entry in entries:
        if not entry.name.startswith("."):
            yield entry
            if entry.is_dir():
                yield from _walk(entry, seen)


def _read(path: Path) -> Iterator[str]:
    """A file in windows of about 131,072 characters, which end where a paragraph or line does."""
    _refuse_wide(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for window in _windows(file):
                if "\0" in window:
                    raise InputError(
                        f"{path} is a binary file (it holds zero bytes); give a text file."
                    )
                yield window
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x} cannot be decoded); "
            "convert it first."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def _refuse_wide(path: Path) -> None:
    """UTF-16 and UTF-32 are what some editors save as Unicode text."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or start == b"\0\0\xfe\xff":
        wide = "UTF-32" if b"\0\0" in start else "UTF-16"
        raise InputError(f"{path} is {wide} text, not UTF-8; save it as UTF-8 first.")


def _windows(file: TextIO) -> Iterator[str]:
    """A file from left to right, cut where a window that is long enough can end."""
    held = ""
    while more := file.read(_WINDOW):
        held += more.replace("\ufeff", "")
        while len(held) >= 2 * _WINDOW:
            end = _end(held)
            yield held[:end]
            held = held[end:]
    yield held


def _end(held: str) -> int:
    """Where a window ends: at the first empty line, else line end, else space, after its size."""
    for pattern in (r"(?<=\S)\s*?\n\s*?\n", r"(?<=\S)\s*?\n", r"(?<=\S)\s"):
        if match := re.compile(pattern).search(held, _WINDOW, 2 * _WINDOW):
            return match.start()
    return 2 * _WINDOW


# --------------------------------------------------------------------------------------- data sets


def _hub_documents(corpus: str) -> Iterator[str]:
    """`hf:owner/name[/config]:split:column`, streamed; cells without a value are skipped."""
    match = re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+){0,2}):([\w.\[\]%:+-]+):([\w.-]+)", corpus)
    if not match:
        raise InputError(
            f"{corpus!r} does not name a data set of the hub, as hf:name/config:split:column does, "
            "for instance hf:Salesforce/wikitext/wikitext-2-raw-v1:validation:text."
        )
    name, split, column = match.groups()
    parts = name.split("/")
    hub_id, config = ("/".join(parts[:2]), parts[2]) if len(parts) == 3 else (name, None)
    for row in _rows(hub_id, config, split):
        if column not in row or not isinstance(row[column], str | None):
            raise InputError(
                f"The data set {hub_id} has no text column {column!r}; it has {', '.join(row)}."
            )
        yield _plain(row[column] or "")


def _rows(hub_id: str, config: str | None, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(hub_id, config, split=split, streaming=True)
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        raise InputError(
            f"The data set {hub_id} (config {config}, split {split}) cannot be read ({why}); check "
            "its name, config and split on the hub, or give a text file."
        ) from error


def _plain(text: str) -> str:
    """A text as a file of it would be read."""
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
