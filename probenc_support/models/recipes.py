"""Recipes of the models that are trained here: sizes, steps, optimiser."""

from dataclasses import dataclass

VERSION = 3
"""Increase it when models are trained on other text or in another way, so that models trained
before are not taken for new ones. From 2 on, whole documents are held out; from 3 on, the text of a
document decides whether it is."""


@dataclass(frozen=True)
class Recipe:
    """What determines a trained model, besides its text and its seed."""

    name: str
    layers: int
    d: int
    """Hidden size."""
    heads: int
    vocabulary: int
    """Rows of both embeddings, and tokens of the tokenizer where the text yields so many."""
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

    @property
    def tokens(self) -> int:
        """Tokens trained on, repeats included."""
        return self.steps * self.batch_size * self.sequence_length

    @property
    def checkpoints(self) -> list[int]:
        """Steps whose weights are kept, as Pythia's: 0, 1, 2, 4, ... 512, then evenly; and every
        second one up to `dense`."""
        early = {0, *(2**i for i in range(10)), *range(2, self.dense + 1, 2)}
        late = range(512 + self.every, self.steps, self.every)
        return [*sorted(step for step in early.union(late) if step < self.steps), self.steps]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("pythia-nano", 2, 128, 4, 8192, 256, 4, 768, 128, 4e-3, dense=64),
        Recipe("pythia-micro", 6, 256, 8, 16384, 256, 16, 2048, 256, 1e-3),
        Recipe("pythia-mini", 6, 512, 8, 50304, 512, 64, 2048, 256, 1e-3),
    )
}
"""Nano is for two CPU cores, micro for patience or a GPU; mini has Pythia-70M's shape."""
