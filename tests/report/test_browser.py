"""The report in a real browser: figures are drawn, sorting works, nothing is fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fabricated_runs import airfoil_run, mixed_run

from payoff.report import build

BROWSER = next(
    (p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-sync", "--disable-background-networking", "--disable-component-update"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--window-size=1200,3000",
    "--virtual-time-budget=8000",
)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs a headless Chromium (Debian: apt-get install chromium)"
)


class Drawn(HTMLParser):
    """Per figure: the outlines of data marks (not of axes or legends)."""

    LAYERS = ("scatterlayer", "barlayer", "imagelayer")
    VOID = ("meta", "link", "br", "input", "img", "hr")

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, str, str]] = []
        self.marks: dict[str, int] = {}
        self.feed(re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        classes = given.get("class", "")
        if tag not in self.VOID:
            self.stack.append((tag, classes, given.get("id", "")))
        figure = next((i for _, c, i in self.stack if "draw" in c.split()), None)
        layer = any(set(c.split()) & set(self.LAYERS) for _, c, _ in self.stack)
        if figure is not None:
            self.marks.setdefault(figure, 0)
            if layer and tag == "path" and len(given.get("d", "")) > 5:
                self.marks[figure] += 1

    def handle_endtag(self, tag: str) -> None:
        while self.stack and self.stack.pop()[0] != tag:
            pass


def dom_of(page: Path, profile: Path) -> tuple[str, str]:
    done = subprocess.run(
        [BROWSER or "", *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
        text=True,
    )
    return done.stdout, done.stderr


def test_figures_are_really_drawn(tmp_path: Path) -> None:
    folder = airfoil_run(tmp_path / "foils", rows=150, count=20)
    dom, log = dom_of(build(folder), tmp_path / "profile")
    marks = Drawn(dom).marks
    least = {"aim": 20, "truth": 19, "scores": 40, "map": 170, "cost-shift": 13}
    for figure, n in least.items():
        assert marks.get(figure, 0) >= n, marks
    assert all(n > 0 for n in marks.values()), marks
    assert '<html lang="en" class="drawn">' in dom
    # the page's policy forbids every request; an attempt, or a script error, is a console line
    assert "CONSOLE" not in log, [line for line in log.splitlines() if "CONSOLE" in line]


def test_hostile_names_do_not_run(tmp_path: Path) -> None:
    bad = (
        "</script><script>document.title='owned'</script><img src=x onerror=document.title='owned'>"
    )
    folder = mixed_run(
        tmp_path / "run",
        rows=60,
        count=5,
        oracle=True,
        names={"x0": bad, "kind0": bad + "2"},
        score=bad + "3",
        unit=bad,
        warnings=[bad],
    )
    dom, log = dom_of(build(folder), tmp_path / "profile")
    assert "<title>run: designs for" in dom
    assert "<title>owned" not in dom
    assert "CONSOLE" not in log
    assert all(n > 0 for n in Drawn(dom).marks.values())


def test_a_click_on_a_head_sorts_the_designs(tmp_path: Path) -> None:
    page = build(mixed_run(tmp_path / "run", rows=60, count=5))
    whole = page.read_text(encoding="utf-8")
    # without the policy, which would not let the click below run
    whole = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", whole)
    click = "<script>document.querySelectorAll('table.sortable button')[5].click()</script>"
    page.write_text(whole.replace("</body>", f"{click}</body>"), encoding="utf-8")
    dom, _ = dom_of(page, tmp_path / "profile")
    table = re.search(r'<table class="sortable">.*?</table>', dom, re.DOTALL)
    assert table is not None
    rows = re.findall(r"<tr>(.*?)</tr>", table.group(0), re.DOTALL)
    assert 'aria-sort="ascending"' in rows[0]
    column = [float(re.findall(r'data-v="([^"]*)"', row)[5]) for row in rows[1:]]
    ranks = [int(re.findall(r'data-v="([^"]*)"', row)[0][0]) for row in rows[1:]]
    assert column == sorted(column)
    assert sorted(ranks) == [1, 2, 3, 4, 5]
    assert ranks != [1, 2, 3, 4, 5]
