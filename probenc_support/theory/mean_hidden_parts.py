"""Where -mean(h) comes from: the final norm's bias, the embedding, each attention and each MLP.

With the scale s_n of the final norm as it is at each position, h_n is the norm's bias plus the sum
of what the norm makes of each part of the residual stream. So the mean hidden state is a sum of
vectors, one a part, exactly, and the first order of the encoding, -E_w . mean(h), a sum of as many
terms. The share of a part is the covariance over the tokens of its term with the sum, over the
variance of the sum; shares can be negative, and add up to one.

The control is how the logits of single positions differ from their mean: the same attribution of
E_w . (h_n - mean(h)), over tokens and positions. It adds up to one as well, and says which parts
make the logits at all.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probenc_support import inference
from probenc_support.corpora import TokenBlocks
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.models.norms import Norm
from probenc_support.models.residual_stream import Part, ResidualStream
from probenc_support.moments import sums_by_label
from probenc_support.precision import wide
from probenc_support.regression import Design, Interval, draws_of_groups
from probenc_support.regression.arrays import Array, Matrix, as_array, as_tensor

N_POSITIONS = 2048
"""About how many positions are read, evenly spread over a text."""

_BATCH = 512
"""Positions whose parts are held at a time."""


def blocks_to_read(n_blocks: int, sequence_length: int) -> Tensor:
    """[k] int64 numbers of blocks, evenly spread, of `N_POSITIONS` positions in all.

    There is one block at least, and half of the blocks are left to others where there are several.
    """
    wanted = min((n_blocks + 1) // 2, N_POSITIONS // sequence_length)
    return inference.evenly(n_blocks, max(1, wanted))


def blocks_left(n_blocks: int, sequence_length: int, n_positions: int = 512) -> Tensor:
    """[k] int64 numbers of other blocks, evenly spread, of about `n_positions` positions; of the
    same one where there is only one."""
    read = blocks_to_read(n_blocks, sequence_length)
    others = torch.arange(n_blocks)
    others = others[~torch.isin(others, read)] if n_blocks > 1 else read
    wanted = min(len(others), max(1, n_positions // sequence_length))
    return others[inference.evenly(len(others), wanted)]


@dataclass(frozen=True, eq=False)
class MeanHiddenParts:
    """The mean hidden state of some positions, as a sum of vectors."""

    parts: tuple[Part, ...]
    """C parts of the residual stream; none where it has none that add up: then there is one vector,
    the rest of the mean hidden state besides the norm's bias."""
    words: str
    """What was found in the model, in a sentence."""
    norm: Norm | None
    """The norm that the head reads; None: there is none."""
    sums: Tensor
    """[C, G, d] float64 sums over the positions of each group of text of what the final norm makes
    of each part; C is one where there are no parts."""
    sizes: Tensor
    """[G] float64 positions of each group."""
    along: Tensor
    """[C] float64 sums over the positions of the covariance over the tokens of what a part and what
    the whole hidden state give the logits."""
    acts: tuple[Tensor | None, ...]
    """[G, f] float64 of each part: sums of the activations of its neurons, over the scales of the
    norms behind them; None: it has none."""
    rounding: float
    """How far the parts were from adding up to the stream, over its largest entry."""

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        blocks: TokenBlocks,
        detection: Detection,
        design: Design,
        *,
        positions: str = "all",
    ) -> "MeanHiddenParts":
        """Reads some of the blocks.

        Args:
            lm: a model, or its untrained twin, whose own hidden states are taken.
            detection: a pass of the model over all blocks, for the groups of its positions.
            design: of the rows of the head of `lm` that tokens own.
            positions: as of the pass.
        """
        stream = ResidualStream.of(lm)
        chosen = blocks_to_read(*blocks.ids.shape)
        group = inference.groups_of_blocks(lm, blocks, detection, chosen, positions=positions)
        label = group.unique(return_inverse=True)[1]
        sums = _Sums.over(stream, design, label)
        step = max(1, _BATCH // blocks.ids.shape[1])
        for ids in blocks.ids[chosen].split(step):
            sums.add(ids, positions)
        return cls(
            parts=stream.parts,
            words=stream.words,
            norm=stream.norm,
            sums=sums.sums.cpu(),
            sizes=torch.bincount(label).double(),
            along=sums.along.cpu(),
            acts=tuple(None if a is None else a.cpu() for a in sums.acts),
            rounding=sums.rounding,
        )

    @property
    def n_positions(self) -> int:
        """Positions that were read."""
        return int(self.sizes.sum())

    @property
    def bias(self) -> Tensor:
        """[d] float64 of the norm; zero where it has none."""
        return (
            self.sums.new_zeros(self.sums.shape[2]) if self.norm is None else self.norm.bias.cpu()
        )

    @property
    def vectors(self) -> Tensor:
        """[1 + C, d] float64: the norm's bias, then the mean of what each part gives."""
        return self._drawn(torch.ones_like(self.sizes)[None])[:, 0]

    @property
    def mean(self) -> Tensor:
        """[d] float64 mean hidden state of the positions, the sum of `vectors`."""
        return self.vectors.sum(dim=0)

    def _drawn(self, times: Tensor) -> Tensor:
        """[1 + C, B, d] the vectors where groups count as often as `times` [B, G] says."""
        means = times @ self.sums / (times @ self.sizes)[:, None]
        return torch.cat([self.bias.expand(1, len(times), -1), means])

    def shares(self, design: Design, times: Tensor | None = None) -> Tensor:
        """[1 + C, B] share of each vector in the variance over the tokens of -E_w . mean(h).

        Args:
            times: [B, G] how often each group counts; None: all once.
        """
        vectors = self._drawn(torch.ones_like(self.sizes)[None] if times is None else times)
        whole = vectors.sum(dim=0)
        seen = whole @ design.gram.to(whole)
        return (vectors * seen).sum(dim=2) / (whole * seen).sum(dim=1)

    def shares_of(self, design: Design, y: Matrix) -> Array:
        """[1 + C] covariance over the tokens of -E_w . vector with y [n], over y's variance.

        Of the fitted values of a regression of y on E the covariances are the same. They add up to
        that of -E_w . mean(h); what is left to one is the Jensen gap's.
        """
        cross, squares = design.cross_products(y)
        return -as_array(self.vectors) @ cross[:, 0] / float(squares[0])

    def shares_of_deviations(self, design: Design) -> Array:
        """[1 + C] share of each vector in the variance of E_w . (h_n - mean(h)) over tokens and
        positions: the control. The norm's bias has none."""
        vectors = self.vectors
        of_mean = self.n_positions * (vectors[1:] @ (design.gram.to(vectors) @ self.mean))
        deviations = self.along - of_mean
        return np.concatenate([[0.0], as_array(deviations / deviations.sum())])

    def drawn_groups(self, n_replicates: int, seed: int) -> Tensor:
        """[1 + B, G] float64 how often each group counts: all once, then in each draw."""
        once = torch.ones_like(self.sizes)[None]
        if len(self.sizes) < 2:
            return once
        draws = draws_of_groups(len(self.sizes), n_replicates, seed=seed)
        return torch.cat([once, as_tensor(draws).double()])

    @property
    def labels(self) -> pd.DataFrame:
        """1 + C rows: part (kind of it) and layer, 0 where it belongs to none."""
        named = [(part.kind, part.layer) for part in self.parts] or [("rest", 0)]
        return pd.DataFrame([("bias of the norm", 0), *named], columns=["part", "layer"])

    def table(
        self, design: Design, y: Matrix, *, n_replicates: int = 200, seed: int = 0
    ) -> pd.DataFrame:
        """Every vector: part, layer, share with the ends low and high of its interval over draws of
        documents, share_deviations (the control), share_y (of the variance of y [n])."""
        drawn = self.shares(design, self.drawn_groups(n_replicates, seed)).numpy()
        ends = [_interval(row) for row in drawn]
        return self.labels.assign(
            share=drawn[:, 0],
            low=[end.low for end in ends],
            high=[end.high for end in ends],
            share_deviations=self.shares_of_deviations(design),
            share_y=self.shares_of(design, y),
        )

    def metrics(
        self, design: Design, suffix: str = "", *, n_replicates: int = 200, seed: int = 0
    ) -> dict[str, float]:
        """Shares of `kinds` of parts with their intervals, and of the same in deviations, under the
        names of the first notebook's metrics, with a suffix for another model."""
        drawn = self.shares(design, self.drawn_groups(n_replicates, seed)).numpy()
        deviations = self.shares_of_deviations(design)
        found = {
            f"parts_n_positions{suffix}": float(self.n_positions),
            f"parts_rounding{suffix}": self.rounding,
        }
        for name, rows in self.kinds().items():
            found |= _interval(drawn[rows].sum(axis=0)).metrics(f"parts_{name}{suffix}")
            found[f"parts_{name}_deviations{suffix}"] = float(deviations[rows].sum())
        return found

    def kinds(self) -> dict[str, Array]:
        """Which of the vectors [1 + C] belong to `bias`, `embedding`, `attention`, `mlp`, and to
        the layers of the `last_third`, which are a sum over both; only names that occur."""
        part, layer = self.labels["part"], self.labels["layer"]
        of = {
            "bias": part == "bias of the norm",
            "embedding": part == "embedding",
            "attention": part.isin(["attention", "cross-attention"]),
            "mlp": part == "MLP",
            "last_third": layer > layer.max() - math.ceil(layer.max() / 3),
        }
        return {name: rows.to_numpy() for name, rows in of.items() if rows.any()}


def _interval(values: Array) -> Interval:
    """Of values [1 + B], the first of all text."""
    if len(values) < 2:
        return Interval.unknown(float(values[0]))
    return Interval.of(float(values[0]), values[1:])


@dataclass(eq=False)
class _Sums:
    """Sums over the positions that were read so far."""

    stream: ResidualStream
    gram: Tensor
    """[d, d] of the rows of E about their mean, over their number."""
    label: Tensor
    """[N] group of every position that will be read."""
    bias: Tensor
    sums: Tensor
    along: Tensor
    acts: list[Tensor | None]
    rounding: float = 0.0
    n: int = 0

    @classmethod
    def over(cls, stream: ResidualStream, design: Design, label: Tensor) -> "_Sums":
        """Nothing yet, of the positions of the groups `label` [N]."""
        gram = design.gram
        norm, d, G = stream.norm, design.d, int(label.max()) + 1
        count = max(1, len(stream.parts))
        neurons = [part.neurons for part in stream.parts] or [None]
        return cls(
            stream,
            gram,
            label,
            bias=gram.new_zeros(d) if norm is None else norm.bias.to(gram),
            sums=gram.new_zeros(count, G, d),
            along=gram.new_zeros(count),
            acts=[None if one is None else gram.new_zeros(G, one.count) for one in neurons],
        )

    def add(self, ids: Tensor, positions: str) -> None:
        """Reads the next blocks ids [B, T]."""
        if not self.stream.parts:
            h = inference.read(self.stream.lm, ids, positions=positions).to(self.gram)
            self._add(0, h - self.bias, h @ self.gram)
            self.n += len(h)
            return
        norm = self.stream.norm
        assert norm is not None
        read = self.stream.read(ids, positions)
        scale = read.inverse_scale.to(self.gram)[:, None]
        seen = wide(read.h).to(self.gram) @ self.gram
        for number, (part, acts) in enumerate(zip(read.parts, read.acts, strict=True)):
            self._add(number, norm.direct(part).to(self.gram) * scale, seen)
            so_far = self.acts[number]
            if acts is not None and so_far is not None:
                of_neurons = wide(acts).to(scale) * scale
                so_far += sums_by_label(of_neurons, self._labels(len(acts)), len(so_far))
        self.rounding = max(self.rounding, read.rounding)
        self.n += len(read.h)

    def _labels(self, n: int) -> Tensor:
        return self.label[self.n : self.n + n]

    def _add(self, number: int, given: Tensor, seen: Tensor) -> None:
        """Of one part: what the norm makes of it [n, d], and gram times hidden states [n, d]."""
        G = self.sums.shape[1]
        self.sums[number] += sums_by_label(given, self._labels(len(given)), G)
        self.along[number] += (given * seen).sum()
