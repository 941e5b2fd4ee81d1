"""Tables and curves of the RCGDM simulation; it never samples."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

Row = dict[str, Any]


def by_network(result: dict[str, Any]) -> dict[str, list[Row]]:
    """Runs grouped by network, seeds in order."""
    groups: dict[str, list[Row]] = {}
    for run in result["networks"]:
        groups.setdefault(run["network"], []).append(run)
    return groups


def over_seeds(runs: list[Row], aim: float, key: str, part: str = "rows") -> tuple[float, float]:
    """Mean and standard deviation of one measurement over seeds."""
    values = [row[key] for run in runs for row in run[part] if row["aim"] == aim]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
    return mean, spread


def worst_error(runs: list[Row], aim: float) -> float:
    """Over seeds, the relative error of the mean reward with the largest modulus, in percent."""
    errors = [
        100 * (row["reward"] / row["exact_g"] - 1)
        for run in runs
        for row in run["rows"]
        if row["aim"] == aim
    ]
    return max(errors, key=abs)


def tables(result: dict[str, Any]) -> str:
    """The whole result as markdown."""
    parts = [_rewards(result), _quality(result), _summary(result), _guided(result)]
    return "\n\n".join(p for p in parts if p) + "\n\n" + _theory(result["theory"])


def _aims(result: dict[str, Any]) -> list[float]:
    return [row["aim"] for row in result["networks"][0]["rows"]]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rewards(result: dict[str, Any]) -> str:
    groups, rows = by_network(result), []
    for a in _aims(result):
        exact = over_seeds(result["networks"], a, "exact_g")[0]
        row = [f"{a:g}", f"{exact:.3f}"]
        for runs in groups.values():
            mean, spread = over_seeds(runs, a, "reward")
            error = f" ({worst_error(runs, a):+.1f} %)" if a else ""
            row.append(f"{mean:.3f} ± {spread:.3f}{error}")
        rows.append(row)
    title = "**Mean true reward** (mean ± sd over seeds; in brackets the worst seed's error)\n\n"
    return title + _table(["aim", "exact", *groups], rows)


def _quality(result: dict[str, Any]) -> str:
    groups, rows = by_network(result), []
    for a in _aims(result):
        row = [f"{a:g}", f"{over_seeds(result['networks'], a, 'exact_shift')[0]:.1f}"]
        for runs in groups.values():
            shift, ratio = over_seeds(runs, a, "shift")[0], over_seeds(runs, a, "ratio")[0]
            spread = over_seeds(runs, a, "sd_fhat")[0]
            row.append(f"{shift:.1f} / {ratio:.1e} / {spread:.3f}")
        rows.append(row)
    title = "**Shift Tr E[zzᵀ] / off-support ratio / sd of the predicted reward**\n\n"
    return title + _table(["aim", "exact shift", *groups], rows)


def _summary(result: dict[str, Any]) -> str:
    rows = []
    for name, runs in by_network(result).items():
        angles = [r["angle"] for r in runs if r["angle"] is not None]
        seconds = [r["seconds"] for r in runs]
        rows.append(
            [
                name,
                f"{runs[0]['parameters']:,}",
                f"{max(angles):.1e}" if angles else "–",
                f"{sum(s['total'] for s in seconds) / len(seconds):.0f}",
                f"{sum(s['cpu'] for s in seconds) / len(seconds):.0f}",
            ]
        )
    header = ["network", "parameters", "worst subspace angle", "seconds a seed", "CPU seconds"]
    return "**Networks**\n\n" + _table(header, rows)


def _guided(result: dict[str, Any]) -> str:
    if not result["networks"][0]["guided"]:
        return ""
    groups, rows = by_network(result), []
    sampled = result["theory"]["exact_sampling"]
    exact = next(rows for name, rows in sampled.items() if name.startswith("guided"))
    for a in [row["aim"] for row in result["networks"][0]["guided"]]:
        reference = next(row["reward"] for row in exact if row["aim"] == a)
        row = [f"{a:g}", f"{over_seeds(result['networks'], a, 'exact_g')[0]:.3f}"]
        row.append(f"{reference:.3f}")
        for runs in groups.values():
            mean, spread = over_seeds(runs, a, "reward", "guided")
            row.append(f"{mean:.3f} ± {spread:.3f}")
        rows.append(row)
    title = f"**Mean true reward with classifier-free weight {result['config']['guidance']:g}**\n\n"
    return title + _table(["aim", "exact, unguided", "exact denoiser, guided", *groups], rows)


def _theory(theory: dict[str, Any]) -> str:
    parts = []
    plain = {k: v for k, v in theory["exact_sampling"].items() if not k.startswith("guided")}
    names, rows = list(plain), []
    for group in zip(*plain.values(), strict=True):
        first = group[0]
        row = [f"{first['aim']:g}"]
        row += [f"{first['exact_g']:.3f}", *(f"{r['g']:.3f}" for r in group)]
        row += [f"{first['exact_shift']:.1f}", *(f"{r['shift']:.1f}" for r in group)]
        row += [f"{first['exact_sd_fhat']:.3f}", *(f"{r['sd_fhat']:.3f}" for r in group)]
        rows.append(row)
    header = ["aim"]
    for quantity in ("E g", "shift", "sd f̂"):
        header += [f"{quantity}, closed form", *(f"{quantity}, {name}" for name in names)]
    parts.append("**Exact denoiser, sampled**\n\n" + _table(header, rows))
    rows = [
        [f"{r['h']:g}", f"{r['exact']:.3f}", f"{r['measured']:.3f} ± {r['se']:.3f}"]
        for r in theory["off_support"]
    ]
    header = ["h(t0)", "h(t0)(D − d)", "E‖x_perp‖² measured"]
    parts.append("**Off-support at the stopping time**\n\n" + _table(header, rows))
    rows = [
        [f"{r['nu']:g}", f"{r['exact']:.4f}", f"{r['measured']:.4f} ± {r['se']:.4f}"]
        for r in theory["label_noise"]
    ]
    parts.append("**Term (0) at a = 4**\n\n" + _table(["ν", "a ν²/s²", "measured"], rows))
    regret = theory["regret_rate"]
    rows = [[f"{r['n2']}", f"{r['first_order']:.4f}", f"{r['rms']:.4f}"] for r in regret["rows"]]
    parts.append(
        f"**E1 at a = {regret['aim']:g}, label sd {regret['label_sd']:g}: "
        f"slope {regret['slope']:.3f}**\n\n" + _table(["n2", "first order", "rms measured"], rows)
    )
    angle = theory["angle_rate"]
    rows = [
        [f"{r['n1']}", f"{r['bound']:.2f}", f"{r['first_order']:.4f}", f"{r['angle']:.4f}"]
        for r in angle["rows"]
    ]
    header = ["n1", "√((Dd² + D²d)/n1)", "d(D−d)/(2α²n1)", "measured"]
    parts.append(
        f"**Angle of the linear class, α² = {angle['alpha2']:g}: slope {angle['slope']:.3f}**\n\n"
        + _table(header, rows)
    )
    return "\n\n".join(parts) + "\n"


def curves(result: dict[str, Any]) -> go.Figure:
    """Reward, shift and off-support ratio against the aim, with the closed forms dashed."""
    panels = (
        ("reward", "exact_g", "mean true reward"),
        ("shift", "exact_shift", "shift Tr E[zzᵀ]"),
        ("ratio", None, "off-support ratio"),
    )
    figure = make_subplots(1, 3, subplot_titles=[title for *_, title in panels])
    colours = ("#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00", "#cc79a7")
    aims = _aims(result)
    for column, (key, exact, _) in enumerate(panels, start=1):
        for (name, runs), colour in zip(by_network(result).items(), colours, strict=False):
            points = [over_seeds(runs, a, key) for a in aims]
            figure.add_scatter(
                x=aims,
                y=[mean for mean, _ in points],
                error_y={"array": [spread for _, spread in points]},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": colour},
                row=1,
                col=column,
            )
        if exact:
            y = [over_seeds(result["networks"], a, exact)[0] for a in aims]
            figure.add_scatter(
                x=aims,
                y=y,
                name="closed form",
                legendgroup="closed form",
                showlegend=column == 1,
                line={"color": "black", "dash": "dash"},
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text="aim a", row=1, col=column)
    figure.update_yaxes(type="log", row=1, col=2)
    figure.update_yaxes(type="log", row=1, col=3)
    figure.update_yaxes(range=[-5, 25], row=1, col=1)
    return figure
