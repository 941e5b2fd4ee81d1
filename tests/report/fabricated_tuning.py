"""Folders made up for the report's tests: what `payoff finetune` and `compare` write, invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from payoff.domains.airfoils.geometry import COLUMNS

FIXED: dict[str, Any] = {
    "payoff": "0.1.0",
    "created": "2025-01-31T12:00:00+00:00",
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "warnings": [],
    "seed": 3,
}
MEASURES = {
    "median": "median score of the valid samples",
    "mean": "their mean",
    "valid": "share of samples that are valid and have a score",
    "held_out": "median held-out score of the valid samples",
    "support": "median distance from the data",
    "vendi": "effective number of different samples",
    "kl": "divergence of the model's paths from the base's, nats",
    "spent": "reward calls used to learn or to choose",
    "seconds": "time for that",
    "memory": "largest memory of the process, MiB",
}
EXACT_MEASURES = {
    "reward": "mean reward of fresh samples",
    "gain": "how much that is above the base, exactly known",
    "kl": "divergence of the model's paths from the base's, nats",
    "frontier": "the most gain that any law has at this divergence",
    "share": "share of that gain",
    "seconds": "time for that",
    "memory": "largest memory of the process, MiB",
}


def designs_frame(
    score: np.ndarray,
    held_out: np.ndarray | None,
    valid: np.ndarray | None = None,
    *,
    airfoils: bool = False,
    seed: int = 0,
    names: tuple[str, str] = ("width", "wood"),
) -> pl.DataFrame:
    """Invented designs with the given scores, as designs.csv has them."""
    rng, n = np.random.default_rng(seed), len(score)
    if airfoils:
        shapes = np.concatenate(
            [-0.15 + 0.02 * rng.normal(size=(n, 8)), 0.2 + 0.02 * rng.normal(size=(n, 8))], 1
        )
        rest = np.column_stack([0.1 * rng.normal(size=n), rng.uniform(0, 0.004, n)])
        frame = pl.DataFrame(np.concatenate([shapes, rest], 1), schema=list(COLUMNS))
    else:
        woods = np.array(["oak", "ash"])[rng.integers(0, 2, n)]
        frame = pl.DataFrame({names[0]: rng.normal(30, 4, n), names[1]: woods})
    extra = {"score": score} | ({} if held_out is None else {"held_out": held_out})
    good = np.isfinite(score) if valid is None else valid
    return frame.with_columns(
        *(pl.Series(k, v).fill_nan(None) for k, v in extra.items()),
        pl.Series("valid", good),
        pl.Series("support", rng.uniform(0.3, 1.1, n)),
    )


def tune_run(
    folder: Path,
    *,
    rounds: int = 6,
    gain: float = 20.0,
    held_gain: float | None = 18.0,
    held_scale: float = 1.0,
    validity: bool = True,
    airfoils: bool = False,
    minimize: bool = False,
    count: int = 24,
    kept: int | None = None,
    stopped: str | None = None,
    names: tuple[str, str] = ("width", "wood"),
    seed: int = 0,
    **record: Any,
) -> Path:
    """A fine-tuning run whose score rises by ``gain``; ``held_gain`` None: nothing was held out."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, sign = np.random.default_rng(seed), -1.0 if minimize else 1.0
    held = held_gain is not None
    kept = rounds if kept is None else kept

    def scored(n: int, shift: float, other: float) -> pl.DataFrame:
        score = 100 + sign * shift + 5 * rng.normal(size=n)
        judged = held_scale * (100 + sign * other + 5 * rng.normal(size=n)) if held else None
        frame = designs_frame(score, judged, airfoils=airfoils, seed=seed, names=names)
        return frame.sort("score", descending=not minimize)

    designs, before = scored(count, gain, held_gain or 0.0), scored(60, 0.0, 0.0)
    designs.write_csv(folder / "designs.csv")
    before.write_csv(folder / "base_designs.csv")
    before.select(before.columns[: -4 if held else -3]).write_parquet(folder / "data.parquet")
    history(rounds, gain, held_gain, held_scale, sign, validity).write_csv(folder / "history.csv")
    asked = {"budget": 100 + 50 * rounds, "pilot": 100, "learning": 50 * rounds}
    base: dict[str, Any] = {
        "kind": "finetune",
        "command": ["payoff", "finetune", "boards.csv", "--method", "rwr"],
        "domain": "airfoils" if airfoils else "vectors",
        "name": folder.name,
        "config": {"evaluate": 64, "method": "rwr"},
        "method": {
            "name": "rwr",
            "options": {"power": 1.5},
            "filled": {"updates": 200},
            "claims_target": True,
        },
        "score": {
            "name": "load",
            "reward": "boards:load",
            "held_out": "boards:slow_load" if held else None,
            "direction": "minimize" if minimize else "maximize",
            "unit": None,
        },
        "temperature": {"value": 1.25, "mode": "pilot", "calls": 100, "sd": 5.0, "failed": 1},
        "calls": {
            **{**asked, "spent": 100 + 50 * rounds, "judging": count},
            **{"failed": 2, "distinct": 90 + 50 * rounds},
        },
        "ledger": "ledger.sqlite",
        "data": {"rows": 400, "left_out": 0, "columns": []},
        "base": {"from": None},
        "tuning": {
            **{"rounds": rounds, "kept": kept, "stopped": stopped, "kl": 4.5 * kept},
            **{"kl_stderr": 0.2, "vendi": 8.0, "seconds": 61.0, "reward_seconds": 20.0},
        },
        "timings": {"base": 30.0, "tuning": 61.0, "total": 95.0},
        "designs": {"asked": count},
    }
    (folder / "run.json").write_text(json.dumps({**FIXED, **base, **record}), encoding="utf-8")
    return folder


