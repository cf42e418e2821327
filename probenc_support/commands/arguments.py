"""What can be said to `detect`, `steer`, `prune` and `train` on the command line."""

import argparse
import math
from collections.abc import Sequence

from probenc_support.errors import InputError
from probenc_support.roster import ROSTER

DIRECTIONS = ("min_variance", "robust", "exact", "paper")
"""Directions that rows can be moved along; see `steering`."""

METHODS = ("paper", "fisher_compensated", "rotated")
"""Ways of pruning; see `pruning`."""

CALIBRATION = (
    "docstrings:matplotlib", "docstrings:pandas", "docstrings:scipy",
    "docstrings:sympy", "docstrings:torch", "docstrings:transformers",
)  # fmt: skip
"""Further text that the robust direction is fitted to by default."""

GGUF_TYPES = ("f32", "f16")
"""Types in which a GGUF file can hold the changed output embedding."""


def add_steer(parser: argparse.ArgumentParser) -> None:
    """Arguments of `steer`."""
    parser.epilog = (
        "Factors multiply a token's mean probability over the corpus; all rows are solved for "
        "together, so that they hold beside one another (a factor of 1 holds a token where it is "
        "while others move). Mind the leading space of most words: --token ' the=0.5'."
    )
    _add_model(parser)
    parser.add_argument(
        "--token", action="append", default=[], metavar="TEXT=FACTOR",
        help="a text that is one token, and the factor on its mean probability; once a token",
    )  # fmt: skip
    parser.add_argument(
        "--token-id", action="append", default=[], metavar="ID=FACTOR",
        help="the same for a token that cannot be typed, by its number",
    )  # fmt: skip
    parser.add_argument(
        "--direction", default="min_variance", metavar="NAME",
        help="along which rows move: min_variance (default; the most even effect), robust (fitted "
        "to several corpora, for other text), exact (one effect on any text, where the final norm "
        "is a LayerNorm with a bias), paper",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", action="append", metavar="CORPUS",
        help="further text for the robust direction; default: six parts of the docstrings",
    )  # fmt: skip
    _add_text(parser)
    _add_output(parser)


def add_prune(parser: argparse.ArgumentParser) -> None:
    """Arguments of `prune`."""
    parser.epilog = (
        "The output embedding keeps its shape, so that transformers loads the model as it is, and "
        "its logits come from fewer dimensions. --factors also saves the small head, which only "
        "this package reads."
    )
    _add_model(parser)
    parser.add_argument(
        "--share", type=float, required=True, help="share of the dimensions that go, such as 0.3"
    )
    parser.add_argument(
        "--method", default="rotated", metavar="NAME",
        help="rotated (default; the directions that matter least), fisher_compensated (plain "
        "dimensions of least divergence, predicted from the others), paper (plain dimensions of "
        "smallest slope, set to zero)",
    )  # fmt: skip
    parser.add_argument(
        "--factors", action="store_true", help="save the small head beside, as pruned_head/"
    )
    _add_text(parser)
    _add_output(parser)


def add_train(parser: argparse.ArgumentParser) -> None:
    """Arguments of `train`."""
    here = [entry.name for entry in ROSTER.values() if entry.source.startswith("trained:")]
    parser.add_argument("model", help=f"what to train: {', '.join(here)}")
    parser.add_argument("--corpus", default="docstrings", help="text to train on")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order of the text")
    parser.add_argument("--seeds", type=int, default=1, help="train so many seeds, from --seed on")
    parser.add_argument("--steps", type=int, help="length of the run (default: the recipe's)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--out", help="folder for the checkpoints (default: in the cache)")


def add_detect(parser: argparse.ArgumentParser) -> None:
    """Arguments of `detect`, with the defaults of the notebooks' parameters."""
    parser.epilog = (
        "Several processes, also on machines that share the cache, may make one pass: each makes "
        "shards that no other is making. --shard divides it beforehand. Started by torchrun, the "
        "processes compute each layer of the model together, a GPU each."
    )
    _add_model(parser, dtype="in which precision the model is loaded")
    parser.add_argument(
        "--corpus", nargs="+", default=["docstrings"], metavar="CORPUS",
        help="text that is read (default docstrings); those after the first are taken without what "
        "shares text with the first, as the notebooks take eval_corpus",
    )  # fmt: skip
    parser.add_argument(
        "--n-positions", type=int, default=16384, help="positions of each (default 16384)"
    )
    parser.add_argument(
        "--sequence-length", type=int, default=256, help="tokens in a block (default 256)"
    )
    parser.add_argument(
        "--positions", default="all", help="all (default), or the last of each block"
    )
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="make the I-th of N parts alone, such as 2/4"
    )
    add_gpus(parser)


