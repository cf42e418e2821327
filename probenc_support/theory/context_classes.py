"""Kinds of context: the theory of the encoding that becomes exact step by step.

The positions of a text are split into K classes. Within a class the mean of log P(w|n) stands for
its logarithm of the mean, which Jensen's inequality makes a lower bound of the class's average
probability; over the classes the probabilities are added as they are:

    y_w <= -log sum_k pi_k exp(E_w . m_k + b_w - z_k)

with the share pi_k of the positions, the mean hidden state m_k and the mean log-partition z_k of
each class. With one class this is the first order of `theory`; splitting a class never moves the
bound away from y; with a class for every position it is y itself.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.precision import wide

_ROWS = 8192


@dataclass(frozen=True, eq=False)
class ContextClasses:
    """Positions in K classes, and what the theory needs of each."""

    label: Tensor
    """[N] int64 class of each position, 0 to K - 1."""
    shares: Tensor
    """[K] float64 shares of the positions, all above zero."""
    mean_h: Tensor
    """[K, d] float64 mean hidden states."""
    mean_z: Tensor
    """[K] float64 mean log-partitions, nats."""

    @classmethod
    def of(cls, h: Tensor, z: Tensor, label: Tensor) -> "ContextClasses":
        """The classes that labels [N] (any integers) make of positions h [N, d], z [N].

        Raises:
            InputError: there is not one label a position, or no position.
        """
        if len(label) != len(h) or not len(h):
            raise InputError(f"{len(label)} labels do not fit {len(h)} positions.")
        states, levels = wide(h), wide(z)
        _, numbered = torch.unique(label.to(states.device), return_inverse=True)
        counts = torch.bincount(numbered).double()
        sums = torch.zeros(len(counts), states.shape[1], dtype=states.dtype, device=states.device)
        mean_h = sums.index_add_(0, numbered, states) / counts[:, None]
        mean_z = torch.bincount(numbered, weights=levels.to(states.device)) / counts
        return cls(numbered, counts / counts.sum(), mean_h, mean_z)

    @property
    def K(self) -> int:
        """Number of classes."""
        return len(self.shares)

    def log_joint(self, head: Head) -> Tensor:
        """[n, K] float64 log of pi_k exp(E_w . m_k + b_w - z_k), for the n tokens of a head.

        The products are made in E's own precision, as those of a pass are.
        """
        E, b = head.rows, head.bias
        level = self.shares.log() - self.mean_z
        columns = self.mean_h.T.to(E)
        found = torch.cat([wide(rows @ columns) for rows in E.split(_ROWS)])
        found += level.to(found.device)
        return found if b is None else found + wide(b)[:, None]

    def y_bound(self, head: Head) -> Tensor:
        """[n] float64 upper bound of y = -log a over the positions of the classes, in nats."""
        return torch.logsumexp(self.log_joint(head), dim=1).neg()

    def carried(self, head: Head) -> Tensor:
        """[n, K] share of each token's average probability that each class carries; rows sum to
        one."""
        return torch.softmax(self.log_joint(head), dim=1)


def logit_coordinates(cov: Tensor, h: Tensor) -> Tensor:
    """Hidden states in coordinates whose distances are those of their logits.

    Args:
        cov: [d, d] covariance of the rows of E over the tokens; h: [N, d].

    Returns:
        [N, d] float32: the squared distance of two rows is the variance over the tokens of the
        difference of the two positions' logits, in nats squared.
    """
    values, vectors = torch.linalg.eigh(wide(cov))
    points: Tensor = wide(h).to(vectors.device) @ (vectors * values.clamp(min=0.0).sqrt())
    return points.float().cpu()


def k_means(points: Tensor, k: int, *, seed: int = 0) -> Tensor:
    """Classes of positions whose logits are alike, by mini-batch k-means (Sculley 2010).

    Args:
        points: [N, d] see `logit_coordinates`.
        k: classes wanted, 1 to N; some may come out empty.

    Returns:
        [N] int64 labels.

    Raises:
        InputError: k is impossible.
    """
    if not 1 <= k <= len(points):
        raise InputError(f"{k} classes cannot be made of {len(points)} positions.")
    if k == 1:
        return torch.zeros(len(points), dtype=torch.int64)
    size = max(1024, 4 * k)
    means = MiniBatchKMeans(n_clusters=k, random_state=seed, batch_size=size, n_init=1, max_iter=20)
    return torch.from_numpy(means.fit_predict(points.numpy()).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the theory of K classes says of -log a in text that it has not seen."""

    classes: ContextClasses
    """Of the fitting text."""
    y: Tensor
    """[n] float64 the bound of the classes, and one free intercept; nats."""
    intercept: float
    """The intercept, nats: what the classes leave out, in the mean over the tokens of the fitting
    text."""

    @classmethod
    def of(cls, head: Head, h: Tensor, z: Tensor, y: Tensor, label: Tensor) -> "Prediction":
        """From the fitting text alone.

        Args:
            head: of n tokens; h: [N, d], z: [N], label: [N] of the fitting text.
            y: [n] -log a over the fitting text, nats.
        """
        classes = ContextClasses.of(h, z, label)
        bound = classes.y_bound(head)
        intercept = float((wide(y).to(bound.device) - bound).mean())
        return cls(classes, bound + intercept, intercept)


