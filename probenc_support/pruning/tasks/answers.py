"""What pruned heads answer, item by item, so that two of them are compared on the same items."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support.head import Head
from probenc_support.pruning import intervals
from probenc_support.pruning.bases import levels, zero_basis
from probenc_support.pruning.costs import Method
from probenc_support.pruning.divergence import swept_logits
from probenc_support.pruning.tasks.task import Task
from probenc_support.regression import Interval

MEASURES = ("accuracy", "answer")
"""Share of items that are right, and log-probability of the right answer among the answers."""

INTACT = "intact"
"""The method that removes nothing."""


class Answers:
    """Scores of the answers of a task by several pruned heads."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._scored: dict[tuple[str, float], Tensor] = {}

    @classmethod
    @torch.inference_mode()
    def of(cls, task: Task, head: Head, methods: Mapping[str, Method]) -> "Answers":
        """Asks a head, intact and pruned by methods, all in one sweep over the hidden states.

        Raises:
            InputError: a share removes all dimensions, or shares do not ascend.
        """
        answers = cls(task)
        methods = {INTACT: Method([zero_basis(torch.arange(head.d))], [0.0]), **methods}
        wanted = {
            f"{name} {draw}": (basis, levels(method.shares, basis.d))
            for name, method in methods.items()
            for draw, basis in enumerate(method.bases)
        }
        scores = {
            name: [task.no_scores() for _ in removed] for name, (_, removed) in wanted.items()
        }
        for start, name, level, logits in swept_logits(head, task.h, wanted):
            task.reader.add(scores[name][level], start, logits)
        for name, method in methods.items():
            for level, share in enumerate(method.shares):
                draws = [scores[f"{name} {draw}"][level] for draw in range(len(method.bases))]
                answers.add(name, share, torch.stack(draws))
        return answers

    def add(self, method: str, share: float, scores: Tensor) -> None:
        """Adds a method at a share of dimensions removed: scores [R, I, K] of each of its draws."""
        self._scored[method, share] = scores

    def scores(self, method: str, share: float) -> Tensor:
        """[R, I, K] float64 scores of the answers, nats."""
        return self._scored[method, share]

    def values(self, measure: str, method: str, share: float) -> Tensor:
        """[R, I] float64 a measure of each item.

        `accuracy` is 1 where the right answer has the highest score, and shared where several do;
        `answer` is the log of the right answer's share of the answers' probabilities, at most 0.
        """
        scores = self._scored[method, share]
        right = self.task.right.expand(len(scores), -1)[..., None]
        if measure == "answer":
            return scores.log_softmax(dim=2).gather(2, right)[..., 0]
        best = scores == scores.amax(dim=2, keepdim=True)
        return (best.gather(2, right)[..., 0] / best.sum(dim=2)).double()

    def mean(self, measure: str, method: str, share: float) -> Interval:
        """Mean of a measure over items (and draws), with its interval over groups of items."""
        return self._mean(self.values(measure, method, share))

    def gain(self, measure: str, method: str, other: str, share: float) -> Interval:
        """Mean of a measure by one method less that by another, paired by item.

        The method may have several draws; of the other the mean over its draws counts.
        """
        there = self.values(measure, other, share).mean(dim=0)
        return self._mean(self.values(measure, method, share) - there)

    def lost(self, measure: str, method: str, share: float) -> Interval:
        """Mean of a measure by the intact head less that by a method, paired by item."""
        intact = self.values(measure, INTACT, 0.0).mean(dim=0)
        return self._mean(intact - self.values(measure, method, share))

    def above_chance(self) -> Interval:
        """Share of items that the intact head has right, less that by chance."""
        return self._mean(self.values("accuracy", INTACT, 0.0) - self.task.chance)

    def _mean(self, values: Tensor) -> Interval:
        """Mean of values [R, I] over items and draws, with its percentile interval.

        Where a few answers flip, the replicates are a few steps, which no shift may take past zero.
        """
        found = intervals.mean_interval(values, self.task.group)
        return Interval.percentile(found.estimate, found.replicates)

    def table(self) -> pd.DataFrame:
        """One row a method and share, with each measure and the ends of its interval."""
        rows = []
        for method, share in self._scored:
            row: dict[str, object] = {"task": self.task.name, "method": method, "share": share}
            for measure in MEASURES:
                row |= self.mean(measure, method, share).metrics(measure)
            rows.append(row)
        return pd.DataFrame(rows)


def over_tasks(each: Sequence[Interval]) -> Interval:
    """The mean of one number over several tasks, whose items are drawn apart."""
    replicates = np.mean([one.replicates for one in each], axis=0)
    return Interval.percentile(float(np.mean([one.estimate for one in each])), replicates)
