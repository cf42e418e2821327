"""How far two folders of runs differ, metric by metric, as Markdown: which digits hold.

    python book/compare_runs.py book/runs OTHER/book/runs

The first table has the worst metric of each notebook, the second every metric that differs by more
than a share. Time and memory are left out.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATTERN = "*/[0-9]*.metrics.json"
MACHINE = re.compile(r"(^|_)(seconds|ms|mb)(_|$)")
"""Names of metrics of time and memory, which no two runs share."""


@dataclass(frozen=True)
class Difference:
    """One metric in both folders."""

    notebook: str
    """Model and notebook, as `model/notebook`."""
    metric: str
    first: float
    second: float

    @property
    def absolute(self) -> float:
        """Size of the difference; infinite if only one of the two is a number."""
        if math.isnan(self.first) or math.isnan(self.second):
            return 0.0 if math.isnan(self.first) and math.isnan(self.second) else math.inf
        return 0.0 if self.first == self.second else abs(self.first - self.second)

    @property
    def relative(self) -> float:
        """The same over the larger of the two sizes: 0 to 2, or infinite."""
        if not math.isfinite(self.absolute):
            return math.inf
        return self.absolute / max(abs(self.first), abs(self.second)) if self.absolute else 0.0


def differences(first: Path, second: Path) -> list[Difference]:
    """Every metric that both folders have, in the order of the first."""
    return [
        Difference(name, metric, own, other[metric])
        for name, metrics in _metrics(first).items()
        for other in [_metrics(second).get(name, {})]
        for metric, own in metrics.items()
        if metric in other
    ]


def missing(first: Path, second: Path) -> list[str]:
    """What only one of the folders has: whole notebooks, or metrics of one."""
    one, two = _metrics(first), _metrics(second)
    found = sorted(one.keys() ^ two.keys())
    for name in sorted(one.keys() & two.keys()):
        found += [f"{name} {metric}" for metric in sorted(one[name].keys() ^ two[name].keys())]
    return found


def _metrics(folder: Path) -> dict[str, dict[str, float]]:
    found = {}
    for path in sorted(folder.glob(PATTERN)):
        name = f"{path.parent.name}/{path.name.removesuffix('.metrics.json')}"
        read = json.loads(path.read_text(encoding="utf-8"))
        found[name] = {
            metric: math.nan if value is None else float(value)
            for metric, value in read.items()
            if not MACHINE.search(metric)
        }
    return found


def by_notebook(found: list[Difference]) -> Iterator[str]:
    """A table: for each notebook how many metrics differ, by how much at the median and at most."""
    yield "| notebook | metrics | equal | median rel. | worst rel. | worst metric | here | there |"
    yield "|---|--:|--:|--:|--:|---|--:|--:|"
    for name in dict.fromkeys(one.notebook for one in found):
        own = sorted((one for one in found if one.notebook == name), key=lambda one: one.relative)
        equal = sum(one.absolute == 0 for one in own)
        middle, worst = own[len(own) // 2], own[-1]
        yield (
            f"| {name} | {len(own)} | {equal} | {middle.relative:.1e} | {worst.relative:.1e} "
            f"| {worst.metric} | {worst.first:.6g} | {worst.second:.6g} |"
        )


def by_metric(found: list[Difference], more_than: float) -> Iterator[str]:
    """A table of the metrics that differ by more than a share, the largest difference first."""
    yield "| notebook | metric | here | there | absolute | relative |"
    yield "|---|---|--:|--:|--:|--:|"
    for one in sorted(found, key=lambda one: -one.relative):
        if one.relative > more_than:
            yield (
                f"| {one.notebook} | {one.metric} | {one.first:.6g} | {one.second:.6g} "
                f"| {one.absolute:.1e} | {one.relative:.1e} |"
            )


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("first", type=Path, help="a folder of runs, such as book/runs")
    parser.add_argument("second", type=Path, help="another one")
    parser.add_argument("--more-than", type=float, default=1e-3, help="share; default: 0.001")
    options = parser.parse_args(words)
    for folder in (options.first, options.second):
        if not any(folder.glob(PATTERN)):
            print(f"{folder} holds no metrics of runs: name a folder such as book/runs.")
            return 2
    found = differences(options.first, options.second)
    print(*by_notebook(found), "", *by_metric(found, options.more_than), sep="\n")
    if alone := missing(options.first, options.second):
        print("\nIn one of the folders only: " + ", ".join(alone) + ".")
    return 0


if __name__ == "__main__":
    sys.exit(main())
