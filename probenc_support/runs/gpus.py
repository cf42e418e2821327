"""Which of a machine's GPUs a run uses: each is lent to one run at a time.

Snakemake counts GPUs and names none, so that all cells of one machine would take its first. The
lender is a lock file for each GPU, which the operating system frees when a run ends or is killed.
"""

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator

from probenc_support import cache, names
from probenc_support.errors import InputError

_VISIBLE = "CUDA_VISIBLE_DEVICES"

_PATIENCE = 1.0
"""Seconds between two looks whether enough GPUs are free."""


@contextlib.contextmanager
def lent(wanted: int) -> Iterator[None]:
    """Inside the context CUDA_VISIBLE_DEVICES names so many GPUs, which no other run holds.

    Waits until they are free. Where the machine has fewer, it is all of them. Nothing is changed
    where none is wanted or found, or where CUDA_VISIBLE_DEVICES names no more than are wanted, as
    in a job of a cluster.

    Raises:
        InputError: some are wanted by a process that `torchrun` started beside others.
    """
    if wanted > 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "torchrun gives each process a GPU of its own, so leave out --gpus; "
            "CUDA_VISIBLE_DEVICES says which GPUs it may use."
        )
    given = os.environ.get(_VISIBLE)
    known = _listed() if wanted > 0 and given is None else (given or "").split(",")
    wanted = min(wanted, len(known))
    if wanted < 1 or (given is not None and len(known) <= wanted):
        yield
        return
    with contextlib.ExitStack() as locks:
        os.environ[_VISIBLE] = ",".join(_taken(known, wanted, locks))
        try:
            yield
        finally:
            os.environ.pop(_VISIBLE)
            if given is not None:
                os.environ[_VISIBLE] = given


def _taken(known: list[str], wanted: int, locks: contextlib.ExitStack) -> list[str]:
    """So many of the known GPUs, whose locks are held until `locks` is closed."""
    while True:
        with contextlib.ExitStack() as held:
            taken = []
            for name in known:
                # The cache may be shared by machines, whose GPUs have the same numbers.
                place = cache.cache_dir() / "locks" / names.slug(f"gpu-{platform.node()}-{name}")
                if lock := cache.held(place.with_name(f"{place.name}.lock"), wait=False):
                    held.callback(lock.release)
                    taken.append(name)
                if len(taken) == wanted:
                    locks.enter_context(held.pop_all())
                    return taken
        # Those that were free are let go meanwhile: two runs may want two GPUs each.
        time.sleep(_PATIENCE)


def _listed() -> list[str]:
    """Names of this machine's GPUs, as its driver tells them; none where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return told.split()
