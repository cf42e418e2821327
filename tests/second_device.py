"""A device that behaves as a GPU does towards the program, and computes on the CPU.

Within `second_device()` there are tensors that say they lie on `cuda:0`. Factories, `to`, `cpu` and
`cuda` make and fetch them. Whoever mixes them with tensors in the memory of the CPU, or hands them
to NumPy, meets the errors of CUDA. How much is fetched to the CPU is counted, so that a test can
ask that what is large stays. It holds for what Python calls, and in the thread that opened it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily, resolve_name

NAME = "cuda"


class OnDevice(Tensor):
    """A tensor that says that it lies on the second device."""

    device = property(lambda self: torch.device(NAME, 0))  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {}, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnDevice":
        return memo.setdefault(id(self), self.clone())


class SecondDevice(TorchFunctionMode):
    """Sees every call of torch; see `second_device`."""

    fetched = 0
    """Numbers in the largest tensor that went from the device to the memory of the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {}, self)


@contextmanager
def second_device() -> Iterator[SecondDevice]:
    """Within it, a device named `cuda` can be used."""
    with SecondDevice() as device:
        yield device


def put(module: torch.nn.Module) -> torch.nn.Module:
    """Moves a module's parameters and buffers to the device; ties stay ties."""
    moved: dict[int, Any] = {}
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                new = torch.nn.Parameter(_there(value.data), value.requires_grad)
                part._parameters[name] = moved.setdefault(id(value), new)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = _there(value)
    return module


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """What programs ask of CUDA by other ways than tensors: generators, clocks, a name, and `to` of
    modules. Random numbers are those of the CPU."""
    to, fork_rng, generator = torch.nn.Module.to, torch.random.fork_rng, torch.Generator

    def moved(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if kwargs.get("device") is None or torch.device(kwargs["device"]).type != NAME:
            return to(module, *args, **kwargs)
        others = {name: value for name, value in kwargs.items() if name != "device"}
        with _pop_mode_temporarily():
            return put(to(module, *args, **others) if args or others else module)

    patch.setattr(torch.nn.Module, "to", moved)
    patch.setattr(torch.random, "fork_rng", lambda devices=None: fork_rng(devices=[]))
    patch.setattr(torch, "Generator", lambda device=None: generator())
    patch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    patch.setattr(torch.cuda, "get_device_name", lambda device=None: "second device")


_PASS = {"copy_", "is_same_size", "type_as", "expand_as", "view_as", "reshape_as"}
"""What may have arguments on both: it copies from the one to the other, or asks for shapes."""

_LISTED = {"stack", "cat", "concat", "hstack", "vstack", "block_diag", "_foreach"}
"""What takes no tensor of the CPU beside others, not even a single number."""

_HANDLES = {"numpy", "__array__", "__dlpack__"}
"""What needs the memory itself."""

_STAYS = {"tensor", "tolist", "item"}
"""What gives numbers, or a tensor made of numbers, whatever it is given."""


def _there(values: Tensor) -> OnDevice:
    return values.as_subclass(OnDevice)  # type: ignore[arg-type]


def _call(func: Any, args: Any, kwargs: Any, counter: SecondDevice | None) -> Any:
    name = (resolve_name(func) or getattr(func, "__name__", "")).removesuffix(".__get__")
    name = name.rsplit(".", 1)[-1]
    tensors = list(_tensors([*args, *kwargs.values()]))
    there = [t for t in tensors if isinstance(t, OnDevice)]
    if name in ("cpu", "cuda", "to"):
        return _moved(func, name, args, kwargs, counter)
    if name in _HANDLES and there:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )
    kwargs, wanted = _placed(kwargs)
    _check(name, args, kwargs, tensors, there)
    if name in ("copy_", "__setitem__") and there and not isinstance(args[0], OnDevice):
        _count(args[-1], counter)
    with torch._C.DisableTorchFunctionSubclass():
        if name in ("mm", "spmm") and there and isinstance(args[-1], torch.dtype):
            args = [matrix.to(args[-1]) for matrix in args[:2]]  # the CPU has no such product
        if name == "__iter__" and there:
            return iter([_there(row) for row in args[0].unbind(0)])
        result = func(*args, **kwargs)
    if wanted is None and name not in _STAYS:
        home = args[0] if name in _PASS | {"__getitem__", "__setitem__"} else None
        wanted = isinstance(home, OnDevice) if home is not None else bool(there)
    return _wrapped(result) if wanted else result


def _moved(func: Any, name: str, args: Any, kwargs: Any, counter: SecondDevice | None) -> Any:
    values, *rest = args
    kwargs, wanted = _placed(kwargs)
    if name == "cpu":
        wanted = False
    elif name == "cuda":
        func, rest, wanted = Tensor.to, ["cpu"], True
    for i, word in enumerate(rest if name == "to" else []):
        if isinstance(word, Tensor):
            rest[i], wanted = torch.empty(0, dtype=word.dtype), isinstance(word, OnDevice)
        elif isinstance(word, str | torch.device):
            rest[i], wanted = "cpu", torch.device(word).type == NAME
    is_there = isinstance(values, OnDevice)
    wanted = is_there if wanted is None else wanted
    with torch._C.DisableTorchFunctionSubclass():
        result = func(values, *rest, **kwargs)
        if wanted != is_there and result.data_ptr() == values.data_ptr():
            result = result.clone()  # a copy between memories never shares them
        result = result.as_subclass(OnDevice if wanted else Tensor)
    if is_there and not wanted:
        _count(values, counter)
    return result


def _placed(kwargs: dict[str, Any]) -> tuple[dict[str, Any], bool | None]:
    """The arguments for the CPU, and whether they ask for the device (None: they do not say)."""
    device = kwargs.get("device")
    if device is None:
        return kwargs, None
    return {**kwargs, "device": "cpu"}, torch.device(device).type == NAME


def _check(name: str, args: Any, kwargs: Any, tensors: list[Tensor], there: list[Any]) -> None:
    if not there or len(there) == len(tensors) or name in _PASS or name.endswith("like"):
        return
    if name.startswith("__") and name.endswith("set__"):  # a property, as .grad or .data
        return
    self = args[0] if args else None
    if name in ("__getitem__", "__setitem__", "index_put_", "index_put"):
        indices = list(_tensors(args[1]))
        if not isinstance(self, OnDevice) and any(isinstance(i, OnDevice) for i in indices):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor (cpu)"
            )
        value = args[2] if len(args) > 2 else None
        if not isinstance(value, Tensor) or not value.ndim or not indices:
            return
        if isinstance(value, OnDevice) == isinstance(self, OnDevice):
            return
    else:
        written = [*_tensors(kwargs.get("out"))] + ([self] if _is_in_place(name) else [])
        strict = written + (tensors if name in _LISTED else [])
        here = [t for t in tensors if not isinstance(t, OnDevice)]
        if not any(t.ndim or any(t is s for s in strict) for t in here):
            return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 "
        f"and cpu! ({name})"
    )


def _is_in_place(name: str) -> bool:
    if name.startswith("__"):
        return name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
    return name.endswith("_")


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _wrapped(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result if isinstance(result, OnDevice) else _there(result)
    if isinstance(result, list | tuple) and not isinstance(result, torch.Size):
        return type(result)([_wrapped(part) for part in result])
    return result


def _count(values: Tensor, counter: SecondDevice | None) -> None:
    if counter is not None:
        counter.fetched = max(counter.fetched, values.numel())
