"""The direction that moves a logit by the same amount at every input, where the model has one.

Where the head reads the output of a LayerNorm with gain gamma and bias beta, hidden states are
h = gamma x + beta with sum(x) = 0, so (1 / gamma) . h = sum(beta / gamma) at every position of
every text: h lies in a hyperplane, known from the weights. Unless that sum is zero, so that the
hyperplane passes through the origin, v = (1 / gamma) / sum(beta / gamma) has v . h = 1 everywhere,
and the edit E_w + log r v is a bias of log r on the logit of w. It is the only such direction, and
1 / |v| is the distance of the hyperplane from the origin.

In general, h lies in an affine subspace c + span(B). A direction is exact if v . B = 0 and
v . c = 1, and the shortest one is the part of c orthogonal to B, over its squared length. That
covers a gain of zero in some dimensions, where h is the bias itself and exact directions are many,
and a linear layer between the norm and the head. Behind an RMSNorm h has all directions and c is
zero: there is none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from probenc_support import models
from probenc_support.models import LanguageModel
from probenc_support.models.norms import Norm
from probenc_support.models.watching import Seen, watched
from probenc_support.precision import wide

_SAME = 1e-4
"""Relative difference up to which two tensors of a forward pass are the same one, as when a dtype
is changed between a norm and the head."""

_NOTHING = 1e-7
"""Share of the terms of a sum that it must exceed: float32 weights resolve no less."""

_SINGULAR = 1e-9
"""Share of the largest singular value below which one counts as zero: weights are taken as they
are, and arithmetic is float64."""


@dataclass(frozen=True, eq=False)
class HiddenBias:
    """The exact direction of a model, or why there is none."""

    vector: Tensor | None
    """[d] float64, v . h = 1 for every input; the shortest one where there are several. None: there
    is none."""
    words: str
    """What the head reads and what follows from it, in a sentence."""
    shares: float = 0.0
    """sum(beta / gamma) over the dimensions, by which 1 / gamma is divided; zero where no such sum
    decides."""
    norm: str = ""
    """Name of the norm in the model; empty where the head reads none."""
    through: str = ""
    """Name of a linear layer between norm and head; empty where there is none."""


def hidden_bias(lm: LanguageModel, ids: Tensor) -> HiddenBias:
    """The exact direction of a model, from its weights alone.

    Which norm the head reads is found by a forward pass over a little text: the norm whose output
    is what enters the head at every position, perhaps times a number, or what enters a linear layer
    whose output does. So it holds for every kind of model: a final norm, the norm of BERT's
    transform, that of a decoder.

    Args:
        ids: [B, T] int64, a few positions of any text.
    """
    return bias_in(lm.model, lambda: models.logits(lm, ids))


def bias_in(model: PreTrainedModel, run: Callable[[], Any]) -> HiddenBias:
    """The same for a transformers model of any kind and a call that runs it once, head included."""
    head: Any = model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    read = [m for m in names if _is_norm(m) or (isinstance(m, torch.nn.Linear) and m is not head)]
    with watched(read, head) as seen:
        run()
    for found in _read_by_the_head(seen, names):
        affine = _gain_and_bias(found.norm, found.width)
        if affine is None:
            words = (
                f"The head reads `{found.name}`, which is no LayerNorm: hidden states lie in no "
            )
            return HiddenBias(None, f"{words}hyperplane, and none is exact.", norm=found.name)
        gain, bias = (found.scale * part for part in affine)
        if found.layer is None:
            return _of_norm(gain, bias, found.name)
        return _through_linear(gain, bias, found.layer, found)
    return HiddenBias(None, "The head does not read the output of a norm, and none is exact.")


def evenness(vector: Tensor, h: Tensor) -> tuple[float, float]:
    """Standard deviation of v . h over hidden states h [N, d], and its largest distance from one.

    For an exact direction both are rounding of the hidden states.
    """
    effect = h.double() @ vector.to(h.device)
    return float(effect.std(correction=0)), float((effect - 1).abs().max())


def permuted(vector: Tensor, mean: Tensor, *, seed: int = 0) -> Tensor:
    """[d] the control: a direction's entries in another order, scaled to an effect of one on the
    mean hidden state [d]. It is as even only where the entries are all alike."""
    generator = torch.Generator().manual_seed(seed)
    drawn = vector[torch.randperm(len(vector), generator=generator)]
    return drawn / (drawn @ mean)


# -------------------------------------------------------------------------- what the head reads


@dataclass(frozen=True, eq=False)
class _Found:
    """A norm whose output, times a number, is what the head or a linear layer before it reads."""

    name: str
    norm: torch.nn.Module
    width: int
    scale: float
    layer: torch.nn.Linear | None = None
    layer_name: str = ""


def _is_norm(module: torch.nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _read_by_the_head(seen: Seen, names: Mapping[torch.nn.Module, str]) -> Iterator[_Found]:
    """The norm that the head reads, then one behind a linear layer that it reads."""
    if seen.head is None:
        return
    yield from _equal_to(seen.head, seen, names)
    for layer, (read, out) in seen.calls.items():
        if not isinstance(layer, torch.nn.Linear) or read is None or out is None:
            continue
        if _multiple(seen.head, out) == 1.0:
            for found in _equal_to(read, seen, names):
                yield replace(found, layer=layer, layer_name=names[layer])


def _equal_to(read: Tensor, seen: Seen, names: Mapping[torch.nn.Module, str]) -> Iterator[_Found]:
    """Norms of which `read` is a multiple of the output, the one called last first."""
    for norm, (_, out) in reversed(seen.calls.items()):
        if not _is_norm(norm) or out is None:
            continue
        if (scale := _multiple(read, out)) is not None:
            yield _Found(names[norm], norm, out.shape[-1], scale)


def _multiple(tensor: Tensor, of: Tensor) -> float | None:
    """c where `tensor` is c times `of`, one if they are the same; None: it is no multiple."""
    if tensor.shape != of.shape:
        return None
    if torch.equal(tensor, of):
        return 1.0
    one, other = wide(tensor).flatten(), wide(of).to(wide(tensor).device).flatten()
    scale = float(one @ other) / max(float(other @ other), 1e-300)
    if not scale or float((one - scale * other).norm()) > _SAME * float(one.norm()):
        return None
    return 1.0 if abs(scale - 1) <= _SAME else scale


# -------------------------------------------------------------------- from weights to a vector


@torch.inference_mode()
def _gain_and_bias(norm: torch.nn.Module, width: int) -> tuple[Tensor, Tensor] | None:
    """[width] and [width] float64 of a LayerNorm of whichever class; None: it is none.

    It is told by what it does to an input whose mean is far from zero, so that an RMSNorm does not
    pass for one.
    """
    x = 100 * torch.linspace(-1, 1, width, dtype=torch.float64) ** 3 + 50
    x = x.to(next(norm.parameters(), torch.zeros(1)))
    found = Norm.of(norm, x, norm(x))
    return (found.gain.cpu(), found.bias.cpu()) if found and found.centred else None


def _of_norm(gain: Tensor, bias: Tensor, name: str) -> HiddenBias:
    """Behind a LayerNorm with this gain and bias [d]."""
    zero = gain == 0
    if bool(zero.any()):
        still = torch.where(zero, bias, 0.0)
        square = float(still @ still)
        words = f"The head reads `{name}`, a LayerNorm of which {int(zero.sum())} gains are zero: "
        if not square:
            return HiddenBias(None, f"{words}its bias is, too, and none is exact.", norm=name)
        words += "there the bias alone is left, and of the exact directions this is the shortest."
        return HiddenBias(still / square, words, norm=name)
    shares = bias / gain
    total = float(shares.sum())
    words = f"The head reads `{name}`, a LayerNorm "
    if abs(total) <= _NOTHING * float(shares.abs().sum()):
        words += "without a bias" if not bool(bias.any()) else "whose sum(beta / gamma) is zero"
        words += ": hidden states lie in a hyperplane through the origin, and none is exact."
        return HiddenBias(None, words, total, norm=name)
    return HiddenBias((1 / gain) / total, f"{words}with a bias: one is exact.", total, norm=name)


def _through_linear(
    gain: Tensor, bias: Tensor, layer: torch.nn.Linear, found: _Found
) -> HiddenBias:
    """Where a linear layer P y + c lies between the output y of a LayerNorm and the head."""
    P = layer.weight.detach().cpu().double()
    centre = P @ bias
    if layer.bias is not None:
        centre = centre + layer.bias.detach().cpu().double()
    moved = P * gain
    vector = shortest_exact(moved - moved.mean(dim=1, keepdim=True), centre)
    words = f"The head reads `{found.layer_name}`, a linear layer behind the LayerNorm "
    words += f"`{found.name}`: " + ("none is exact." if vector is None else "one is exact.")
    return HiddenBias(vector, words, norm=found.name, through=found.layer_name)


def shortest_exact(spanned: Tensor, centre: Tensor) -> Tensor | None:
    """[d] the shortest v with v . h = 1 for all h of an affine subspace.

    Args:
        spanned: [d, k] float64, columns along which h varies.
        centre: [d] float64, one of the h.

    Returns:
        None where the subspace contains the origin, to 1e-7 of the centre's length.
    """
    left, values, _ = torch.linalg.svd(spanned, full_matrices=False)
    basis = left[:, values > _SINGULAR * values[0]]
    apart = centre - basis @ (basis.T @ centre)
    apart = apart - basis @ (basis.T @ apart)  # once more, for what rounding left along the basis
    square = float(apart @ apart)
    return apart / square if square > _NOTHING**2 * float(centre @ centre) else None
