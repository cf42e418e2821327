"""How far long work has come: a bar of text on stderr, the same for all that takes long."""

import sys
from typing import Any

from tqdm.std import tqdm


class _Bar(tqdm):  # type: ignore[misc]
    monitor_interval = 0
    """No thread that watches over the bar: what forks afterwards would inherit its lock."""


class Progress:
    """A bar of text: what is done, how much of it, how fast, and how long it will still take.

    Work that ends within `patience()` seconds shows none. Where the environment variable
    TQDM_DISABLE is set, as it is while a page of the book is executed, there is none at all.
    Use it as a context manager, so that the bar ends where the work does.
    """

    def __init__(self, what: str, total: int, unit: str, *, shown: bool = True) -> None:
        """
        Args:
            what: the work, in a word or two.
            total: how many units there are to do, those included that are skipped.
            unit: in the plural, such as `positions`.
            shown: False for no bar at all.
        """
        # An explicit `disable=False` would overrule TQDM_DISABLE.
        choice: dict[str, Any] = {} if shown else {"disable": True}
        wait = patience()
        self._bar = _Bar(
            desc=what,
            total=total,
            unit=f" {unit}",
            unit_scale=True,
            file=sys.stderr,
            ascii=True,
            delay=wait,
            mininterval=wait,
            miniters=1,
            smoothing=0,
            **choice,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, count: int, remark: str = "") -> None:
        """Counts units that are done, and keeps a remark beside the bar, such as the last loss."""
        if remark:
            self._bar.set_postfix_str(remark, refresh=False)
        self._bar.update(count)

    def skip(self, count: int) -> None:
        """Counts units that were done before: they tell nothing of the speed."""
        if not self._bar.disable:
            self._bar.initial += count
        self._bar.update(count)


def patience() -> float:
    """Seconds before a bar appears, and between two looks of it: a log gets fewer than a person."""
    return 1.0 if sys.stderr.isatty() else 10.0
