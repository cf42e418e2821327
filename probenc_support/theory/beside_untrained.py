"""What training adds: a model beside its untrained twin, at logits that spread as much.

The logits of an untrained network hardly differ from token to token, and nearly equal logits make
-log a linear in E whatever the weights are. So the twin's hidden states are scaled until its logits
spread over the tokens as those of the trained model do, and both are then scaled further.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probenc_support import inference
from probenc_support.corpora import TokenBlocks
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.regression import Design
from probenc_support.regression.arrays import Array
from probenc_support.theory.logit_spread import SCALES, ScaledFits, spread_over_tokens

N_POSITIONS = 512
"""About how many positions both models are compared at."""


def blocks_to_compare(n_blocks: int, sequence_length: int) -> Tensor:
    """[k] int64 numbers of blocks, evenly spread over a text, of `N_POSITIONS` positions in all.

    There is one block at least, and no more than the text has.
    """
    wanted = max(1, min(n_blocks, N_POSITIONS // sequence_length))
    return inference.evenly(n_blocks, wanted)


@dataclass(frozen=True, eq=False)
class BesideUntrained:
    """Fits of a trained model and of its untrained twin, which read the same blocks of text."""

    scales: tuple[float, ...]
    """S factors of the hidden states of both; at 1 the trained model is as it is."""
    n_positions: int
    """Positions that both read."""
    spread: float
    """Spread of the trained model's logits over the tokens, nats; see `spread_over_tokens`."""
    spread_untrained: float
    """The same of the twin as it comes."""
    design_untrained: Design
    """Statistics of the twin's rows of E."""
    trained: ScaledFits
    """Of the trained model at `scales`."""
    untrained: ScaledFits
    """Of the twin as it comes (scale 1, first), then at `scales` times `stretch`."""

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        twin: LanguageModel,
        blocks: TokenBlocks,
        detection: Detection,
        design: Design,
        *,
        positions: str = "all",
        scales: Sequence[float] = SCALES,
    ) -> "BesideUntrained":
        """Reads some of the blocks with the twin, and takes the same out of the model's pass.

        Args:
            twin: see `models.untrained`; detection: the pass of `lm` over all blocks; design: of
                the rows of `lm`'s head that tokens own.
            positions: as of the pass.
            scales: 1 among them.
        """
        chosen = blocks_to_compare(*blocks.ids.shape)
        h = inference.states_of_blocks(lm, blocks, detection, chosen, positions=positions)
        h_untrained = inference.read(twin, blocks.ids[chosen], positions=positions)
        design_untrained = Design.of(twin.head.rows.cpu())
        spread = spread_over_tokens(design.covariance, h)
        own = spread_over_tokens(design_untrained.covariance, h_untrained.cpu())
        matched = [1.0, *(spread / own * scale for scale in scales)]
        return cls(
            scales=tuple(scales),
            n_positions=len(h),
            spread=spread,
            spread_untrained=own,
            design_untrained=design_untrained,
            trained=ScaledFits.of(lm.head, design, h, scales),
            untrained=ScaledFits.of(twin.head, design_untrained, h_untrained, matched),
        )

    @property
    def spreads(self) -> Array:
        """[S] spread of the trained model's logits at each scale, and of the twin's, nats."""
        return self.spread * np.array(self.scales)

    @property
    def r2_matched(self) -> Array:
        """[S] adjusted R^2 of the twin where its logits spread by `spreads`."""
        return self.untrained.r2_adj[1:]

    @property
    def r2_as_it_comes(self) -> float:
        """Adjusted R^2 of the twin, its hidden states not scaled."""
        return float(self.untrained.r2_adj[0])

    def r2_matched_at(self, scale: float) -> float:
        """Adjusted R^2 of the twin where its logits spread as the trained model's at a scale."""
        return float(self.r2_matched[self.scales.index(scale)])

    @property
    def y_matched(self) -> Tensor:
        """[n] -log a of the twin where its logits spread as the trained model's, nats."""
        return self.untrained.y[1 + self.scales.index(1)]

    def fitted_matched(self) -> Array:
        """[n] what the twin's own rows say of `y_matched`, nats."""
        design = self.design_untrained
        return design.fit(self.y_matched).predict(design.E)

    def r2_of_trained_rows(self, design: Design) -> float:
        """Adjusted R^2 of the trained rows for the twin's -log a: the larger of that as it comes
        and that of `y_matched`."""
        y = torch.stack([self.untrained.y[0], self.y_matched])
        return float(design.fit_many(y.T).r2_adj.max())

    def metrics(self) -> dict[str, float]:
        """Under the names of the first notebook's metrics."""
        own, matched = self.trained.r2_at(1.0), self.r2_matched_at(1.0)
        return {
            "logit_spread": self.spread,
            "logit_spread_untrained": self.spread_untrained,
            "n_positions_untrained": self.n_positions,
            "r2_adj_same_positions": own,
            "r2_adj_untrained": self.r2_as_it_comes,
            "r2_adj_untrained_matched": matched,
            "r2_above_untrained": own - matched,
            "r2_gain_half_spread": self.trained.r2_at(1 / 2) - own,
        }
