"""The device for tests: what CUDA refuses it refuses, and its numbers are those of the CPU."""

import numpy as np
import pytest
import torch
from second_device import put, second_device

A = torch.arange(12.0).reshape(3, 4)
B = torch.linspace(-1, 1, 12).reshape(4, 3)
ROWS = torch.tensor([2, 0])

REFUSED = {
    "product": lambda a: a @ B,
    "sum": lambda a: A + a,
    "in place": lambda a: A.clone().add_(a),
    "in place by operator": lambda a: A.clone().__iadd__(a),
    "single number in place": lambda a: torch.zeros(()).add_(a.sum()),
    "out": lambda a: torch.mul(a, 2, out=torch.empty(3, 4)),
    "stack": lambda a: torch.stack([a.sum(), torch.zeros(())]),
    "select": lambda a: a.index_select(0, ROWS),
    "gather": lambda a: a.gather(0, ROWS[:, None]),
    "index of the CPU's": lambda a: A[a[0, :2].long()],
    "values of the CPU": lambda a: a.__setitem__(ROWS, A[:2]),
    "values for the CPU": lambda a: A.clone().__setitem__(ROWS, a[:2]),
    "equal": lambda a: torch.equal(a, A),
    "linear": lambda a: torch.nn.functional.linear(a, A),
    "numpy": lambda a: a.numpy(),
    "asarray": lambda a: np.asarray(a),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_what_cuda_refuses_is_refused(call) -> None:
    with second_device(), pytest.raises((RuntimeError, TypeError), match=r"device|cpu"):
        call(A.cuda())


ALLOWED = {
    "product": lambda a: a @ a.T,
    "scalars": lambda a: 2 * a - torch.tensor(3.0) / (1 + a.square()),
    "factories": lambda a: a + torch.ones(3, 4, device=a.device) + torch.zeros_like(a),
    "new": lambda a: a.new_empty(2).fill_(float(a[1, 1])),
    "views": lambda a: a.clone()[1:].T.reshape(2, -1).flip(0).contiguous(),
    "index of the CPU": lambda a: a[ROWS] + a[:, ROWS.flip(0)].sum(),
    "parts": lambda a: torch.cat([part.amax(dim=1) for part in a.split(2)]),
    "rows": lambda a: torch.stack([row.sum() for row in a]),
    "in place": lambda a: a.clone().mul_(2).add_(a),
    "out": lambda a: torch.mm(a, a.T, out=a.new_empty(3, 3)),
    "decomposition": lambda a: torch.linalg.svd(a).S,
    "several": lambda a: a.topk(2).values + a.max(dim=1).values[:, None],
    "as": lambda a: torch.arange(3).to(a)[:, None] + torch.as_tensor(A, device=a.device),
    "bool": lambda a: a * 2 if bool((a > 3).any()) else a,
}


@pytest.mark.parametrize("call", ALLOWED.values(), ids=ALLOWED)
def test_what_cuda_allows_lies_there_and_gives_the_numbers_of_the_cpu(call) -> None:
    with second_device():
        there = call(A.cuda())
        assert there.device.type == "cuda"
        assert torch.equal(there.cpu(), call(A))
        assert there.cpu().device.type == "cpu"


def test_values_are_copied_between_memories_and_counted() -> None:
    with second_device() as device:
        there = A.to("cuda", torch.float64)
        assert there.dtype == torch.float64
        A.cuda().zero_()
        assert float(A.sum()) == 66
        assert there.sum().item() == 66
        assert device.fetched == 0
        here = torch.zeros(3, 4)
        here[:, 0] = there[:, 0]
        assert device.fetched == 3
        here.copy_(there)
        there.to("cpu").zero_()
        assert torch.equal(there.float().cpu(), here)
        assert device.fetched == 12
        there[0] = A[0]
        assert torch.equal(there[ROWS].cpu(), A[ROWS].double())


def test_modules_and_gradients() -> None:
    layer = torch.nn.Linear(4, 2)
    x = torch.ones(5, 4)
    layer(x).square().sum().backward()
    expected = layer.weight.grad.clone()
    with second_device():
        moved = put(torch.nn.Linear(4, 2))
        with torch.no_grad():
            moved.weight.copy_(layer.weight)
            moved.bias.copy_(layer.bias)
        with pytest.raises(RuntimeError, match="same device"):
            moved(x)
        optimiser = torch.optim.Adam(moved.parameters(), lr=0.1)
        moved(x.cuda()).square().sum().backward()
        assert moved.weight.grad.device.type == "cuda"
        assert torch.equal(moved.weight.grad.cpu(), expected)
        optimiser.step()
        assert not torch.equal(moved.weight.detach().cpu(), layer.weight.detach())
