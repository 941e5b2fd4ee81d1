"""Run folders made up for the report's tests: the format of `payoff design`, invented numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from payoff.domains.airfoils.geometry import COLUMNS

Array = np.ndarray


def write_run(
    folder: Path,
    data: pl.DataFrame,
    designs: pl.DataFrame,
    score: str,
    measured: Array,
    predicted: Array,
    design_scores: Array,
    *,
    oracle: Array | None = None,
    valid: Array | None = None,
    direction: str = "maximize",
    domain: str = "vectors",
    unit: str | None = None,
    aims: int = 13,
    **record: Any,
) -> Path:
    """Write a run folder around the given tables; the rest is plausible."""
    folder.mkdir(parents=True, exist_ok=True)
    sign = -1 if direction == "minimize" else 1
    spread = float(np.nanstd(predicted)) or 1.0
    _write_data(folder, data, score, measured, predicted)
    _write_designs(folder, designs, design_scores, spread, oracle, valid)
    chosen = _write_sweep(folder, predicted, sign, spread, aims, oracle is not None)
    count = len(design_scores)
    base: dict[str, Any] = {
        "command": f"payoff design {folder.name}.csv --score '{score}' --{direction}",
        "name": folder.name,
        "domain": domain,
        "oracle_calls": 0 if oracle is None else count,
        "score": {"name": score, "direction": direction, "unit": unit},
        "data": _about_data(data, measured),
        "reward": _about_reward(spread),
        "aim": {"mode": "auto", "chosen": chosen, "reason": "the pessimistic bound peaks there"},
        "designs": {
            "count": count,
            "asked": count,
            "drawn": 10 * count,
            "rejected": {"off support": 4 * count, "duplicate": 2},
        },
        "oracle": None,
    }
    if oracle is not None:
        best = float(sign * np.nanmax(sign * predicted))
        base["oracle"] = {"name": "my_package:score", "data_best": best}
    (folder / "run.json").write_text(json.dumps({**_FIXED, **base, **record}), encoding="utf-8")
    return folder


_FIXED: dict[str, Any] = {
    "payoff": "0.1.0",
    "created": "2025-01-31T12:00:00+00:00",
    "seed": 7,
    "config": {"count": 30, "aim": "auto", "net": {"width": 256, "depth": 3}},
    "versions": {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.0.0"},
    "timings": {"read": 0.31, "reward": 14.2, "training": 71.4, "sweep": 21.8, "total": 112.9},
    "reward_calls": 48213,
    "network_calls": 1500000,
    "warnings": [],
}


def _about_data(data: pl.DataFrame, measured: Array) -> dict[str, Any]:
    labelled = int(np.isfinite(measured).sum())
    return {
        "rows": len(data),
        "labelled": labelled,
        "unlabelled": len(data) - labelled,
        "left_out": 3,
        "duplicates": 1,
        "label_noise_nu": 0.2,
        "columns": [_column(data[name]) for name in data.columns],
    }


def _about_reward(spread: float) -> dict[str, Any]:
    return {
        "chosen": "ensemble",
        "noise_sd": 0.1 * spread,
        "candidates": [
            _candidate("ridge", 0.71, 0.62 * spread, 0.55, 0.86),
            _candidate("ensemble", 0.93, 0.31 * spread, 0.89, 0.91),
        ],
    }


def _write_designs(
    folder: Path,
    designs: pl.DataFrame,
    scores: Array,
    spread: float,
    oracle: Array | None,
    valid: Array | None,
) -> None:
    n = len(scores)
    ramp = np.linspace(0.0, 1.0, max(n, 1))[:n]
    half = (0.3 + 0.3 * ramp) * spread
    extra = {
        "predicted": scores,
        "predicted_low": scores - half,
        "predicted_high": scores + half,
        "novelty": 0.2 + 0.7 * ramp,
        "support": 0.5 + 0.6 * ramp,
    }
    if oracle is not None:
        extra["oracle"] = oracle
        extra["valid"] = np.isfinite(oracle) if valid is None else valid
    with (folder / "designs.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow([*designs.columns, *extra])
        for i, row in enumerate(designs.rows()):
            out.writerow([*row, *("" if v[i] != v[i] else v[i] for v in extra.values())])


def _write_data(
    folder: Path, data: pl.DataFrame, score: str, measured: Array, predicted: Array
) -> None:
    label = pl.Series(score, measured).fill_nan(None)
    data.with_columns(label, pl.Series("__predicted", predicted)).write_parquet(
        folder / "data.parquet"
    )


def _write_sweep(
    folder: Path, predicted: Array, sign: int, spread: float, n: int, oracle: bool
) -> float:
    steps = np.linspace(-0.5, 4.5, n) if n > 1 else np.array([2.0])
    centre = float(np.nanmean(predicted))
    mean = np.where(steps < 2.2, steps, 2.2 + 0.35 * (steps - 2.2))
    doubt = 0.15 + 0.05 * np.exp(0.75 * np.clip(steps, 0, None))
    low, high = mean - doubt, mean + doubt
    if sign < 0:
        low, high = high, low
    pessimistic = mean - 1.3 * doubt
    table = {
        "aim": centre + sign * spread * steps,
        "predicted_mean": centre + sign * spread * mean,
        "predicted_low": centre + sign * spread * low,
        "predicted_high": centre + sign * spread * high,
        "pessimistic": centre + sign * spread * pessimistic,
        "shift": 1 + steps**2,
        "off_support": 0.6 + 0.02 * np.exp(steps),
        "accepted": np.clip(600 - 30 * steps**2, 5, None).round(),
        "chosen": (np.arange(n) == int(pessimistic.argmax())).astype(int),
    }
    if oracle:
        table["oracle_median"] = centre + sign * spread * (
            mean - 0.12 * np.clip(steps - 1, 0, None) ** 1.7
        )
        table["oracle_valid"] = np.clip(1 - 0.01 * np.exp(steps), 0.05, 1)
    pl.DataFrame(table).write_csv(folder / "sweep.csv")
    return float(table["aim"][int(pessimistic.argmax())])


def _column(column: pl.Series) -> dict[str, Any]:
    if column.dtype.is_numeric():
        low, high = column.min(), column.max()
        return {"name": column.name, "kind": "numeric", "low": low, "high": high, "levels": None}
    levels = column.unique().sort().to_list()
    return {"name": column.name, "kind": "categorical", "low": None, "high": None, "levels": levels}


def _candidate(name: str, rank: float, rmse: float, r2: float, cover: float) -> dict[str, Any]:
    keys = ("name", "rank_correlation", "rmse", "r2", "coverage90")
    return dict(zip(keys, (name, rank, rmse, r2, cover), strict=True))


def airfoil_run(
    folder: Path, rows: int = 400, count: int = 40, oracle: bool = True, seed: int = 0
) -> Path:
    """A run on invented airfoils: a symmetric section with random thickness, camber and bumps."""
    rng = np.random.default_rng(seed)

    def shapes(n: int, camber: float) -> Array:
        thick = rng.uniform(0.1, 0.22, (n, 1))
        bend = rng.normal(camber, 0.05, (n, 1))
        lower = -thick + bend + 0.02 * rng.normal(size=(n, 8))
        upper = thick + bend + 0.02 * rng.normal(size=(n, 8))
        edge = 0.1 * rng.normal(size=(n, 1))
        gap = rng.uniform(0, 0.004, (n, 1))
        return np.concatenate([lower, upper, edge, gap], axis=1)

    def score(p: Array) -> Array:
        bend = (p[:, :8] + p[:, 8:16]).mean(axis=1) / 2
        thick = (p[:, 8:16] - p[:, :8]).mean(axis=1) / 2
        return 60 + 600 * bend - 200 * (thick - 0.12) - 900 * np.clip(bend - 0.12, 0, None) ** 2

    base, new = shapes(rows, 0.05), shapes(count, 0.17)
    new = new[np.argsort(-score(new))]
    measured = np.where(rng.random(rows) < 0.1, score(base) + 4 * rng.normal(size=rows), np.nan)
    measured[:25] = score(base[:25])
    true = score(new) - 4 + 5 * rng.normal(size=count)
    true[count // 2] = np.nan
    return write_run(
        folder,
        pl.DataFrame(base, schema=list(COLUMNS)),
        pl.DataFrame(new, schema=list(COLUMNS)),
        "lift_to_drag",
        measured,
        score(base) + 2 * rng.normal(size=rows),
        score(new),
        oracle=true if oracle else None,
        valid=(rng.random(count) < 0.9) & np.isfinite(true) if oracle else None,
        domain="airfoils",
    )


def mixed_run(
    folder: Path,
    rows: int = 300,
    count: int = 30,
    oracle: bool = False,
    numeric: int = 3,
    categorical: int = 2,
    score: str = "cost",
    direction: str = "minimize",
    names: dict[str, str] | None = None,
    seed: int = 1,
    **options: Any,
) -> Path:
    """A run on a mixed table with a score to be made small; ``names`` renames columns."""
    rng = np.random.default_rng(seed)
    sign = -1 if direction == "minimize" else 1

    def table(n: int, shift: float) -> tuple[pl.DataFrame, Array]:
        numbers = rng.normal(shift, 1.0, (n, numeric))
        levels = rng.integers(0, 4, (n, categorical))
        columns: dict[str, Any] = {f"x{i}": numbers[:, i] for i in range(numeric)}
        columns |= {
            f"kind{i}": np.array(["oak", "ash", "elm", "fir"])[levels[:, i]]
            for i in range(categorical)
        }
        goodness = numbers.sum(axis=1) / max(numeric, 1) ** 0.5 + 0.3 * levels.sum(axis=1)
        return pl.DataFrame(columns).rename(names or {}), 12 + sign * goodness

    data, value = table(rows, 0.0)
    designs, designed = table(count, 0.8)
    order = np.argsort(-sign * designed)
    measured = np.where(rng.random(rows) < 0.3, value + 0.2 * rng.normal(size=rows), np.nan)
    measured[:20] = value[:20]
    true = designed[order] - sign * 0.3 + 0.3 * rng.normal(size=count)
    if count > 4:
        true[2] = np.nan
    return write_run(
        folder,
        data,
        designs[order],
        score,
        measured,
        value,
        designed[order],
        oracle=true if oracle else None,
        direction=direction,
        **options,
    )
