# The book: every model x notebook of config.yaml, then the comparison, then the site.
# `make book` calls it through book/build.py; on a cluster: snakemake --profile profiles/slurm

import hashlib
import json
import re
import shlex
from pathlib import Path

from probenc_support import names
from probenc_support.runs import dependencies, execute, kept, matrix


# A file named on the command line stands in place of config.yaml, not on top of it.
if "models" not in config:

    configfile: "config.yaml"


RUNS = execute.RUNS.as_posix()
KEPT = kept.KEPT.as_posix()
CELLS = {f"{cell.slug}/{cell.notebook}": cell for cell in matrix.cells(config)}
MODELS = {cell.slug: cell.model for cell in CELLS.values()}
ENTRIES = {names.slug(name): entry for name, entry in matrix.models(config).items()}
PASS_SHARDS = int(config.get("pass_shards", 1))
ACROSS = f"{RUNS}/{matrix.ACROSS}/06_across_models.ipynb"


# Runs of other models, made before or brought from elsewhere, are files like any other: shown, and
# never made again.
wildcard_constraints:
    slug="|".join(map(re.escape, MODELS)),
    cell="|".join(map(re.escape, CELLS)),


localrules:
    cells,
    site,


def known(wildcards):
    return CELLS[wildcards.cell]


def urgency(wildcards):
    first = config.get("first", [])
    notebook = known(wildcards).notebook
    return len(first) - first.index(notebook) if notebook in first else 0


def source(wildcards):
    return f"notebooks/{known(wildcards).notebook}.ipynb"


def arguments(wildcards):
    given = known(wildcards).parameters.items()
    return " ".join(f"-p {name} {shlex.quote(json.dumps(value))}" for name, value in given)


def pass_name(cell):
    """Where the parts of a cell's passes are ticked off; empty where none are made beforehand."""
    words = matrix.pass_arguments(cell) if PASS_SHARDS > 1 else []
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]
    return f"{cell.slug}/.pass-{digest}" if words else ""


def parts_of_pass(wildcards):
    name = pass_name(known(wildcards))
    return [f"{RUNS}/{name}-{i}-of-{PASS_SHARDS}" for i in range(1, PASS_SHARDS + 1) if name]


def resources_of(cell):
    return {"mem_mb": 8000, "runtime": 120, "gpu": 0, **cell.resources}


def modules(notebook):
    needed = dependencies.modules(Path(notebook))
    return [path.relative_to(execute.ROOT).as_posix() for path in needed]


def pages():
    """Executed notebooks that are there now, but the comparison: a failed cell has none. Kept ones
    count among the sources of the site."""
    found = (str(path) for path in Path(RUNS).glob("*/[0-9]*.ipynb"))
    return sorted(path for path in found if path != ACROSS)


def metrics():
    """What the comparison reads: metrics of all runs, made here or kept."""
    found = [path for folder in (RUNS, KEPT) for path in Path(folder).glob("*/0[1-5]_*.metrics.json")]
    return sorted(map(str, found))


def site_sources():
    found = [path for path in Path("book").rglob("*") if path.is_file()]
    pages = [p for p in found if "runs" not in p.parts and "__pycache__" not in p.parts]
    # Pages show these two files of the root.
    return sorted(map(str, [*pages, "CITATION.cff", "CONTRIBUTING.md"]))


rule cells:
    input:
        [cell.page.as_posix() for cell in CELLS.values()],


rule fetch:
    message:
        "{wildcards.slug}: fetch (or train)"
    input:
        lambda wildcards: ENTRIES[wildcards.slug].get("made_from", []),
    output:
        touch(f"{RUNS}/{{slug}}/.fetched"),
    benchmark:
        f"{RUNS}/{{slug}}/{matrix.FETCH}.benchmark.tsv"
    params:
        model=lambda wildcards: MODELS[wildcards.slug],
        failed=lambda wildcards: f"{RUNS}/{wildcards.slug}/failed",
        name=matrix.FETCH,
    threads: config["threads"]
    resources:
        **config["resources"],
    retries: config["retries"]
    shell:
        # The log stays only where the step failed; Snakemake would keep an empty one otherwise.
        "mkdir -p {params.failed:q} && "
        "python -m probenc_support fetch {params.model:q} 2>&1 | tee {params.failed:q}/{params.name}.log && "
        "rm {params.failed:q}/{params.name}.log && "
        "(rmdir {params.failed:q} 2> /dev/null || true)"


