"""Runs one notebook for one model, so that its page is complete or absent."""

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import nbformat
from traitlets.config import Config

from probenc_support import cache
from probenc_support.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
"""The repository: notebooks are read below it, and the book's runs are kept there."""
RUNS = Path("book") / "runs"
"""Where the book keeps its runs, below `ROOT`: one folder a model."""
ALL_MODELS = "all-models"
"""Stands for the model in the notebook that compares them all, and names its folder."""

_KERNEL_ENVIRONMENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
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


def slug(model: str) -> str:
    """Name of a model's folder under `book/runs`, from a roster name, hub id, folder or file."""
    path = Path(model).expanduser()
    name = path.resolve().name if path.exists() else model.strip("/").replace("/", "--")
    name = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")
    if not safe:
        raise InputError(f"The model name {model!r} holds no letter or digit.")
    return safe


def names() -> list[str]:
    """Names of the book's notebooks, in order."""
    return sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def source(notebook: str) -> Path:
    """Path of a notebook named by its number (`01`), its name or its path.

    Raises:
        InputError: there is no such notebook.
    """
    path = Path(notebook).expanduser()
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    known = names()
    found = [name for name in known if name == notebook or name.split("_")[0] == notebook]
    if not found:
        raise InputError(
            f"There is no notebook {notebook!r}; choose from {', '.join(known) or 'none'}."
        )
    return ROOT / "notebooks" / f"{found[0]}.ipynb"


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
    folder = Path(results_dir or ROOT / RUNS / slug(model))
    given = {"model": model, **(parameters or {}), "results_dir": _short(folder)}
    with cache.locked(f"run-{_digest(folder.resolve() / path.stem)}"):
        _forget(folder, path.stem)
        draft = folder / "failed" / path.name
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.with_suffix(".log").open("w", encoding="utf-8") as log:
                _execute(path, draft, given, log)
        except Exception as error:
            failure = Failure(path.stem, model, *_cause(error))
            _keep_failure(failure, draft, error)
            _forget(folder, path.stem)
            raise NotebookError(failure, draft.parent) from None
        return _publish(draft, folder / path.name, path, model)


def failures(folder: Path) -> list[Failure]:
    """What failed in a results folder, from the causes that `run` left."""
    files = sorted((folder / "failed").glob("*.json"))
    return [Failure(**json.loads(file.read_text(encoding="utf-8"))) for file in files]


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
    # Kernels that start together race for TCP ports; each gets sockets in a folder of its own. The
    # name of a socket may have 107 bytes, which a long TMPDIR would pass.
    if os.name == "nt":
        yield Config()
        return
    base = tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="pe-", dir=base) as folder:
        yield Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/k"}})


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
        return "The kernel died; most often the machine ran out of memory.", False
    return f"{name}: {first}" if first else name, False


def _keep_failure(failure: Failure, draft: Path, error: Exception) -> None:
    trace = "\n".join(getattr(error, "traceback", None) or [str(error)])
    with draft.with_suffix(".log").open("a", encoding="utf-8") as log:
        log.write(f"\n{_ANSI.sub('', trace)}\n")
    record = json.dumps(asdict(failure), indent=1)
    with cache.atomic_path(draft.with_suffix(".json")) as temporary:
        temporary.write_text(record + "\n", encoding="utf-8")


def _publish(draft: Path, page: Path, path: Path, model: str) -> Path:
    book = nbformat.read(draft, as_version=4)  # type: ignore[no-untyped-call]
    for cell in book.cells:
        if cell.cell_type == "code":
            tags = cell.metadata.get("tags", [])
            cell.metadata["tags"] = [*tags, *({"hide-input"} - set(tags))]
            for output in cell.outputs:
                if "text" in output:
                    output.text = output.text.replace(f"{ROOT}/", "").replace(f"{Path.home()}", "~")
    # The page tells what it is about, and no path of the machine that ran it.
    if model != ALL_MODELS:
        name = slug(model) if Path(model).expanduser().exists() else model
        first = book.cells[0]
        first.source = re.sub(r"\A# +", lambda match: f"{match.group()}{name} · ", first.source)
    files = sorted(file.name for file in page.parent.glob(f"{path.stem}.*") if file != page)
    book.metadata["probenc"] = {"files": files}
    book.metadata.papermill.update(input_path=f"notebooks/{path.name}", output_path=page.name)
    nbformat.write(book, draft)  # type: ignore[no-untyped-call]
    draft.replace(page)
    for suffix in (".log", ".json"):
        draft.with_suffix(suffix).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        draft.parent.rmdir()
    return page


def _forget(folder: Path, notebook: str) -> None:
    for stale in folder.glob(f"{notebook}.*"):
        stale.unlink()


def _short(folder: Path) -> str:
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(folder.resolve())


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:16]
