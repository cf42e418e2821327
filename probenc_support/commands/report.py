"""Words of the commands: tables for the terminal, and the card of a model that was written."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import transformers

from probenc_support import __version__
from probenc_support.models import LanguageModel
from probenc_support.names import model_source


def as_text(table: pd.DataFrame, formats: Mapping[str, str]) -> str:
    """A table in columns of text, one format a column: for the terminal."""
    return _written(table, formats).to_string(index=False)


def as_markdown(table: pd.DataFrame, formats: Mapping[str, str]) -> str:
    """The same as a table of Markdown."""
    written = _written(table, formats)
    rows = [list(written.columns), ["---"] * len(written.columns), *written.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows)


def _written(table: pd.DataFrame, formats: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: [format(value, form) if form else str(value) for value in table[name]]
            for name, form in formats.items()
            if name in table
        }
    )


def origin(lm: LanguageModel, name: str) -> dict[str, str]:
    """Which model was changed: its name, without the folders of this machine, and its weights."""
    return {
        "model": lm.name,
        "taken_as": model_source(name),
        "revision": lm.revision,
        "weights_sha256": lm.weights_hash,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "kind": lm.kind.name,
    }


def what_else(lm: LanguageModel) -> str:
    """What the edit of an output embedding leaves as it was, in words."""
    same = "No other weight differs."
    if not lm.tied:
        return same
    return (
        "The model's input and output embedding are one matrix; here they are two, and the input "
        f"embedding is what it was. {same}"
    )


def show(table: pd.DataFrame, formats: Mapping[str, str], *told: str, written: Path | None) -> None:
    """Prints the table, and to stderr what is told of it and where the model was written; None:
    it was not."""
    print(as_text(table, formats))
    where = "Nothing was written." if written is None else f"Written: {written}"
    print(*told, where, sep="\n", file=sys.stderr)


def versions() -> dict[str, str]:
    """Releases that wrote the model."""
    return {"probenc_support": __version__, "transformers": transformers.__version__}


def card(lm: LanguageModel, name: str, title: str, *paragraphs: str) -> str:
    """A model card: front matter that the hub reads, a title, paragraphs."""
    base = lm.name if model_source(name) == "hub" else ""
    front = ["---", "library_name: transformers", *([f"base_model: {base}"] if base else []), "---"]
    closing = (
        f"Written by probenc_support {__version__} with transformers {transformers.__version__}, "
        "which is all that loading it needs. Licence and terms are those of the model that it was "
        "made from."
    )
    return "\n".join(front) + f"\n\n# {title}\n\n" + "\n\n".join([*paragraphs, closing]) + "\n"
