"""Parameters of a notebook, checked in its first cell: one clear sentence for what is wrong."""

import ast
import contextlib
import difflib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from probenc_support import names
from probenc_support.errors import InputError
from probenc_support.runs import run_files


@dataclass(frozen=True)
class Text:
    """A string."""

    choices: tuple[str, ...] = ()
    """Allowed values; empty: any."""
    empty: bool = True
    """Whether the empty string is allowed."""

    def check(self, name: str, value: Any) -> str:
        """The value, if it is one.

        Raises:
            InputError: it is no string, or none of the choices.
        """
        if not isinstance(value, str):
            raise InputError(f"{name} must be text, not {value!r} ({type(value).__name__}).")
        if self.choices and value not in self.choices:
            raise InputError(f"{name} is {value!r}; use one of {', '.join(self.choices)}.")
        if not self.empty and not value.strip():
            raise InputError(f"{name} is empty; give a value.")
        return value


@dataclass(frozen=True)
class Number:
    """A number in a range; a whole one unless said otherwise."""

    low: float = -float("inf")
    high: float = float("inf")
    whole: bool = True

    def check(self, name: str, value: Any) -> Any:
        """The value, as int or float.

        Raises:
            InputError: it is no number, not whole, or out of range.
        """
        kind = "a whole number" if self.whole else "a number"
        right = isinstance(value, int) or (isinstance(value, float) and not self.whole)
        if not right or isinstance(value, bool):
            raise InputError(f"{name} must be {kind}, not {value!r} ({type(value).__name__}).")
        if not self.low <= value <= self.high:
            raise InputError(f"{name} is {value}; it must be {kind} {self._range}.")
        return value if self.whole else float(value)

    @property
    def _range(self) -> str:
        if self.high == float("inf"):
            return f"of at least {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True)
class Flag:
    """True or False."""

    def check(self, name: str, value: Any) -> bool:
        """The value, if it is one.

        Raises:
            InputError: it is neither.
        """
        if not isinstance(value, bool):
            raise InputError(f"{name} must be True or False, not {value!r}.")
        return value


@dataclass(frozen=True)
class Several:
    """A list whose items are all of one kind."""

    item: "Text | Number | Flag"
    at_least: int = 0

    def check(self, name: str, value: Any) -> list[Any]:
        """The value, as a list. papermill's `-p` hands a list over as text: "[0.1, 0.3]".

        Raises:
            InputError: it is no list, too short, or an item is wrong.
        """
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be a list, not {value!r}.")
        if len(value) < self.at_least:
            raise InputError(f"{name} must have at least {self.at_least} items; it is {value!r}.")
        return [self.item.check(f"{name}[{i}]", item) for i, item in enumerate(value)]


Kind = Text | Number | Flag | Several


SHARED: Mapping[str, Kind] = MappingProxyType(
    {
        "model": Text(empty=False),
        "revision": Text(),
        "corpus": Text(empty=False),
        "eval_corpus": Text(),
        "first_token": Text(empty=False),
        "n_positions": Number(low=2),
        "sequence_length": Number(low=2),
        "positions": Text(choices=("all", "last")),
        "device": Text(empty=False),
        "dtype": Text(choices=("auto", "float32", "float64", "bfloat16", "float16")),
        "seed": Number(low=0, high=2**32 - 1),
        "results_dir": Text(),
    }
)
"""Parameters that every notebook has."""


