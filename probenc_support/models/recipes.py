"""Recipes of the models that are trained here: architecture, objective, sizes, steps, optimiser."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

VERSION = 3
"""Increase it when models are trained on other text or in another way, so that models trained
before are not taken for new ones. From 2 on, whole documents are held out; from 3 on, the text of a
document decides whether it is."""


CAUSAL, MASKED, ENCODER_DECODER = "causal", "masked", "encoder-decoder"
"""Objectives, by the names that kinds of models have: see `models.objectives`."""


_ADDED = (
    "architecture",
    "tied",
    "objective",
    "early",
    "intervention",
    "reading",
    "optimiser",
    "beta2",
    "epsilon",
)
"""Fields that recipes did not have at first."""


ALIASES = "aliases-"
"""How the names of readings begin that split tokens, see `models.readings`."""


@dataclass(frozen=True)
class Recipe:
    """What determines a trained model, besides its text and its seed."""

    name: str
    layers: int
    d: int
    """Hidden size."""
    heads: int
    vocabulary: int
    """Tokens of the tokenizer, where the text yields so many, without a mask token."""
    sequence_length: int
    """Tokens of a training block, and the model's context."""
    batch_size: int
    """Blocks a step."""
    steps: int
    every: int
    """Steps between checkpoints after step 512."""
    learning_rate: float
    """Peak, reached after the warm-up; decays to a tenth by half a cosine."""
    warmup: float = 0.1
    """Share of the steps. Pythia's warm-up is a hundredth of a run two hundred times as long, and
    covers all of its log-spaced checkpoints; a tenth does so here up to step 64."""
    weight_decay: float = 0.01
    """Of matrices; norms and biases have none."""
    dropout: float = 0.0
    dense: int = 0
    """Every second step up to this one is kept as well: the order in which things are learnt is
    decided there, and Pythia keeps nothing between 16 and 32."""
    architecture: str = "gpt-neox"
    """See `models.architectures`."""
    tied: bool = False
    """Whether the output embedding is the input embedding."""
    objective: str = CAUSAL
    """What it learns to predict: `causal`, `masked` or `encoder-decoder`."""
    early: bool = True
    """Whether steps 1, 2, 4, ... 512 are kept; else 0 and every `every` steps are."""
    intervention: str = ""
    """What is done to the model around each step, see `models.interventions`; empty: nothing."""
    reading: str = ""
    """How the text is changed before it is read, see `models.readings`; empty: not at all."""
    optimiser: str = "adamw"
    """See `models.optimisers`."""
    beta2: float = 0.95
    """Share of the running mean of squared gradients that Adam keeps a step."""
    epsilon: float = 1e-8
    """What Adam adds to the root of that."""

    @property
    def ids(self) -> int:
        """Ids that its text may hold: the tokenizer's, and as many again where tokens are split."""
        return self.vocabulary * (2 if self.reading.startswith(ALIASES) else 1)

    @property
    def rows(self) -> int:
        """Rows of both embeddings: one more than `ids` where there is a mask token."""
        return self.ids + (self.objective == MASKED)

    @property
    def settings(self) -> dict[str, Any]:
        """What a trained model's place in the cache depends on. Later fields count where they are
        set, so that models trained before there were any keep their place."""
        later = {field.name: field.default for field in fields(self) if field.name in _ADDED}
        every = asdict(self).items()
        return {name: value for name, value in every if name not in later or later[name] != value}

    @property
    def tokens(self) -> int:
        """Tokens trained on, repeats included."""
        return self.steps * self.batch_size * self.sequence_length

    @property
    def checkpoints(self) -> list[int]:
        """Steps whose weights are kept, as Pythia's: 0, 1, 2, 4, ... 512, then evenly; and every
        second one up to `dense`."""
        if not self.early:
            return [*range(0, self.steps, self.every), self.steps]
        early = {0, *(2**i for i in range(10)), *range(2, self.dense + 1, 2)}
        late = range(512 + self.every, self.steps, self.every)
        return [*sorted(step for step in early.union(late) if step < self.steps), self.steps]


_NANO = Recipe("pythia-nano", 2, 128, 4, 8192, 256, 4, 768, 128, 4e-3, dense=64)


def _like_nano(name: str, **other: Any) -> Recipe:
    """Nano with something else about it: it reads the same blocks of text in the same order."""
    return replace(_NANO, **{"name": name, "dense": 0, **other})


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _NANO,
        _like_nano("pythia-nano-64", layers=1, d=64, heads=2, dense=64, learning_rate=8e-3),
        _like_nano("pythia-nano-256", layers=4, d=256, heads=8, dense=64, learning_rate=2e-3),
        _like_nano("pythia-nano-planted", reading="planted", early=False),
        _like_nano("nano-gpt2", architecture="gpt2", tied=True, learning_rate=2e-3),
        _like_nano("nano-gpt2-untied", architecture="gpt2", learning_rate=2e-3),
        _like_nano("nano-gptj", architecture="gptj", early=False, every=32),
        _like_nano("nano-llama", architecture="llama", tied=True),
        _like_nano("nano-llama-untied", architecture="llama"),
        _like_nano("nano-causal", architecture="modernbert", tied=True),
        _like_nano(
            "nano-masked", architecture="modernbert", tied=True, objective=MASKED, early=False
        ),
        _like_nano(
            "nano-seq2seq", architecture="t5", tied=True, objective=ENCODER_DECODER, early=False
        ),
        Recipe("pythia-micro", 6, 256, 8, 16384, 256, 16, 2048, 256, 1e-3),
        Recipe("pythia-mini", 6, 512, 8, 50304, 512, 64, 2048, 256, 1e-3),
    )
}
"""Nano and its like are for two CPU cores, micro for patience or a GPU; mini has the shape of
Pythia-70M. The like of nano have its learning rate, but the narrow one has twice as much, and the
wide one and those like GPT-2 half as much."""
