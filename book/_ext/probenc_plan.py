"""What every step over an output embedding would take at a size that was not measured."""

import html
from typing import Any

from docutils import nodes
from probenc_base import BookDirective
from probenc_benchmarks import PLANNED, Record, duration, records, three_digits
from probenc_html import raw
from sphinx.application import Sphinx

from probenc_support.notebook.verdicts import table_of


class LargeHeads(BookDirective):
    """Steps at three sizes, their laws, and what these say of the planned size."""

    optional_arguments = 0
    has_content = False

    def content_nodes(self) -> list[nodes.Node]:
        record = records().get(PLANNED)
        if record is None:
            return [raw("<p>Not measured: <code>make benchmark</code> does it.</p>")]
        return [raw(plan_table(record))]


class OnGpu(BookDirective):
    """What was measured on a GPU; that nothing was, where no file of the benchmarks is of one."""

    optional_arguments = 0
    has_content = False

    def content_nodes(self) -> list[nodes.Node]:
        if any(record["machine_info"]["gpu"] for record in records().values()):
            return [raw("<p>Measured: see the tables of the GPU above.</p>")]
        return [
            raw(
                "<p><strong>Not measured</strong>: no GPU was at hand. Where there is one, "
                "<code>pytest -m gpu</code> runs the tests that need it, and "
                "<code>make benchmark</code> measures positions a second, the share of the "
                "bfloat16 rate, and the fit of 256,000 tokens in 4,096 dimensions, with the head's "
                "product in bfloat16 and in float32, at the shapes of gpt2-xl, gpt-j, Llama-3-8B "
                "and the text model of Gemma-3-4B.</p>"
            )
        ]


def plan_table(record: Record) -> str:
    """One row a step: time at each size, the law, how the law fits, time and memory planned."""
    steps: dict[str, list[Record]] = {}
    for one in record["benchmarks"]:
        steps.setdefault(one["extra_info"]["step"], []).append(one)
    measured = [sorted(found, key=lambda one: size_of(one)[1]) for found in steps.values()]
    sizes = [size_of(one) for one in measured[0]]
    planned = measured[0][0]["extra_info"]["planned"]
    rows = [_row(found, planned) for found in measured]
    heads = [
        "step", *map(_size, sizes), "time grows as", f"foretold of {_size(sizes[-1])}",
        f"time at {_size(planned)}", f"memory at {_size(planned)} beside E",
    ]  # fmt: skip
    return table_of([html.escape(head) for head in heads], rows, label="Large heads")


def _row(found: list[Record], planned: list[int]) -> list[str]:
    info = found[-1]["extra_info"]
    times = [one["stats"]["median"] for one in found]
    (before, last), law = [size_of(one) for one in found[-2:]], info["time_law"]
    memory = max(info["memory_mb"], 1.0) * growth(info["memory_law"], last, planned)
    return [
        html.escape(info["step"]),
        *map(duration, times),
        _law(law),
        f"{three_digits(times[-2] * growth(law, before, last) / times[-1])} times the measured",
        duration(times[-1] * growth(law, last, planned)),
        f"{three_digits(memory / 1e3)}\N{NO-BREAK SPACE}GB",
    ]


def size_of(one: Record) -> tuple[int, int]:
    """V and d of a measurement."""
    return one["extra_info"]["V"], one["extra_info"]["d"]


def growth(law: list[int], start: tuple[int, int], end: Any) -> float:
    """How many times as much a law V^v d^p gives at the end as at the start."""
    return float((end[0] / start[0]) ** law[0] * (end[1] / start[1]) ** law[1])


def _law(law: list[int]) -> str:
    factors = zip(("<i>V</i>", "<i>d</i>"), law, strict=True)
    return " ".join(f"{name}<sup>{n}</sup>" if n > 1 else name for name, n in factors if n)


def _size(size: Any) -> str:
    return f"{size[0]:,} x {size[1]:,}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("large-heads", LargeHeads)
    app.add_directive("on-a-gpu", OnGpu)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