@dataclass(frozen=True)
class Parameters:
    """The checked parameters of one run of a notebook."""

    notebook: str
    model: str
    revision: str
    corpus: str
    eval_corpus: str
    first_token: str
    n_positions: int
    sequence_length: int
    positions: str
    device: str
    dtype: str
    seed: int
    results_dir: Path
    """Absolute."""
    own: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that only this notebook has; each can be read as an attribute, too."""
    started: float = field(default_factory=time.time)
    """Seconds since the epoch."""

    def __getattr__(self, name: str) -> Any:
        """A parameter that only this notebook has, so that `p.x` is `p.own["x"]`."""
        own = self.__dict__.get("own", {})
        if name in own:
            return own[name]
        raise AttributeError(f"{self.__dict__.get('notebook', 'The notebook')} has no {name!r}.")

    @property
    def model_name(self) -> str:
        """The model as a page shows it: a folder or file by its own name."""
        return names.shown(self.model)

    @property
    def corpus_name(self) -> str:
        """The corpus as a page shows it."""
        return names.shown(self.corpus)

    @property
    def eval_corpus_name(self) -> str:
        """The other corpus as a page shows it."""
        return names.shown(self.eval_corpus)


def check(notebook: str, namespace: Mapping[str, Any], **own: Kind) -> Parameters:
    """Checks the parameters that stand in a notebook's namespace.

    Args:
        notebook: name without suffix, such as `01_log_linear_fit`.
        namespace: the notebook's `globals()`, in its first cell.
        own: kinds of the parameters that this notebook has in addition to the shared ones.

    Raises:
        InputError: an unknown parameter, a wrong type, or an impossible value.
    """
    kinds = {**SHARED, **own}
    given = {name: value for name, value in namespace.items() if _is_parameter(name, value)}
    leftover = _leftovers(namespace, kinds)
    for name in given:
        if name not in kinds and name not in leftover:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(kinds)}."
            raise InputError(f"{notebook} has no parameter {name!r}; {hint}")
    for name in kinds:
        if name not in given:
            raise InputError(f"{notebook} needs the parameter {name!r}, which is not set.")
    values: dict[str, Any] = {name: kind.check(name, given[name]) for name, kind in kinds.items()}
    if values["n_positions"] < values["sequence_length"]:
        raise InputError(
            f"n_positions ({values['n_positions']}) is less than sequence_length "
            f"({values['sequence_length']}), so there is not one block; raise n_positions."
        )
    shared = {name: values[name] for name in SHARED}
    shared["results_dir"] = _results_dir(values["results_dir"], values["model"])
    run_files.check_results(shared["results_dir"], notebook)
    return Parameters(notebook=notebook, own={name: values[name] for name in own}, **shared)


def _leftovers(namespace: Mapping[str, Any], kinds: Mapping[str, Kind]) -> set[str]:
    """Names in a live kernel that later cells of an earlier run left, and that are no parameters.

    Parameters are the names that were assigned in the cell of the parameters when it was last run,
    or between it and the check; and those that a cell run since then assigned, if all names that it
    assigns are parameters or nearly spelt like one.
    """
    history = [code for code in namespace.get("In", [])[:-1] if isinstance(code, str)]
    checks = [i for i, code in enumerate(history) if "parameters.check(" in code]
    assigned = [_assigned(code) for code in history]
    starts = [i for i, names_of_cell in enumerate(assigned) if SHARED.keys() <= names_of_cell]
    if not (checks and starts):
        return set()
    stop = min((i for i in checks if i > starts[-1]), default=len(history))
    wanted = set().union(*assigned[starts[-1] : stop])
    for later in assigned[stop:]:
        if all(difflib.get_close_matches(name, kinds, n=1, cutoff=0.8) for name in later):
            wanted |= later
    return namespace.keys() - wanted


def _assigned(code: str) -> set[str]:
    """Names that a cell assigns at its top level, outside of branches and loops."""
    try:
        statements = ast.parse(code).body
    except (SyntaxError, ValueError):
        return set()
    assignments = [one for one in statements if isinstance(one, ast.Assign | ast.AnnAssign)]
    return {
        node.id
        for one in assignments
        for node in ast.walk(one)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _is_parameter(name: str, value: Any) -> bool:
    plain = value is None or isinstance(value, str | int | float | bool | list | tuple | dict)
    return plain and not name.startswith("_") and name not in ("In", "Out")


def _results_dir(text: str, model: str) -> Path:
    folder = names.expanded(text) if text else Path("results") / names.slug(model)
    if os.path.isfile(folder):  # noqa: PTH113 (Path.is_file may raise)
        raise InputError(f"results_dir {folder} is a file; name a folder.")
    return folder.resolve()
