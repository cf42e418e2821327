"""Classes of context: a bound of y = -log a that becomes exact as the classes become finer.

The positions of a text are split into K classes. Within a class, the mean of log P(w|n) replaces
the logarithm of the mean of P(w|n); by Jensen's inequality that is a lower bound of the class's
average probability. Over the classes, probabilities are averaged as they are:

    y_w <= -log sum_k pi_k exp(E_w . m_k + b_w - z_k)

with the share pi_k of the positions, the mean hidden state m_k and the mean log-partition z_k of
each class. One class gives the first order (`theory.first_order`). Splitting a class never makes
the bound worse, and with a class for every position the bound is y itself.
"""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.moments import sums_by_label
from probenc_support.precision import ROWS_AT_ONCE, wide, wide_device


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
        device = wide_device(h.device)
        _, numbered = torch.unique(label.to(device), return_inverse=True)
        counts = torch.bincount(numbered).double()
        mean_h = sums_by_label(h, numbered, len(counts)) / counts[:, None]
        mean_z = torch.bincount(numbered, weights=wide(z).to(device)) / counts
        return cls(numbered, counts / counts.sum(), mean_h, mean_z)

    @property
    def K(self) -> int:
        """Number of classes."""
        return len(self.shares)

    def log_joint(self, head: Head) -> Tensor:
        """[n, K] float64 log of pi_k exp(E_w . m_k + b_w - z_k), for the n tokens of a head.

        The products E_w . m_k are computed in E's own precision, as those of a pass are.
        """
        E, b = head.rows, head.bias
        level = self.shares.log() - self.mean_z
        columns = self.mean_h.T.to(E)
        joint = torch.cat([wide(rows @ columns) for rows in E.split(ROWS_AT_ONCE)])
        joint += level.to(joint.device)
        return joint if b is None else joint + wide(b)[:, None]

    def y_bound(self, head: Head) -> Tensor:
        """[n] float64 upper bound of y = -log a over the positions of the classes, in nats."""
        return torch.logsumexp(self.log_joint(head), dim=1).neg()

    def carried(self, head: Head) -> Tensor:
        """[n, K] share of each token's average probability that comes from each class; rows sum to
        one."""
        return torch.softmax(self.log_joint(head), dim=1)


def logit_coordinates(cov: Tensor, h: Tensor) -> Tensor:
    """Hidden states in coordinates in which distances are those of the logits.

    Args:
        cov: [d, d] covariance of the rows of E over the tokens; h: [N, d].

    Returns:
        [N, d] float32. The squared distance of two rows is the variance, over the tokens, of the
        difference between the logits of the two positions, in nats squared.
    """
    values, vectors = torch.linalg.eigh(wide(cov))
    points: Tensor = wide(h).to(vectors.device) @ (vectors * values.clamp(min=0.0).sqrt())
    return points.float().cpu()


def k_means(points: Tensor, k: int, *, seed: int = 0) -> Tensor:
    """Classes of positions with similar logits, by mini-batch k-means (Sculley 2010).

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


def shuffled(label: Tensor, *, seed: int = 0) -> Tensor:
    """[N] the same labels in random order: the control, classes of the same sizes whose positions
    have nothing in common."""
    generator = torch.Generator().manual_seed(seed)
    return label[torch.randperm(len(label), generator=generator)]