def history(
    rounds: int,
    gain: float,
    held_gain: float | None,
    held_scale: float,
    sign: float,
    validity: bool,
) -> pl.DataFrame:
    """A history that goes straight from the base to the end."""
    n = rounds + 1
    way = np.arange(n) / max(rounds, 1)
    nothing: list[float | None] = [None] * n
    held = None if held_gain is None else held_scale * (100 + sign * held_gain * way)
    rewards = [None, *(100 + sign * gain * way[:-1])]
    return pl.DataFrame(
        {
            "round": np.arange(n),
            "calls": 50 * np.arange(n),
            "failed": np.zeros(n, int),
            "reward": rewards,
            "reward_best": [None if r is None else r + sign * 9 for r in rewards],
            "loss": [None, *np.linspace(1, 0.3, n - 1)],
            "kl": 4.5 * np.arange(n),
            "kl_stderr": 0.2 * np.arange(n),
            "held_out": nothing if held is None else held,
            "held_out_stderr": nothing if held is None else np.full(n, 0.8),
            "valid": np.linspace(0.9, 0.95, n) if validity else nothing,
            "diversity": np.linspace(4, 3, n),
            "vendi": np.linspace(9, 8, n),
            "seconds": 10.0 * np.arange(n),
        },
        strict=False,
    )


