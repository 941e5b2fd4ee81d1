"""The README's picture, drawn from a finished run of the built-in airfoils.

    payoff design airfoils --out runs/airfoils
    python benchmarks/readme_figure.py runs/airfoils docs/figures/airfoils.svg

Left: true lift-to-drag of all real airfoils and of the proposed designs. Right: the best real
airfoil of the data and the five designs that turned out best, drawn to one scale.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

from payoff.domains import airfoils
from payoff.jobs.records import read_record

GREY, RED, INK, FAINT = "#8c96a3", "#d1495b", "#1f2933", "#d9dee4"
WIDTH, HEIGHT = 960, 330


def text(x: float, y: float, content: str, size: int = 13, anchor: str = "start", fill=INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{fill}">{content}</text>'
    )


def histogram(data: np.ndarray, designs: np.ndarray) -> list[str]:
    """Shares of both sets per 5 units of lift-to-drag, on one axis."""
    low, high, left, right, base, top = 0.0, 215.0, 46, 500, 278, 70
    edges = np.arange(low, high + 5, 5)
    x = lambda v: left + (v - low) / (high - low) * (right - left)  # noqa: E731
    shares = [np.histogram(v, edges)[0] / len(v) for v in (data, designs)]
    scale = (base - top) / max(s.max() for s in shares)
    parts = []
    for share, colour, opacity in ((shares[0], GREY, 0.55), (shares[1], RED, 0.75)):
        for i, s in enumerate(share):
            if s > 0:
                parts.append(
                    f'<rect x="{x(edges[i]) + 0.6:.1f}" y="{base - s * scale:.1f}" '
                    f'width="{x(edges[i + 1]) - x(edges[i]) - 1.2:.1f}" height="{s * scale:.1f}" '
                    f'fill="{colour}" fill-opacity="{opacity}"/>'
                )
    parts.append(f'<line x1="{left}" y1="{base}" x2="{right}" y2="{base}" stroke="{INK}"/>')
    for v in range(0, 201, 50):
        parts.append(text(x(v), base + 18, str(v), 12, "middle"))
    parts.append(text((left + right) / 2, base + 38, "true lift-to-drag ratio", 13, "middle"))
    best = data.max()
    parts.append(
        f'<line x1="{x(best):.1f}" y1="{top - 14}" x2="{x(best):.1f}" y2="{base}" stroke="{INK}" '
        'stroke-dasharray="4 3"/>'
    )
    parts.append(text(x(best) - 5, top - 18, f"best real airfoil {best:.0f}", 12, "end"))
    parts.append(text(x(np.median(data)), top + 84, f"{len(data):,} real airfoils", 13, "middle"))
    parts.append(text(x(np.median(data)), top + 101, f"median {np.median(data):.0f}", 12, "middle"))
    name = f"{len(designs)} valid designs, median {np.median(designs):.0f}"
    parts.append(text(x(np.median(designs)) - 34, top + 8, name, 13, "end", RED))
    return parts


def shape(parameters: np.ndarray, x: float, y: float, width: float, colour: str) -> str:
    points = airfoils.coordinates(parameters[None])[0]
    path = " ".join(f"{x + px * width:.1f},{y - py * width:.1f}" for px, py in points)
    return f'<polygon points="{path}" fill="{colour}" fill-opacity="0.16" stroke="{colour}"/>'


def main(run: Path, target: Path) -> None:
    record = read_record(run)
    flow = {"alpha": record["config"]["alpha"], "re": record["config"]["reynolds"]}
    designs = pl.read_csv(run / "designs.csv").filter(pl.col("valid"))
    _, real = airfoils.load_airfoils()
    scores = airfoils.oracle(real, **flow)
    best = designs.sort("oracle", descending=True).head(5)
    parts = histogram(scores, designs["oracle"].to_numpy())
    shapes = [(real[scores.argmax()], f"best real airfoil, {scores.max():.0f}", GREY)]
    for row, value in zip(airfoils.parameters(best), best["oracle"], strict=True):
        shapes.append((row, f"design, {value:.0f}", RED))
    for i, (parameters, label, colour) in enumerate(shapes):
        x, y = 545 + 210 * (i % 2), 86 + 96 * (i // 2)
        parts.append(shape(parameters, x, y, 180, colour))
        parts.append(text(x + 90, y + 33, label, 12, "middle", INK if i else "#5b6672"))
    labelled = record["data"]["labelled"]
    title = f"Airfoils designed from {labelled} noisy measurements, judged by the true score"
    parts.append(text(46, 28, title, 16))
    body = "\n".join(parts)
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}" font-family="Helvetica, Arial, sans-serif">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )
    print(f"wrote {target}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
