"""A notebook that is run again in a live kernel, after the model was changed by hand."""

import copy
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
import tiny
from nbclient import NotebookClient
from pages import NOTEBOOKS, ROOT

from probenc_support.errors import InputError
from probenc_support.notebook import parameters
from probenc_support.runs import execute

FIT = ROOT / "notebooks" / "01_log_linear_fit.ipynb"


def with_parameters(cells: list[Any], **values: Any) -> list[Any]:
    """The notebook's code cells, with the cell of its parameters edited as a person does."""
    edited = copy.deepcopy([cell for cell in cells if cell.cell_type == "code"])
    lines = edited[0].source.splitlines()
    for name, value in values.items():
        lines = [f"{name} = {value!r}" if ln.startswith(f"{name} =") else ln for ln in lines]
    edited[0].source = "\n".join(lines)
    return edited


def run(folder: Path, *parts: list[Any]) -> list[list[Any]]:
    """Executes cells in one kernel; the outputs of each part."""
    book = nbformat.v4.new_notebook(cells=[cell for part in parts for cell in copy.deepcopy(part)])
    for cell in book.cells:
        cell.pop("id", None)
    with execute._sockets() as config:
        NotebookClient(
            book, kernel_name="python3", allow_errors=True, timeout=600, config=config,
            resources={"metadata": {"path": str(folder)}},
        ).execute()  # fmt: skip
    outputs = iter([cell.outputs for cell in book.cells])
    return [[output for _ in part for output in next(outputs)] for part in parts]


def errors(outputs: list[Any]) -> list[str]:
    return [output.evalue for output in outputs if output.output_type == "error"]


def test_the_whole_notebook_again_for_another_model(
    tmp_path: Path, text_file: Path, own_cache: Path, warm_kernels: None
) -> None:
    """As in `nteract/papermill#495`."""
    given = {
        "corpus": str(text_file), "n_positions": 512, "sequence_length": 32, "n_bootstrap": 20
    }  # fmt: skip
    for name, style in (("model-a", "untied"), ("model-b", "bias")):
        tiny.save(tmp_path / name, style)
    cells = nbformat.read(FIT, as_version=4).cells
    first = with_parameters(cells, model="./model-a", **given)
    second = with_parameters(cells, model="./model-b", **given)
    misspelt = copy.deepcopy(second[:2])
    misspelt[0].source += "\nn_postions = 64"
    alone = [second[0], nbformat.v4.new_code_cell("n_botstrap = 30"), second[1]]
    outputs = run(tmp_path, first, second, misspelt, alone)
    assert not errors(outputs[0])
    assert not errors(outputs[1])
    assert errors(outputs[2]) == [
        "01_log_linear_fit has no parameter 'n_postions'; did you mean n_positions?"
    ]
    assert errors(outputs[3]) == [
        "01_log_linear_fit has no parameter 'n_botstrap'; did you mean n_bootstrap?"
    ]
    assert "model-a" in str(outputs[0])
    assert "model-b" in str(outputs[1])
    assert "model-a" not in str(outputs[1])
    own = tmp_path / "results" / "model-b"
    facts = json.loads((own / f"{FIT.stem}.provenance.json").read_text())
    assert facts["model"] == "model-b"
    assert "model-a" not in json.dumps(facts)
    again = execute.run(
        "01", model=str(tmp_path / "model-b"), results_dir=tmp_path / "fresh", parameters=given
    )
    fresh, live = (
        json.loads((folder / f"{FIT.stem}.metrics.json").read_text())
        for folder in (again.parent, own)
    )
    measured = [name for name in fresh if not name.startswith(("seconds", "peak"))]
    assert {name: live[name] for name in measured} == {name: fresh[name] for name in measured}


# --------------------------------------------------------------- the rule, on histories of a kernel


def namespace(*cells: str, **values: Any) -> dict[str, Any]:
    """What a kernel holds when the last of these cells checks the parameters."""
    found: dict[str, Any] = {"In": ["", *cells], "Out": {}}
    for code in cells:
        exec(code.replace("parameters.check", "dict"), found)
    del found["__builtins__"]
    return {**found, **values}


SET = "\n".join(
    f"{name} = {value!r}"
    for name, value in {
        "model": "gpt2", "revision": "", "corpus": "docstrings", "eval_corpus": "",
        "first_token": "auto",
        "n_positions": 512, "sequence_length": 32, "positions": "all", "device": "auto",
        "dtype": "auto", "seed": 0, "results_dir": "",
    }.items()
)  # fmt: skip
CHECK = "p = parameters.check()"
LATER = "verdict = 'good'\nn_prompt, halves = 3, [1, 2]\nfor i in range(3):\n    last = i"


@pytest.mark.parametrize(
    "cells",
    [
        (SET, CHECK, LATER, SET, CHECK),
        (SET, CHECK, LATER, SET, "n_positions = 64", CHECK),
        (SET, CHECK, LATER, CHECK),
        (SET, CHECK, LATER, "model = 'other'", CHECK),
        (SET, CHECK, LATER, SET.replace("512", "16 * 32"), CHECK),
        (SET + "\nn_postions = 5", CHECK, SET, CHECK),
        (SET, CHECK, LATER, SET, CHECK, LATER, "%matplotlib inline\nbad =", SET, CHECK)[:5],
    ],
)
def test_leftovers_are_no_parameters(cells: tuple[str, ...]) -> None:
    p = parameters.check("x", namespace(*cells))
    assert p.n_positions in (512, 64)


@pytest.mark.parametrize(
    "cells",
    [
        (SET, "extra = 1", CHECK),
        (SET + "\nextra = 1", CHECK, LATER, SET + "\nn_postions = 5", CHECK),
        (SET, CHECK, LATER, SET, "n_postions = 64", CHECK),
        (SET, CHECK, LATER, "n_postions = 64", CHECK),
        (SET + "\na, n_postions = 1, 2", CHECK),
    ],
)
def test_what_a_person_set_is_checked(cells: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="has no parameter"):
        parameters.check("x", namespace(*cells))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_of_a_notebook_reads_as_one_that_a_person_added(path: Path) -> None:
    cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    kinds = {name: parameters.Text() for name in parameters._assigned(cells[0])}
    values = dict.fromkeys(kinds, "")
    later = {name: 1 for cell in cells[2:] for name in parameters._assigned(cell)}
    found = {**values, **later, "In": ["", *cells[:2], *cells[2:], *cells[:2]]}
    assert parameters._leftovers(found, kinds) >= later.keys() - values.keys()