rule notebook:
    message:
        "{wildcards.cell}"
    input:
        fetched=lambda wildcards: f"{RUNS}/{known(wildcards).slug}/.fetched",
        notebook=source,
        # Other releases of the libraries may give other numbers.
        pins="constraints.txt",
        modules=lambda wildcards: modules(source(wildcards)),
        passes=parts_of_pass,
    output:
        page=f"{RUNS}/{{cell}}.ipynb",
        metrics=f"{RUNS}/{{cell}}.metrics.json",
        provenance=f"{RUNS}/{{cell}}.provenance.json",
    benchmark:
        f"{RUNS}/{{cell}}.benchmark.tsv"
    params:
        model=lambda wildcards: known(wildcards).model,
        notebook=lambda wildcards: known(wildcards).notebook,
        folder=lambda wildcards: f"{RUNS}/{known(wildcards).slug}",
        arguments=arguments,
    priority: urgency
    threads: lambda wildcards: known(wildcards).resources.get("threads", config["threads"])
    resources:
        mem_mb=lambda wildcards: resources_of(known(wildcards))["mem_mb"],
        runtime=lambda wildcards: resources_of(known(wildcards))["runtime"],
        gpu=lambda wildcards: resources_of(known(wildcards))["gpu"],
    retries: config["retries"]
    shell:
        "python -m probenc_support run --model {params.model:q} --notebook {params.notebook}"
        " --results-dir {params.folder:q} --gpus {resources.gpu} {params.arguments}"


if PASS_SHARDS > 1:
    PASSES = {name: cell for cell in CELLS.values() if (name := pass_name(cell))}

    rule detect:
        message:
            "{wildcards.name}: part {wildcards.i} of the pass"
        input:
            fetched=lambda wildcards: f"{RUNS}/{PASSES[wildcards.name].slug}/.fetched",
            pins="constraints.txt",
            module="probenc_support/inference.py",
        output:
            touch(f"{RUNS}/{{name}}-{{i}}-of-{PASS_SHARDS}"),
        params:
            words=lambda wildcards: shlex.join(matrix.pass_arguments(PASSES[wildcards.name])),
        wildcard_constraints:
            name="|".join(map(re.escape, PASSES)),
            i=r"\d+",
        threads: lambda wildcards: PASSES[wildcards.name].resources.get("threads", config["threads"])
        resources:
            mem_mb=lambda wildcards: resources_of(PASSES[wildcards.name])["mem_mb"],
            runtime=lambda wildcards: resources_of(PASSES[wildcards.name])["runtime"],
            gpu=lambda wildcards: resources_of(PASSES[wildcards.name])["gpu"],
        retries: config["retries"]
        shell:
            "python -m probenc_support detect {params.words} --gpus {resources.gpu}"
            f" --shard {{wildcards.i}}/{PASS_SHARDS}"



rule across:
    message:
        "all models: 06_across_models"
    input:
        metrics=metrics(),
        notebook="notebooks/06_across_models.ipynb",
        modules=lambda wildcards: modules("notebooks/06_across_models.ipynb"),
    output:
        ACROSS,
        ACROSS.replace(".ipynb", ".metrics.json"),
    benchmark:
        ACROSS.replace(".ipynb", ".benchmark.tsv")
    params:
        folder=f"{RUNS}/{matrix.ACROSS}",
    shell:
        "python -m probenc_support run --model {matrix.ACROSS} --notebook 06_across_models"
        " --results-dir {params.folder:q} -p runs_dir {RUNS} -p kept_dir {KEPT}"


rule site:
    message:
        "the pages"
    input:
        ACROSS,
        pages(),
        site_sources(),
        "_config.yml",
        "_toc.yml",
        "config.yaml",
    output:
        touch("_build/html/.complete"),
    benchmark:
        "_build/site.benchmark.tsv"
    shell:
        "rm -rf _build/html _build/.doctrees && "
        "jupyter-book build . -W --keep-going -n --all"
