"""The neurons of an MLP: what they add to the residual stream, and how to silence them.

An MLP ends in a linear layer, and its neurons are what that layer reads: neuron i adds its
activation times column i of the weights.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probenc_support.models.norms import Norm, same
from probenc_support.precision import wide


@dataclass(frozen=True, eq=False)
class Neurons:
    """The neurons of one MLP."""

    projection: nn.Module
    """The linear layer that reads them (GPT-2's stores its weights the other way round)."""
    norm: Norm | None
    """The norm between that layer and the residual stream (Gemma); None: there is none."""

    @classmethod
    def find(
        cls,
        part: nn.Module,
        calls: Mapping[nn.Module, tuple[Tensor | None, Tensor | None]],
        added: Tensor | None,
    ) -> "Neurons | None":
        """The linear layer whose output is what an MLP adds, as it is or through a norm.

        Args:
            part: the module whose output is added.
            calls: of modules of the layer, what each read and gave [B, T, d], in order.
            added: [B, T, d] what is added.

        Returns:
            None where there is none, as in a mixture of experts.
        """
        for module, (_, out) in reversed(list(calls.items())):
            if added is None or out is None or out.shape != added.shape or not _is_linear(module):
                continue
            if same(out, added, added.dtype):
                return cls(module, None)
            if norm := Norm.of(part, out, added):
                return cls(module, norm)
        return None

    @property
    def weights(self) -> Tensor:
        """[f, d] output weights, one row a neuron, as they reach the residual stream but for a
        norm's scale."""
        stored: Any = self.projection.weight
        rows = stored.detach().T if isinstance(self.projection, nn.Linear) else stored.detach()
        return rows if self.norm is None else self.norm.direct(rows).to(rows.dtype)

    @property
    def count(self) -> int:
        """f"""
        return len(self.weights)

    def scaled(self, acts: Tensor | None, out: Tensor | None, added: Tensor) -> Tensor:
        """[B, T, f] the factors of `weights` whose sum, with a bias, is what is added [B, T, d].

        Args:
            acts: [B, T, f] what the linear layer read; out: [B, T, d] what it gave.
        """
        assert acts is not None
        assert out is not None
        if self.norm is None:
            return acts
        return acts * self.norm.inverse_scale(out, added)[..., None].to(acts)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


@contextmanager
def held(chosen: Mapping[Neurons, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside the context some neurons have fixed activations, zero for instance.

    Args:
        chosen: of each MLP the numbers [k] of the neurons, and the activations [k] that they have.
    """

    def hold(numbers: Tensor, values: Tensor) -> Any:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            acts = args[0].clone()
            acts[..., numbers.to(acts.device)] = values.to(acts)
            return (acts, *args[1:])

        return before

    with ExitStack() as stack:
        for neurons, (numbers, values) in chosen.items():
            handle = neurons.projection.register_forward_pre_hook(hold(numbers, values))
            stack.callback(handle.remove)
        yield


def like_in_norm(
    weights: Tensor, numbers: Tensor, *, among: int = 20, generator: torch.Generator
) -> Tensor:
    """[k] other neurons of an MLP whose output weights are about as long as those of some.

    For each of the neurons [k] one is drawn by lot from the `among` nearest in length of weights
    [f, d], none twice, and none of those that are given.
    """
    length = wide(weights).norm(dim=1).cpu()
    taken = set(numbers.tolist())
    drawn = []
    for number in numbers.tolist():
        order = (length - length[number]).abs().argsort().tolist()
        near = [i for i in order if i not in taken][:among]
        if near:
            drawn.append(near[int(torch.randint(len(near), (1,), generator=generator))])
            taken.add(drawn[-1])
    return torch.tensor(drawn, dtype=torch.int64)
