"""What a model predicts at some positions of a text: log-probabilities of the whole vocabulary."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.inference import Detection, evenly
from probenc_support.models import LanguageModel

_AT_ONCE = 2**21
"""Log-probabilities that are made at a time: few enough to stay in the processor's cache."""


_KEPT = 2**26
"""Log-probabilities that are kept for a second use, 256 MiB in float32; more are made again."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions of one model at fixed positions of a text."""

    head: Head
    h: Tensor
    """[n, d] hidden states."""
    z: Tensor
    """[n] log-partition."""
    _made: list[Tensor] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, lm: LanguageModel, detection: Detection, chosen: Tensor) -> "Predictions":
        """From a pass of the model over the text, at some of the positions that it keeps [n]."""
        return cls(lm.head, detection.h[chosen], detection.z[chosen])

    @torch.inference_mode()
    def log_p(self) -> Iterator[Tensor]:
        """Pieces [m, V] of the log-probabilities, in the precision of the head, in order.

        Where all of them fit, they are kept, so that a second use costs nothing.
        """
        if self._made:
            yield from self._made
            return
        made = []
        for h, z in zip(self._pieces(self.h), self._pieces(self.z), strict=True):
            log_p = self.head.logits(h.to(self.head.E)).sub_(z[:, None].to(self.head.E))
            if len(self.h) * self.head.V <= _KEPT:
                made.append(log_p)
            yield log_p
        self._made[:] = made

    def _pieces(self, values: Tensor) -> list[Tensor]:
        return list(values.split(max(1, _AT_ONCE // self.head.V)))


def positions(detection: Detection, n: int = 2048) -> Tensor:
    """[n] of the positions that a pass keeps, evenly spread; all of them where there are fewer."""
    return evenly(detection.n_kept, min(n, detection.n_kept))
