"""Text to blocks of tokens, and token counts."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probenc_support import cache, names
from probenc_support.errors import InputError

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
"""Parts of the built-in corpus: import name to distribution name."""

_VERSION = 1
"""Raise it when the extraction of docstrings changes, so that cached text is made again."""


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """A corpus as the model reads it: consecutive blocks of tokens, no special tokens."""

    ids: Tensor
    """[n_blocks, sequence_length] int64 token ids."""
    corpus: str
    """What it is called on a page: see `label`."""
    hash: str
    """SHA-256 of the ids."""

    @property
    def n_positions(self) -> int:
        """Tokens in all blocks."""
        return self.ids.numel()

    def select(self, start: int, stop: int | None = None) -> "TokenBlocks":
        """Blocks `start` to `stop`, as a corpus of their own."""
        return from_ids(self.ids[start:stop], corpus=f"{self.corpus}[{start}:{stop or ''}]")


def from_ids(ids: Tensor, *, corpus: str) -> TokenBlocks:
    """Token blocks of given ids [n_blocks, sequence_length]."""
    ids = ids.to(torch.int64).contiguous()
    return TokenBlocks(ids, corpus, hashlib.sha256(ids.numpy().tobytes()).hexdigest())


# --------------------------------------------------------------------------------------------- text


def built_in() -> list[str]:
    """Names of the built-in corpora."""
    return ["docstrings", *(f"docstrings:{part}" for part in DOCSTRING_PACKAGES), "python-manual"]


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
    return "\n\n".join(documents(corpus))


def documents(corpus: str) -> list[str]:
    """The documents of a corpus, in a fixed order.

    Raises:
        InputError: no such corpus, or it has no text, or is no text.
    """
    found = list(stream(corpus))
    if not any(document.strip() for document in found):
        raise InputError(f"The corpus {corpus} holds no text; name one that does.")
    return found


def stream(corpus: str) -> Iterator[str]:
    """Documents one by one, so that a large data set is read only as far as needed."""
    if corpus == "docstrings" or corpus.startswith("docstrings:"):
        return iter(_docstring_documents(corpus.partition(":")[2]))
    if corpus == "python-manual":
        return iter(_python_manual())
    if corpus.startswith("hf:"):
        return _hub_documents(corpus)
    return _file_documents(corpus)


def _file_documents(corpus: str) -> Iterator[str]:
    path = Path(corpus).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in {".txt", ".md", ".rst", ".text"})
        if not files:
            raise InputError(f"The folder {corpus} holds no .txt, .md or .rst file.")
    elif path.is_file():
        files = [path]
    else:
        raise InputError(
            f"There is no corpus {corpus!r}: it is no file or folder, and the built-in ones are "
            f"docstrings, docstrings:<package> ({', '.join(DOCSTRING_PACKAGES)}) and "
            "python-manual; a data set of the hub reads hf:name/config:split:column."
        )
    return (_read(file) for file in files)


def _read(path: Path) -> str:
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 text (byte {error.start} cannot be decoded); convert it first."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if "\0" in content:
        raise InputError(f"{path} is a binary file (it holds zero bytes); give a text file.")
    return content


def _hub_documents(corpus: str) -> Iterator[str]:
    """`hf:owner/name[/config]:split:column`, streamed."""
    match = re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+){0,2}):([\w.\[\]%:+-]+):([\w.-]+)", corpus)
    if not match:
        raise InputError(
            f"{corpus!r} is no data set of the hub; it reads hf:name/config:split:column, for "
            "instance hf:Salesforce/wikitext/wikitext-2-raw-v1:validation:text."
        )
    name, split, column = match.groups()
    parts = name.split("/")
    hub_id, config = ("/".join(parts[:2]), parts[2]) if len(parts) == 3 else (name, None)
    from datasets import load_dataset

    try:
        rows = load_dataset(hub_id, config, split=split, streaming=True)
        first = next(iter(rows))
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        raise InputError(
            f"The data set {hub_id} (config {config}, split {split}) cannot be read ({why}); check "
            "its name, config and split on the hub, or give a text file."
        ) from error
    if not isinstance(first.get(column), str):
        raise InputError(
            f"The data set {hub_id} has no text column {column!r}; it has {', '.join(first)}."
        )
    return (row[column] for row in rows if row[column].strip())


# --------------------------------------------------------------------------------- built-in corpora


def _python_manual() -> list[str]:
    """The language reference that the standard library carries for `help()`."""
    from pydoc_data.topics import topics

    return [str(topics[name]).strip() for name in sorted(topics)]


def _docstring_documents(part: str) -> list[str]:
    """Docstrings of one package, or of all, mixed in an order that depends on their text only."""
    if part and part not in DOCSTRING_PACKAGES:
        raise InputError(
            f"There is no corpus docstrings:{part}; the parts are {', '.join(DOCSTRING_PACKAGES)}."
        )
    seen: set[str] = set()
    found = []
    for package in [part] if part else sorted(DOCSTRING_PACKAGES):
        for document in _package_documents(package):
            paragraphs = [p for p in document.split("\n\n") if p not in seen]
            seen.update(paragraphs)
            if sum(map(len, paragraphs)) >= 200:
                found.append("\n\n".join(paragraphs))
    return sorted(found, key=lambda document: hashlib.sha256(document.encode()).digest())


def _package_documents(package: str) -> list[str]:
    """Prose of one package's docstrings, extracted once a version and kept in the cache."""
    version = importlib.metadata.version(DOCSTRING_PACKAGES[package])
    path = cache.cache_dir() / "corpora" / f"docstrings-{package}-{version}-v{_VERSION}.json"
    with cache.locked(path.stem):
        try:
            return [str(document) for document in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError):
            found = list(_extract(package))
            with cache.atomic_path(path) as temporary:
                temporary.write_text(json.dumps(found), encoding="utf-8")
            return found


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
        if isinstance(node, kinds) and (found := ast.get_docstring(node)):
            yield found


