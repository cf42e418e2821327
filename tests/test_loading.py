"""Loading refuses what would make wrong numbers, and names what is missing."""

import builtins
import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import LlamaConfig

from probenc_support import corpora, inference, models, steering
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.models import runtime, wrapping
from probenc_support.pruning import pruned_head

SIZES: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
    "initializer_range": 0.3,
}  # fmt: skip


# ---------------------------------------------------------------------------------------- causality


def bidirectional() -> list[Any]:
    from transformers import BertConfig, BertLMHeadModel, XLMConfig, XLMWithLMHeadModel

    torch.manual_seed(0)
    xlm = XLMConfig(
        vocab_size=tiny.VOCABULARY, emb_dim=16, n_layers=2, n_heads=2, causal=False,
        max_position_embeddings=64, embed_init_std=0.3, init_std=0.3,
    )  # fmt: skip
    bert = BertConfig(**SIZES, is_decoder=False)
    return [XLMWithLMHeadModel(xlm), BertLMHeadModel(bert)]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_later_tokens_is_refused(number: int, dtype: torch.dtype) -> None:
    """huggingface/transformers#13818: it is taken for a causal one elsewhere."""
    model = bidirectional()[number].eval()
    before = model(torch.tensor([[5, 6, 7]])).logits[0, 0]
    after = model(torch.tensor([[5, 6, 9]])).logits[0, 0]
    assert not torch.allclose(before, after), "it does see them"
    with pytest.raises(InputError, match=r"sees what it should predict|no linear output embedding"):
        models.wrap(model.to(dtype), tiny.tokenizer(), name="both ways")


def test_the_same_architecture_as_a_decoder_is_not_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    lm = models.wrap(tiny.model("untied"), tiny.tokenizer(), name="one way")
    wrapping.check_blind(lm)
    decoder = BertLMHeadModel(BertConfig(**SIZES, is_decoder=True)).eval()
    lm = models.wrap(decoder, tiny.tokenizer(), name="decoder")
    assert lm.kind.name == "causal"
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        theirs = decoder(ids).logits
    # A layer lies between body and head: it counts as the body's.
    ours = lm.head.logits(models.hidden_states(lm, ids)[0])
    torch.testing.assert_close(ours, theirs[0], rtol=1e-5, atol=1e-5)


def test_an_encoder_decoder_is_known_for_one(tmp_path: Path) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=tiny.VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert models.load(tmp_path).kind.name == "encoder-decoder"


# -------------------------------------------------------------------------------------- logit scale


@pytest.mark.parametrize("style", ["multiplied", "divided"])
def test_a_scale_in_the_text_configuration_is_found(style: str) -> None:
    """Models of text and images keep their settings one level deeper."""
    from transformers import LlavaConfig

    model = tiny.model(style)
    inner = copy.deepcopy(model.config)
    assert models.logit_scale(inner) == 0.25
    assert models.logit_scale(LlavaConfig(text_config=inner)) == 0.25
    if style == "multiplied":  # this one keeps its factor in the module, too, and so still runs
        expected = model.get_output_embeddings().weight / 4
        model.config = LlavaConfig(text_config=inner)
        lm = models.wrap(model, tiny.tokenizer(), name="outer")
        assert torch.equal(lm.E, expected)


# ---------------------------------------------------------------------------------------- tokenizer


