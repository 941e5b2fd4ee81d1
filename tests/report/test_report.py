"""The report on fabricated runs: what it says, what it escapes, what it refuses."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fabricated_runs import airfoil_run, mixed_run

from payoff.errors import UserError
from payoff.report import build
from payoff.report.canvas import robust_range
from payoff.report.formatting import aligned, duration, moment, number, percent, short, text
from payoff.report.projection import _encode, project
from payoff.report.run import load

SCRIPT = "</script><script>document.title='owned'</script>"


def page_of(folder: Path) -> str:
    """The report without its two scripts (and so without plotly's five megabytes)."""
    written = build(folder)
    assert written == folder / "report.html"
    whole = written.read_text(encoding="utf-8")
    assert len(whole.encode()) < 8e6
    return re.sub(r"<script>.*?</script>", "", whole, flags=re.DOTALL)


def figures_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def words_of(page: str) -> str:
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", "", body)).split())


def tables_of(page: str) -> list[str]:
    return re.findall(r"<table.*?</table>", page, re.DOTALL)


class Structure(HTMLParser):
    """Checks that elements close in order and collects ids and addresses."""

    VOID = ("meta", "link", "br", "path")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag}> has the handler {name}"
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "data", "poster", "action"):
                self.addresses.append((tag, value or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_airfoils_with_an_oracle_show_every_part(tmp_path: Path) -> None:
    page = page_of(airfoil_run(tmp_path / "foils"))
    words = words_of(page)
    assert set(figures_of(page)) == {
        "aim", "truth", "scores", "map",
        "cost-shift", "cost-off_support", "cost-accepted", "cost-oracle_valid",
    }  # fmt: skip
    for part in (
        "40 designs: their median predicted lift_to_drag is",
        "Checked by the oracle, their true median is",
        "best measured airfoil", "mean of the data", "design 14",
        "arXiv 2307.07055", "distribution shift", "extrapolation off the support",
        "Honest gap", "Rank correlation", "The oracle gave no score for 1 design",
        "the first 20 of 40 designs", "network calls 1,500,000", "1 min 53 s", "net.width",
        "31 January 2025, 12:00 UTC", "designs.csv", "--maximize",
    ):  # fmt: skip
        assert part in words, part
    assert page.count('<path class="outline"') == 16
    assert page.count('class="ghost"') == 14


def test_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    page = page_of(airfoil_run(tmp_path / "foils", rows=120, count=5))
    found = Structure(page)
    assert found.open == []
    assert len(set(found.ids)) == len(found.ids)
    for tag, address in found.addresses:
        assert address.startswith(("#", "data:")) or tag == "a", (tag, address)
        assert not address.startswith("#") or address[1:] in found.ids
    assert "@import" not in page
    assert "url(" not in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy.group(1)
    assert policy.group(1).count("'sha256-") == 2
    for place in re.findall(r'<div class="draw"[^>]*>', page):
        assert 'role="img"' in place
        assert re.search(r'aria-label="[^"]{20,}"', place)


def test_the_head_has_the_medians_of_the_files(tmp_path: Path) -> None:
    folder = mixed_run(tmp_path / "run", oracle=True, unit="EUR")
    designs = pl.read_csv(folder / "designs.csv")
    words = words_of(page_of(folder))
    middle, best = designs["predicted"].median(), designs["predicted"].min()
    label = pl.read_parquet(folder / "data.parquet")["cost"].min()
    assert f"their median predicted cost is {number(middle)} EUR" in words
    assert (
        f"the best {number(best)} EUR; the best measured row of the data has {number(label)}"
        in (words)
    )
    assert f"true median is {number(designs['oracle'].median())} EUR" in words
    assert "a lower cost" in words


def test_minimising_turns_the_axis_and_the_peak(tmp_path: Path) -> None:
    folder = mixed_run(tmp_path / "run")
    figure = figures_of(page_of(folder))["aim"]
    assert figure["layout"]["xaxis"]["autorange"] == "reversed"
    sweep = pl.read_csv(folder / "sweep.csv")
    star = next(t for t in figure["data"] if t.get("name") == "its best point")
    assert star["y"][0] == pytest.approx(sweep["pessimistic"].min())
    assert star["x"][0] == pytest.approx(sweep["aim"][int(sweep["pessimistic"].arg_min() or 0)])


def test_without_an_oracle_nothing_claims_the_truth(tmp_path: Path) -> None:
    page = page_of(mixed_run(tmp_path / "run", rows=60, count=6))
    assert "truth" not in figures_of(page)
    assert "oracle" not in words_of(page).lower().replace("oracle calls 0", "")
    assert len(figures_of(page)["scores"]["data"]) == 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"numeric": 0, "categorical": 3}, "Axis 2 is mostly"),
        ({"numeric": 1, "categorical": 0}, "vary along one direction only"),
        ({"count": 1, "oracle": True, "aims": 1}, "One design, with a predicted cost"),
        ({"count": 0, "oracle": True}, "No design passed the checks"),
        ({"aims": 1}, "Only one aim was measured here"),
        ({"rows": 4000}, "Drawn: 3,000 of 4,000 rows"),
        ({"direction": "maximize"}, "a higher cost"),
    ],
)
def test_odd_tables_are_told_plainly(tmp_path: Path, given: dict[str, Any], told: str) -> None:
    page = page_of(mixed_run(tmp_path / "run", **{"rows": 60, "count": 8, **given}))
    assert told in words_of(page)
    assert "nan" not in words_of(page).lower().split()


