"""Steering at equal cost on a problem: the table of its page and the README's figure.

    payoff compare mixture --methods best-of-n,smc,... --calls 4096 --network 100000 --out runs/m
    python benchmarks/steering_figure.py runs/m docs/figures/steering.svg    # prints the table

A dot is a method's distance to exact draws of p* (Wasserstein-1, lower is better), a mean over
seeds; filled where the method is declared exact. The band is what as many exact draws have.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import polars as pl
from readme_figure import FAINT, GREY, RED, text

WIDTH, ROW, LEFT, TOP, PANEL = 960, 21, 130, 78, 390
BLUE = "#2166ac"


def spread(frame: pl.DataFrame, name: str, digits: int) -> str:
    mean, least, most = (getattr(frame[name], f)() for f in ("mean", "min", "max"))
    if mean is None:
        return "–"
    return f"{mean:.{digits}f}" + (
        f" ({least:.{digits}f}–{most:.{digits}f})" if len(frame) > 1 else ""
    )


def table(frame: pl.DataFrame) -> str:
    lines = [
        "| method | declared | size | reward | W1 to p* | left mode | diversity | reward calls | "
        "network evaluations | ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for label in frame["label"].unique(maintain_order=True):
        own = frame.filter(pl.col("label") == label)
        if own["reward"].null_count() == len(own):
            lines.append(
                f"| {name(label)} | {own['declared'][0]} | does not fit |  |  |  |  |  |  |  |"
            )
            continue
        cells = [
            spread(own, *c) for c in (("reward", 3), ("w1", 2), ("mode_1", 3), ("diversity", 2))
        ]
        spent = [f"{own[c].mean() or 0:,.0f}" for c in ("spent", "network")]
        ms = f"{1000 * (own['seconds'].mean() or 0):,.0f}"
        known = [own["declared"][0] or "–", own["size"][0] or "–"]
        lines.append("| " + " | ".join([name(label), *known, *cells, *spent, ms]) + " |")
    return "\n".join(lines)


def name(label: str) -> str:
    return label.removeprefix("steer:")


def panel(x0: float, title: str, frame: pl.DataFrame, floor: float, most: float) -> list[str]:
    def x(w1: float) -> float:
        return x0 + (math.log10(w1) + 1.5) / (math.log10(most) + 1.5) * (PANEL - 60)

    parts = [text(x0, TOP - 26, title, 13)]
    labels = frame["label"].unique(maintain_order=True).to_list()
    bottom = TOP + ROW * len(labels)
    for tick in (0.05, 0.1, 0.2, 0.5, 1.0):
        if tick <= most:
            parts.append(
                f'<line x1="{x(tick):.1f}" y1="{TOP - 12}" x2="{x(tick):.1f}" y2="{bottom - 8}" '
                f'stroke="{FAINT}"/>'
            )
            parts.append(text(x(tick), bottom + 8, f"{tick:g}", 11, "middle", "#5b6672"))
    parts.append(
        f'<rect x="{x0:.1f}" y="{TOP - 12}" width="{x(floor) - x0:.1f}" '
        f'height="{bottom - TOP + 4}" '
        f'fill="{GREY}" fill-opacity="0.18"/>'
    )
    for i, label in enumerate(labels):
        own = frame.filter(pl.col("label") == label)
        y, found = TOP + ROW * i, own["w1"].drop_nulls()
        exact = own["declared"][0] == "exact"
        colour = BLUE if exact else RED
        if not len(found):
            parts.append(text(x0 + PANEL - 60, y + 4, "costs more", 11, "end", GREY))
            continue
        low, high = x(found.min()), x(found.max())
        parts.append(
            f'<line x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}" stroke="{colour}" '
            'stroke-width="2" stroke-opacity="0.5"/>'
        )
        parts.append(
            f'<circle cx="{x(found.mean()):.1f}" cy="{y}" r="4.6" stroke="{colour}" '
            f'fill="{colour if exact else "#ffffff"}" stroke-width="1.6"/>'
        )
    return parts


def figure(calls: pl.DataFrame, network: pl.DataFrame, floor: float) -> str:
    labels = calls["label"].unique(maintain_order=True).to_list()
    most = 1.1 * max(calls["w1"].max(), network["w1"].max())
    parts = [text(20, 26, "Distance to the pay-off law at equal cost, two modes", 16)]
    for i, label in enumerate(labels):
        parts.append(text(LEFT - 12, TOP + ROW * i + 4, name(label), 12, "end"))
    budget = f"{calls['calls'].max():,} reward calls per 100 samples"
    parts += panel(LEFT, budget, calls, floor, most)
    budget = f"{network['network_budget'].max():,.0f} network evaluations per 100 samples"
    parts += panel(LEFT + PANEL + 20, budget, network, floor, most)
    y = TOP + ROW * len(labels) + 34
    parts.append(f'<circle cx="{LEFT}" cy="{y - 4}" r="4.6" fill="{BLUE}"/>')
    parts.append(text(LEFT + 10, y, "declared exact", 12))
    parts.append(
        f'<circle cx="{LEFT + 130}" cy="{y - 4}" r="4.6" fill="#fff" stroke="{RED}" '
        'stroke-width="1.6"/>'
    )
    parts.append(text(LEFT + 140, y, "declared biased", 12))
    told = "grey: as many exact draws; Wasserstein-1, logarithmic; lines: range over seeds"
    parts.append(text(LEFT + 270, y, told, 12, fill="#5b6672"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 16}" role="img" '
        'aria-label="Distance to the pay-off law of steering methods at equal cost" '
        'font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{y + 16}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def main(run: Path, target: Path) -> None:
    frame = pl.read_csv(run / "compare.csv", infer_schema_length=None)
    steered = frame.filter(pl.col("label").str.starts_with("steer:"))
    steered = steered.with_columns(
        # a row that does not fit says so behind its name
        pl.col("label").str.replace(r" \(.*\)$", "")
    )
    calls = steered.filter(pl.col("network_budget").is_null())
    network = steered.filter(pl.col("network_budget").is_not_null())
    exact = frame.filter(pl.col("label").str.starts_with("p*"))
    floor = exact["w1"].max()
    print("At equal reward calls:\n\n" + table(calls))
    print("\nAt equal network evaluations:\n\n" + table(network))
    target.write_text(figure(calls, network, floor))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
