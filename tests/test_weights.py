"""Which files hold a model's weights, and which tensor is E: by index and architecture."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from probenc_support import dynamics, models
from probenc_support.dynamics import convergence, tables
from probenc_support.errors import InputError
from probenc_support.models import architectures, checkpoints, runtime, weights
from probenc_support.models.recipes import Recipe

STEPS = (0, 8, 64)


def sharded_run(folder: Path, model_of: Any, *, pickled: bool = False) -> dict[int, Any]:
    """Three checkpoints of a model in parts of 25 kB; returns the models by step."""
    made = {step: model_of(seed=step) for step in STEPS}
    for step, model in made.items():
        with runtime.quiet():
            model.save_pretrained(folder / f"step{step}", max_shard_size="25KB")
        tiny.tokenizer().save_pretrained(folder / f"step{step}")
        assert len(list((folder / f"step{step}").glob("model-*.safetensors"))) > 1
        if pickled:
            pickle_parts(folder / f"step{step}")
    return made


def pickle_parts(folder: Path) -> None:
    """The same parts and index as pickles."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = {n: n.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
             for n in set(index["weight_map"].values())}  # fmt: skip
    for old, new in names.items():
        torch.save(load_file(folder / old), folder / new)
        (folder / old).unlink()
    index["weight_map"] = {tensor: names[file] for tensor, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def untied_llama(*, seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def untied_neox(*, seed: int) -> Any:
    return tiny.model("untied", seed=seed)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("model_of", [untied_llama, untied_neox])
def test_E_of_an_untied_model_in_parts(tmp_path: Path, model_of: Any, pickled: bool) -> None:
    """deepseek-ai/DeepSpec#11, EleutherAI/pythia#206: the input embedding is in the first part."""
    made = sharded_run(tmp_path / "run", model_of, pickled=pickled)
    run = checkpoints.training_run(str(tmp_path / "run"))
    for step, model in made.items():
        E = run.embedding(step)
        assert torch.equal(E, model.get_output_embeddings().weight)
        assert not torch.equal(E, model.get_input_embeddings().weight)
        if pickled and not tiny.PICKLES:
            with pytest.raises(InputError, match="or newer only"):
                run.load(step)
        else:
            assert torch.equal(E, run.load(step).E)
    groups = convergence.of_parameters(run).groups
    assert {"input embedding", "layer 1", "layer 2", dynamics.EMBEDDING} <= set(groups)


@pytest.mark.parametrize("style", tiny.STYLES)
def test_E_of_every_style_in_parts(tmp_path: Path, style: str) -> None:
    model = tiny.model(style)
    with runtime.quiet():
        model.save_pretrained(tmp_path, max_shard_size="25KB")
    names = weights.head_names(tmp_path)
    assert torch.equal(weights.read_head(tmp_path, names), model.get_output_embeddings().weight)
    assert names.tied == bool(model.config.tie_word_embeddings)


def test_a_likeness_of_names_is_not_enough(tmp_path: Path) -> None:
    untied_neox(seed=0).save_pretrained(tmp_path)
    names = weights.head_names(tmp_path)
    alike = ["layers.0.attn.output.weight", "gpt_neox.layers.0.head.weight", "own.lm_head.weight"]
    assert names.find(alike) is None
    assert names.find([*alike, "gpt_neox.embed_in.weight"]) is None, "it is untied"
    assert names.find([*alike, "embed_out.weight"]) == "embed_out.weight"
    assert dynamics.group_of("gpt_neox.layers.0.attn.output.weight", names) == "layer 1"
    with pytest.raises(InputError, match="None of the tensors"):
        weights.head_of(dict.fromkeys(alike, torch.zeros(2, 2)), names)


@pytest.mark.parametrize("architecture", ["gpt-neox", "gpt2", "llama", "modernbert"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_of_an_architecture_has_its_part(
    tmp_path: Path, architecture: str, tied: bool
) -> None:
    recipe = Recipe("small", 3, 16, 2, 32, 8, 4, 12, 512, 1e-2)
    model = architectures.new(replace(recipe, architecture=architecture, tied=tied))
    with runtime.quiet():
        model.save_pretrained(tmp_path)
    names = weights.head_names(tmp_path)
    groups = [dynamics.group_of(name, names) for name in weights.places(tmp_path)]
    wanted = {"output embedding", "layer 1", "layer 2", "layer 3", "final norm"}
    if not tied or architecture in ("gpt2", "modernbert"):  # which have learned positions
        wanted.add("input embedding")
    assert wanted <= set(groups)
    before_head = {"other", "head bias"} if architecture == "modernbert" else set()
    assert set(groups) - wanted <= before_head
    assert groups.count("output embedding") == 1


def test_other_files_beside_the_weights_are_none(tmp_path: Path) -> None:
    """lmdeploy#1070, and second formats of the same weights."""
    folder = tiny.save(tmp_path / "tiny")
    alone, hashed = models.load(folder), weights.weights_hash(folder)
    other = load_file(folder / "model.safetensors")
    other = {name: tensor + 1 for name, tensor in other.items()}
    torch.save({"learning_rate": 1e-3}, folder / "training_args.bin")
    save_file(other, folder / "consolidated.safetensors")
    torch.save(other, folder / "optimizer.bin")
    assert weights.weight_files(folder) == [folder / "model.safetensors"]
    assert weights.weights_hash(folder) == hashed
    assert torch.equal(models.load(folder).E, alone.E)
    (folder / "model.safetensors").rename(folder / "kept.safetensors")
    assert weights.weight_files(folder) == [], "a trainer's arguments are no weights"
    with pytest.raises(InputError, match=r"with weights as model\.safetensors"):
        models.load(folder)
    torch.save(load_file(folder / "kept.safetensors"), folder / "pytorch_model.bin")
    assert weights.weight_files(folder) == [folder / "pytorch_model.bin"]
    assert torch.equal(weights.read_head(folder, weights.head_names(folder)), alone.E)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with runtime.quiet():
        untied_llama(seed=0).save_pretrained(tmp_path, max_shard_size="25KB")
    tiny.tokenizer().save_pretrained(tmp_path)
    part = max(tmp_path.glob("model-*.safetensors"))
    part.unlink()
    with pytest.raises(InputError, match=f"lacks {part.name}"):
        models.load(tmp_path)
    with pytest.raises(InputError, match=f"lacks {part.name}"):
        weights.read(tmp_path)


def test_folders_of_a_trainer_are_a_run(tmp_path: Path) -> None:
    for step in (500, 1000, 10000):
        tiny.save(tmp_path / f"checkpoint-{step}", seed=step)
        torch.save({}, tmp_path / f"checkpoint-{step}" / "training_args.bin")
    run = checkpoints.training_run(str(tmp_path))
    assert run.steps == [500, 1000, 10000]
    assert models.revisions(tmp_path)[-1] == "checkpoint-10000"
    assert len(run.weights(500)) == len(tiny.model("untied").state_dict())


def test_stages_of_a_run_are_not_mixed(tmp_path: Path) -> None:
    names = [f"stage{stage}-step{step}-tokens1B" for stage in (1, 2) for step in (10, 20, 30)]
    for name in [*names, "stage2-step40-tokens1B"]:
        tiny.save(tmp_path / name)
    run = checkpoints.training_run(str(tmp_path))
    assert list(run.revisions.values()) == names[:3]


# ------------------------------------------------------------------ checkpoints that repeat weights


def run_of(folder: Path, seeds: dict[int, int]) -> Any:
    """A run whose checkpoint at each step is the tiny model of a seed."""
    for step, seed in seeds.items():
        tiny.save(folder / f"step{step}", seed=seed)
    return checkpoints.training_run(str(folder))


def test_checkpoints_that_repeat_others_are_left_out(tmp_path: Path) -> None:
    """EleutherAI/pythia#205: branches that hold the final weights."""
    run = run_of(tmp_path / "run", {0: 1, 1: 9, 2: 9, 4: 2, 8: 2, 16: 3, 32: 9})
    kept, repeats = checkpoints.distinct(run)
    assert repeats == {1: 32, 2: 32, 8: 4}
    assert kept.steps == [0, 4, 16, 32]
    counts = tmp_path / "counts.npy"
    np.save(counts, np.random.default_rng(0).integers(1, 99, tiny.VOCABULARY))
    found = dynamics.measure(run, counts=str(counts), embedding_only=True)
    assert (found.steps, found.repeats) == ([0, 4, 16, 32], repeats)
    assert np.isfinite(tables.by_group(found)["distance"]).all()
    assert checkpoints.distinct(kept) == (kept, {})


def test_E_alone_may_stand_still(tmp_path: Path) -> None:
    """Equal output embeddings under other layers are two checkpoints, unless only E is read."""
    run = run_of(tmp_path / "run", {0: 0, 1: 1, 2: 2, 4: 3})
    for step in (1, 2):
        path = tmp_path / "run" / f"step{step}" / "model.safetensors"
        state = load_file(path)
        save_file(state | {"embed_out.weight": torch.ones(320, 16)}, path, {"format": "pt"})
    assert checkpoints.distinct(run)[1] == {}
    assert checkpoints.distinct(run, embedding_only=True)[1] == {2: 1}


def test_a_run_of_equal_weights_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {0: 1, 1: 9, 2: 9, 4: 9})
    with pytest.raises(InputError, match="steps 1, 2 repeat the weights of others"):
        checkpoints.distinct(run)


# ------------------------------------------------------------------------------ incomplete, foreign


def test_weights_without_a_place_are_refused(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny")
    state = load_file(folder / "model.safetensors")
    extra = {"gpt_neox.layers.7.attention.dense.weight": torch.ones(16, 16)}
    save_file(state | extra, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"hold gpt_neox\.layers\.7"):
        models.load(folder)
    buffer = {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)}
    save_file(state | buffer, folder / "model.safetensors", {"format": "pt"})
    assert models.load(folder).V == 320, "an old file's buffer is no weight"


def test_two_embeddings_under_a_tied_configuration_are_refused(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny", "tied")
    state = load_file(folder / "model.safetensors")
    inputs = state["model.embed_tokens.weight"]
    save_file(
        state | {"lm_head.weight": inputs.clone()}, folder / "model.safetensors", {"format": "pt"}
    )
    assert models.load(folder).tied
    save_file(
        state | {"lm_head.weight": inputs + 1}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match="ties the output embedding"):
        models.load(folder)


def test_an_adapter_is_named_as_one(tmp_path: Path) -> None:
    tiny.save(tmp_path / "tiny")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    (tmp_path / "tiny" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="an adapter without its model"):
        models.load(tmp_path / "tiny")


# ------------------------------------------------------------------------------------------ the hub


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Any:
    """A hub on disk: `owner/lab` with branches that point to commits, weights in parts."""
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    from probenc_support.models import hub

    made = sharded_run(tmp_path / "run", untied_llama)
    root = tmp_path / "hub" / "owner"
    branches: dict[str, str] = {}

    def push(step: int, commit: str) -> None:
        shutil.copytree(tmp_path / "run" / f"step{step}", root / commit)
        branches["main"] = commit
        link = root / "lab@main"
        link.unlink(missing_ok=True)
        link.symlink_to(root / commit)

    def download(hub_id: str, revision: str, patterns: Any) -> Path:
        assert not any(p.endswith((".safetensors", ".bin")) for p in patterns), "the whole model"
        return root / branches[revision]

    files = DirFileSystem(path=str(tmp_path / "hub"), fs=LocalFileSystem())
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: files)
    monkeypatch.setattr(hub, "download", download)
    run = checkpoints.TrainingRun("lab", "owner/lab", {0: "main"}, local=False)
    return run, made, push


def test_E_from_the_hub_in_parts_and_by_commit(lab: Any, own_cache: Path) -> None:
    run, made, push = lab
    push(0, "c0ffee")
    old = own_cache / "models" / "E-of-owner--lab" / "main.safetensors"
    old.parent.mkdir(parents=True)
    save_file({"lm_head.weight": torch.zeros(320, 16)}, old)
    assert torch.equal(run.embedding(0), made[0].get_output_embeddings().weight)
    push(8, "decade")
    assert torch.equal(run.embedding(0), made[8].get_output_embeddings().weight), "a moved branch"
    kept = own_cache / "models" / "E-at-commit-of-owner--lab"
    assert sorted(p.stem for p in kept.iterdir()) == ["c0ffee", "decade"]
