"""Files of the hub: which ones a model needs, and one sentence for each way in which it fails."""

from collections.abc import Sequence
from pathlib import Path

from probenc_support.errors import InputError
from probenc_support.models import weights

CONFIG_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Configuration, tokenizer and indices of weights."""


CODE_PATTERNS = ("*.py",)
"""Code that a model's repository brings, fetched only where it was asked for."""


def model_folder(hub_id: str, revision: str, *, trust_remote_code: bool = False) -> Path:
    """Downloads (or finds in the hub's cache) configuration, tokenizer and weights of a model.

    The weights are fetched in one format: the files that transformers would read, which an index
    names where they are in parts. Nothing else of the repository is fetched, such as checkpoints
    in folders and other formats.

    Raises:
        InputError: see `download`, or there are no weights in a format that is read.
    """
    patterns = (*CONFIG_PATTERNS, *(CODE_PATTERNS if trust_remote_code else ()))
    folder = download(hub_id, revision, patterns)
    for single in weights.SINGLE:
        indexed = weights.index_of(folder, single).is_file()
        names = sorted(set(weights.weight_map(folder, single).values())) if indexed else [single]
        folder = download(hub_id, revision, (*patterns, *names))
        if weights.weight_files(folder):
            return folder
    raise InputError(
        f"{hub_id} holds no weights as {' or '.join(weights.SINGLE)}; name another model."
    )


def download(hub_id: str, revision: str, patterns: Sequence[str]) -> Path:
    """Snapshot of the files of a hub repository that match `patterns`; its name is the commit.

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
                ignore_patterns=["*/*"],
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
        return f"{hub_id!r} is not a valid hub id, which has the form owner/name."
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
