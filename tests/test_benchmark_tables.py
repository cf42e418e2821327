"""The performance page: tables, ratios and numbers in sentences, out of files of benchmarks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup

from probenc_support.notebook.verdicts import ABSENT

ROOT = Path(__file__).resolve().parents[1]

Build = Callable[..., BeautifulSoup]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A page of some text in reStructuredText over files of benchmarks, by their names."""
    monkeypatch.syspath_prepend(str(ROOT / "book" / "_ext"))
    import probenc_benchmarks
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    monkeypatch.setattr(probenc_benchmarks, "ROOT", tmp_path)
    (tmp_path / "book" / "benchmarks").mkdir(parents=True)

    def built(text: str, **files: dict[str, Any]) -> BeautifulSoup:
        for name, record in files.items():
            path = tmp_path / "book" / "benchmarks" / f"{name.replace('_', '-')}.json"
            path.write_text(json.dumps(record), encoding="utf-8")
        source, out = tmp_path / "source", tmp_path / "built"
        source.mkdir(exist_ok=True)
        (source / "conf.py").write_text("extensions = ['probenc_book']\n")
        (source / "index.rst").write_text(f"Title\n=====\n\n{text}\n")
        with docutils_namespace():
            folders = map(str, (source, source, out, out))
            app = Sphinx(*folders, "html", warningiserror=True, status=None, freshenv=True)
            for event in ("html-page-context", "build-finished"):
                app.events.listeners[event].clear()
            app.build()
        return BeautifulSoup((out / "index.html").read_text(encoding="utf-8"), "html.parser")

    return built


def one(name: str, seconds: float, *, group: str = "The fit", **extra: Any) -> dict[str, Any]:
    return {"group": group, "name": name, "extra_info": extra, "stats": {"median": seconds}}


def record(*benchmarks: dict[str, Any], cpu: str = "A CPU", date: str = "2026-02-01") -> Any:
    machine = {"machine": "x", "python_version": "3.12", "gpu": "", "cores_used": 2}
    return {
        "datetime": f"{date}T10:00",
        "machine_info": {**machine, "cpu": {"brand_raw": cpu, "count": 4}},
        "benchmarks": list(benchmarks),
    }


def table(page: BeautifulSoup) -> list[list[str]]:
    """Cells of the first table, its heads first; blanks are as one types them."""
    rows = page.select_one("table.numbers").select("tr")  # type: ignore[union-attr]
    return [
        [cell.get_text().replace("\N{NO-BREAK SPACE}", " ") for cell in row.find_all(["th", "td"])]
        for row in rows
    ]


NOW = record(
    one("test_fit[ours]", 0.5, billion_operations=10.0, share_of_float64_product_rate=0.71),
    one("test_fit[same_algorithm]", 0.75, billion_operations=10.0),
    one("test_fit[slow_way]", 6.0, billion_operations=20.0),
)


def test_a_table_has_a_row_a_way_and_a_column_a_figure(build: Build) -> None:
    page = build(".. benchmarks::", regression=NOW)
    assert table(page) == [
        ["The fit", "time", "times the quickest", "billion operations",
         "share of float64 product rate"],
        ["ours", "500 ms", "1.00", "10", "0.71"],
        ["same algorithm", "750 ms", "1.50", "10", ABSENT],
        ["slow way", "6.00 s", "12.0", "20", ABSENT],
    ]  # fmt: skip
    assert "Measured on A CPU, 2 cores, Python 3.12, 2026-02-01" in page.get_text()


def test_times_of_an_earlier_version_stand_beside_those_of_the_same_name(build: Build) -> None:
    before = record(
        one("test_fit[ours]", 1.0), one("test_fit[gone]", 3.0),
        one("test_fit[slow_way]", 7.0, group="Another fit"), date="2026-01-01",
    )  # fmt: skip
    page = build(".. benchmarks::", regression=NOW, regression_before=before)
    assert [row[:4] for row in table(page)] == [
        ["The fit", "time", "times the quickest", "before (2026-01-01)"],
        ["ours", "500 ms", "1.00", "1.00 s"],
        ["same algorithm", "750 ms", "1.50", ABSENT],
        ["slow way", "6.00 s", "12.0", ABSENT],
    ]
    assert len(page.select("table")) == 1, "a file of before has no table of its own"


def test_times_of_another_machine_are_not_put_beside(build: Build) -> None:
    with pytest.raises(Exception, match=r"regression-before\.json is of another machine"):
        build(".. benchmarks::", regression=NOW, regression_before=record(cpu="Another"))


def test_rivals_are_compared_with_the_pass(build: Build) -> None:
    ways = record(
        one("test_pass[pass]", 2.0), one("test_rival[TransformerLens]", 3.0, release="4.3")
    )
    assert table(build(".. benchmarks::", x=ways))[1:] == [
        ["pass", "2.00 s", "1.00"],
        ["TransformerLens 4.3", "3.00 s", "1.50"],
    ]


def test_rates_are_no_race(build: Build) -> None:
    rates = [one(f"test_yardstick[{x}]", 1.0, giga_per_second=61.2, of="bytes") for x in "ab"]
    assert table(build(".. benchmarks::", yardsticks=record(*rates))) == [
        ["The fit", "time", "giga per second", "of"],
        ["a", "1.00 s", "61", "bytes"],
        ["b", "1.00 s", "61", "bytes"],
    ]


def test_a_gain_is_the_product_of_algorithm_and_implementation(build: Build) -> None:
    text = ".. gains:: regression\n\n   ours: test_fit[ours]\n   same: test_fit[same_algorithm]\n"
    assert [row[1:] for row in table(build(text, regression=NOW))] == [
        ["in all", "by the algorithm", "by the implementation", "operations, times ours"],
        ["1.5", "1.0", "1.5", "1.0"],
        ["12", "8.0", "1.5", "2.0"],
    ]


def test_without_the_same_algorithm_elsewhere_a_gain_is_not_split(build: Build) -> None:
    hours = one("test_by_head", 2.0, group="S", timed_share=1e-3, billion_operations=4e6)
    ways = record(one("test_closed", 0.5, group="S"), hours)
    assert [row[1:] for row in table(build(".. gains:: s\n\n   ours: test_closed\n", s=ways))] == [
        ["in all", "operations, times ours"],
        ["4,000", ABSENT],
    ]
    assert "not been measured" in build(".. gains:: none\n\n   ours: x\n").get_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("regression test_fit[ours]", "500\N{NO-BREAK SPACE}ms"),
        ("regression test_fit[slow_way] / test_fit[ours]", "12"),
        ("regression test_fit[ours] / test_fit[slow_way]", "0.083"),
        ("regression test_fit[ours] : share_of_float64_product_rate", "0.71"),
        ("regression test_fit[ours] : nothing", "(not measured)"),
        ("regression test_fit[ours] / test_fit[gone]", "(not measured)"),
        ("nothing test_fit[ours]", "(not measured)"),
    ],
)
def test_a_number_in_a_sentence_is_the_files(build: Build, text: str, shown: str) -> None:
    page = build(f"It is :measured:`{text}`.", regression=NOW)
    assert f"It is {shown}." in page.get_text()
    if data := page.select_one("data"):
        assert data["data-benchmark"] == text
