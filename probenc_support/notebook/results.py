"""What a run of a notebook leaves: metrics, tables, provenance."""

import html
import importlib.metadata
import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from probenc_support import cache, names
from probenc_support.corpora import TokenBlocks
from probenc_support.inference import MIN_DOCUMENTS, SAMPLE, draws_documents, peak_memory_mb
from probenc_support.models import LanguageModel
from probenc_support.models.runtime import resolve_device
from probenc_support.notebook.parameters import Parameters
from probenc_support.runs import run_files

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "pandas", "scikit-learn")
"""Packages whose versions a run's numbers depend on."""


class Results:
    """Collects the results of one run and writes them, each file atomically.

    `<notebook>.metrics.json` is written last, so where it is, the rest is.
    """

    def __init__(
        self,
        parameters: Parameters,
        lm: LanguageModel | None = None,
        blocks: TokenBlocks | None = None,
    ) -> None:
        self.parameters, self.lm, self.blocks = parameters, lm, blocks
        if lm and lm.kind.name != "causal":
            _say(lm.kind.in_words)
        if lm and lm.probe and lm.probe.warning:
            _warn("first token", lm.probe.warning)
        if blocks and not draws_documents(blocks, parameters.positions):
            _warn("intervals", _few_documents(blocks))
        if lm and blocks and (n := _n_positions(lm, blocks, parameters.positions)) > SAMPLE:
            _say(
                f"Averages are over all {n:,} positions of `{blocks.corpus}`. What needs single "
                f"hidden states, such as theory, steering and pruning, has those of {SAMPLE:,} "
                "positions, drawn evenly at random."
            )
        self._metrics: dict[str, float | int] = {}

    def _claim(self, suffix: str) -> Path:
        own = self.parameters
        return run_files.claim(own.results_dir, own.notebook, f"{own.notebook}.{suffix}")

    @property
    def measured(self) -> Mapping[str, float | int]:
        """The metrics so far."""
        return dict(self._metrics)

    def add_metrics(self, **values: Any) -> None:
        """Adds metrics: flat names to finite numbers.

        A value that is not finite is left out: JSON cannot express it, and whoever reads the file
        takes a metric that is absent as not measured.
        """
        for name, value in values.items():
            number = value.item() if hasattr(value, "item") else value
            if isinstance(number, bool) or not isinstance(number, int | float):
                number = int(number)
            if math.isfinite(number):
                self._metrics[name] = number

    def add_table(self, name: str, frame: pd.DataFrame) -> None:
        """Writes `<notebook>.<name>.parquet` and `.csv`.

        Raises:
            InputError: such a file is there that no run of this project wrote.
        """
        with cache.atomic_path(self._claim(f"{name}.parquet")) as temporary:
            frame.to_parquet(temporary, index=False)
        with cache.atomic_path(self._claim(f"{name}.csv")) as temporary:
            frame.to_csv(temporary, index=False, float_format="%.6g")

    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from: model, corpus, parameters, machine, versions, time."""
        lm, blocks, own = self.lm, self.blocks, self.parameters
        given = {**asdict(own), **own.own, "results_dir": own.results_dir.name}
        parameters = {k: _named(v) for k, v in given.items() if k not in ("started", "own")}
        device = lm.device if lm else resolve_device("cpu")
        return {
            "notebook": own.notebook,
            "model": own.model_name,
            "model_source": names.model_source(own.model),
            "revision": own.revision,
            "weights_sha256": lm.weights_hash if lm else "",
            **(model_facts(lm) if lm else {}),
            "corpus": own.corpus_name,
            "corpus_sha256": blocks.hash if blocks else "",
            **(lm.kind.told(lm.model, blocks.ids) if lm and blocks else {}),
            "parameters": parameters,
            "seed": own.seed,
            "first_token": lm.first_token_text if lm else "",
            "device": device_name(device),
            "dtype": str(lm.dtype).removeprefix("torch.") if lm else "",
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "commit": commit(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(own.started)),
            "duration_s": round(time.time() - own.started, 1),
            "peak_memory_mb": round(peak_memory_mb(device)),
        }

    def finish(self) -> None:
        """Writes provenance, then metrics, and shows the provenance as a folded box."""
        from IPython.display import HTML, display

        facts = self.provenance()
        _write_json(self._claim("provenance.json"), facts)
        _write_json(self._claim("metrics.json"), self._metrics)
        display(HTML(provenance_box(facts)))  # type: ignore[no-untyped-call]


def _warn(of: str, words: str) -> None:
    _say(f"**Mind the {of}.** {words}")


def _say(words: str) -> None:
    from IPython.display import Markdown, display

    display(Markdown(words))  # type: ignore[no-untyped-call]


def _n_positions(lm: LanguageModel, blocks: TokenBlocks, positions: str) -> int:
    """Positions of a pass over some blocks."""
    n_blocks, length = blocks.ids.shape
    return n_blocks * (1 if positions == "last" else lm.kind.n_predicted(length))


def _few_documents(blocks: TokenBlocks) -> str:
    known = blocks.n_documents
    why = (
        "how its text is divided into documents is not known"
        if known is None
        else f"its text is only {known} document{'s' * (known > 1)}, and {MIN_DOCUMENTS} are needed"
    )
    return (
        f"Intervals of `{blocks.corpus}` come from drawing blocks of text, since {why}. Blocks of "
        "one document depend on each other, so the intervals are narrower than they should be."
    )


def _named(value: Any) -> Any:
    """The value, with files and folders by their own names, so that no path gets on the page."""
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    return names.shown(value) if isinstance(value, str) else value


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with cache.atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def model_facts(lm: LanguageModel) -> dict[str, Any]:
    """What a model is, for comparisons: kind, family, size, norm, tied or untied head, and in how
    few bits its weights were stored."""
    config = lm.model.config
    layers = getattr(config, "decoder_layers", None) or getattr(config, "num_hidden_layers", None)
    return {
        "kind": lm.kind.name,
        "family": str(config.model_type),
        "n_layers": layers or "",
        "norm": final_norm(lm.model),
        "n_parameters": int(lm.model.num_parameters()),
        "d_model": lm.d,
        "n_vocab": len(lm.tokens),
        "tied": bool(lm.tied),
        "quantisation": lm.quantisation,
    }


def final_norm(model: Any) -> str:
    """The last norm before the head in words: `LayerNorm`, with or without a bias, or `RMSNorm`;
    empty where there is none.

    Norms that are no `torch.nn.LayerNorm` are taken for RMSNorms, as those of transformers are.
    """
    import torch

    norms = [m for m in model.modules() if type(m).__name__.endswith(("Norm", "norm"))]
    if not norms:
        return ""
    if not isinstance(norms[-1], torch.nn.LayerNorm):
        return "RMSNorm"
    return "LayerNorm" if norms[-1].bias is not None else "LayerNorm without bias"


def load_metrics(folder: str | Path, notebook: str) -> dict[str, float]:
    """The metrics that a notebook left in a results folder; empty where none can be read."""
    return run_files.read_object(Path(folder) / f"{notebook}.metrics.json")


def device_name(device: Any) -> str:
    """The hardware in words: the GPU's name, or the processor with its number of threads."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Commit of the checkout that holds this package, with `+` if files differ; empty: unknown."""
    here = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words],
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if head and git("status", "--porcelain", "-uno") else "")


def provenance_box(facts: dict[str, Any]) -> str:
    """The provenance as a folded HTML box."""
    flat = {k: v for k, v in facts.items() if not isinstance(v, dict)}
    for name in ("parameters", "packages"):
        flat[name] = ", ".join(f"{k} = {v}" for k, v in facts[name].items())
    rows = "".join(
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in flat.items()
        if value != ""
    )
    parameters = facts["parameters"]
    summary = html.escape(
        f"Provenance: {facts['model']} · {facts['corpus']} · {parameters['n_positions']:,} "
        f"positions · seed {facts['seed']} · {facts['duration_s']:.0f} s"
    )
    return (
        f'<details class="provenance"><summary>{summary}</summary><table>{rows}</table></details>'
    )
