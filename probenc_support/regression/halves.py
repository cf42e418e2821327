"""Two halves of one text: something is fitted on the one and judged on the other.

Whole documents go to either half, since positions of one document depend on each other.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.regression.arrays import Matrix
from probenc_support.regression.bootstrap import bootstrap_r2_of
from probenc_support.regression.fits import Interval
from probenc_support.regression.linear_fit import r2_of


def by_lot(group: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Documents drawn at random into two halves; the first has one more where their number is odd.

    Args:
        group: [N] document of each position.

    Returns:
        Two vectors of document numbers, together all that occur, each sorted.

    Raises:
        InputError: there is one document only.
    """
    documents = group.unique()
    if len(documents) < 2:
        raise InputError("One document cannot be split into documents to fit and to judge on.")
    generator = torch.Generator().manual_seed(seed)
    order = documents[torch.randperm(len(documents), generator=generator)]
    middle = (len(documents) + 1) // 2
    return order[:middle].sort().values, order[middle:].sort().values


def in_order(group: Tensor) -> tuple[Tensor, Tensor]:
    """The first half of the documents and the second half, in the order of the text.

    Args, Returns, Raises: see `by_lot`.
    """
    documents = group.unique()
    if len(documents) < 2:
        raise InputError("One document cannot be split into documents to fit and to judge on.")
    first, second = documents.tensor_split(2)
    return first, second


@dataclass(frozen=True, eq=False)
class Halves:
    """A pass over a text, split into documents to fit on and documents to judge on."""

    detection: Detection
    """The pass over the whole text."""
    fitting: Tensor
    """Groups of text (documents) of the first half, by number."""
    judging: Tensor
    """Groups of text of the second half."""

    @classmethod
    def by_lot(cls, detection: Detection, *, seed: int = 0) -> "Halves":
        """Documents drawn at random into the halves; see the function of this name."""
        return cls(detection, *by_lot(torch.arange(detection.n_groups), seed=seed))

    @classmethod
    def in_order(cls, detection: Detection) -> "Halves":
        """The first half of the text and the second one; see the function of this name."""
        return cls(detection, *in_order(torch.arange(detection.n_groups)))

    @cached_property
    def in_fitting(self) -> Tensor:
        """[m] bool, whether each position that the pass keeps lies in the first half."""
        return torch.isin(self.detection.group, self.fitting)

    @cached_property
    def y_fitting(self) -> Tensor:
        """[n] float64 -log a of each token over the first half, nats."""
        return self.detection.y_of_groups(self.fitting)

    @cached_property
    def y_judging(self) -> Tensor:
        """[n] float64 -log a of each token over the second half, nats."""
        return self.detection.y_of_groups(self.judging)

    def r2(self, predicted: Matrix) -> float:
        """R^2 of a prediction [n], made from the first half, of -log a over the second."""
        return r2_of(self.y_judging, predicted)

    def r2_interval(self, predicted: Matrix, *, n_replicates: int = 200, seed: int = 0) -> Interval:
        """The same with its interval over draws of the documents of the second half."""
        return bootstrap_r2_of(
            predicted,
            self.detection.log_a_groups[self.judging],
            self.detection.group_sizes[self.judging],
            n_replicates=n_replicates,
            seed=seed,
        )