def test_a_tokenizer_larger_than_the_head_is_refused() -> None:
    """huggingface/transformers#12763."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    small = GPTNeoXForCausalLM(GPTNeoXConfig(**{**SIZES, "vocab_size": 300}))
    with pytest.raises(InputError, match="20 tokens without a row in the output embedding of 300"):
        models.wrap(small, tiny.tokenizer(), name="small")


def test_an_added_token_without_a_row_is_refused_in_a_text_only(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny")
    extended = models.load(folder).tokenizer
    extended.add_tokens([AddedToken("extension", special=False)])
    extended.save_pretrained(folder)
    lm = models.load(folder)
    assert lm.vocabulary.without_row == [tiny.VOCABULARY]
    (tmp_path / "with.txt").write_text("The documentation of an extension module. " * 20)
    (tmp_path / "without.txt").write_text("The documentation of a module. " * 20)
    sizes = {"n_positions": 64, "sequence_length": 16}
    inference.detect(
        lm, corpora.blocks(str(tmp_path / "without.txt"), lm.tokenizer, **sizes), cache=False
    )
    with pytest.raises(InputError, match="'extension', number 320"):
        inference.detect(
            lm, corpora.blocks(str(tmp_path / "with.txt"), lm.tokenizer, **sizes), cache=False
        )


# --------------------------------------------------------------------------------- precision, place


def test_float16_that_overflows_is_said_so(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "large")
    state = load_file(folder / "model.safetensors")
    state["gpt_neox.final_layer_norm.weight"] *= 1e5
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert models.load(folder).V == 320
    with pytest.raises(InputError, match="use dtype bfloat16 or float32"):
        models.load(folder, dtype="float16")


def test_an_overflow_within_the_pass_is_said_so(text_file: Path) -> None:
    """Only some tokens are large enough: the check on loading may not meet them."""
    model = tiny.model("untied").half()
    lm = models.wrap(model, tiny.tokenizer(), name="tiny")
    blocks = corpora.blocks(str(text_file), lm.tokenizer, n_positions=64, sequence_length=16)
    inference.detect(lm, blocks, cache=False, progress=False)
    inputs: Any = model.get_input_embeddings()
    inputs.weight.data[int(blocks.ids[1, 3])] = torch.inf
    with pytest.raises(InputError, match="not finite in float16"):
        inference.detect(lm, blocks, cache=False, progress=False)


def test_offloaded_weights_work(text_file: Path) -> None:
    """huggingface/transformers#48409: the head lies on the device `meta` between two calls."""
    from accelerate import cpu_offload

    for style in ("untied", "bias", "tied"):
        expected = tiny.language_model(style)
        model = tiny.model(style)
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert model.get_output_embeddings().weight.device.type == "meta"
        lm = models.wrap(model, tiny.tokenizer(), name="offloaded")
        assert torch.equal(lm.E, expected.E)
        assert lm.tied == expected.tied
        blocks = corpora.blocks(str(text_file), lm.tokenizer, n_positions=64, sequence_length=16)
        found, wanted = (
            inference.detect(each, blocks, cache=False, progress=False) for each in (lm, expected)
        )
        torch.testing.assert_close(found.log_a, wanted.log_a, rtol=0, atol=1e-6)


def test_an_offloaded_head_is_not_edited() -> None:
    from accelerate import cpu_offload

    model = tiny.model("untied")
    cpu_offload(model, execution_device=torch.device("cpu"))
    lm = models.wrap(model, tiny.tokenizer(), name="offloaded")
    with (
        pytest.raises(InputError, match="offloaded"),
        steering.edited_rows(lm, torch.tensor([3]), torch.zeros(1, 16)),
    ):
        pass
    with (
        pytest.raises(InputError, match="offloaded"),
        pruned_head.swapped(lm, torch.nn.Linear(16, 320)),
    ):
        pass


LLAMA_8B = LlamaConfig(vocab_size=128_256, hidden_size=4096)


def test_a_model_that_one_gpu_holds_with_the_heads_work_is_not_spread() -> None:
    assert runtime.spread(16 * 10**9, LLAMA_8B, [22 * 10**9], first=0) == {}
    assert runtime.spread(16 * 10**9, LLAMA_8B, [2 * 10**9, 22 * 10**9], first=1) == {}


def test_a_model_that_is_spread_leaves_room_for_the_head_on_every_gpu() -> None:
    free = [40 * 10**9, 10**9]
    options = runtime.spread(39 * 10**9, LLAMA_8B, free, first=0)
    assert options["device_map"] == "auto"
    room = options["max_memory"]
    E, logits = 4 * 128_256 * 4096, 2 * 10**9
    assert 0 < room[0] <= free[0] - E - logits
    assert room[1] == 0, "a GPU without room for the head gets no weights, and no negative number"
    assert room["cpu"] > 0


def test_a_model_without_weights_is_refused() -> None:
    with torch.device("meta"):
        model = tiny.model("untied")
    with pytest.raises(InputError, match="no weights in memory"):
        models.wrap(model, tiny.tokenizer(), name="empty")


# ----------------------------------------------------------------------------------------- messages


def test_an_unknown_model_type_is_named(tmp_path: Path) -> None:
    """huggingface/transformers#36291."""
    folder = tiny.save(tmp_path / "new")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nextyear"}))
    with pytest.raises(InputError, match=r"type nextyear.*pip install --upgrade transformers"):
        models.load(folder)


