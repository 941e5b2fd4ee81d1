"""The exact reward-KL frontier with the paths of the methods on it, from the frontier's benchmark.

    python benchmarks/finetuning_frontier.py --out runs/frontier.json
    python benchmarks/frontier_figure.py docs/figures/frontier.svg runs/frontier.json

One panel a problem. The line is the exact frontier, the diamond p* at the problem's temperature.
A thin line is a method's way through its rounds, a dot where it ended (the first seed); dots are
filled where the method claims p*. No law lies above the line but by chance of the samples.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from finetuning_frontier import make_problem
from readme_figure import FAINT, GREY, INK, text

COLOURS = (
    *("#c2410c", "#2166ac", "#00725f", "#8a3ca6", "#9a7400", "#0083a8", "#a6185c", "#56691a"),
    *("#7a4b2a", "#5a6573"),
)
NAMES = {"mixture": "two modes", "subspace": "Gaussian subspace", "chain": "token chain"}
PANEL, HEIGHT, LEFT, TOP, BOTTOM = 470, 370, 58, 104, 40
COLUMN = 300  # of the legend
FURTHEST = 2.0  # of a panel's width, in divergences of p*


class Axes:
    """From (divergence, reward) to the picture."""

    def __init__(self, x0: float, reach: tuple[float, float], rewards: tuple[float, float]) -> None:
        self.x0, self.reach, self.rewards = x0, reach, rewards

    def __call__(self, kl: float, reward: float) -> tuple[float, float]:
        (a, b), (low, high) = self.reach, self.rewards
        x = self.x0 + LEFT + (kl - a) / (b - a) * (PANEL - LEFT - 18)
        return x, HEIGHT - BOTTOM - (reward - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def line(points: list[tuple[float, float]], colour: str, width: float, opacity: float = 1) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-opacity="{opacity}"/>'
    )


def curve(name: str) -> tuple[list[tuple[float, float]], tuple[float, float], float]:
    """(the frontier as (kl, reward), p*, the base's reward), exact."""
    exact = make_problem(name, torch.float64)
    star = float(exact.kl()), float(exact.target_reward())
    base = float(exact.base_reward())
    ends = [i / 60 * FURTHEST * star[0] for i in range(1, 61)]
    found = [(kl, exact.frontier_gain(kl)) for kl in ends]
    return [(0.0, base), *((kl, base + g) for kl, g in found if g is not None)], star, base


def gain_at(name: str, kl: float) -> float:
    """The most gain at a divergence; where no temperature reaches it, that of the furthest."""
    return make_problem(name, torch.float64).frontier_gain(kl) or math.nan


def ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 5)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def panel(x0: float, name: str, cells: list[dict[str, Any]], colours: dict[str, str]) -> list[str]:
    frontier, star, base = curve(name)
    top = frontier[-1][1]
    room = 0.12 * (top - base)
    axes = Axes(x0, (0.0, FURTHEST * star[0]), (base - room, top + room))
    left, right = axes(0, base)[0], axes(axes.reach[1], base)[0]
    parts = [text(x0 + LEFT, 50, NAMES[name], 14)]
    for kl in ticks(*axes.reach):
        x = axes(kl, base)[0]
        parts.append(text(x, HEIGHT - BOTTOM + 16, f"{kl:g}", 11, "middle", "#5b6672"))
    for reward in ticks(*axes.rewards):
        y = axes(0, reward)[1]
        parts.append(line([(left, y), (right, y)], FAINT, 1))
        parts.append(text(left - 6, y + 4, f"{reward:g}", 11, "end", "#5b6672"))
    parts.append(
        text((left + right) / 2, HEIGHT - 6, "divergence from the base, nats", 12, "middle")
    )
    parts.append(line([axes(*p) for p in frontier], INK, 1.6))
    beyond = []
    for cell in cells:
        colour = colours[cell["label"]]
        inside = [p for p in cell["path"] if p[0] is not None and p[0] <= axes.reach[1]]
        way = [(0.0, base), *((kl, r) for kl, r in inside if axes.rewards[0] < r < axes.rewards[1])]
        if len(way) > 1:
            parts.append(line([axes(*p) for p in way], colour, 1, 0.45))
        # the gain over the base by the same noise, which the steps' own error is not in
        reward = base + cell["share"] * gain_at(name, cell["kl"])
        x, y = axes(cell["kl"], reward)
        if cell["kl"] > axes.reach[1] or not axes.rewards[0] < reward < axes.rewards[1]:
            beyond.append(f"{cell['label']} ({cell['kl']:.1f})")
            continue
        fill = colour if cell["claims"] else "#ffffff"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="{fill}" stroke="{colour}" '
            f'stroke-width="1.6"><title>{cell["label"]}</title></circle>'
        )
    x, y = axes(*star)
    parts.append(
        f'<path d="M{x:.1f} {y - 8:.1f}l7 8l-7 8l-7 -8z" fill="none" stroke="{INK}" '
        'stroke-width="1.4"><title>p*</title></path>'
    )
    parts.append(text(x + 8, y + 18, "p*", 12))
    if beyond:
        told = textwrap.wrap("further right: " + ", ".join(beyond), 88)
        for i, words in enumerate(told[:3]):
            parts.append(text(x0 + LEFT, 66 + 11 * i, words, 9, fill=GREY))
    return parts


def legend(colours: dict[str, str], cells: list[dict[str, Any]], width: int) -> list[str]:
    claims = {c["label"]: c["claims"] for c in cells}
    parts, columns = [], max(1, width // COLUMN)
    for i, (label, colour) in enumerate(colours.items()):
        x, y = LEFT + COLUMN * (i % columns), HEIGHT + 20 + 20 * (i // columns)
        fill = colour if claims[label] else "#ffffff"
        parts.append(
            f'<circle cx="{x}" cy="{y - 4}" r="4.2" fill="{fill}" stroke="{colour}" '
            'stroke-width="1.6"/>'
        )
        parts.append(text(x + 9, y, label, 11))
    return parts


def main(target: Path, sources: list[Path]) -> None:
    cells = [c for source in sources for c in json.loads(source.read_text())]
    cells = [c for c in cells if c["seed"] == 0]
    names = [n for n in NAMES if any(c["problem"] == n for c in cells)]
    labels = list(dict.fromkeys(c["label"] for c in cells))
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}
    width = PANEL * len(names)
    parts = [text(LEFT, 20, "Reward at its divergence: methods on the exact frontier", 16)]
    for i, name in enumerate(names):
        own = [c for c in cells if c["problem"] == name]
        parts += panel(PANEL * i, name, own, colours)
    parts += legend(colours, cells, width)
    height = HEIGHT + 30 + 20 * math.ceil(len(labels) / max(1, width // COLUMN))
    body = "\n".join(parts)
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="Mean reward against divergence from the base, with the exact frontier" '
        'font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )
    print(f"wrote {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