def compare_run(
    folder: Path,
    scores: dict[str, dict[int, list[float]]],
    *,
    measures: dict[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
    extra: dict[str, dict[str, Any]] | None = None,
    drop: tuple[str, ...] = (),
    minimize: bool = False,
    ways: bool = False,
    **record: Any,
) -> Path:
    """A comparison with the given medians: method, calls (0: none spent), one a seed.

    Args:
        folder: where to.
        scores: what came out.
        measures: what is measured; the main ones by default.
        errors: rows of cells that crashed.
        extra: values by method that replace invented ones; None takes one away.
        drop: columns that compare.csv lacks.
        minimize: a lower score is better.
        ways: also write each method's history in cells/.
        **record: replaces entries of run.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = MEASURES if measures is None else measures
    main = "median" if "median" in told else "reward"
    rows: list[dict[str, Any]] = []
    for i, (label, budgets) in enumerate(scores.items()):
        for calls, seeds in budgets.items():
            for seed, value in enumerate(seeds):
                own = {"valid": 0.9, "held_out": value - 1, "support": 0.5, "vendi": 8.0 - 0.3 * i}
                own |= {"kl": 0.0 if calls == 0 else 3.0 * (i + 1) + seed, "mean": value}
                own |= {"spent": calls, "seconds": 1.5 * i, "memory": 300.0 + i, "samples": 400}
                own = {k: v for k, v in own.items() if k in told or k == "samples"}
                name = f"{label}-{calls}-seed{seed}"
                row = {"label": label, "calls": calls, "seed": seed, "folder": name, main: value}
                rows.append({**row, **own, **(extra or {}).get(label, {})})
                if ways and calls:
                    way_of(folder / "cells" / name, value)
    rows += errors or []
    columns = [c for c in dict.fromkeys(k for row in rows for k in row) if c not in drop]
    table = {c: [row.get(c) for row in rows] for c in columns}
    pl.DataFrame(table, strict=False).write_csv(folder / "compare.csv")
    base: dict[str, Any] = {
        "kind": "compare",
        "command": ["payoff", "compare", "boards.csv"],
        "domain": "table",
        "name": folder.name,
        "config": {"workers": 2},
        "cells": len(rows),
        "timings": {"cells": 60.0, "total": 61.0},
        "score": {
            "name": "load",
            "direction": "minimize" if minimize else "maximize",
            "unit": None,
        },
        "measures": told,
    }
    (folder / "run.json").write_text(json.dumps({**FIXED, **base, **record}), encoding="utf-8")
    return folder


def way_of(folder: Path, end: float) -> None:
    """A cell's own history, as its fine-tuning run leaves it."""
    folder.mkdir(parents=True)
    history(4, end - 100, None, 1.0, 1.0, True).write_csv(folder / "history.csv")
    (folder / "run.json").write_text(json.dumps({"calls": {"pilot": 50}}), encoding="utf-8")


def exact_run(folder: Path, *, budgets: tuple[int, ...] = (100, 400), **record: Any) -> Path:
    """A comparison on a closed form: one method on the frontier, one below it, one too far off."""

    def on(kl: float, share: float) -> dict[str, Any]:
        frontier = 0.6 * kl**0.5
        return {
            **{"kl": kl, "gain": share * frontier, "frontier": frontier, "share": share},
            **{"reward": -1 + share * frontier, "share_stderr": 0.02},
        }

    rows: list[dict[str, Any]] = []
    for seed in (0, 1):
        common = {"seed": seed, "seconds": 2.0 + seed, "memory": 300.0, "samples": 500}
        still = {**common, "calls": 0}
        rows.append({**still, "label": "base", "reward": -1.0, "gain": 0.0, "kl": 0.0})
        rows.append({**still, "label": "p* (exact)", **on(0.25, 1.0)})
        for calls in budgets:
            spent = {**common, "calls": calls, "spent": calls}
            rows.append({**spent, "label": "rwr", **on(0.1 + 0.01 * seed, 0.97)})
            rows.append({**spent, "label": "ddpo", **on(1.0 + 0.1 * seed, 0.5)})
            far = {"kl": 900.0, "gain": 0.9, "reward": -0.1 + 0.01 * seed}
            rows.append({**spent, "label": "rgdm", **far})
    compare_run(folder, {}, measures=EXACT_MEASURES, **record)
    columns = dict.fromkeys(k for row in rows for k in row)
    table = {c: [row.get(c) for row in rows] for c in columns}
    pl.DataFrame(table, strict=False).write_csv(folder / "compare.csv")
    return folder
