"""Runs one notebook for one model, so that its page is complete or absent."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import nbformat
from traitlets.config import Config

from probenc_support import cache, names
from probenc_support.errors import InputError
from probenc_support.names import ALL_MODELS as ALL_MODELS
from probenc_support.names import slug as slug
from probenc_support.runs import portable, run_files

ROOT = Path(__file__).resolve().parents[2]
"""The repository: notebooks are read below it, and the book's runs are kept there."""


RUNS = Path("book") / "runs"
"""Where the book keeps its runs, below `ROOT`: one folder a model."""


_KERNEL_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONUTF8": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}


_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    """Why one notebook did not end, as `failed/<notebook>.json` keeps it."""

    notebook: str
    """Name of the notebook, such as `01_log_linear_fit`."""
    model: str
    """As the person named it."""
    cause: str
    """One line."""
    refused: bool
    """Whether the input was refused (`InputError`), not a fault of the run."""


class NotebookError(Exception):
    """A notebook ended in an error; what it left lies in the folder `failed` of its results."""

    def __init__(self, failure: Failure, folder: Path) -> None:
        super().__init__(f"{failure.notebook} for {failure.model}: {failure.cause}")
        self.failure = failure
        self.folder = folder


def notebooks() -> list[str]:
    """Names of the book's notebooks, in order."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def source(notebook: str) -> Path:
    """Path of a notebook named by its number (`01`), its name or its path.

    Raises:
        InputError: there is no such notebook.
    """
    path = names.expanded(notebook)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    known = notebooks()
    meant = [name for name in known if name == notebook or name.split("_")[0] == notebook]
    if not meant:
        raise InputError(
            f"There is no notebook {notebook!r}; choose from {', '.join(known) or 'none'}."
        )
    return ROOT / "notebooks" / f"{meant[0]}.ipynb"


def run(
    notebook: str,
    *,
    model: str,
    results_dir: str | Path = "",
    parameters: Mapping[str, Any] | None = None,
) -> Path:
    """Executes a notebook by papermill and keeps the page beside its results.

    Args:
        notebook: number, name or path.
        model: roster name, hub id, folder or file.
        results_dir: where page, metrics and tables go; default `book/runs/<slug of model>`.
        parameters: further parameters of the notebook.

    Returns:
        Path of the executed notebook, `<results_dir>/<notebook>.ipynb`.

    Raises:
        NotebookError: the notebook failed; the page is absent and `<results_dir>/failed` holds the
            notebook as far as it went, its log, and the cause.
        InputError: there is no such notebook.
    """
    path = source(notebook)
    folder = names.expanded(str(results_dir)) if results_dir else ROOT / RUNS / slug(model)
    given = {"model": model, **(parameters or {}), "results_dir": _short(folder)}
    with cache.locked(f"run-{_digest(folder.resolve() / path.stem)}"):
        run_files.check_free(path, folder)
        run_files.forget(folder, path.stem)
        before = _stamps(folder, path.stem)
        draft = _draft(folder, path.stem)
        try:
            with draft.with_suffix(".log").open("w", encoding="utf-8") as log:
                _execute(path, draft, given, log)
        except Exception as error:
            failure = Failure(path.stem, model, *_cause(error))
            _keep_failure(failure, draft, error, given)
            _drop(folder, path.stem, before)
            raise NotebookError(failure, draft.parent) from None
        made = _changed(folder, path.stem, before)
        return _publish(draft, folder / path.name, given, made)


def _draft(folder: Path, notebook: str) -> Path:
    """Path of the notebook while it is executed; the files of the run are recorded first."""
    draft = folder / run_files.FAILED / f"{notebook}.ipynb"
    cache.make_folder(draft.parent)
    beside = [draft.with_suffix(suffix) for suffix in (".ipynb", ".log", ".json")]
    run_files.note(folder, notebook, [f"{run_files.FAILED}/{path.name}" for path in beside])
    return draft


def _stamps(folder: Path, notebook: str) -> dict[str, tuple[int, int]]:
    """Files of a notebook in a folder, with what changes when one is written."""
    files = folder.iterdir() if folder.is_dir() else iter(())
    own = (path for path in files if path.name.startswith(f"{notebook}.") and path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in own}


def _changed(folder: Path, notebook: str, before: Mapping[str, Any]) -> list[str]:
    """What a run wrote: files that it wrote down, and those that are new or changed since."""
    own = run_files.written(folder, notebook)
    now = _stamps(folder, notebook)
    return sorted(name for name in now if name in own or before.get(name) != now[name])


def _drop(folder: Path, notebook: str, before: Mapping[str, Any]) -> None:
    """Removes what a failed run wrote, but what it left in the folder `failed`."""
    for name in _changed(folder, notebook, before):
        if name not in before:
            (folder / name).unlink()


def failures(folder: Path) -> list[Failure]:
    """What failed in a results folder, from the causes that `run` left."""
    records = map(run_files.read_object, sorted((folder / run_files.FAILED).glob("*.json")))
    wanted = {field.name for field in fields(Failure)}
    return [Failure(**record) for record in records if record.keys() == wanted]


def _execute(path: Path, draft: Path, parameters: Mapping[str, Any], log: TextIO) -> None:
    import papermill

    with _sockets() as config, _environment(_KERNEL_ENVIRONMENT):
        papermill.execute_notebook(
            str(path),
            str(draft),
            parameters=dict(parameters),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=log,
            stderr_file=log,
            start_timeout=300,
            config=config,
        )


@contextlib.contextmanager
def _sockets() -> Iterator[Config]:
    # Kernels that start together race for TCP ports; each gets sockets in a folder of its own.
    base = None if os.name == "nt" else _short_temporary()
    if base is None:
        yield Config()
        return
    with tempfile.TemporaryDirectory(prefix="pe-", dir=base) as folder:
        own = {"JUPYTER_RUNTIME_DIR": folder}
        if not _is_writable(names.expanded("~")):
            own |= {name: f"{folder}/{name}" for name in ("IPYTHONDIR", "MPLCONFIGDIR")}
        with _environment(own):
            yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/k"}})


def _short_temporary() -> str | None:
    """A folder for sockets: their whole name may have 107 bytes, which a long TMPDIR would pass."""
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR")):
        if folder and len(os.fsencode(folder)) < 60 and _is_writable(Path(folder)):
            return folder
    return None


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _cause(error: Exception) -> tuple[str, bool]:
    name = getattr(error, "ename", type(error).__name__)
    text = str(getattr(error, "evalue", error)).strip()
    first = _ANSI.sub("", text).splitlines()[0] if text else ""
    if name == "InputError":
        return first, True
    if name == "DeadKernelError":
        return (
            "The kernel died; the most frequent cause is that the machine ran out of memory.",
            False,
        )
    return f"{name}: {first}" if first else name, False


def _keep_failure(
    failure: Failure, draft: Path, error: Exception, given: Mapping[str, Any]
) -> None:
    trace = "\n".join(getattr(error, "traceback", None) or [str(error)])
    with draft.with_suffix(".log").open("a", encoding="utf-8") as log:
        log.write(f"\n{_ANSI.sub('', trace)}\n")
    if run_files.read_object(draft):
        _write(_without_paths(nbformat.read(draft, as_version=4), given), draft)  # type: ignore[no-untyped-call]
    record = json.dumps(asdict(failure), indent=1)
    with cache.atomic_path(draft.with_suffix(".json")) as temporary:
        temporary.write_text(record + "\n", encoding="utf-8")


def _publish(draft: Path, page: Path, given: Mapping[str, Any], made: Iterable[str]) -> Path:
    book = _without_paths(nbformat.read(draft, as_version=4), given)  # type: ignore[no-untyped-call]
    for cell in book.cells:
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags", [])
            cell.metadata["tags"] = [*tags, *({"hide-input"} - set(tags))]
    if given["model"] != ALL_MODELS:
        name = names.shown(given["model"])
        first = book.cells[0]
        first.source = re.sub(r"\A# +", lambda match: f"{match.group()}{name} · ", first.source)
    files = [name for name in made if name != page.name]
    sizes = {name: (page.parent / name).stat().st_size for name in files}
    book.metadata["probenc"] = {"files": files, "sizes": sizes}
    book.metadata.papermill.update(input_path=f"notebooks/{page.name}", output_path=page.name)
    run_files.note(page.parent, page.stem, [*files, page.name])
    _write(book, draft)
    draft.replace(page)
    for suffix in (".log", ".json"):
        draft.with_suffix(suffix).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        draft.parent.rmdir()
    run_files.settle(page.parent, page.stem, [*files, page.name])
    return page


def _without_paths(book: Any, given: Mapping[str, Any]) -> Any:
    """The notebook with no path of the machine in it, and results that go where they do by default.

    What a page was given as `results_dir` is where it lies; run again elsewhere, for this model or
    another, it writes to that model's folder.
    """
    # A path below the working folder, such as book/runs, reveals nothing about the machine.
    folders = ("results_dir", "runs_dir", "kept_dir")
    told = {n: v for n, v in given.items() if n in folders and not v.startswith(("/", "~", ".."))}
    clean = portable.remover(ROOT, [value for name, value in given.items() if name not in told])
    parameters = book.metadata.get("papermill", {}).get("parameters", {})
    if "results_dir" in parameters:
        parameters["results_dir"] = ""
    for cell in book.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r"(?m)^results_dir = .*$", 'results_dir = ""', cell.source)
    return nbformat.from_dict(clean(book))  # type: ignore[no-untyped-call]


def _write(book: Any, path: Path) -> None:
    with cache.writing(path):
        nbformat.write(book, path)  # type: ignore[no-untyped-call]


def _short(folder: Path) -> str:
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(folder.resolve())


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]
