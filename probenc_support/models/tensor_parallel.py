"""One model that several processes compute together, each a part of every layer.

`torchrun` starts the processes, a GPU each, and transformers divides the layers by the plan that
comes with a model's class. All processes must make the same forward passes. The first one leads: it
says which, and it alone computes what is made of the hidden states and writes it; the others
follow. On CPUs it works in the same way, which is how it is tested.
"""

import datetime
import functools
import os
from pathlib import Path
from typing import Any

from torch import Tensor, distributed

from probenc_support.errors import InputError


def size() -> int:
    """Processes that `torchrun` started together; 1 where it did not start this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this process is the first of its group, or alone."""
    return int(os.environ.get("RANK", "0")) == 0


def options(config: Any, folder: Path) -> dict[str, Any]:
    """Options of `from_pretrained` that divide a model among the processes.

    Raises:
        InputError: transformers has no plan for this kind of model.
    """
    if not getattr(config.get_text_config(), "base_model_tp_plan", None):
        raise InputError(
            f"transformers has no plan that divides the layers of a {config.model_type} model, as "
            f"in {folder.name}, among processes; start the command without torchrun."
        )
    return {"tp_plan": "auto"}


def whole(weight: Tensor) -> Tensor:
    """A weight of which each process holds a part, as one tensor in every process; others as they
    are. All processes must call it."""
    gather = getattr(weight, "full_tensor", None)  # of a DTensor, by which it is known
    return weight if gather is None else gather().detach()


def is_divided(model: Any) -> bool:
    """Whether a model was divided among processes."""
    head = model.get_output_embeddings()
    return hasattr(getattr(head, "weight", None), "full_tensor")


def tell(work: int | None) -> None:
    """Tells the followers what is computed next; None: nothing more."""
    distributed.broadcast_object_list([work], src=0, group=_messages())


def told() -> int | None:
    """What the leader tells next, for which a follower waits."""
    work: list[int | None] = [None]
    distributed.broadcast_object_list(work, src=0, group=_messages())
    return work[0]


@functools.cache
def _messages() -> Any:
    """A group for messages alone, which has time: the leader may be waiting for other processes,
    which make parts of the same pass."""
    return distributed.new_group(backend="gloo", timeout=datetime.timedelta(days=7))


def close() -> None:
    """Ends the group; all of its processes must."""
    _messages.cache_clear()
    distributed.destroy_process_group()
