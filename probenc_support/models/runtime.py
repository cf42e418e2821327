"""Loads a model folder with transformers, and refuses what transformers would only warn of."""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from probenc_support.errors import InputError
from probenc_support.head import working_memory
from probenc_support.models import tensor_parallel, weights
from probenc_support.models.auto_class import auto_class


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU.

    Raises:
        InputError: no such device on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"This machine has no device {device!r} that torch can use; choose auto or cpu."
        ) from error
    return chosen


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


def from_folder(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    trust_remote_code: bool,
    *,
    divided: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer that lie in a folder.

    divided: among the processes of a group, see `tensor_parallel`.

    Raises:
        InputError: there are no weights, they are damaged, lack a tensor or hold one that has no
            place in the model, or something that loading needs is not installed.
    """
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    files = weights.weight_files(folder)
    if not files:
        raise InputError(_no_weights(folder))
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            if divided:
                options |= tensor_parallel.options(config, folder)
            elif device.type == "cuda":
                size = sum(file.stat().st_size for file in files)
                options |= spread(size, config, _free_memory(), first=device.index or 0)
            loaded: Any = auto_class(config).from_pretrained(
                folder, output_loading_info=True, **options
            )
    except InputError:
        raise
    except Exception as error:
        raise InputError(load_message(error, folder)) from error
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    model, report = loaded
    check_loaded(report, folder)
    if not trust_remote_code:
        check_tied(folder)
    placed = divided or "device_map" in options
    return model if placed else model.to(device), tokenizer


def spread(size: int, config: Any, free: list[int], *, first: int) -> dict[str, Any]:
    """Options of `from_pretrained` for a model that one GPU cannot hold; none where it can.

    The weights are then spread over all GPUs, and over main memory where these do not suffice. Each
    GPU keeps room for the head's work, since the output embedding may come to lie on any.

    Args:
        size: of the weights, in bytes.
        config: of the model, with the size of its vocabulary and of its hidden states.
        free: memory of each GPU that is free, in bytes.
        first: the GPU that was asked for.
    """
    text = config.get_text_config()
    V, d = getattr(text, "vocab_size", 0), getattr(text, "hidden_size", 0)
    kept_free = _ACTIVATIONS + working_memory(V, d)
    if size + kept_free <= free[first]:
        return {}
    room: dict[int | str, int] = {gpu: max(0, left - kept_free) for gpu, left in enumerate(free)}
    room["cpu"] = psutil.virtual_memory().available
    return {"device_map": "auto", "max_memory": room}


_ACTIVATIONS = 10**9
"""Bytes of a GPU that are left to what the model computes between its layers."""


def _free_memory() -> list[int]:
    return [torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())]


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that lies in a folder.

    Raises:
        InputError: there is none, it is damaged, or something that it needs is not installed.
    """
    try:
        with quiet():
            loaded: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise InputError(load_message(error, folder, what="tokenizer")) from error
    tokenizer: PreTrainedTokenizerBase = loaded
    return tokenizer


def _no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return f"{folder} holds an adapter without its model: merge it into the model first."
    kind = "no language model" if (folder / "config.json").is_file() else "no model"
    return (
        f"{folder} holds {kind} with weights as {' or '.join(weights.SINGLE)} (or parts of them "
        "with an index); fetch it again, or name another model."
    )


_OTHER_TASKS = re.compile(r"(^|\.)(pooler|seq_relationship|sop_classifier)\.")
"""Weights of tasks beside the prediction of masked tokens, which BERT's and ALBERT's files hold."""


def check_loaded(report: Mapping[str, Any], where: Path) -> None:
    """Refuses a model that transformers filled up with random numbers, or of which it left out
    weights; it warns of both and goes on.

    Args:
        report: the loading information of `from_pretrained`.

    Raises:
        InputError: a tensor is missing, left over or of another shape.
    """
    if missing := _names(report.get("missing_keys")):
        raise InputError(
            f"The weights in {where} lack {', '.join(missing[:3])}, so the model would be partly "
            "random; fetch it again, or name another model."
        )
    if wrong := _names(report.get("mismatched_keys")):
        raise InputError(
            f"The weights in {where} have other shapes than config.json asks for "
            f"({', '.join(wrong[:3])}); they belong to another model."
        )
    left = _names(report.get("unexpected_keys"))
    left = [n for n in left if not weights.BUFFERS.search(n) and not _OTHER_TASKS.search(n)]
    if left:
        raise InputError(
            f"The weights in {where} hold {', '.join(left[:3])}"
            + (f" and {len(left) - 3} more" if len(left) > 3 else "")
            + ", for which the language model that config.json names has no place: it is "
            "another kind of model, or the configuration belongs to another one."
        )


def _names(keys: Any) -> list[str]:
    return sorted(each if isinstance(each, str) else str(each[0]) for each in keys or ())


def check_tied(folder: Path) -> None:
    """Refuses files with a head of their own under a configuration that ties it to the input.

    Raises:
        InputError: both embeddings are there and differ, so one of them would be dropped.
    """
    names = weights.head_names(folder)
    if not names.tied or names.may_differ:
        return
    there = weights.places(folder)
    head = next((name for name in names.head if name in there and name not in names.inputs), "")
    inputs = next((name for name in names.inputs if name in there), "")
    if not head or not inputs:
        return
    embeddings = weights.read(folder, (head, inputs))
    if not torch.equal(embeddings[head], embeddings[inputs]):
        raise InputError(
            f"config.json in {folder} ties the output embedding to the input embedding, but its "
            "weights hold two different ones: set tie_word_embeddings to false there, or fetch "
            "the model again."
        )


_INSTALLS = {
    "sentencepiece": "sentencepiece",
    "tiktoken": "tiktoken",
    "protobuf": "protobuf",
    "accelerate": "accelerate",
    "gguf": "gguf",
    "blobfile": "blobfile",
}
"""Optional packages of transformers: word in its message, and name on the package index."""


def load_message(error: Exception, folder: Path, *, what: str = "model") -> str:
    """One sentence for what transformers raised while it loaded a folder's model or tokenizer."""
    text = str(error)
    if package := _missing_package(error):
        return (
            f"The {what} in {folder} needs the package {package}, which is not installed: "
            f"pip install {package}"
        )
    if kind := re.search(r"model type [`'\"]?([\w.-]+)[`'\"]? but", text):
        return (
            f"{folder} is a model of type {kind[1]}, which the installed transformers does not "
            "know: pip install --upgrade transformers, or name another model."
        )
    if release := re.search(r"upgrade torch to at least v?([\d.]*\d)", text):
        return (
            f"The weights in {folder} are pickles, which the installed transformers reads with "
            f"torch {release[1]} or newer only: pip install --upgrade torch, or save the model as "
            "safetensors."
        )
    if "trust_remote_code" in text:
        return (
            f"{folder.name} brings its own code, which is run only if you ask for it by name "
            "(trust_remote_code=True in models.load)."
        )
    if "Unrecognized configuration class" in text:
        return (
            f"{folder} holds no language model; name one that is causal, masked or has an encoder."
        )
    return (
        f"The {what} in {folder} cannot be loaded ({first_line(error)}); its files are damaged or "
        "incomplete: remove the folder and fetch it again, or name another model."
    )


def _missing_package(error: BaseException | None) -> str:
    """Name of the package whose absence is the cause of an error; empty: none is."""
    while error is not None:
        text = str(error)
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.split(".")[0]
        if named := re.search(r"packages that were not found in your environment: ([\w.-]+)", text):
            return named[1]
        asks = isinstance(error, ImportError) or re.search(r"install|not found|required", text)
        for word, package in _INSTALLS.items():
            if asks and re.search(rf"\b{word}\b", text, re.IGNORECASE) and not _installed(word):
                return package
        error = error.__cause__ or error.__context__
    return ""


def _installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def first_line(error: Exception) -> str:
    """What an error says first, 160 characters at most."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160].rstrip(".")


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
