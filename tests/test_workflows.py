"""Workflows, Binder and the development container name what is there and install what is pinned."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_environment import EXTRAS, PYTHONS, read

from probenc_support import cache, corpora, roster
from probenc_support.notebook import figures, parameters, verdicts
from probenc_support.notebook.results import Results
from probenc_support.runs import execute, run_files

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def workflow(path: Path) -> dict[str, Any]:
    """A workflow, with the key `on` as it is written: YAML 1.1 takes the word for `true`."""
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def steps(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in found["jobs"].values():
        yield from job["steps"]


def commands(found: dict[str, Any]) -> Iterator[list[str]]:
    """Words of every command that a workflow runs."""
    for step in steps(found):
        for line in re.split(r"\n|&&|;", step.get("run", "")):
            if line.strip():
                yield shlex.split(line)


def make_targets() -> set[str]:
    (listed,) = re.findall(r"^\.PHONY:(.*)$", read("Makefile"), re.MULTILINE)
    return set(listed.split())


def targets_of(words: list[str]) -> set[str]:
    """Targets that a command line asks make for; none where it calls something else."""
    return {word for word in words[1:] if "=" not in word} if words[0] == "make" else set()


def absent(patterns: list[str]) -> list[str]:
    """Those of some names and patterns that no file of the repository has."""
    return [one for one in patterns if not any(path.is_file() for path in ROOT.glob(one))]


def test_there_is_one_workflow_for_the_tests_and_one_for_the_book() -> None:
    assert [path.name for path in WORKFLOWS] == ["book.yml", "tests.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
class TestWorkflow:
    """What holds for each of them."""

    def test_has_a_name_a_cause_and_jobs(self, path: Path) -> None:
        found = workflow(path)
        assert found["name"] == path.stem
        assert found["on"]["push"] == {"branches": [configuration()["branch"]]}
        assert "pull_request" in found["on"]
        jobs = found["jobs"]
        for name, job in jobs.items():
            assert job["timeout-minutes"] <= 120, f"{name} could hang for hours"
            needed = job.get("needs", [])
            assert set([needed] if isinstance(needed, str) else needed) <= jobs.keys() - {name}
        for step in steps(found):
            assert ("run" in step) != ("uses" in step), step

    def test_takes_actions_by_their_major_version(self, path: Path) -> None:
        used = [step["uses"] for step in steps(workflow(path)) if "uses" in step]
        assert used
        for action in used:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", action), action

    def test_calls_targets_of_the_makefile(self, path: Path) -> None:
        asked = set().union(*(targets_of(words) for words in commands(workflow(path))))
        assert asked
        assert asked <= make_targets()

    def test_names_files_that_are_there(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        named = [
            name
            for call in re.findall(r"hashFiles\(([^)]*)\)", text)
            for name in ast.literal_eval(f"[{call}]")
        ]
        for step in steps(workflow(path)):
            named += step.get("with", {}).get("cache-dependency-path", "").split()
        assert "constraints.txt" in named
        assert not absent(named)

    def test_installs_torch_without_cuda(self, path: Path) -> None:
        assert workflow(path)["env"]["PIP_EXTRA_INDEX_URL"] == CPU_INDEX

    @pytest.mark.skipif(sys.platform != "linux", reason="the runners' folder of caches")
    def test_keeps_what_pip_and_the_package_keep(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = list(steps(workflow(path)))
        (python,) = [s["with"] for s in found if s.get("uses", "").startswith("actions/setup-")]
        assert python["cache"] == "pip"
        (kept,) = [s["with"] for s in found if s.get("uses", "").startswith("actions/cache@")]
        for name in ("PROBENC_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        assert Path(kept["path"]).expanduser() == cache.cache_dir()
        for older in kept["restore-keys"].split("\n"):
            assert kept["key"].startswith(older), "else nothing older would ever be found"

    def test_may_write_only_where_it_publishes(self, path: Path) -> None:
        found = workflow(path)
        assert found["permissions"] == {"contents": "read"}
        for job in found["jobs"].values():
            publishes = any("deploy-pages" in step.get("uses", "") for step in job["steps"])
            wanted = {"pages": "write", "id-token": "write"} if publishes else None
            assert job.get("permissions") == wanted


def configuration() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(read("config.yaml"))
    return found


def test_the_tests_run_on_every_python_that_the_package_names() -> None:
    (job,) = workflow(ROOT / ".github/workflows/tests.yml")["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    asked = [targets_of(words) for words in commands({"jobs": {"tests": job}})]
    assert asked == [{"environment"}, {"lint"}, {"test"}]
    (setup,) = [s for s in job["steps"] if "setup-python" in s.get("uses", "")]
    assert setup["with"]["python-version"] == "${{ matrix.python }}"


def test_the_book_is_published_from_the_main_branch_after_its_checks() -> None:
    jobs = workflow(ROOT / ".github/workflows/book.yml")["jobs"]
    only_main = f"github.ref == 'refs/heads/{configuration()['branch']}'"
    assert jobs["publish"]["if"] == only_main
    assert jobs["publish"]["needs"] == "build"
    assert jobs["publish"]["environment"]["name"] == "github-pages"
    listed = jobs["build"]["steps"]
    at = {word: place for place, step in enumerate(listed) for word in step.get("run", "").split()}
    (upload,) = [s for s in listed if "upload-pages-artifact" in s.get("uses", "")]
    assert at["chromedriver"] < at["book"] < at["check-book"] < listed.index(upload)
    assert upload["if"] == only_main
    assert ROOT / upload["with"]["path"] == ROOT / book_build().INDEX.parent
    (kept,) = [s for s in listed if "upload-artifact" in s.get("uses", "")]
    assert kept["with"]["path"] == f"{execute.RUNS.as_posix()}/*/{run_files.FAILED}"
    (python,) = [s["with"] for s in listed if "setup-python" in s.get("uses", "")]
    assert python["python-version"] in PYTHONS


def book_build() -> Any:
    spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_checks_notice_what_is_not_there() -> None:
    assert targets_of(["make", "boook", "CORES=2"]) - make_targets() == {"boook"}
    assert absent(["constraints.txt", "requirements.txt", "notebooks/*.py"]) == [
        "requirements.txt",
        "notebooks/*.py",
    ]
    assert list(commands({"jobs": {"a": {"steps": [{"run": "make a && make b\nmake c"}]}}})) == [
        ["make", "a"], ["make", "b"], ["make", "c"],
    ]  # fmt: skip


def test_contributing_names_what_is_there() -> None:
    text = read("CONTRIBUTING.md")
    quoted = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    asked = [targets_of(shlex.split(one)) for one in quoted if one.startswith("make ")]
    assert {"environment", "lint", "test", "book", "check-book"} <= set().union(*asked)
    assert set().union(*asked) <= make_targets()
    named = [one for one in quoted if re.search(r"\.(md|txt|ya?ml|toml)$", one)]
    assert "constraints.txt" in named
    assert absent(named) == ["book/name.md"], "the page of the example"
    assert not absent(re.findall(r"\]\(([^)#:]+)\)", text))
    assert not absent(re.findall(r"python (\S+\.py)", text))
    assert "ROSTER" in quoted
    assert "CLAIMS" in quoted
    calls = [one.partition("(")[0] for one in quoted if re.match(r"\w+\.\w+(\(|$)", one)]
    for owner, name in (one.split(".") for one in calls if one.partition(".")[0] in CALLED):
        assert hasattr(CALLED[owner], name), f"{owner}.{name}"


CALLED = {
    "figures": figures, "parameters": parameters, "results": Results, "verdicts": verdicts
}  # fmt: skip


# ------------------------------------------------------------------------------------- Binder


def binder_lines() -> list[str]:
    lines = [line.split("#")[0].strip() for line in read("binder/requirements.txt").splitlines()]
    return [line for line in lines if line]


def test_binder_installs_the_package_at_the_pinned_versions() -> None:
    index, pins, package = binder_lines()
    # repo2docker's own reader of this file wants the sign of equality.
    assert index == f"--extra-index-url={CPU_INDEX}"
    # pip reads -c relative to the file, and -e relative to the folder that it is called in.
    assert pins.startswith("-c ")
    assert (ROOT / "binder" / pins.removeprefix("-c ")).resolve() == ROOT / "constraints.txt"
    found = re.fullmatch(r"-e \.\[([\w,]+)\]", package)
    assert found
    assert set(found[1].split(",")) <= EXTRAS


IMPORTED = re.compile(r"(?m)(?:^\s*\"?\s*(?:import|from) |import_module\(\")(\w+)")
"""Names that Python code, or the code of a notebook's file, imports."""