def test_a_thousand_columns_are_limited_and_said_so(tmp_path: Path) -> None:
    page = page_of(mixed_run(tmp_path / "run", rows=80, count=25, numeric=1000))
    words = words_of(page)
    assert "the first 20 of 25 designs and the first 24 of 1,002 columns" in words
    assert "The first 60 of 1,002 columns" in words
    assert tables_of(page)[0].count("<th ") == 24 + 5
    assert "and 994 more columns" in figures_of(page)["map"]["data"][1]["hovertext"][0]


def test_names_cannot_become_code(tmp_path: Path) -> None:
    names = {"x0": SCRIPT, "x1": "predicted", "kind0": '%{x} <a href="http://bad">q</a>'}
    folder = mixed_run(
        tmp_path / "run",
        names=names,
        score="<img src=x onerror=alert(1)>",
        unit="<b>m</b>",
        oracle=True,
        warnings=[SCRIPT] * 10,
        command=["payoff", "design", SCRIPT],
        name=SCRIPT,
        config={SCRIPT: SCRIPT},
        oracle_calls=30,
    )
    page = page_of(folder)
    found = Structure(page)
    assert [
        a for t, a in found.addresses if t in ("img", "a") and "2307" not in a and a[0] != "#"
    ] == []
    assert "<img" not in page
    assert "<b>m" not in page
    assert "owned'</script" not in page
    assert SCRIPT in unescape(page)
    assert "10 warnings" in words_of(page)
    # plotly reads its own pseudo-HTML: what reaches it is escaped as well
    assert "&lt;img" in figures_of(page)["aim"]["layout"]["yaxis"]["title"]["text"]
    assert load(folder).features[1].name == "predicted"


def test_an_oracle_that_failed_everywhere(tmp_path: Path) -> None:
    folder = mixed_run(tmp_path / "run", rows=60, count=4, oracle=True)
    designs = pl.read_csv(folder / "designs.csv")
    designs.with_columns(oracle=pl.lit(None, pl.Float64)).write_csv(folder / "designs.csv")
    words = words_of(page_of(folder))
    assert "The oracle gave no score for any of them" in words
    assert "The oracle gave no score for 4 designs" in words


def test_the_trade_off_uses_the_measured_numbers(tmp_path: Path) -> None:
    folder = airfoil_run(tmp_path / "run", rows=100, count=5, oracle=False)
    sweep = pl.read_csv(folder / "sweep.csv")
    at = int(sweep["pessimistic"].arg_max() or 0)
    words = words_of(page_of(folder))
    assert (
        f"to its best, {number(sweep['pessimistic'][at])}, at aim {number(sweep['aim'][at])}"
        in (words)
    )
    assert "and gets worse again to" in words
    sweep.head(at + 1).write_csv(folder / "sweep.csv")
    assert "the turning point was not reached" in words_of(page_of(folder))
    record = json.loads((folder / "run.json").read_text())
    record["aim"].update(mode="given", chosen=float(sweep["aim"][at - 3]))
    (folder / "run.json").write_text(json.dumps(record))
    words = words_of(page_of(folder))
    assert "was given by the user" in words
    assert "is not where the bound is best" in words


