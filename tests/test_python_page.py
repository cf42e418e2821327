"""The examples of the page "Use it from Python", of the README and of the page on steering run."""

import contextlib
import copy
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_models import gguf_file
from tokenizers import AddedToken

from probenc_support import corpora, models
from probenc_support.models import training
from probenc_support.models.recipes import Recipe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "book" / "python.md"
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(page: Path) -> list[str]:
    """The fenced blocks of Python of a page, in order."""
    return FENCED.findall(page.read_text(encoding="utf-8"))


def run(page: Path, names: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Runs the examples of a page one after the other, with names of models and texts replaced.

    Returns:
        Their common namespace, and what each of them printed.
    """
    namespace: dict[str, Any] = {}
    printed = []
    for i, code in enumerate(examples(page)):
        for name, other in names.items():
            code = code.replace(f'"{name}"', repr(other))
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, f"{page.name}, example {i + 1}", "exec"), namespace)
        printed.append(out.getvalue())
    return namespace, printed


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> dict[str, str]:
    """What stands for the models and texts of the examples: tiny ones that hold the same words."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "CONTEXT", 320)
        tiny.model("padded").save_pretrained(folder / "model")
        own = gguf_file(folder / "own.gguf")
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in (" Paris", " London")])
    tokenizer.save_pretrained(folder / "model")
    recipe = Recipe("tiny", 2, 16, 2, 320, 32, 4, 40, 512, 1e-2)
    trained = training.train(
        recipe, folder=folder / "run", corpus=str(text_file), device="cpu", progress=False
    )
    return {
        "smollm2-135m-instruct": str(folder / "model"),
        "docstrings": str(text_file),
        "pythia-nano": str(trained),
        "path/to/model.gguf": str(own),
        "my-text.txt": str(text_file),
    }


@pytest.fixture(autouse=True)
def elsewhere(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path
) -> None:
    """A working folder and a cache of one's own, and a short text where docstrings are meant."""
    monkeypatch.chdir(tmp_path)
    stream = corpora.stream

    def short(corpus: str) -> Iterator[str]:
        return stream(str(text_file) if corpus == "docstrings" else corpus)

    monkeypatch.setattr(corpora.blocks_of_text, "stream", short)


@pytest.fixture(scope="module")
def page(names: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page, run once: namespace and prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("work"))
        patch.setenv("PROBENC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield run(PAGE, names)


def test_every_example_runs_and_says_what_came_of_it(page: Any) -> None:
    _, printed = page
    assert len(printed) >= 10
    for i, text in enumerate(printed):
        assert text.strip(), f"example {i + 1} prints nothing"
        assert "nan" not in text, f"example {i + 1}: {text}"


def test_every_example_is_short() -> None:
    for i, code in enumerate(examples(PAGE)):
        lines = [line for line in code.splitlines() if line.strip()]
        assert 4 <= len(lines) <= 16, f"example {i + 1} has {len(lines)} lines"
        assert max(map(len, lines)) <= 100, f"example {i + 1} is wider than the page"


def test_the_page_types_no_result_in_its_prose() -> None:
    prose = re.sub(r"(?s)```.*?```|\{metric\}`[^`]*`", "", PAGE.read_text(encoding="utf-8"))
    assert not re.findall(r"\d", prose)


def test_the_fit_of_the_page_is_that_of_all_tokens_and_no_padding(page: Any) -> None:
    known, _ = page
    lm, detection, fit = known["lm"], known["detection"], known["fit"]
    E = torch.cat([lm.E[lm.tokens], torch.ones(len(lm.tokens), 1)], dim=1).double()
    solved = torch.linalg.lstsq(E, detection.y[:, None]).solution[:, 0]
    torch.testing.assert_close(torch.from_numpy(fit.slopes), solved[:-1], rtol=1e-6, atol=1e-8)
    assert fit.n == len(lm.tokens) < lm.V


def test_the_saved_model_is_the_steered_one(page: Any) -> None:
    known, printed = page
    lm, steered, kept = known["lm"], known["steered"], known["kept"]
    ids = known["blocks"].ids[:8]
    with torch.no_grad():
        theirs = kept(ids).logits.double().log_softmax(dim=2)
        before = lm.model(ids).logits.double().log_softmax(dim=2)
    at = [lm.token_id(" Paris"), lm.token_id(" London")]
    moved = theirs[..., at].exp().mean(dim=(0, 1)) / before[..., at].exp().mean(dim=(0, 1))
    assert moved[0] > 2
    assert moved[1] < 0.5
    torch.testing.assert_close(steered.expected / steered.before, steered.scales)
    (told,) = [text for text in printed if text.startswith("rows that differ")]
    assert told.strip() == "rows that differ: [' Paris', ' London']"


def test_the_pruned_head_is_gone_behind_its_block(page: Any) -> None:
    known, _ = page
    lm = known["lm"]
    assert torch.equal(lm.model.get_output_embeddings().weight, lm.E)
    assert known["head"].k == lm.d - known["removed"][0]


def test_the_example_of_the_readme_runs(names: dict[str, str]) -> None:
    known, (printed,) = run(ROOT / "README.md", names)
    assert float(printed) == known["fit"].r2_adj


def test_the_example_of_the_page_on_steering_runs(names: dict[str, str]) -> None:
    known, _ = run(ROOT / "book" / "steering.md", names)
    loaded = models.load("my-steered-model")
    changed = (loaded.E != known["lm"].E).any(dim=1).nonzero().flatten().tolist()
    assert changed == sorted(known["steered"].tokens.tolist())


@pytest.mark.real_model
def test_the_first_examples_run_on_the_pretrained_model(real_lm: Any) -> None:
    known: dict[str, Any] = {"models": models, "lm": real_lm}
    wanted, short = '"docstrings", lm.tokenizer', '"python-manual", lm.tokenizer, n_positions=2048'
    for code in examples(PAGE)[1:5]:
        code = code.replace(wanted, short)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, PAGE.name, "exec"), known)
        assert out.getvalue().strip()
    assert known["fit"].r2_adj > 0.5
    assert known["held_out"] > 0.5 > known["shuffled"].max()
    assert known["log_p"].exp().sum() == pytest.approx(1.0)
    best = real_lm.token_text(int(real_lm.tokens[known["log_p"].argmax()]))
    assert best == " London"
