"""What a name means and how a page shows it: models, texts, folders of runs.

A name of the roster means the roster's model, even where a folder of that name lies in the working
directory; `./name` means the folder. A page shows a file or folder by its own name, without the
folders of the machine that it lies in.
"""

import functools
import hashlib
import os
import re
import shlex
import sys
from pathlib import Path

from probenc_support.errors import InputError
from probenc_support.roster import roster_entry

ALL_MODELS = "all-models"
"""Stands for the model in the notebook that compares them all, and names its folder."""

LONGEST = 100
"""Most characters of a folder's name. File systems allow 255, and longer names are made from it."""


def expanded(text: str) -> Path:
    """A path with `~` replaced by the home folder, or unchanged where there is no such home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def on_disk(text: str) -> Path | None:
    """The file or folder that a text names, if there is one."""
    path = expanded(text)
    return path if text and os.path.exists(path) else None  # noqa: PTH110 (Path.exists may raise)


def shown(name: str) -> str:
    """A name as a page shows it: of a path its last part, any other name as it stands."""
    here = name.startswith(("/", "./", "../", "~/", ".\\", "..\\")) or Path(name).is_absolute()
    nested = "/" in name or os.sep in name or name in (".", "..")
    if "\0" in name or not (here or (nested and on_disk(name))):
        return name
    return expanded(name).resolve().name or name


def model_path(name: str) -> Path | None:
    """The folder or file that a model's name means; None: the roster's, the hub's, or none."""
    path = on_disk(name)
    if path is not None and roster_entry(name)[0] is not None:
        tell_which(name, "the model of that name in the roster")
        return None
    return path


@functools.cache
def tell_which(name: str, what: str) -> None:
    """Says on stderr, once, that a name means this and not a file or folder of the same name."""
    print(
        f"{name} means {what}, not what lies in this folder; write ./{name} for the latter.",
        file=sys.stderr,
    )


def model_source(name: str) -> str:
    """What a model's name was taken as: `roster: <source>`, `folder`, `file` or `hub`."""
    entry, _ = roster_entry(name)
    if entry is not None:
        return f"roster: {entry.source}"
    if (path := model_path(name)) is not None:
        return "folder" if path.is_dir() else "file"
    return "" if name == ALL_MODELS else "hub"


def slug(model: str) -> str:
    """Name of a model's folder under `book/runs`, from a roster name, hub id, folder or file.

    At most `LONGEST` characters; of a longer name the end is replaced by a hash of the whole.

    Raises:
        InputError: the name holds no letter or digit.
    """
    path = model_path(model)
    name = path.resolve().name if path else model.strip("/").replace("/", "--")
    name = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if not any(character.isalnum() for character in name):
        raise InputError(
            f"The model name {model!r} has no letter or digit, so no folder can be named after it."
        )
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    if not safe:
        return f"model-{digest}"
    return safe if len(safe) <= LONGEST else f"{safe[: LONGEST - 13]}-{digest}"


def split(text: str) -> list[str]:
    """Names in one line, parted by blanks and quoted as in a shell.

    One path with blanks that is there is one name, without quotes.

    Raises:
        InputError: a quotation mark is not closed.
    """
    if on_disk(text.strip()):
        return [text.strip()]
    try:
        return shlex.split(text)
    except ValueError:
        raise InputError(
            f"The names {text!r} contain a quotation mark that is not closed: quote a path with "
            "blanks as in a shell, such as 'my models/one' gpt2."
        ) from None