def test_binder_has_what_the_notebooks_and_the_package_import() -> None:
    """By the extras that it leaves out: nothing of theirs is imported, also not in a function."""
    extras = set(binder_lines()[-1].partition("[")[2].rstrip("]").split(","))
    declared = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    assert declared.keys() == EXTRAS
    left_out = {
        canonicalize_name(Requirement(text).name)
        for one in EXTRAS - extras
        for text in declared[one]
    }
    distributions = importlib.metadata.packages_distributions()
    files = [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "probenc_support").rglob("*.py")]
    imported = {
        canonicalize_name(distribution)
        for path in files
        for name in IMPORTED.findall(path.read_text(encoding="utf-8"))
        for distribution in distributions.get(name, [])
    }
    assert {"numpy", "mauve-text"} <= imported
    assert not imported & left_out


def test_binder_and_conda_have_the_same_python() -> None:
    (conda,) = re.findall(r"- python=(\S+)", read("environment.yml"))
    assert read("binder/runtime.txt") == f"python-{conda}\n"
    assert conda in PYTHONS


def test_binder_fetches_what_the_package_knows() -> None:
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK), "repo2docker runs it"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    (fetch,) = [shlex.split(line) for line in lines if " fetch " in line]
    assert fetch[:4] == ["python", "-m", "probenc_support", "fetch"]
    for name in fetch[4:]:
        assert name in roster.ROSTER or name in corpora.built_in(), name


