"""Makes an executed page and its tables small enough to be committed."""

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from probenc_support import cache
from probenc_support.errors import InputError

SCALE = 1.2
"""Dots of a picture for each pixel of the width that a page shows it with."""

COLOURS = 32
"""Of a picture's palette, which keep the hues of a panel's lines and the steps of a density."""

LARGEST_PAGE = 1_000_000
"""Bytes of a page at most."""

LARGEST_TABLE = 60_000
"""Bytes of a table at most; a larger one is left out, since the run that makes it is named."""

_IMAGE = re.compile(r'<img src="data:(?P<mime>[^;"]+);base64,(?P<data>[^"]+)"(?P<rest>[^>]*)>')

_WIDTH = re.compile(r'width="(\d+)"')

_ALSO = ("text/plain", "text/latex")
"""Forms of an output that a page does not show where it has HTML or Markdown."""


def page(book: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An executed notebook (as JSON) with small pictures, and without what the book never shows.

    Raises:
        InputError: a figure was drawn as SVG, which cannot be turned into dots here.
    """
    return {**book, "cells": [_cell(cell, name) for cell in book["cells"]]}


def _cell(cell: Mapping[str, Any], name: str) -> dict[str, Any]:
    if "outputs" not in cell:
        return dict(cell)
    metadata = {k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution")}
    return {**cell, "metadata": metadata, "outputs": [_output(o, name) for o in cell["outputs"]]}


def _output(output: Mapping[str, Any], name: str) -> dict[str, Any]:
    data = output.get("data")
    if not data:
        return dict(output)
    rich = {"text/html", "text/markdown"} & data.keys()
    kept = {mime: value for mime, value in data.items() if not (rich and mime in _ALSO)}
    if "text/html" in kept:
        kept["text/html"] = _IMAGE.sub(
            lambda found: _image(found, name), "".join(data["text/html"])
        )
    return {**output, "data": kept}


def _image(found: re.Match[str], name: str) -> str:
    if found["mime"] != "image/png":
        raise InputError(
            f"{name} has a figure as {found['mime']}; only a page whose figures were drawn as PNG "
            "is kept: make it by `make book CONFIG=config.full.yaml`, or with PROBENC_FIGURES=png."
        )
    width = _WIDTH.search(found["rest"])
    small = picture(base64.b64decode(found["data"]), int(width[1]) if width else 0)
    return f'<img src="data:image/png;base64,{base64.b64encode(small).decode()}"{found["rest"]}>'


def picture(png: bytes, width: int = 0) -> bytes:
    """A PNG of few colours, at most `SCALE` dots a pixel of the width (0: of its own size); the
    picture as it was where that is no smaller."""
    with Image.open(io.BytesIO(png)) as opened:
        flat = Image.new("RGB", opened.size, "white")
        coloured = opened.convert("RGBA")
        flat.paste(coloured, mask=coloured.getchannel("A"))
    if width and flat.width > SCALE * width:
        size = (round(SCALE * width), round(flat.height * SCALE * width / flat.width))
        flat = flat.resize(size, Image.Resampling.LANCZOS)
    small = io.BytesIO()
    few = flat.quantize(
        COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
    )
    few.save(small, format="PNG", optimize=True)
    return min(small.getvalue(), png, key=len)


def table(source: Path, target: Path) -> bool:
    """Writes a table in Parquet with seven digits and compressed; False, and no file, where it is
    larger than `LARGEST_TABLE` all the same."""
    frame = pd.read_parquet(source)
    small = frame.astype(dict.fromkeys(frame.select_dtypes("float64").columns, "float32"))
    with cache.atomic_path(target) as temporary:
        small.to_parquet(temporary, index=False, compression="zstd", compression_level=19)
    if target.stat().st_size <= LARGEST_TABLE:
        return True
    target.unlink()
    return False
