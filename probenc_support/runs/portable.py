"""Takes the paths of the machine out of an executed notebook."""

import html
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from probenc_support import cache, names

_DRAWING = re.compile(r"(;base64,[A-Za-z0-9+/=\s]+)")


_BEFORE = r"(?:(?<![\w.~-])|(?<=\dm)|(?<=\[m))"
"""What may stand before a path: no part of a longer word, but the end of a colour code."""


_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "TMPDIR", "JUPYTER_RUNTIME_DIR")


def remover(root: Path, given: Iterable[Any]) -> Callable[[Any], Any]:
    """A function that takes the machine's paths out of every string of a notebook (as JSON).

    Args:
        root: the repository; what lies below it keeps its relative path.
        given: values of the parameters. A path among them becomes its own name, and what lies
            below it is told from there.
    """
    places = dict(_places(root, given))
    by_length = sorted(places, key=len, reverse=True)
    pattern = re.compile(
        "|".join(f"{_BEFORE}{re.escape(place)}{_after(place)}" for place in by_length)
    )

    def clean(text: str) -> str:
        # The code of a drawing may contain the letters of a path by chance; it is left as it is.
        parts = _DRAWING.split(text)
        parts[::2] = [pattern.sub(lambda place: places[place.group()], part) for part in parts[::2]]
        return "".join(parts)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return clean(value)
        if isinstance(value, Mapping):
            return {
                key: item if key in ("image/png", "image/jpeg") else walk(item)
                for key, item in value.items()
            }
        return [walk(item) for item in value] if isinstance(value, list | tuple) else value

    return walk


def _after(place: str) -> str:
    return "" if place.endswith("/") else r"(?![\w-])"


def _places(root: Path, given: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for folder, name in _folders(root):
        for path in {folder.absolute(), folder.resolve()}:
            if len(path.parts) > 1:
                yield from _spelt(f"{path}/", f"{name}/" if name == "~" else "")
            if len(path.parts) > 2:
                yield from _spelt(str(path), name)
    for value in _texts(given):
        yield from _of_parameter(value)


def _folders(root: Path) -> Iterable[tuple[Path, str]]:
    """Folders whose paths reveal the machine, each with what is written in its place."""
    yield from ((Path(os.environ[name]), "…") for name in _VARIABLES if os.environ.get(name))
    yield from ((folder, "…") for folder in (Path(tempfile.gettempdir()), cache.cache_dir()))
    for prefix in {sys.prefix, sys.base_prefix}:
        if not prefix.startswith("/usr"):
            yield Path(prefix), "…"
    if (home := names.expanded("~")).is_absolute():
        yield home, "~"
    yield from ((folder, ".") for folder in (Path.cwd(), root))


def _of_parameter(value: str) -> Iterable[tuple[str, str]]:
    name = names.shown(value)
    if name == value:
        return
    path = names.expanded(value)
    if re.search(r"/\w", bare := value.rstrip("/")):
        yield from _spelt(bare, name)
    for whole in {path.absolute(), path.resolve()}:
        yield from _spelt(str(whole), name)
        if len(whole.parent.parts) > 1:
            yield from _spelt(f"{whole.parent}/", "")


def _texts(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _spelt(place: str, name: str) -> Iterable[tuple[str, str]]:
    """A path as it may stand in text, HTML, JSON, Python and links."""
    quoted = json.dumps(place)[1:-1], json.dumps(place, ensure_ascii=False)[1:-1], repr(place)[1:-1]
    for spelling in {place, html.escape(place), quote(place), *quoted}:
        yield spelling, name