@pytest.mark.parametrize("lost", ["run.json", "sweep.csv", "designs.csv", "data.parquet"])
@pytest.mark.parametrize("how", ["missing", "empty", "binary"])
def test_damaged_folders_are_refused(tmp_path: Path, lost: str, how: str) -> None:
    folder = mixed_run(tmp_path / "run", rows=30, count=3)
    (folder / lost).unlink()
    if how != "missing":
        (folder / lost).write_bytes(b"" if how == "empty" else bytes(range(128, 256)) * 8)
    with pytest.raises(UserError, match=re.escape(lost)):
        build(folder)
    assert not list(folder.glob("*report*"))


def test_missing_folder_and_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        build(tmp_path / "nowhere")
    folder = mixed_run(tmp_path / "run", rows=30, count=3)
    pl.read_csv(folder / "sweep.csv").drop("shift").write_csv(folder / "sweep.csv")
    with pytest.raises(UserError, match="no column shift"):
        build(folder)
    folder = mixed_run(tmp_path / "other", rows=30, count=3)
    pl.read_csv(folder / "designs.csv").drop("novelty").write_csv(folder / "designs.csv")
    with pytest.raises(UserError, match="does not end in the columns predicted"):
        build(folder)


def test_a_sparse_record_is_enough(tmp_path: Path) -> None:
    folder = mixed_run(tmp_path / "run", rows=30, count=3)
    (folder / "run.json").write_text('{"score": {"name": "cost", "direction": "minimize"}}')
    words = words_of(page_of(folder))
    assert "3 designs: their median predicted cost" in words
    assert "None" not in words


def test_projection_keeps_the_widest_directions(tmp_path: Path) -> None:
    run = load(airfoil_run(tmp_path / "run", rows=200, count=10))
    view = project(run, run.data, run.data_predicted)
    x = run.data.to_numpy()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    exact = np.linalg.svd(x, compute_uv=False) ** 2 / len(x)
    assert view.shares == pytest.approx(tuple(exact[:2] / exact.sum()))
    assert np.corrcoef(view.data[:, 0], run.data_predicted)[0, 1] > 0
    assert view.designs.shape == (10, 2)
    wide = project(run, run.data[:12], run.data_predicted[:12])  # fewer rows than columns
    x = run.data[:12].to_numpy()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    exact = np.linalg.svd(x, compute_uv=False) ** 2 / len(x)
    assert wide.shares == pytest.approx(tuple(exact[:2] / exact.sum()))


def test_a_category_weighs_as_much_as_a_number(tmp_path: Path) -> None:
    run = load(mixed_run(tmp_path / "run", numeric=0, categorical=1))
    view = project(run, run.data, run.data_predicted)
    assert view.rank == 2
    assert sum(view.shares) < 1
    numeric = load(mixed_run(tmp_path / "more", numeric=1, categorical=1))
    x, _, owners = _encode(numeric.features, numeric.data, numeric.designs)
    for name in ("x0", "kind0"):
        mine = [i for i, owner in enumerate(owners) if owner == name]
        assert x[:, mine].var(axis=0).sum() == pytest.approx(1)


def test_formats() -> None:
    assert number(0.00012345) == "1.234 × 10⁻⁴"
    assert [number(v) for v in (2174.0, 99999.6, 1e6, -0.5, float("nan"))] == [
        "2,174", "100,000", "1 × 10⁶", "−0.5", "–",
    ]  # fmt: skip
    assert aligned([1000.0, 0.001]) == ["1,000", "0.001"]
    assert aligned([1.0, None]) == ["1.000", "–"]
    assert duration(0.5) == "0.5 s"
    assert duration(7300) == "2 h 1 min"
    assert percent(0.913) == "91.3 %"
    assert moment("yesterday") == "yesterday"
    assert short("a" * 60, 11) == "aaaaaa…aaaa"
    assert text('<a href="x">') == "&lt;a href=&quot;x&quot;&gt;"
    assert robust_range(np.array([1.0, 2, 3, 4, 5, 1e9, np.nan]))[1] < 100
    assert robust_range(np.array([2.0, 2.0])) == (2.0, 2.0)
