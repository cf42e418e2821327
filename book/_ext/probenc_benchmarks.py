"""Tables and numbers of `book/benchmarks/*.json`, which `make benchmark` writes."""

import html
import json
import math
from typing import Any

from docutils import nodes
from probenc_base import BookDirective, BookRole
from probenc_html import ROOT, raw
from sphinx.errors import ExtensionError

from probenc_support.notebook.verdicts import ABSENT, table_of

Record = dict[str, Any]
"""What one file holds: a module's benchmarks and the machine that they ran on."""

BEFORE = "-before"
"""Ends the name of a file with the figures of an earlier version, measured on the same machine."""


PLANNED = "large_head"
"""Name of the file that `probenc_plan` shows."""


def records() -> dict[str, Record]:
    """Every file that was kept, by its name without the ending `.json`."""
    files = sorted((ROOT / "book" / "benchmarks").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}


class Benchmarks(BookDirective):
    """Measured times, one table for each thing that is done in several ways."""

    optional_arguments = 0
    has_content = False

    def content_nodes(self) -> list[nodes.Node]:
        kept = records()
        now = {
            name: one for name, one in kept.items() if name != PLANNED and not name.endswith(BEFORE)
        }
        if not now:
            return [
                raw("<p>No benchmark has been kept: <code>make benchmark</code> runs them.</p>")
            ]
        on: dict[str, list[str]] = {}
        for name, record in now.items():
            before = kept.get(f"{name}{BEFORE}")
            if before and _hardware(before) != _hardware(record):
                raise ExtensionError(f"{name}{BEFORE}.json is of another machine than {name}.json")
            on.setdefault(_machine(record), []).extend(_tables(record, before))
        return [
            raw(f"<p>Measured on {html.escape(machine)}:</p>{''.join(tables)}")
            for machine, tables in on.items()
        ]


class Gains(BookDirective):
    """How much of a gain is the algorithm and how much the implementation.

    The argument is the name of a file; a line `ours: NAME` names the benchmark that the others of
    its group are compared with, and lines `same: NAME` those that have the same algorithm. The
    quickest of these is the algorithm as others write it: what it gains over a way with another
    algorithm is the algorithm's, what ours gains over it is the implementation's, and the product
    of both is the whole gain.
    """

    required_arguments, optional_arguments = 1, 0

    def content_nodes(self) -> list[nodes.Node]:
        record = records().get(self.arguments[0], {"benchmarks": []})
        wanted: dict[str, list[str]] = {"ours": [], "same": []}
        for line in self.content:
            key, name = line.split(":", 1)
            wanted[key.strip()].append(name.strip())
        (own_name,) = wanted["ours"]
        own = next((one for one in record["benchmarks"] if one["name"] == own_name), None)
        if own is None:
            return [raw("<p>This has not been measured.</p>")]
        others = [
            one for one in record["benchmarks"] if one["group"] == own["group"] and one is not own
        ]
        same = [one for one in others if one["name"] in wanted["same"]]
        return [raw(_gains(own, others, same))]


def _gains(own: Record, others: list[Record], same: list[Record]) -> str:
    plain = min(map(whole, same), default=math.nan)
    rows = []
    for one in sorted(others, key=whole):
        row = [html.escape(_way(one["name"])[1]), times(whole(one) / whole(own))]
        if same:
            algorithm = 1.0 if one in same else whole(one) / plain
            row += [times(algorithm), times(whole(one) / whole(own) / algorithm)]
        counts = [one["extra_info"].get("billion_operations"), own["extra_info"].get(_COUNTED)]
        row.append(times(counts[0] / counts[1]) if all(counts) else ABSENT)
        rows.append(row)
    split = ["by the algorithm", "by the implementation"] if same else []
    heads = [
        f"{own['group']}: time of another way, times that of {_way(own['name'])[1]}",
        "in all",
        *split,
        "operations, times ours",
    ]
    return table_of([html.escape(head) for head in heads], rows, label=f"Gains: {own['group']}")


_COUNTED = "billion_operations"


class MeasuredRole(BookRole):
    """``{measured}`FILE NAME` ``: a benchmark's time in a sentence. ``FILE NAME / NAME`` is how
    many times as long the first takes, and ``FILE NAME : FIELD`` a further figure that was kept."""

    absent = "(not measured)"

    def shown(self) -> str | None:
        file, text = self.text.split(" ", 1)
        name, _, other = text.partition(" / ")
        name, _, field = name.partition(" : ")
        kept = {one["name"]: one for one in records().get(file, {"benchmarks": []})["benchmarks"]}
        if name not in kept or (other and other not in kept):
            return None
        if field and field not in kept[name]["extra_info"]:
            return None
        if field:
            value = kept[name]["extra_info"][field]
            shown = figure(value)
        else:
            value = whole(kept[name]) / (whole(kept[other]) if other else 1.0)
            shown = times(value) if other else duration(value)
        given = html.escape(self.text, quote=True)
        return f'<data value="{value}" data-benchmark="{given}">{shown}</data>'


