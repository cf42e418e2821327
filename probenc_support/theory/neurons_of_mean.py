"""The neurons that -mean(h) comes from, and what becomes of it without them.

A neuron adds its activation times its output weights to the residual stream. Averaged over the
positions, with the norms' scales as they are, it is a part of the mean hidden state like an MLP or
an attention, and has a share in -E_w . mean(h). Stolfo et al. (2024) look for neurons by their
output weights alone: token-frequency neurons are those whose direct effect on the logits follows
the frequency of the tokens.

The shares say what neurons add directly. Whether the model needs them is another question: they are
set to zero in the model itself, on text that they were not chosen by, beside neurons drawn by lot
whose output weights are as long.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from probenc_support import inference
from probenc_support.corpora import TokenBlocks
from probenc_support.head import Head
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.models import neurons as of_models
from probenc_support.models.neurons import Neurons
from probenc_support.precision import wide
from probenc_support.regression import Design, Matrix
from probenc_support.theory.mean_hidden_parts import MeanHiddenParts, blocks_left

MOST = 10
"""How many neurons count as the strongest."""

N_LOTS = 3
"""Sets of neurons by lot."""

BY_LOT = "by lot"
"""How the names of these sets begin."""


@dataclass(frozen=True, eq=False)
class NeuronShares:
    """Every neuron of a model: M of them, MLP by MLP."""

    mlps: tuple[Neurons, ...]
    """The MLPs whose neurons can be told apart."""
    mlp: Tensor
    """[M] int64 number of each neuron's MLP among `mlps`."""
    layer: Tensor
    """[M] int64 layer, from 1."""
    number: Tensor
    """[M] int64 number within the MLP."""
    share: Tensor
    """[M] float64 share in the variance over the tokens of -E_w . mean(h), of either sign."""
    correlation: Tensor
    """[M] float64 correlation over the tokens of -log frequency with minus the direct effect of the
    neuron on the logits where it is positive: above zero, frequent tokens are raised."""

    @classmethod
    def of(
        cls, parts: MeanHiddenParts, design: Design, minus_log_f: Matrix
    ) -> "NeuronShares | None":
        """Of the MLPs among some parts.

        Args:
            design: of the rows of E that tokens own; minus_log_f: [n] of these tokens, nats.

        Returns:
            None where there is no MLP whose neurons can be told apart.
        """
        found = [
            (part.layer, part.neurons, acts)
            for part, acts in zip(parts.parts, parts.acts, strict=False)
            if part.neurons is not None and acts is not None
        ]
        norm = parts.norm
        if not found or norm is None:
            return None
        gram = design.gram.cpu()
        cross, squares = design.cross_products(minus_log_f)
        seen = norm.adjoint(gram @ parts.mean)
        rare = norm.adjoint(torch.as_tensor(cross[:, 0]))
        variance = parts.mean @ gram @ parts.mean
        shares, correlations = [], []
        for _, neurons, acts in found:
            weights = wide(neurons.weights).cpu()
            shares.append(acts.sum(dim=0) / parts.n_positions * (weights @ seen) / variance)
            spread = _spread(norm.direct(neurons.weights).cpu(), design)
            correlations.append(-(weights @ rare) / (spread * float(squares[0]) ** 0.5))
        counts = torch.tensor([len(share) for share in shares])
        return cls(
            mlps=tuple(neurons for _, neurons, _ in found),
            mlp=torch.arange(len(found)).repeat_interleave(counts),
            layer=torch.tensor([layer for layer, _, _ in found]).repeat_interleave(counts),
            number=torch.cat([torch.arange(int(count)) for count in counts]),
            share=torch.cat(shares),
            correlation=torch.cat(correlations),
        )

    def strongest(self, count: int = MOST) -> Tensor:
        """[k] int64 which neurons have the largest shares, the largest first."""
        return self.share.argsort(descending=True)[:count]

    def of_frequency(self, count: int = MOST) -> Tensor:
        """[k] int64 token-frequency neurons: which have the largest correlations of either sign."""
        return self.correlation.nan_to_num().abs().argsort(descending=True)[:count]

    def in_common(self, count: int = MOST) -> float:
        """Share of the strongest neurons that are token-frequency neurons as well."""
        return float(torch.isin(self.strongest(count), self.of_frequency(count)).double().mean())

    def metrics(self, found: pd.DataFrame) -> dict[str, float]:
        """Under the names of the first notebook's metrics.

        Args:
            found: see `without`.
        """
        rows = found.set_index("neurons")
        lots = rows[rows.index.str.startswith(BY_LOT)]
        return {
            "parts_neurons_share": float(rows["share"]["strongest"]),
            "parts_neurons_kept": float(rows["kept"]["strongest"]),
            "parts_neurons_kept_frequency": float(rows["kept"]["token-frequency"]),
            "parts_neurons_kept_lot": float(lots["kept"].mean()),
            "parts_neurons_kept_lot_least": float(lots["kept"].min()),
            "parts_neurons_in_common": self.in_common(),
            "parts_neurons_for_half": float(self.for_half()),
        }

    def for_half(self) -> int:
        """How many neurons, the strongest first, have half of the sum of all positive shares."""
        positive = self.share.clamp(min=0.0).sort(descending=True).values
        return int((positive.cumsum(dim=0) < positive.sum() / 2).sum()) + 1

    def table(self, chosen: Tensor) -> pd.DataFrame:
        """Some neurons [k]: layer, neuron, share, correlation with -log frequency, and the rank of
        that correlation, in size, among all neurons (from 1)."""
        sizes = self.correlation.nan_to_num().abs()
        rank = [1 + int((sizes > sizes[i]).sum()) for i in chosen]
        columns = {"layer": self.layer, "neuron": self.number, "share": self.share}
        columns |= {"correlation": self.correlation}
        frame = pd.DataFrame({name: values[chosen].numpy() for name, values in columns.items()})
        return frame.assign(rank=rank)

    def like(self, chosen: Tensor, *, seed: int) -> Tensor:
        """[k] other neurons by lot, of the same MLPs, whose output weights are about as long."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for mlp, numbers in self._by_mlp(chosen).items():
            weights = self.mlps[mlp].weights
            others = of_models.like_in_norm(weights, numbers, generator=generator)
            drawn.append(torch.nonzero(self.mlp == mlp)[0] + others)
        return torch.cat(drawn)

    def silenced(self, chosen: Tensor) -> dict[Neurons, tuple[Tensor, Tensor]]:
        """Some neurons [k] at zero, as `models.neurons.held` takes them."""
        return {
            self.mlps[mlp]: (numbers, torch.zeros(len(numbers)))
            for mlp, numbers in self._by_mlp(chosen).items()
        }

    def _by_mlp(self, chosen: Tensor) -> dict[int, Tensor]:
        """The numbers of some neurons [k] within each of their MLPs."""
        of = self.mlp[chosen]
        return {int(mlp): self.number[chosen[of == mlp]] for mlp in of.unique()}


def _spread(directions: Tensor, design: Design) -> Tensor:
    """[f] root of the sum of squares over the tokens of E_w . direction, for directions [f, d].

    In single precision, since it is the costliest step and six digits are enough.
    """
    factor = design.factor.cpu().float()
    return (directions.float() @ factor.T).square().sum(dim=1).sqrt().double()


def without(
    lm: LanguageModel,
    shares: NeuronShares,
    blocks: TokenBlocks,
    detection: Detection,
    design: Design,
    *,
    positions: str = "all",
    seed: int = 0,
) -> pd.DataFrame:
    """What becomes of a model without some neurons, on blocks by which they were not chosen.

    Args:
        detection: the pass of the intact model; design: of the rows of E that tokens own.
        seed: of the neurons by lot.

    Returns:
        One row a set of neurons: the strongest, the token-frequency neurons, and `N_LOTS` sets by
        lot for the strongest, see `NeuronShares.like`. Columns: neurons; share, what they add
        directly; kept, the slope over the tokens of the first order without them on that with them,
        which is one less the share where nothing else changes; spread, standard deviation over the
        tokens of -log a without them over that with them; divergence, by how many nats the mean KL
        divergence of P(w | n) from the intact model's a grows.
    """
    chosen = blocks_left(*blocks.ids.shape)
    h = inference.states_of_blocks(lm, blocks, detection, chosen, positions=positions)
    intact = _Intact.of(lm, detection, design, h)
    top = shares.strongest()
    sets = {"strongest": top, "token-frequency": shares.of_frequency()}
    sets |= {f"{BY_LOT} {k + 1}": shares.like(top, seed=seed + k) for k in range(N_LOTS)}
    rows = []
    for name, which in sets.items():
        with of_models.held(shares.silenced(which)):
            h = inference.read(lm, blocks.ids[chosen], positions=positions).cpu()
        share = float(shares.share[which].sum())
        rows.append({"neurons": name, "share": share, **intact.beside(h)})
    return pd.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class _Intact:
    """The intact model on some blocks."""

    head: Head
    log_a: Tensor
    """[n] over all text, nats."""
    along: Tensor
    """[d] the covariance of E times the mean hidden state there, so that its product with another
    mean is a covariance over the tokens of the two first orders."""
    whole: float
    """That of the mean with itself."""
    spread: float
    """Standard deviation of -log a there, over the tokens."""
    divergence: float
    """From a, nats."""

    @classmethod
    def of(cls, lm: LanguageModel, detection: Detection, design: Design, h: Tensor) -> "_Intact":
        """At some positions of the pass `detection`, with hidden states h [N, d]."""
        mean, head = wide(h).mean(dim=0), lm.head
        along = design.gram.cpu() @ mean
        return cls(
            head,
            detection.log_a,
            along,
            whole=float(mean @ along),
            spread=float(head.log_mean_p(h).std()),
            divergence=divergence_from(detection.log_a, head, h),
        )

    def beside(self, h: Tensor) -> dict[str, float]:
        """The columns of `without` for the same positions' hidden states [N, d]."""
        return {
            "kept": float(wide(h).mean(dim=0) @ self.along) / self.whole,
            "spread": float(self.head.log_mean_p(h).std()) / self.spread,
            "divergence": divergence_from(self.log_a, self.head, h) - self.divergence,
        }


def divergence_from(log_a: Tensor, head: Head, h: Tensor, *, step: int = 128) -> float:
    """Mean over hidden states h [N, d] of the KL divergence of P(w | n) from a, in nats.

    Args:
        log_a: [n] log average probabilities of the tokens.
        step: positions at a time, in the precision of the head.
    """
    total = 0.0
    for part in h.split(step):
        log_p = head.of_tokens(torch.log_softmax(head.logits(part.to(head.E)), dim=1), dim=1)
        total += float((log_p.exp() * (log_p - log_a.to(log_p))).sum())
    return total / len(h)
