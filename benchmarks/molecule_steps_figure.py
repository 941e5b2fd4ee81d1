"""Steps against quality of molecules, drawn from the rows that the quality benchmark keeps.

    python benchmarks/molecule_quality.py qm9 --steps 15 25 40 --samplers 0 2 --csv quality.csv
    python benchmarks/molecule_steps_figure.py quality.csv steps.svg

Left: the share of stable molecules. Right: the largest distance of a property from the data's law.
A line is a sampler, a bar one standard error on either side; the dashed line is what as many real
molecules have, so no line need be better than it. Of several precisions the first is drawn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
from frontier_figure import COLOURS, line, ticks
from readme_figure import FAINT, INK, text

WIDTH, HEIGHT, TOP, BOTTOM = 960, 400, 92, 344
STARTS, PANEL = (58, 536), 314  # left edges and width of the axes; the labels stand behind them
GAP, APART = 17, 4.0  # between labels, and between the bars of two samplers at one number of steps
MUTED = "#5b6672"

Axis = Callable[[float], float]


def named(sampler: str) -> str:
    """What a line is called: a number is the noise."""
    try:
        eta = float(sampler)
    except ValueError:
        return sampler
    return f"η = {eta:g}"


def spread(wanted: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Places near the wanted ones, in their order, ``gap`` apart and between the bounds."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = [min(max(wanted[i], top), bottom) for i in order]
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] + gap)
    for i in reversed(range(len(found))):
        found[i] = min(found[i], bottom - gap * (len(found) - 1 - i))
    places = [0.0] * len(wanted)
    for place, i in zip(found, order, strict=True):
        places[i] = place
    return places


def axes(x0: float, steps: Sequence[int], low: float, high: float) -> tuple[Axis, Axis]:
    """From steps, on a logarithmic scale, and from values to the picture."""
    least, most = math.log(min(steps)), math.log(max(steps))
    inner = PANEL - 28

    def x(count: float) -> float:
        return x0 + 14 + inner * (math.log(count) - least) / ((most - least) or 1.0)

    return x, lambda value: BOTTOM - (value - low) / ((high - low) or 1.0) * (BOTTOM - TOP)


def scale(x0: float, steps: Sequence[int], low: float, high: float, x: Axis, y: Axis) -> list[str]:
    """The lines and numbers behind a panel."""
    parts = []
    for value in ticks(low, high):
        parts.append(line([(x0, y(value)), (x0 + PANEL, y(value))], FAINT, 1))
        parts.append(text(x0 - 8, y(value) + 4, f"{value:g}", 13, "end", MUTED))
    parts.append(line([(x0, BOTTOM), (x0 + PANEL, BOTTOM)], INK, 1))
    for count in steps:
        parts.append(line([(x(count), BOTTOM), (x(count), BOTTOM + 5)], INK, 1))
        parts.append(text(x(count), BOTTOM + 20, str(count), 13, "middle", MUTED))
    parts.append(text(x0 + PANEL / 2, BOTTOM + 42, "steps, logarithmic", 13, "middle"))
    return parts


def drawn(own: pl.DataFrame, metric: str, x: Axis, y: Axis, colour: str, aside: float) -> list[str]:
    """A sampler's line, with its bars."""
    points = [(x(row["steps"]) + aside, row) for row in own.iter_rows(named=True)]
    parts = [line([(at, y(row[metric])) for at, row in points], colour, 2)]
    for at, row in points:
        error, place = row[f"{metric}_error"], y(row[metric])
        if error is not None:
            ends = [(at, y(row[metric] - error)), (at, y(row[metric] + error))]
            parts.append(line(ends, colour, 1.6, 0.6))
        parts.append(f'<circle cx="{at:.1f}" cy="{place:.1f}" r="3.6" fill="{colour}"/>')
    return parts


def panel(x0: float, title: str, frame: pl.DataFrame, metric: str) -> list[str]:
    kept = frame.filter(pl.col(metric).is_not_null())
    error = pl.col(f"{metric}_error").fill_null(0.0)
    ends = kept.select(low=(pl.col(metric) - error).min(), high=(pl.col(metric) + error).max())
    low, high = ends.row(0)
    room = 0.04 * (high - low)
    low, high = max(0.0, low - room), high + room
    steps = sorted(frame["steps"].drop_nulls().unique().to_list())
    x, y = axes(x0, steps, low, high)
    parts = [text(x0, TOP - 22, title, 14), *scale(x0, steps, low, high, x, y)]
    labels: list[tuple[float, str, str]] = []
    for real in kept.filter(pl.col("steps").is_null()).iter_rows(named=True):
        at = y(real[metric])
        parts.append(
            f'<line x1="{x0}" y1="{at:.1f}" x2="{x0 + PANEL}" y2="{at:.1f}" stroke="{INK}" '
            'stroke-width="1.4" stroke-dasharray="5 4"/>'
        )
        labels.append((at, "real molecules", INK))
    samplers = frame.filter(pl.col("steps").is_not_null())["sampler"].unique(maintain_order=True)
    for i, sampler in enumerate(samplers):
        own = kept.filter(pl.col("steps").is_not_null(), pl.col("sampler") == sampler).sort("steps")
        if not len(own):
            continue
        colour = COLOURS[i % len(COLOURS)]
        aside = APART * (i - (len(samplers) - 1) / 2)
        parts += drawn(own, metric, x, y, colour, aside)
        labels.append((y(own[metric][-1]), named(sampler), colour))
    places = spread([at for at, _, _ in labels], GAP, TOP, BOTTOM)
    for place, (_, words, colour) in zip(places, labels, strict=True):
        parts.append(text(x0 + PANEL + 6, place + 4, words, 13, "start", colour))
    return parts


def figure(frame: pl.DataFrame) -> str:
    frame = frame.with_columns(pl.col("sampler").cast(pl.String))
    first = frame.filter(pl.col("steps").is_not_null())["products"][0]
    frame = frame.filter(pl.col("steps").is_null() | (pl.col("products") == first))
    stable = pl.col("molecule_stability", "molecule_stability_error")
    frame = frame.with_columns(stable * 100.0)
    title = "Quality of molecules against the number of steps"
    told = (
        f"{frame['samples'].max():,} molecules a point, bars ± one standard error; η is the noise "
        "in units of DDPM’s, η = 0 is DPM-Solver++(2M)"
    )
    parts = [text(STARTS[0], 26, title, 16), text(STARTS[0], 46, told, 13, fill=MUTED)]
    parts += panel(STARTS[0], "stable molecules, % (higher is better)", frame, "molecule_stability")
    far = "worst distance, standard deviations (lower is better)"
    parts += panel(STARTS[1], far, frame, "worst_distance")
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Stability of molecules and their worst distance from the data against steps" '
        'font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def main(source: Path, target: Path) -> None:
    frame = pl.read_csv(source, infer_schema_length=None)
    target.write_text(figure(frame), encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
