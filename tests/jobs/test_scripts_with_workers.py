"""Workers in scripts without a guard, in threads and in the body of a module."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kind_cases import write_sources

import payoff

OPTIONS = (
    'identifiers=["name", "stiffness"], method="best-of-n", particles=2, count=4, temperature=1.0, '
    "sampler_steps=4, base_width=16, base_depth=1, base_steps=20, base_batch_size=32, workers=2, "
    "quiet=True"
)
PLAIN = f"""
import payoff
run = payoff.steer("boards.csv", reward="plain:load", out="runs/plain", {OPTIONS})
print("designs", run.designs.height)
"""
OWN = f"""
import payoff


def load(designs):
    return designs["width"]


run = payoff.steer("boards.csv", reward=load, out="runs/own", {OPTIONS})
print("designs", run.designs.height)
"""
THREAD = f"""
import threading
import payoff


def work():
    run = payoff.steer("boards.csv", reward="plain:load", out="runs/thread", {OPTIONS})
    print("designs", run.designs.height)


thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def ran(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    write_sources(folder)
    (folder / "plain.py").write_text('def load(designs):\n    return designs["width"]\n')
    (folder / "script.py").write_text(script)
    words = [sys.executable, "script.py"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("script", [PLAIN, THREAD], ids=["body", "thread"])
def test_a_script_needs_no_guard(tmp_path: Path, script: str) -> None:
    done = ran(tmp_path, script)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("designs 4") == 1


@pytest.mark.slow
def test_a_reward_of_an_unguarded_script_is_told_what_to_write(tmp_path: Path) -> None:
    done = ran(tmp_path, OWN)
    assert done.returncode != 0
    assert 'put the run under if __name__ == "__main__":' in done.stderr


def test_public_names_are_documented_and_lazy() -> None:
    for name in payoff.__all__:
        assert getattr(payoff, name).__doc__
    code = (
        "import sys, payoff; heavy = {'torch', 'polars', 'plotly', 'rich'} & set(sys.modules); "
        "sys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'desing'"):
        payoff.desing  # noqa: B018
