"""The residual stream: what embedding, attention and MLPs add up to before the final norm.

In a network whose layers only add to what they read, the input of the final norm is the sum of the
embedding and of what each attention and each MLP adds. Which modules these are is found by a
forward pass over a few tokens and not by the names of an architecture: their outputs must add up to
what their layer adds. Where they do not, the network has no such parts, and it is said why.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probenc_support import models
from probenc_support.models.language_model import LanguageModel
from probenc_support.models.neurons import Neurons
from probenc_support.models.norms import Norm, same
from probenc_support.models.watching import Seen, watched

_N_TOKENS = 12
"""Tokens of the pass by which the parts are found."""


@dataclass(frozen=True, eq=False)
class Part:
    """One thing that adds to the residual stream."""

    kind: str
    """`embedding`, `attention`, `cross-attention`, `MLP`, or `layer`: the whole of a layer, where
    no modules were found that add up to it."""
    layer: int
    """Number of the layer from 1; 0 for the embedding."""
    module: nn.Module
    """Whose output it is; for the embedding the first layer, whose input it is."""
    neurons: Neurons | None = None
    """Of an MLP, where they can be told apart."""


@dataclass(frozen=True, eq=False)
class ResidualStream:
    """The final norm of a model, and the parts of what it reads."""

    lm: LanguageModel
    norm: Norm | None
    """The last norm, whose output the head reads; None: there is none that was found."""
    module: nn.Module | None
    """Of the norm."""
    parts: tuple[Part, ...]
    """In order; none where the stream is no sum of parts."""
    words: str
    """What was found, or why there are no parts, in a sentence."""

    @classmethod
    def of(cls, lm: LanguageModel) -> "ResidualStream":
        """Found by one pass over the first tokens of the vocabulary."""
        ids = lm.tokens[None, : min(_N_TOKENS, lm.context_length, len(lm.tokens))].cpu()
        head: Any = lm.model.get_output_embeddings()
        names = {module: name for name, module in lm.model.named_modules()}
        with torch.inference_mode(), watched([m for m in names if m is not head], head) as seen:
            models.logits(lm, ids)
        for module, (x, out) in reversed(seen.calls.items()):
            if out is None or x is None or seen.head is None or x.shape != seen.head.shape:
                continue
            if type(module) not in _NOT_NORMS and (norm := Norm.of(module, x, seen.head)):
                return _with_layers(lm, ids, norm, module, x, seen, names)
        words = f"The head of {lm.name} does not read the output of a norm."
        return cls(lm, None, None, (), words)

    @torch.inference_mode()
    def read(self, ids: Tensor, positions: str = "all") -> "Read":
        """What the parts are at the positions of blocks ids [B, T] at which the model predicts.

        Args:
            positions: `all`, or `last` of each block.

        It is only for a stream that has parts.
        """
        assert self.norm is not None
        assert self.module is not None
        assert self.parts
        modules = [self.module, *(part.module for part in self.parts)]
        modules += [part.neurons.projection for part in self.parts if part.neurons]
        with watched(modules) as seen:
            h = models.hidden_states(self.lm, ids)
        x, given = (_present(tensor) for tensor in seen.calls[self.module])
        place = _place(h, given)
        assert place is not None
        kept = slice(place.stop - 1, place.stop) if positions == "last" else place

        def at(tensor: Tensor) -> Tensor:
            # OPT's MLPs know no blocks: they read [B T, d].
            return tensor.reshape(*given.shape[:2], -1)[:, kept].flatten(0, 1)

        h = (h[:, -1:] if positions == "last" else h).flatten(0, 1)
        return Read(
            h=h,
            inverse_scale=self.norm.inverse_scale(at(x), h),
            stream=at(x),
            parts=tuple(at(_added(seen, part)) for part in self.parts),
            acts=tuple(
                at(part.neurons.scaled(*seen.calls[part.neurons.projection], _added(seen, part)))
                if part.neurons
                else None
                for part in self.parts
            ),
        )


@dataclass(frozen=True, eq=False)
class Read:
    """The residual stream before the final norm, at n positions."""

    h: Tensor
    """[n, d] what the head reads."""
    inverse_scale: Tensor
    """[n] float64 one over the norm's scale."""
    stream: Tensor
    """[n, d] what the norm reads."""
    parts: tuple[Tensor, ...]
    """[n, d] each: they add up to `stream`."""
    acts: tuple[Tensor | None, ...]
    """[n, f] of each part: how far each neuron's output weights are added, see `Neurons.scaled`;
    None: it has no neurons."""

    @property
    def rounding(self) -> float:
        """Largest difference of the parts' sum from the stream, over its largest entry."""
        total = torch.stack([part.double() for part in self.parts]).sum(dim=0)
        return float((total - self.stream.double()).abs().max() / self.stream.abs().max())