def effective_number(carried: Tensor) -> Tensor:
    """[n] exp of the entropy of shares [n, K]: how many classes carry a token's probability, 1 to
    K."""
    entropy: Tensor = torch.special.entr(carried).sum(dim=1)
    return entropy.exp()


def slopes(classes: ContextClasses, carried: Tensor) -> Tensor:
    """[n, d] slope of the bound of y at the row of each token, -sum_k carried_k m_k.

    Where it is the same for all tokens the encoding is linear, with that slope.

    Args:
        carried: [n, K] see `ContextClasses.carried`; or [K], for a token between them.
    """
    return -(carried @ classes.mean_h.to(carried.device))


def carriers(classes: ContextClasses, carried: Tensor, *, part: float = 0.9) -> tuple[int, float]:
    """The fewest classes that carry a part of the probability of the average token.

    Args:
        carried: [n, K] see `ContextClasses.carried`.

    Returns:
        Their number, 1 to K, and the share of the positions that lie in them.
    """
    mean = carried.mean(dim=0)
    order = mean.argsort(descending=True)
    n = int((mean[order].cumsum(dim=0) < part * (1.0 - 1e-9)).sum()) + 1
    return n, float(classes.shares[order[:n]].sum())


def dealt(label: Tensor, *, seed: int = 0) -> Tensor:
    """[N] the same labels dealt to the positions by lot: classes of the same sizes, the control."""
    generator = torch.Generator().manual_seed(seed)
    return label[torch.randperm(len(label), generator=generator)]


def halves_by_lot(group: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Documents dealt to two halves, on one of which something is fitted and the other judged.

    Args:
        group: [N] document of each position.

    Returns:
        Two vectors of group numbers, together all that occur, each sorted.

    Raises:
        InputError: there is one document only.
    """
    found = group.unique()
    if len(found) < 2:
        raise InputError("One document cannot be split into documents to fit and to judge on.")
    generator = torch.Generator().manual_seed(seed)
    order = found[torch.randperm(len(found), generator=generator)]
    middle = (len(found) + 1) // 2
    return order[:middle].sort().values, order[middle:].sort().values


def in_words(
    classes: ContextClasses,
    head: Head,
    log_a: Tensor,
    *,
    before: Sequence[str],
    after: Sequence[str],
    texts: Sequence[str],
    n_classes: int = 6,
    n_tokens: int = 6,
) -> pd.DataFrame:
    """What the largest classes are: the tokens around their positions, and those they raise.

    A class raises a token by p log(p / a), with p its probability at the mean hidden state of the
    class: the token's term in the divergence of that distribution from the average.

    Args:
        head: of the n tokens that `texts` names; log_a: [n].
        before: [N] text of the token at each position, the last that the model has read.
        after: [N] text of the token that comes next; empty where none does.
        texts: [n] text of each token.

    Returns:
        One row a class, largest first: share, last read, comes next, raised most.
    """
    # The class's weights are the same for all tokens, so that they cancel in the softmax.
    log_p = torch.log_softmax(classes.log_joint(head), dim=0)
    raised = log_p.exp() * (log_p - wide(log_a)[:, None].to(log_p.device))
    label = classes.label.tolist()
    rows = []
    for k in classes.shares.argsort(descending=True)[:n_classes].tolist():
        inside = [i for i, own in enumerate(label) if own == k]
        top = raised[:, k].topk(min(n_tokens, len(texts))).indices.tolist()
        rows.append(
            {
                "share": float(classes.shares[k]),
                "last read": _most_frequent([before[i] for i in inside], n_tokens),
                "comes next": _most_frequent([after[i] for i in inside if after[i]], n_tokens),
                "raised most": _listed([texts[i] for i in top]),
            }
        )
    return pd.DataFrame(rows)


def _most_frequent(found: Sequence[str], n: int) -> str:
    return _listed([text for text, _ in Counter(found).most_common(n)])


def _listed(texts: Sequence[str]) -> str:
    return "  ".join(repr(text) for text in texts)
