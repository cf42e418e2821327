"""What the modules of a network read and give in a forward pass."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Seen:
    """What modules read and gave when they were last called, in the order of these calls."""

    calls: dict[nn.Module, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)
    """The first tensor that each read, and the first that it gave."""
    head: Tensor | None = None
    """What the head read."""


@contextmanager
def watched(modules: Iterable[nn.Module], head: nn.Module | None = None) -> Iterator[Seen]:
    """Inside the context modules leave copies of what they read and gave: some add in place.

    Args:
        head: a module of which only what it reads is kept, such as the output embedding.
    """
    seen = Seen()
    begun: dict[nn.Module, Tensor | None] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read = args[0] if args else kwargs.get("hidden_states")
        begun[module] = read.clone() if isinstance(read, Tensor) else None

    def after(module: nn.Module, _: Any, out: Any) -> None:
        gave = out[0] if isinstance(out, tuple) and out else out
        seen.calls.pop(module, None)  # so that the order is that of the last calls
        seen.calls[module] = begun[module], gave.clone() if isinstance(gave, Tensor) else None

    def on_head(_: Any, args: tuple[Tensor, ...]) -> None:
        seen.head = args[0].clone()

    with ExitStack() as stack:
        for module in dict.fromkeys(modules):
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
            stack.callback(module.register_forward_hook(after).remove)
        if head is not None:
            stack.callback(head.register_forward_pre_hook(on_head, prepend=True).remove)
        yield seen
