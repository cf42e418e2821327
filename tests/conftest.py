"""Fixtures: tiny models of every head style, a real text, the real model, a cache of one's own."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run beside each other, one a core, and so do the processes that they start. Libraries
    # read how many threads they may use when they are imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import pytest
import tiny
import torch
import warm

from probenc_support import corpora, inference, models
from probenc_support.errors import InputError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder that the package uses during one test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PROBENC_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder that the tests of one module share; the user's is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROBENC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def warm_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks of this test run in kernels that need not import torch and the package again."""
    warm.use(monkeypatch)


@pytest.fixture(params=tiny.STYLES)
def tiny_lm(request: pytest.FixtureRequest) -> Any:
    """A tiny random model, once for every style of head."""
    return tiny.language_model(request.param)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tiny untied GPT-NeoX and its tokenizer."""
    return tiny.save(tmp_path_factory.mktemp("models") / "tiny-neox")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UTF-8 file of real English, about 100 kB."""
    path = tmp_path_factory.mktemp("text") / "prose.txt"
    path.write_text(tiny.prose(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def real_lm() -> Any:
    """SmolLM2-135M-Instruct out of the package index."""
    try:
        return models.load("smollm2-135m-instruct", device="cpu", dtype="float32")
    except InputError as error:
        pytest.skip(f"the real model cannot be had: {error}")


@pytest.fixture(scope="session")
def real_detection(real_lm: Any) -> inference.Detection:
    """A pass of the real model over 2,048 positions of the Python manual."""
    blocks = corpora.blocks("python-manual", real_lm.tokenizer, n_positions=2048)
    return inference.detect(real_lm, blocks, progress=False)
