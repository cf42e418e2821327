"""One model divided among two processes, as `torchrun` starts them: the pass of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from probenc_support import shards
from probenc_support.shards import Shard


@pytest.fixture(params=["own head", "tied"])
def divisible(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a model whose heads two processes can share."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        tie_word_embeddings=request.param == "tied",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def detect(
    model: Path, corpora: list[Path], cache: Path, *options: str, processes: int = 1
) -> "subprocess.CompletedProcess[str]":
    """`detect` as it is typed, alone or under `torchrun`."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [
            sys.executable, *(torchrun if processes > 1 else []), "-m", "probenc_support", "detect",
            "--model", model, "--corpus", *corpora, "--n-positions", "4096",
            "--sequence-length", "32", "--device", "cpu", *options,
        ],
        env={**os.environ, "PROBENC_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def passes(cache: Path) -> dict[str, Shard]:
    """All shards in a cache, by their pass and number."""
    found = {}
    for path in (cache / "passes").glob("*/[0-9]*.safetensors"):
        shard = shards.read(path)
        assert shard is not None
        found[f"{path.parent.name}/{path.name}"] = shard
    return found


def test_two_processes_make_the_passes_of_one(
    divisible: Path, text_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(tiny.prose()[::-1], encoding="utf-8")
    texts = [text_file, other]
    alone = detect(divisible, texts, tmp_path / "one")
    together = detect(divisible, texts, tmp_path / "two", processes=2)
    assert (alone.returncode, together.returncode) == (0, 0), together.stderr
    assert together.stdout.count("4,096 positions") == 2  # the first process alone prints
    expected, found = passes(tmp_path / "one"), passes(tmp_path / "two")
    assert len(expected) == 4
    assert found.keys() == expected.keys()
    for name, shard in expected.items():
        for key in ("h", "z", "h_sum", "log_sum", "log_sum_groups", "target_log_p"):
            torch.testing.assert_close(
                found[name][key], shard[key], rtol=1e-5, atol=1e-4, equal_nan=True
            )
        assert torch.equal(found[name]["targets"], shard["targets"])
    again = detect(divisible, [text_file], tmp_path / "two", processes=2)
    assert "read from the cache" in again.stdout


def test_a_model_without_a_plan_is_told_so(tmp_path: Path, text_file: Path) -> None:
    model = tiny.save(tmp_path / "model", "bias")
    done = detect(model, [text_file], tmp_path / "cache", processes=2)
    assert done.returncode != 0
    assert "has no plan that divides the layers of a gptj model" in done.stderr
    assert not (tmp_path / "cache" / "passes").exists()


def test_gpus_are_not_lent_to_processes_that_have_their_own(
    text_file: Path, tmp_path: Path
) -> None:
    done = detect(tmp_path / "model", [text_file], tmp_path, "--gpus", "1", processes=2)
    assert "leave out --gpus" in done.stderr