def _prose(docstring: str) -> str:
    """The paragraphs that read as English: no doctests, no tables, no bare signatures."""
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", docstring)]
    return "\n\n".join(p for p in paragraphs if _is_prose(p))


def _is_prose(paragraph: str) -> bool:
    if len(paragraph) < 40 or ">>>" in paragraph or not paragraph.isascii():
        return False
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    return letters >= 0.8 * len(" ".join(paragraph.split())) and len(paragraph.split()) >= 8


# ------------------------------------------------------------------------------------------- tokens


def tokens(corpus: str, tokenizer: PreTrainedTokenizerBase, *, at_least: int) -> NDArray[np.int64]:
    """The first tokens of a corpus ([n], n >= at_least where the text has so many).

    Documents are joined by an empty line and tokenised without special tokens, in pieces of about
    a megabyte that end between documents, so that the first tokens of a large corpus cost no more
    than themselves.
    """
    found: list[NDArray[np.int64]] = []
    count = 0
    for piece in _pieces(stream(corpus)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ids = tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        found.append(np.asarray(ids, dtype=np.int64))
        count += len(ids)
        if count >= at_least:
            break
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _pieces(documents: Iterable[str], size: int = 1_000_000) -> Iterator[str]:
    held: list[str] = []
    length = 0
    for document in documents:
        held.append(document)
        length += len(document)
        if length >= size:
            yield "\n\n".join(held) + "\n\n"
            held, length = [], 0
    if held:
        yield "\n\n".join(held)


def blocks(
    corpus: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n_positions: int = 16384,
    sequence_length: int = 256,
    context_length: int | None = None,
) -> TokenBlocks:
    """The first `n_positions / sequence_length` blocks of a corpus.

    Args:
        context_length: the model's; a longer `sequence_length` is refused.

    Raises:
        InputError: no such corpus, no text, too short for one block, or impossible sizes.
    """
    if sequence_length < 2 or n_positions < sequence_length:
        raise InputError(
            f"n_positions ({n_positions}) must be at least sequence_length ({sequence_length}), "
            "which must be at least 2."
        )
    if context_length is not None and sequence_length > context_length:
        raise InputError(
            f"sequence_length {sequence_length} is longer than the model's context of "
            f"{context_length}; give {context_length} or less."
        )
    wanted = n_positions // sequence_length * sequence_length
    ids = tokens(corpus, tokenizer, at_least=wanted)
    if not len(ids):
        raise InputError(f"The corpus {corpus} holds no text; name one that does.")
    if len(ids) < sequence_length:
        raise InputError(
            f"The corpus {corpus} has {len(ids)} tokens, too few for one block of "
            f"{sequence_length}; give a longer text or a smaller sequence_length."
        )
    count = min(wanted, len(ids)) // sequence_length
    shaped = torch.from_numpy(ids[: count * sequence_length].reshape(count, sequence_length))
    return from_ids(shaped, corpus=label(corpus))


def token_counts(corpus: str, tokenizer: PreTrainedTokenizerBase, n_rows: int) -> NDArray[np.int64]:
    """How often each token occurs in the whole corpus: [n_rows] int64, indexed by token id."""
    ids = tokens(corpus, tokenizer, at_least=2**62)
    return np.bincount(ids, minlength=n_rows)[:n_rows].astype(np.int64)
