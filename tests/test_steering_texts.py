"""The texts of section 3: sizes, what is kept apart, and what may not judge."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from probenc_support.errors import InputError
from probenc_support.steering import texts

LENGTH = 32
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def write(folder: Path, name: str, paragraphs: list[str]) -> str:
    path = folder / f"{name}.txt"
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return str(path)


def taken(folder: Path) -> tuple[texts.Texts, list[str]]:
    """Four texts of a prose; the one for calibration repeats a part of the one that judges."""
    prose = [p for p in tiny.prose().split("\n\n") if len(p) > 60]
    quarter = len(prose) // 4
    parts = [prose[i * quarter : (i + 1) * quarter] for i in range(4)]
    shared = parts[1][:6]
    here, ood, near = (write(folder, f"text{i}", parts[i]) for i in range(3))
    calibration = write(folder, "text3", [*shared, *parts[3]])
    found = texts.take(
        here, tiny.tokenizer(), {"ood": ood, "near": near}, [calibration],
        n_positions=1024, calibration_positions=300, sequence_length=LENGTH, context_length=64,
    )  # fmt: skip
    return found, shared


def test_texts_have_the_sizes_that_were_asked_for(tmp_path: Path) -> None:
    found, _ = taken(tmp_path)
    assert found.detecting.n_positions == 1024
    sizes = {domain: text.n_positions for domain, text in found.judging.items()}
    assert sizes == {"id": 256, "ood": 1024, "near": 256}
    (calibration,) = found.calibration.values()
    assert calibration.n_positions == 300 // LENGTH * LENGTH


def test_no_two_texts_share_a_paragraph(tmp_path: Path) -> None:
    found, shared = taken(tmp_path)
    every = [found.detecting, *found.judging.values(), *found.calibration.values()]
    for one, other in itertools.combinations(every, 2):
        assert not one.sources & other.sources
    decode: Any = tiny.tokenizer().decode
    (calibration,) = found.calibration.values()
    words = decode(calibration.ids.flatten())
    assert not [p for p in shared if p[:60] in words]
    assert [p for p in shared if p[:60] in decode(found.judging["ood"].ids.flatten())]
    assert calibration.n_left_out >= 1
    assert f" of `{calibration.corpus}`." in found.summary
    assert f"Left out for that: {calibration.n_left_out} document" in found.summary
    assert "1,024 positions of `text0" in found.summary


def test_a_corpus_judges_or_is_fitted_on() -> None:
    named = {"ood": "a", "near": ""}
    assert texts.judging_corpora(named, ["b"]) == {"ood": "a"}
    with pytest.raises(InputError, match="both near_corpus and a calibration corpus"):
        texts.judging_corpora({"ood": "", "near": "b"}, ["b"])
    with pytest.raises(InputError, match="both eval_corpus and near_corpus"):
        texts.judging_corpora({"ood": "a", "near": "a"}, [])


@pytest.mark.parametrize(
    ("corpus", "eval_corpus"),
    [
        ("docstrings", "python-manual"),
        ("docstrings:scipy", "docstrings"),
        ("python-manual", "python-manual"),
    ],
)
def test_built_in_texts_that_hold_one_another_are_kept_apart(corpus: str, eval_corpus: str) -> None:
    """With the notebook's own calibration corpora, of which each is a part of the docstrings."""
    first = json.loads((NOTEBOOKS / "03_steering.ipynb").read_text(encoding="utf-8"))["cells"][1]
    given: dict[str, Any] = {}
    exec("".join(first["source"]), given)
    found = texts.take(
        corpus, tiny.tokenizer(), {"ood": eval_corpus}, given["calibration_corpora"],
        n_positions=4096, calibration_positions=512, sequence_length=256, context_length=1024,
    )  # fmt: skip
    every = [found.detecting, *found.judging.values(), *found.calibration.values()]
    assert len(every) == 3 + len(given["calibration_corpora"])
    for one, other in itertools.combinations(every, 2):
        assert one.sources
        assert not one.sources & other.sources, (one.corpus, other.corpus)
