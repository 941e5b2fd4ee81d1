"""The report of a fine-tuning run in a real browser: figures are drawn and nothing is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest
from fabricated_tuning import tune_run
from test_browser import BROWSER, Drawn, dom_of

from payoff.report import build

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="needs a headless Chromium (Debian: apt-get install chromium)"
)


def test_figures_are_really_drawn(tmp_path: Path) -> None:
    page = build(tune_run(tmp_path / "run", airfoils=True))
    dom, log = dom_of(page, tmp_path / "profile")
    marks = Drawn(dom).marks
    # seven rounds with the base: a line of six tuning rewards, seven held-out ones
    least = {"reward": 13, "kl-path": 13, "scores": 40, "cost-kl": 7, "cost-valid": 7}
    for figure, n in least.items():
        assert marks.get(figure, 0) >= n, marks
    assert all(n > 0 for n in marks.values()), marks
    assert '<html lang="en" class="drawn">' in dom
    assert "CONSOLE" not in log, [line for line in log.splitlines() if "CONSOLE" in line]


def test_a_run_of_one_round_without_a_judge_is_drawn(tmp_path: Path) -> None:
    page = build(tune_run(tmp_path / "run", rounds=1, held_gain=None, validity=False))
    dom, log = dom_of(page, tmp_path / "profile")
    marks = Drawn(dom).marks
    assert marks
    assert all(n > 0 for n in marks.values()), marks
    assert "CONSOLE" not in log
