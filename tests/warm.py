"""Processes and notebook kernels forked off a process that has imported what they import.

A fresh kernel spends some seconds on importing torch, transformers and the package, which is more
than most notebooks on a tiny model compute. A forked one runs the same notebook in a process of its
own, with the environment and the folder that it is given. What it does not show is the start of a
kernel, and what modules say while they are imported; for these, tests of fresh kernels remain.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

IMPORTED = (
    "accelerate", "ipykernel.kernelapp", "matplotlib.pyplot", "pandas", "pyarrow.parquet",
    "scipy.stats", "seaborn", "statsmodels.api", "torch", "transformers",
    "transformers.models.gpt_neox.modeling_gpt_neox", "transformers.models.gptj.modeling_gptj",
    "transformers.models.llama.modeling_llama",
    "probenc_support.claims.comparison", "probenc_support.dynamics", "probenc_support.generation",
    "probenc_support.models", "probenc_support.notebook.results", "probenc_support.pruning",
    "probenc_support.sparsity", "probenc_support.steering",
)  # fmt: skip
"""Modules that the process imports before it is forked; one that is missing here costs time."""

ENVIRONMENT = {
    **os.environ,
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TQDM_DISABLE": "1",
}
"""Under which they are imported: that of the tests, not of the one that needs the process first,
and what a kernel's environment says to modules that read it when they are imported."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(IMPORTED))


def start(target: Callable[..., object], *args: Any) -> ForkServerProcess:
    """Calls a function in a forked process, under the environment that this process has now.

    Args:
        target: a function of a module.
        args: what it is called with; queues and the like come from `CONTEXT`.
    """
    process = CONTEXT.Process(target=_under, args=(dict(os.environ), target, args), daemon=True)
    with _environment(ENVIRONMENT):
        process.start()  # and the server, if this is the first
    return process


def _under(environment: dict[str, str], target: Callable[..., object], args: Any) -> None:
    _set_environment(environment)
    # Unseeded generators differ from process to process, as they do in fresh ones.
    np.random.seed()  # noqa: NPY002
    torch.seed()
    target(*args)


class Kernel:
    """What `jupyter_client` asks of the process of a kernel, as `subprocess.Popen` has it."""

    stdin = stdout = stderr = None

    def __init__(self, arguments: list[str], environment: dict[str, str], folder: str) -> None:
        ready, theirs = CONTEXT.Pipe(duplex=False)
        self._process = start(_serve, arguments, environment, folder, theirs)
        theirs.close()
        # The kernel leads a group of processes of its own before anybody sends that group a signal.
        ready.recv()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.pid is not None and self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def launch(
    command: list[str],
    env: dict[str, str] | None = None,
    cwd: str | None = None,
    **_: Any,
) -> Kernel:
    """In the place of `jupyter_client.launcher.launch_kernel`."""
    own = command[command.index("ipykernel_launcher") + 1 :]
    return Kernel(own, dict(os.environ if env is None else env), cwd or str(Path.cwd()))


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets kernels that this process starts be forked, until the patch is undone."""
    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", launch)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _serve(
    arguments: list[str], environment: dict[str, str], folder: str, ready: Connection
) -> None:
    os.setsid()
    # Kernels end themselves when their parent is gone, which is the server here.
    _set_environment({**environment, "JPY_PARENT_PID": str(os.getppid())})
    os.chdir(folder)
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    sys.argv = ["ipykernel_launcher", *arguments]
    ready.send(None)
    ready.close()
    from ipykernel import kernelapp

    kernelapp.launch_new_instance()
