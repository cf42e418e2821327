"""pip, conda and the tests' own environment install one set of packages."""

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"book", "chemistry", "mauve", "test"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PYTHONS = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
"""The Pythons that pyproject.toml names, oldest first."""


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    """Exact versions of constraints.txt, by canonical name."""
    lines = [line.split("#")[0].strip() for line in read("constraints.txt").splitlines()]
    parts = [line.split(";")[0].strip().split("==") for line in lines if line]
    assert all(len(part) == 2 for part in parts), "every line pins one version"
    names = [canonicalize_name(name) for name, _ in parts]
    assert len(names) == len(set(names)), "no package twice"
    return {canonicalize_name(name): Version(version) for name, version in parts}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))["project"]


def requirements(project: dict[str, Any]) -> list[Requirement]:
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(one for extra in EXTRAS for one in extras[extra])]
    return [Requirement(text) for text in listed]


def test_every_requirement_is_pinned_within_its_range(
    project: dict[str, Any], pins: dict[str, Version]
) -> None:
    for requirement in requirements(project):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pin, prereleases=True), f"{requirement} != {pin}"


def test_rivals_are_timed_on_the_same_releases(pins: dict[str, Version]) -> None:
    """Other programs of the benchmarks share what does the arithmetic, and are no dependencies."""
    lines = read("tests/benchmarks/rivals.txt").splitlines()
    rivals = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {one.name for one in rivals} >= {"torch", "transformers"}
    for one in rivals:
        (pin,) = one.specifier
        assert pin.operator == "=="
        expected = Version(pin.version) if one.name in ("torch", "transformers") else None
        assert pins.get(canonicalize_name(one.name)) == expected, one.name


def test_environment_yml_installs_what_the_makefile_installs(project: dict[str, Any]) -> None:
    environment = yaml.safe_load(read("environment.yml"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip[0] == "-c constraints.txt"
    of_conda = re.search(r"-e \.\[(.*)\]", pip[1])
    of_make = re.search(
        r"-c constraints\.txt -e '\.\[(.*)\]'", read("Makefile").replace("\\\n\t ", "")
    )
    assert of_conda, "environment.yml installs the package"
    assert of_make, "the Makefile installs the package"
    assert set(of_conda[1].split(",")) == set(of_make[1].split(",")) == EXTRAS
    assert len(pip) == 2, "nothing that pyproject.toml does not name"


def test_environment_yml_has_a_python_that_the_package_takes(project: dict[str, Any]) -> None:
    dependencies = yaml.safe_load(read("environment.yml"))["dependencies"]
    (python,) = [entry for entry in dependencies if str(entry).startswith("python=")]
    wanted = Requirement(f"python{project['requires-python']}").specifier
    assert wanted.contains(python.removeprefix("python="))


def test_this_environment_is_the_pinned_one(pins: dict[str, Version]) -> None:
    different = {}
    for name, pin in pins.items():
        try:
            installed = Version(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        if Version(installed.public) != pin:
            different[name] = f"{installed} instead of {pin}"
    assert not different


def test_the_oldest_python_is_tested_and_is_the_oldest_that_the_package_takes(
    project: dict[str, Any],
) -> None:
    (oldest,) = [one.version for one in SpecifierSet(project["requires-python"])]
    assert sorted(PYTHONS, key=Version) == PYTHONS
    assert PYTHONS[0] == oldest


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_installs_on_every_python_that_is_named(
    pins: dict[str, Version], python: str
) -> None:
    refused = {}
    for name in pins:
        try:
            wanted = importlib.metadata.metadata(name).get("Requires-Python") or ""
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python
        if not SpecifierSet(wanted).contains(f"{python}.0"):
            refused[name] = wanted
    assert not refused


@pytest.mark.parametrize("python", PYTHONS)
def test_nothing_is_installed_that_no_pin_covers(pins: dict[str, Version], python: str) -> None:
    """A dependency of a dependency that is not pinned could change under a reader's hands.

    Some are asked for on one Python only, so the markers are read as every Python would.
    """
    there = {"python_version": python, "python_full_version": f"{python}.0"}
    todo = [f"probenc-support[{','.join(sorted(EXTRAS))}]"]
    seen: set[str] = set()
    unpinned = set()
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        key = f"{name}[{','.join(sorted(extras))}]"
        if key in seen:
            continue
        seen.add(key)
        if name not in pins and name not in ("probenc-support", "pip", "setuptools", "wheel"):
            unpinned.add(name)
        for text in asked_for_by(name):
            needed = Requirement(text)
            markers = [{**there, "extra": extra} for extra in extras]
            if needed.marker is None or any(needed.marker.evaluate(one) for one in markers):
                todo.append(str(needed).split(";")[0])
    assert not unpinned


def asked_for_by(name: str) -> list[str]:
    """Requirements of an installed package; none of one that only another Python installs."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def test_citation_and_package_agree(project: dict[str, Any]) -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "MIT"
    assert "MIT License" in read("LICENSE")


def test_the_repository_is_named_in_one_place() -> None:
    place = yaml.safe_load(read("config.yaml"))["repository"]
    assert yaml.safe_load(read("CITATION.cff"))["repository-code"] == place
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for found in re.findall(r"git\+(https://[^\"\\ ]+)", path.read_text(encoding="utf-8")):
            assert found.removesuffix(".git") == place, path.name


def test_notebooks_hold_no_outputs() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        assert '"output_type"' not in text, path.name
        assert not re.search(r'"execution_count": \d', text), path.name
