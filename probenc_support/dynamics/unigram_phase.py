"""Whether training passes through a phase in which the model mostly predicts the frequencies."""

from dataclasses import dataclass

import pandas as pd

CLEARLY_NEARER = 0.5
"""Share of the divergence at the start and at the end below which a checkpoint between them counts
as clearly nearer to the frequencies."""


@dataclass(frozen=True)
class UnigramPhase:
    """The mean divergence KL(P_n || f) of the predictions from the frequencies over training."""

    start: float
    """At the first checkpoint, in nats."""
    end: float
    """At the last, in nats."""
    lowest: float
    """Where the predictions are nearest to the frequencies, in nats."""
    step: int
    """The step at which they are."""
    inside: bool
    """Whether this step lies between the first and the last."""

    @classmethod
    def of(cls, kl_unigram: pd.Series) -> "UnigramPhase":
        """From the divergences at the steps at which the text was read, indexed by step."""
        step = int(kl_unigram.index[int(kl_unigram.argmin())])
        return cls(
            start=float(kl_unigram.iloc[0]),
            end=float(kl_unigram.iloc[-1]),
            lowest=float(kl_unigram.min()),
            step=step,
            inside=bool(kl_unigram.index[0] < step < kl_unigram.index[-1]),
        )

    @property
    def exists(self) -> bool:
        """Whether there is such a phase: clearly nearer than both the start and the end."""
        return self.inside and self.lowest < CLEARLY_NEARER * min(self.start, self.end)