def _hardware(record: Record) -> tuple[str, ...]:
    machine = record["machine_info"]
    cpu = machine["cpu"]
    hardware = [machine["gpu"], cpu["brand_raw"] or machine["machine"]]
    return *(str(one) for one in hardware if one), f"{machine['cores_used']} cores"


def _machine(record: Record) -> str:
    *hardware, cores = _hardware(record)
    return (
        f"{' and '.join(hardware)}, {cores}, "
        f"Python {record['machine_info']['python_version']}, {_date(record)}"
    )


def _date(record: Record) -> str:
    return str(record["datetime"])[:10]


def _tables(record: Record, before: Record | None) -> list[str]:
    groups: dict[str, list[Record]] = {}
    for one in record["benchmarks"]:
        groups.setdefault(one["group"] or "others", []).append(one)
    earlier = {_key(one): one for one in before["benchmarks"]} if before else {}
    date = _date(before) if before else ""
    return [_table(name, members, earlier, date) for name, members in groups.items()]


def _key(one: Record) -> tuple[str, str]:
    return one["group"] or "others", one["name"]


def _table(
    group: str, members: list[Record], earlier: dict[tuple[str, str], Record], date: str
) -> str:
    """One row a way; ratios where several ways do the same thing, times of an earlier version where
    they were kept, a column for every further figure."""
    members = sorted(members, key=whole)
    extras = list(dict.fromkeys(key for one in members for key in one["extra_info"]))
    extras = [key for key in extras if key not in ("timed_share", "release")]
    compared = len(members) > 1 and len({_way(one["name"])[0] for one in members}) == 1
    compared = compared and not all("giga_per_second" in one["extra_info"] for one in members)
    was = [earlier.get(_key(one)) for one in members]
    rows = []
    for one, old in zip(members, was, strict=True):
        estimated = "" if _timed_share(one) == 1 else ", from a part"
        named = [_way(one["name"])[1], one["extra_info"].get("release", "")]
        row = [html.escape(" ".join(named).strip()), duration(whole(one)) + estimated]
        if compared:
            row.append(three_digits(whole(one) / whole(members[0])))
        if any(was):
            row.append(duration(whole(old)) if old else ABSENT)
        row += [figure(one["extra_info"].get(key)) for key in extras]
        rows.append(row)
    heads = [
        group,
        "time",
        *(["times the quickest"] if compared else []),
        *([f"before ({date})"] if any(was) else []),
        *map(_heading, extras),
    ]
    return table_of([html.escape(head) for head in heads], rows, label=f"Benchmark {group}")


def whole(one: Record) -> float:
    """Seconds for all of the work, also where only a part was timed."""
    return float(one["stats"]["median"]) / _timed_share(one)


def _timed_share(one: Record) -> float:
    """How much of the work was timed; less than all where all of it would take hours."""
    return float(one["extra_info"].get("timed_share", 1))


def _way(name: str) -> tuple[str, str]:
    """What a benchmark's name says it does, and by which way: `test_fit[statsmodels_pinv]`, or
    `test_sweep_by_the_head_again`."""
    words = name.removeprefix("test_").replace("_", " ")
    if words.endswith("]"):
        what, way = words[:-1].split("[", 1)
        return _SAME_THING.get(what, what), way
    return words.split(" ")[0], words


_SAME_THING = {"rival": "pass"}
"""Tests that time the same thing as another test, by its name."""


def duration(seconds: float) -> str:
    """Three digits in a unit that suits: 7.24 ms, 3.45 s, 2.10 h."""
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= (2 if size > 1 else 1) * size:
            return f"{three_digits(seconds / size)}\N{NO-BREAK SPACE}{unit}"
    return f"{three_digits(seconds * 1e3)}\N{NO-BREAK SPACE}ms"


def three_digits(value: float) -> str:
    """A positive number to three digits, without an exponent: 0.0123, 1.20, 31,300."""
    places = 2 - math.floor(math.log10(value))
    return f"{round(value, places):,.{max(0, places)}f}"


def times(ratio: float) -> str:
    """A ratio of two times or counts, to two digits: 0.92, 1.0, 17, 31,000."""
    places = 1 - math.floor(math.log10(ratio))
    return f"{round(ratio, places):,.{max(0, places)}f}"


def _heading(key: str) -> str:
    words = key.removesuffix("_mb").replace("_", " ")
    return f"{words} (MB)" if key.endswith("_mb") else words


def figure(value: Any) -> str:
    """A further figure of a benchmark: two digits where it is small, words as they are."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and abs(value) < 10:
        return f"{value:.2g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else html.escape(str(value))