def add_gpus(parser: argparse.ArgumentParser) -> None:
    """The number of GPUs that a run takes for itself."""
    parser.add_argument(
        "--gpus", type=int, default=0, metavar="N",
        help="take N free GPUs of this machine, or wait for them (default 0: all that are visible)",
    )  # fmt: skip


def part(shard: str) -> tuple[int, int]:
    """i and n of `i/n`, the i-th of n parts.

    Raises:
        InputError: it names no such part.
    """
    i, _, n = shard.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise InputError(
            f"--shard is {shard!r}; write it as 2/4, which is the second of four parts."
        )
    return int(i), int(n)


def _add_model(
    parser: argparse.ArgumentParser,
    *,
    dtype: str = "in which precision the model is loaded and written",
) -> None:
    parser.add_argument("--model", required=True, help="roster name, hub id, folder or .gguf")
    parser.add_argument("--revision", default="", help="branch, tag, commit or checkpoint")
    parser.add_argument(
        "--first-token", default="auto", help="read before every text: auto, none, or a token"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--dtype", default="auto", help=dtype)


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corpus", default="docstrings",
        help="text that is fitted to; other documents of it judge (default docstrings)",
    )  # fmt: skip
    parser.add_argument(
        "--n-positions", type=int, default=4096,
        help="positions to fit to; a quarter as many judge (default 4096)",
    )  # fmt: skip
    parser.add_argument(
        "--sequence-length", type=int, default=256,
        help="tokens in a block (default 256, or the model's context if that is shorter)",
    )  # fmt: skip


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default="",
        help="new folder for the model, which transformers loads, or a file ending in .gguf; "
        "needed unless --dry-run",
    )  # fmt: skip
    parser.add_argument(
        "--gguf-type", default="f32", metavar="TYPE",
        help="type of the output embedding in a GGUF file: f32 (default) or f16",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what this command wrote there before"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the table that is expected, write nothing"
    )


def chosen(value: str, known: Sequence[str], what: str) -> str:
    """A name that is among those known.

    Raises:
        InputError: it is not.
    """
    if value not in known:
        raise InputError(f"There is no {what} {value!r}; use one of {', '.join(known)}.")
    return value


def check(options: argparse.Namespace) -> None:
    """Refuses sizes and types that no model could do with.

    Raises:
        InputError: names the first of them.
    """
    chosen(options.gguf_type, GGUF_TYPES, "type")
    check_sizes(options)


def check_sizes(options: argparse.Namespace) -> None:
    """Refuses fewer positions than one block has.

    Raises:
        InputError: there is not one block of at least two tokens.
    """
    if options.sequence_length < 2 or options.n_positions < options.sequence_length:
        raise InputError(
            f"--n-positions ({options.n_positions}) must be at least --sequence-length "
            f"({options.sequence_length}), which must be at least 2."
        )


def factors(texts: Sequence[str], ids: Sequence[str]) -> dict[str | int, float]:
    """Wanted factors by token text or id, from `TEXT=FACTOR` and `ID=FACTOR`.

    The last equals sign parts the two, so that a token may hold one.

    Raises:
        InputError: there is none, a factor is no positive number, an id is no number, or a token is
            named twice.
    """
    wanted: dict[str | int, float] = {}
    for given in [*texts, *ids]:
        name, sign, number = given.rpartition("=")
        by_id = given in ids and given not in texts
        if not sign or not name:
            raise InputError(
                f"{given!r} names no token with a factor; write " + _example(by_id) + "."
            )
        key = _number_of(name) if by_id else name
        if key in wanted:
            raise InputError(f"The token {key!r} is named twice; give it one factor.")
        wanted[key] = _factor(number, key)
    if not wanted:
        raise InputError(f"No token is named; give at least one as {_example(False)}.")
    return wanted


def _example(by_id: bool) -> str:
    return "--token-id 265=0.5" if by_id else "--token ' the=0.5'"


def _number_of(name: str) -> int:
    if not name.strip().isdecimal():
        raise InputError(f"{name!r} is no number of a token; write {_example(True)}.")
    return int(name)


def _factor(number: str, token: str | int) -> float:
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise InputError(
            f"The factor of {token!r} is {number!r}; it must be a positive number, such as 0.5 or "
            "20 (a token cannot be taken away altogether)."
        )
    return factor


def checked_share(share: float) -> float:
    """A share of dimensions that can go.

    Raises:
        InputError: it does not lie between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"A share of {share:g} cannot be removed; give one between 0 and 1.")
    return share