@pytest.mark.parametrize("package", ["sentencepiece", "tiktoken"])
def test_a_missing_package_is_named(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that only this package reads, on a machine that has not got it."""
    folder = tiny.save(tmp_path / "tiny", "tied")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    kind = "LlamaTokenizer" if package == "sentencepiece" else "TikTokenTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=package)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(InputError) as caught:
        models.load(folder)
    assert "\n" not in str(caught.value)
    assert "remove the folder" not in str(caught.value) or package == "tiktoken"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("This modeling file requires the following packages that were not found in "
                     "your environment: einops. Run `pip install einops`"), "pip install einops"),
        (ModuleNotFoundError("No module named 'flash_attn'", name="flash_attn"), "flash_attn"),
        (ValueError("Cannot instantiate this tokenizer from a slow version. If it's based on "
                    "sentencepiece, make sure you have sentencepiece installed."),
         "pip install sentencepiece"),
        (ValueError("Converting from SentencePiece and Tiktoken failed, if a converter for "
                    "SentencePiece is available, provide a model path with a SentencePiece "
                    "tokenizer.model file. Tiktoken is required."), "pip install sentencepiece"),
        (ValueError("Due to a serious vulnerability issue in `torch.load`, we now require users to "
                    "upgrade torch to at least v2.6 in order to use the function."),
         "pickles, which the installed transformers reads with torch 2.6 or newer only"),
        (OSError("Error: invalid header"), "damaged or incomplete"),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_named(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_installed", lambda package: False)
    assert message in runtime.load_message(error, Path("somewhere"))


def test_a_damaged_tokenizer_is_named_as_such(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "tiny")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="The tokenizer in"):
        models.load(folder)


# ---------------------------------------------------------------------------------------- the cache


def test_a_cached_pass_follows_configuration_and_libraries(
    own_cache: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """google/gemma_pytorch#37: the same weights compute something else under another setting."""
    folder = tiny.save(tmp_path / "tiny")
    blocks = corpora.blocks(str(text_file), tiny.tokenizer(), n_positions=64, sequence_length=16)

    def detect() -> inference.Detection:
        return inference.detect(models.load(folder), blocks, progress=False)

    first = detect()
    assert (first.from_cache, detect().from_cache) == (False, True)
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"hidden_act": "relu"},
        {"layer_norm_eps": 1e-2},
        {"use_parallel_residual": False},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        changed = detect()
        assert not changed.from_cache
        assert not torch.equal(changed.log_a, first.log_a), change
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "4.0"}))
    assert detect().from_cache, "where a model came from changes no number"
    eager = models.load(folder)
    eager.model.set_attn_implementation("eager")
    assert not inference.detect(eager, blocks, progress=False).from_cache
    import importlib.metadata

    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name == "torch" else real(name)
    )
    assert not detect().from_cache


class WithoutFloat64(torch.Tensor):
    """A tensor as on the device `mps`: no float64 there, and no mixing with the CPU's tensors."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        options = options or {}
        name = getattr(function, "__name__", "")
        if function is torch.Tensor.device.__get__:
            return torch.device("mps")
        to_cpu = any(isinstance(a, torch.device) and a.type == "cpu" for a in arguments)
        with torch._C.DisableTorchFunctionSubclass():
            if name == "cpu" or (name == "to" and to_cpu):
                return arguments[0].as_subclass(torch.Tensor)
            tensors = [a for a in (*arguments, *options.values()) if isinstance(a, torch.Tensor)]
            if name == "__getitem__":  # an index may lie on the CPU
                tensors = []
            if any(t.dim() and not isinstance(t, cls) for t in tensors):
                raise RuntimeError("Expected all tensors to be on the same device, mps and cpu")
        found = super().__torch_function__(function, types, arguments, options)
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return found


@pytest.mark.parametrize("style", ["untied", "bias"])
def test_sums_of_a_device_without_float64_are_kept_on_the_cpu(style: str) -> None:
    """pytorch/pytorch#122602."""
    lm = tiny.language_model(style)
    h = models.hidden_states(lm, torch.arange(40)[None])[0].clone()
    h[3] *= 400  # one token has all of the probability, and others underflow
    expected = lm.head.sums()
    z = expected.add(h)
    E, b, there = (
        None if t is None else t.clone().as_subclass(WithoutFloat64) for t in (lm.E, lm.b, h)
    )
    with pytest.raises(TypeError, match="float64"):
        E.double()
    sums = Head(E, b).sums()
    torch.testing.assert_close(sums.add(there), z, rtol=0, atol=1e-6)
    torch.testing.assert_close(sums.log_a, expected.log_a, rtol=0, atol=1e-6)
    torch.testing.assert_close(sums.mean_log_p, expected.mean_log_p, rtol=1e-6, atol=1e-6)