def test_binder_reads_no_other_folder() -> None:
    """repo2docker takes the first of these that is there, and nothing outside it."""
    assert not (ROOT / ".binder").exists()
    assert not list(ROOT.glob("binder/environment.y*ml")), "it would win over requirements.txt"


def test_launch_buttons_agree_with_binder_and_the_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import probenc_pages

    buttons = yaml.safe_load(read("_config.yml"))["launch_buttons"]
    assert not [key for key in buttons if key.endswith("_url")], (
        "the theme's own buttons would open executed pages, which the repository does not have"
    )
    place = configuration()["repository"].removeprefix("https://github.com/")
    for notebook in execute.notebooks():
        colab, binder = probenc_pages.launch(notebook)
        assert f"/{place}/blob/{configuration()['branch']}/notebooks/{notebook}.ipynb" in colab
        assert f"mybinder.org/v2/gh/{place}/{configuration()['branch']}?" in binder
        interface = {"jupyterlab": "lab", "classic": "notebooks"}[buttons["notebook_interface"]]
        assert f"urlpath={interface}%2Ftree%2Fnotebooks%2F{notebook}.ipynb" in binder


# ------------------------------------------------------------------- the development container


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read(".devcontainer/devcontainer.json"))
    return found


def test_the_container_has_a_python_that_is_tested(container: dict[str, Any]) -> None:
    image = re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:(3\.\d+)", container["image"])
    assert image
    assert image[1] in PYTHONS


def test_the_container_makes_the_environment_of_the_makefile(container: dict[str, Any]) -> None:
    assert targets_of(shlex.split(container["postCreateCommand"])) == {"environment"}
    assert "environment" in make_targets()
    assert container["containerEnv"] == {"PIP_EXTRA_INDEX_URL": CPU_INDEX}
    (folder,) = re.findall(r"^VENV +\?= (\S+)$", read("Makefile"), re.MULTILINE)
    python = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert python == f"${{containerWorkspaceFolder}}/{folder}/bin/python"


def test_the_container_can_hold_a_cell_of_the_matrix(container: dict[str, Any]) -> None:
    memory = container["hostRequirements"]["memory"]
    assert memory.endswith("gb")
    assert float(memory.removesuffix("gb")) * 1000 >= configuration()["resources"]["mem_mb"]


def test_the_containers_ports_are_labelled(container: dict[str, Any]) -> None:
    labels = container["portsAttributes"]
    assert {str(port) for port in container["forwardPorts"]} == labels.keys()
    for label in labels.values():
        (folder,) = re.findall(r"--directory (\S+)", label["label"])
        assert ROOT / folder == ROOT / book_build().INDEX.parent


def test_the_containers_extensions_are_names(container: dict[str, Any]) -> None:
    extensions = container["customizations"]["vscode"]["extensions"]
    assert len(extensions) == len(set(extensions))
    for name in extensions:
        assert re.fullmatch(r"[a-z][\w-]*\.[a-z][\w-]*", name), name
