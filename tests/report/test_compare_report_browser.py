"""The report of a comparison in a real browser: figures are drawn and nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_tuning import compare_run, exact_run
from test_browser import BROWSER, Drawn, dom_of
from test_compare_report import SCORES

from payoff.report import build

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs a headless Chromium (Debian: apt-get install chromium)"
)


def test_figures_are_really_drawn(tmp_path: Path) -> None:
    dom, log = dom_of(build(compare_run(tmp_path / "run", SCORES, ways=True)), tmp_path / "profile")
    marks = Drawn(dom).marks
    # two methods at two budgets, and the base
    least = {
        "calls-score": 5,
        "kl-score": 5,
        "trade-valid": 5,
        "trade-support": 5,
        "ways": 10,
        "rows-cost": 12,
    }
    for figure, n in least.items():
        assert marks.get(figure, 0) >= n, marks
    assert '<html lang="en" class="drawn">' in dom
    assert "CONSOLE" not in log, [line for line in log.splitlines() if "CONSOLE" in line]


def test_a_closed_form_is_drawn(tmp_path: Path) -> None:
    dom, log = dom_of(build(exact_run(tmp_path / "run")), tmp_path / "profile")
    marks = Drawn(dom).marks
    assert set(marks) == {"calls-score", "kl-score", "rows-cost"}
    assert all(n > 0 for n in marks.values()), marks
    assert "CONSOLE" not in log
