"""Tables of the airfoil benchmark as markdown; it never proposes or judges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("median true L/D", "median", ".0f"),
    ("median of the valid", "median_valid", ".0f"),
    ("best valid", "best_valid", ".0f"),
    ("valid", "valid", ".0f"),
    ("predicted", "predicted", ".0f"),
    ("support distance", "support", ".2f"),
    ("novelty", "novelty", ".2f"),
    ("diversity", "diversity", ".2f"),
    ("seconds", "seconds", ".0f"),
)
MARKS: tuple[tuple[str, str, Callable[[list[Row]], float], str], ...] = (
    ("median true L/D, mean over seeds", "≥ 165", lambda r: _mean(r, "median"), ".1f"),
    ("valid designs, mean over seeds", "≥ 85", lambda r: _mean(r, "valid"), ".1f"),
    ("valid designs, worst seed", "", lambda r: min(row["valid"] for row in r), ".0f"),
    ("seeds where a valid design beats all data", "≥ 4 of 5", lambda r: _sum(r, "beats"), ".0f"),
    (
        "loss of the automatic aim, mean, %",
        "≤ 5",
        lambda r: 100 * sum(row["aim"]["loss"] for row in r) / len(r),
        ".1f",
    ),
    (
        "loss of the automatic aim, worst seed, %",
        "",
        lambda r: 100 * max(row["aim"]["loss"] for row in r),
        ".1f",
    ),
)


def tables(result: Row) -> str:
    """The whole result."""
    parts = [_heading(result), _methods(result["rows"]), _marks(result), _aims(result["rows"])]
    parts.append(_xfoil(result["xfoil_summary"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(result: Row) -> str:
    setting, data = result["setting"], result["data"]
    seeds = sorted({row["seed"] for row in result["rows"]})
    preset = setting["preset"]
    toy = "" if preset == "default" else f" Preset **{preset}**: not a result."
    return (
        f"α = {setting['alpha']:g}°, Re = {setting['reynolds']:g}, "
        f"{100 * setting['labelled']:g} % of the rows labelled with {100 * setting['noise']:g} % "
        f"noise, {setting['count']} designs a method, seeds "
        f"{', '.join(str(seed) for seed in seeds)}.{toy} True L/D of all rows of the data: median "
        f"{data['median']:.1f}, 95 % {data['q95']:.1f}, 99 % {data['q99']:.1f}, best "
        f"**{data['best']:.1f}**. Cells: mean over seeds (least–largest)."
    )


def _methods(rows: list[Row]) -> str:
    header = ["method", *(title for title, _, _ in COLUMNS), "seeds that beat the data"]
    lines = []
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        cells = [_spread([row[key] for row in mine], form) for _, key, form in COLUMNS]
        lines.append([mine[0]["title"], *cells, f"{_sum(mine, 'beats'):.0f} of {len(mine)}"])
    return table(header, lines)


def _marks(result: Row) -> str:
    mine = [row for row in result["rows"] if "aim" in row]
    if not mine or result["setting"]["preset"] != "default":
        return ""
    lines = [[name, wanted, format(value(mine), form)] for name, wanted, value, form in MARKS]
    title = "**payoff design against the marks set for it beforehand**\n\n"
    return title + table(["measure", "mark", "found"], lines)


def _aims(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if "aim" in row:
            aim = row["aim"]
            line = [str(row["seed"]), f"{aim['chosen']:.0f}", f"{aim['chosen_median']:.1f}"]
            line += [f"{aim['best']:.0f}", f"{aim['best_median']:.1f}", f"{100 * aim['loss']:.1f}"]
            lines.append(line)
    if not lines:
        return ""
    header = ["seed", "aim chosen", "its median", "best aim", "its median", "loss, %"]
    return "**The automatic aim in hindsight** (medians of the sweep's designs)\n\n" + table(
        header, lines
    )


def _xfoil(groups: dict[str, Row]) -> str:
    lines = []
    for name, row in groups.items():
        line = [name, f"{row['converged']} of {row['n']}"]
        if "ratio" in row:
            line += [f"{row[key]:.1f}" for key in ("neuralfoil", "xfoil", "xfoil_best")]
            line += [f"{row['ratio']:.3f}", f"{row['rank']:.2f}"]
        else:
            line += ["–"] * 5
        lines.append(line)
    if not lines:
        return ""
    header = ["airfoils", "converged", "median, NeuralFoil", "median, xfoil", "best, xfoil"]
    header += ["median xfoil / NeuralFoil", "rank correlation"]
    return "**A second judge: xfoil**\n\n" + table(header, lines)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(values: list[float | None], form: str) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "–"
    mean = format(sum(known) / len(known), form)
    low, high = format(min(known), form), format(max(known), form)
    return mean if len(known) == 1 else f"{mean} ({low}–{high})"


def _mean(rows: list[Row], key: str) -> float:
    return float(sum(row[key] for row in rows) / len(rows))


def _sum(rows: list[Row], key: str) -> float:
    return float(sum(row[key] for row in rows))