def _added(seen: Seen, part: Part) -> Tensor:
    """What a part added."""
    read, gave = seen.calls[part.module]
    if part.kind == "embedding":
        return _present(read)
    return _present(gave) - _present(read) if part.kind == "layer" else _present(gave)


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _place(h: Tensor, given: Tensor) -> slice | None:
    """Where in what the final norm last gave [B, T', d] the states [B, P, d] lie that the head
    reads, perhaps times a number (T5); None where they are not all there, as those of a masked
    model, which come from several passes."""
    for start in range(given.shape[1] - h.shape[1], -1, -1):
        there = given[:, start : start + h.shape[1]].to(h)
        factor = (there * h).sum() / there.square().sum()
        if same(factor * there, h, given.dtype):
            return slice(start, start + h.shape[1])
    return None


# ------------------------------------------------------------------------------------- finding


_NOT_NORMS = (nn.Identity, nn.Dropout)
_ATTENTION = re.compile(r"attn|attention|mixer|mamba", re.IGNORECASE)
_CROSS = re.compile(r"cross|encoder_attn|encdec", re.IGNORECASE)


def _with_layers(
    lm: LanguageModel,
    ids: Tensor,
    norm: Norm,
    module: nn.Module,
    x: Tensor,
    seen: Seen,
    names: dict[nn.Module, str],
) -> ResidualStream:
    """The stream that a final norm reads as x [B, T, d], with its parts where it has some."""

    def found(parts: Sequence[Part], words: str) -> ResidualStream:
        return ResidualStream(lm, norm, module, tuple(parts), words)

    said = f"The head reads the norm `{names[module]}`, "
    layers = _layers(lm.model, x, seen)
    if not layers:
        return found([], said + "whose input is not what a stack of layers gives.")
    parts = [Part("embedding", 0, layers[0])]
    for number, layer in enumerate(layers, start=1):
        parts += _parts_of_layer(layer, number, seen)
    added = [_added(seen, part).double().reshape(x.shape) for part in parts]
    total = torch.stack(added).sum(dim=0)
    if not same(total, x, x.dtype):
        return found([], said + "and what its layers add does not add up to what that reads.")
    with torch.inference_mode(), watched([module]) as once_more:
        h = models.hidden_states(lm, ids)
    if _place(h, _present(once_more.calls[module][1])) is None:
        return found([], said + "whose states come from several passes over a block.")
    whole = sum(part.kind == "layer" for part in parts)
    said += f"over {len(layers)} layers that add to one residual stream"
    if whole:
        said += f"; of {whole} of them the parts are not told apart"
    return found(parts, said + ".")


def _layers(model: nn.Module, x: Tensor, seen: Seen) -> list[nn.Module]:
    """The longest list of modules, each of which reads what the one before gives, that ends in x.

    There is none where a norm lies between two layers (BERT): then nothing adds up across it.
    """
    best: list[nn.Module] = []
    for children in (list(m) for m in model.modules() if isinstance(m, nn.ModuleList)):
        calls = [seen.calls.get(child, (None, None)) for child in children]
        if not calls or any(t is None or t.shape != x.shape for call in calls for t in call):
            continue
        joined = all(
            torch.equal(_present(one[1]), _present(next_[0]))
            for one, next_ in itertools.pairwise(calls)
        )
        if joined and torch.equal(_present(calls[-1][1]), x) and len(children) > len(best):
            best = children
    return best


def _parts_of_layer(layer: nn.Module, number: int, seen: Seen) -> list[Part]:
    """The fewest modules of a layer whose outputs add up to what it adds; else the layer itself."""
    read, gave = (_present(tensor) for tensor in seen.calls[layer])
    inside = {m: name for name, m in layer.named_modules() if name and m in seen.calls}
    outputs = {m: seen.calls[m][1] for m in seen.calls if m in inside}
    fitting = [m for m, out in outputs.items() if out is not None and _fits(out, gave)]
    # The outermost first, and of these what was called last: a norm or dropout after an MLP is a
    # part as it is added.
    fitting.sort(key=lambda m: inside[m].count("."))
    wanted = gave.double() - read.double()
    for count in (2, 3, 1):
        for chosen in itertools.combinations(fitting, count):
            added = [_present(outputs[m]).double().reshape(gave.shape) for m in chosen]
            total = torch.stack(added).sum(dim=0)
            if same(total, wanted, gave.dtype):
                return [_named(m, inside[m], number, layer, seen) for m in chosen]
    return [Part("layer", number, layer)]


def _fits(out: Tensor, added: Tensor) -> bool:
    return out.numel() == added.numel() and out.shape[-1] == added.shape[-1]


def _named(module: nn.Module, name: str, number: int, layer: nn.Module, seen: Seen) -> Part:
    if _CROSS.search(name):
        return Part("cross-attention", number, module)
    if _ATTENTION.search(name):
        return Part("attention", number, module)
    inside = {m: n for n, m in layer.named_modules() if not _ATTENTION.search(n)}
    called = {m: call for m, call in seen.calls.items() if m in inside}
    return Part("MLP", number, module, Neurons.find(module, called, seen.calls[module][1]))
