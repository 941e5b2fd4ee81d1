r"""``payoff design`` on real airfoils beside what else could be done with the same labels.

    python benchmarks/airfoil_designs.py --doc docs/methods/airfoils-benchmark.md   # everything
    python benchmarks/airfoil_designs.py --seeds 0 --methods payoff,rows,ts         # a part of it
    python benchmarks/airfoil_designs.py --preset toy --seeds 100 --out runs/toy    # to see it run

Every method sees the table of one ``payoff design`` run (2,174 airfoils, a noisy score on a tenth
of them) and proposes the same number of designs. When all have, the noiseless score and its
validity judge them. ``--xfoil`` asks a second, independent judge about the best of payoff's.

Results are kept in ``OUT/results.json`` and renewed for the methods and seeds asked for, so the
whole can be computed in parts; ``OUT/seed-K/`` holds the run and every method's designs.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from airfoil_proposals import (  # beside this file
    LEARNS_NOTHING,
    METHODS,
    PAYOFF,
    TOY,
    Effort,
    Evidence,
)
from airfoil_tables import BEGIN, END, tables  # beside this file
from airfoil_xfoil import XFoil  # beside this file

from payoff.configs import option
from payoff.domains import airfoils
from payoff.domains.airfoils.rewards import MIN_CONFIDENCE
from payoff.jobs.base import start
from payoff.jobs.design.job import Design
from payoff.jobs.records import read_record
from payoff.metrics import mean_pairwise_distance
from payoff.metrics.support import novelty
from payoff.rewards import spearman

Row = dict[str, Any]
Array = npt.NDArray[np.float64]
PRESETS = {"default": {}, **Design.presets}
RESULTS, TABLES = "results.json", "results.md"
XFOIL_TOP, XFOIL_DATA = 10, 30  # designs a seed, and rows of the data beside them


@dataclass
class Config:
    """The benchmark. The defaults are the judged condition."""

    out: str = option("runs/airfoil-designs", "folder for everything")
    doc: str = option("", "a page whose results, between two markers, are to be renewed")
    seeds: str = option("0-4", "seeds of labels, noise and training: 0-4 or 0,2,7")
    methods: str = option("all", f"comma-separated, or 'all': {', '.join(METHODS)}")
    preset: str = option("default", "of payoff design; 'toy' makes every method small")
    count: int = option(100, "designs a method proposes")
    alpha: float = option(5.0, "angle of attack, degrees")
    reynolds: float = option(1e6, "Reynolds number")
    labelled: float = option(0.1, "share of the rows that get a label")
    noise: float = option(0.1, "noise of the labels, as a share of the scores' sd")
    xfoil: bool = option(False, "check the best designs with xfoil as well")
    fresh: bool = option(False, "run payoff design again where a finished run is there")

    def __post_init__(self) -> None:
        if self.preset == "toy":
            self.count, self.labelled = min(self.count, 12), min(self.labelled, 0.03)
        if self.preset not in PRESETS:
            raise SystemExit(f"unknown preset {self.preset!r}: expected {' or '.join(PRESETS)}")
        for name in self.method_list():
            if name not in METHODS:
                raise SystemExit(f"unknown method {name!r}: expected one of {', '.join(METHODS)}")

    def method_list(self) -> list[str]:
        """Names of the methods asked for."""
        return list(METHODS) if self.methods == "all" else self.methods.split(",")

    def seed_list(self) -> list[int]:
        """The seeds asked for."""
        seeds: list[int] = []
        for part in self.seeds.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
        return seeds

    def setting(self) -> Row:
        """What two rows must share to stand in one table."""
        names = ("preset", "count", "alpha", "reynolds", "labelled", "noise")
        return {name: getattr(self, name) for name in names}

    def folder(self, seed: int) -> Path:
        """Where a seed's run and designs are."""
        return Path(self.out) / f"seed-{seed}"


def propose(config: Config, seed: int) -> list[Row]:
    """The designs of every method at one seed, written to files; what is known without a judge."""
    run = _run(config, seed)
    record = read_record(run)
    effort = TOY if config.preset == "toy" else Effort()
    evidence = Evidence.of(run, config.count, record["network_calls"], seed, effort)
    known = _digest(run)
    made = []
    for name in config.method_list():
        title, method = METHODS[name]
        started = time.perf_counter()
        if method is None:
            frame = pl.read_csv(run / "designs.csv").select(list(airfoils.COLUMNS))
            seconds = record["timings"]["total"] - record["timings"].get("oracle", 0.0)
        else:
            try:
                frame = evidence.sampler.domain.codec.decode(method(evidence))
            except ModuleNotFoundError as error:
                print(f"seed {seed}: {name} left out, {error}", flush=True)
                continue
            learning = 0.0 if name in LEARNS_NOTHING else record["timings"]["reward"]
            seconds = time.perf_counter() - started + learning
        frame.write_csv(config.folder(seed) / f"{name}.csv")
        row = {"method": name, "title": title, "seed": seed, "evidence": known}
        made.append({**row, "seconds": seconds, **_unjudged(evidence, frame)})
        print(f"seed {seed}: {name}, {seconds:.0f} s", flush=True)
    return made


def _run(config: Config, seed: int) -> Path:
    """A finished ``payoff design`` run of this seed, made if it is not there."""
    run = config.folder(seed) / "run"
    if config.fresh or not (run / "run.json").exists():
        given = {
            "seed": seed,
            "count": config.count,
            "alpha": config.alpha,
            "reynolds": config.reynolds,
            "labelled": config.labelled,
            "noise": config.noise,
        }
        how: Row = {"preset": config.preset, "overwrite": True, "quiet": True}
        start(Design, "airfoils", given, out=run, **how)
    held = read_record(run)["config"]
    wanted = {**config.setting(), "seed": seed}
    del wanted["preset"]
    for name, value in {**wanted, **PRESETS[config.preset]}.items():
        if held[name] != value:
            raise SystemExit(
                f"{run} was made with {name} = {held[name]}, now it is {value}: choose another "
                "--out, or give --fresh to make it again"
            )
    return run


def _digest(run: Path) -> str:
    """Identifies the labels and the learned score that methods were given."""
    parts = (run / "data.parquet", run / "reward/reward.safetensors")
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:16]


def _unjudged(evidence: Evidence, frame: pl.DataFrame) -> Row:
    """Predicted score, novelty, support and diversity of designs."""
    score = evidence.sampler.score
    x = evidence.sampler.domain.codec.encode(frame, dtype=torch.float64)
    with torch.no_grad():
        predicted = score.regressor(x)
    places = score.support.coordinates(x)
    return {
        "n": len(x),
        "predicted": float(predicted.median()),
        "novelty": float(novelty(x, evidence.x).median()),
        "support": float(score.support(x).median()),
        "diversity": mean_pairwise_distance(places).value if len(x) > 2 else None,
    }


def judge(row: Row, config: Config, data_best: float) -> Row:
    """The row with what the noiseless score says about its designs."""
    frame = pl.read_csv(config.folder(row["seed"]) / f"{row['method']}.csv")
    found = airfoils.aerodynamics(frame, alpha=config.alpha, re=config.reynolds)
    truth, confident = found["lift_to_drag"], found["confidence"] >= MIN_CONFIDENCE
    thick = airfoils.positive_thickness(airfoils.parameters(frame))
    valid = confident & thick
    best = float(truth[valid].max()) if valid.any() else None
    row = {
        **row,
        "median": float(np.median(truth)),
        "median_valid": float(np.median(truth[valid])) if valid.any() else None,
        "best_valid": best,
        "valid": int(valid.sum()),
        "confident": int(confident.sum()),
        "thick": int(thick.sum()),
        "beats": best is not None and best > data_best,
    }
    if row["method"] == PAYOFF:
        row["aim"] = aim_loss(pl.read_csv(config.folder(row["seed"]) / "run/sweep.csv"))
    return row


def aim_loss(sweep: pl.DataFrame) -> Row:
    """What the automatic aim lost against the best aim in hindsight.

    ``1 - median(chosen) / max median`` over the aims that gave the full number of designs (they
    have a pessimistic score), all medians those of the sweep's own designs.
    """
    chosen = sweep.filter(pl.col("chosen") == 1).row(0, named=True)
    full = sweep.filter(pl.col("pessimistic").is_not_null() | (pl.col("chosen") == 1))
    best = full.sort("oracle_median").row(-1, named=True)
    return {
        "chosen": chosen["aim"],
        "chosen_median": chosen["oracle_median"],
        "best": best["aim"],
        "best_median": best["oracle_median"],
        "loss": 1 - chosen["oracle_median"] / best["oracle_median"],
    }


def second_judge(config: Config) -> list[Row]:
    """What xfoil says about the best designs of every seed, and about rows of the data."""
    _, values = airfoils.load_airfoils()
    truth = airfoils.oracle(values, config.alpha, config.reynolds)
    random = np.random.default_rng(0).permutation(len(values))[:XFOIL_DATA]
    groups = {
        f"data: {XFOIL_DATA} random rows": values[random],
        f"data: the {XFOIL_DATA} best rows": values[np.argsort(-truth)[:XFOIL_DATA]],
    }
    for seed in config.seed_list():
        file = config.folder(seed) / "run/designs.csv"
        if file.exists():
            top = airfoils.parameters(pl.read_csv(file).head(XFOIL_TOP))
            groups[f"payoff: top {XFOIL_TOP} of seed {seed}"] = top
    with XFoil(config.alpha, config.reynolds) as xfoil:
        return [_compared(name, group, xfoil) for name, group in groups.items()]


def _compared(name: str, parameters: Array, xfoil: XFoil) -> Row:
    theirs = xfoil.lift_to_drag(parameters)
    ours = airfoils.oracle(parameters, xfoil.alpha, xfoil.reynolds)
    print(f"xfoil: {name}, {np.isfinite(theirs).sum()} of {len(theirs)} converged", flush=True)
    return {"group": name, "xfoil": theirs.tolist(), "neuralfoil": ours.tolist()}


def summary_of(row: Row) -> Row:
    """Share converged, median ratio and rank correlation of one comparison with xfoil."""
    theirs, ours = np.array(row["xfoil"], float), np.array(row["neuralfoil"], float)
    both = np.isfinite(theirs)
    if both.sum() < 3:
        return {"n": len(ours), "converged": int(both.sum())}
    a, b = torch.from_numpy(theirs[both]), torch.from_numpy(ours[both])
    return {
        "n": len(ours),
        "converged": int(both.sum()),
        "xfoil": float(a.median()),
        "xfoil_best": float(a.max()),
        "neuralfoil": float(b.median()),
        "ratio": float((a / b).median()),
        "rank": spearman(a, b),
    }


def study(config: Config) -> Row:
    """Propose at every seed, judge at the end, join what earlier calls have found."""
    started = time.perf_counter()
    rows = [row for seed in config.seed_list() for row in propose(config, seed)]
    data = airfoils.oracle(airfoils.load_airfoils()[1], config.alpha, config.reynolds)
    best = float(data.max())
    rows = [judge(row, config, best) for row in rows]
    earlier = _earlier(config)
    result = {
        "setting": config.setting(),
        "data": {
            "best": best,
            "median": float(np.median(data)),
            "q95": float(np.quantile(data, 0.95)),
            "q99": float(np.quantile(data, 0.99)),
        },
        "rows": _joined(earlier.get("rows", []), rows),
        "xfoil": earlier.get("xfoil", []),
    }
    if config.xfoil:
        found = second_judge(config)
        names = {row["group"] for row in found}
        result["xfoil"] = [row for row in result["xfoil"] if row["group"] not in names] + found
        for row in found:
            row["xfoil"] = [None if v != v else v for v in row["xfoil"]]
    result["xfoil_summary"] = {row["group"]: summary_of(row) for row in result["xfoil"]}
    result["seconds"] = time.perf_counter() - started
    return result


def _earlier(config: Config) -> Row:
    file = Path(config.out) / RESULTS
    if not file.exists():
        return {}
    held: Row = json.loads(file.read_text())
    return held if held["setting"] == config.setting() else {}


def _joined(earlier: list[Row], rows: list[Row]) -> list[Row]:
    """Earlier rows that were not made again, as long as they had the same evidence."""
    now = {row["seed"]: row["evidence"] for row in rows}
    made = {(row["method"], row["seed"]) for row in rows}
    kept = [
        row
        for row in earlier
        if row["method"] in METHODS
        and (row["method"], row["seed"]) not in made
        and now.get(row["seed"], row["evidence"]) == row["evidence"]
    ]
    order = list(METHODS)
    return sorted(kept + rows, key=lambda row: (order.index(row["method"]), row["seed"]))


def write_page(page: Path, text: str) -> None:
    """Replace what stands between the two markers of a page.

    Raises:
        SystemExit: the page does not have both markers, in order.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} needs the lines {BEGIN} and {END}, the results go between them")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> Row:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for field in dataclasses.fields(Config):
        flag, text = f"--{field.name}", field.metadata["help"]
        if field.type == "bool":
            parser.add_argument(flag, action="store_true", help=text)
        else:
            text = f"{text} (default: {field.default})".replace("%", "%%")
            parser.add_argument(flag, type=type(field.default), default=field.default, help=text)
    config = Config(**vars(parser.parse_args(arguments)))
    result = study(config)
    out = Path(config.out)
    (out / RESULTS).write_text(json.dumps(result, indent=1) + "\n")
    text = tables(result)
    (out / TABLES).write_text(text)
    if config.doc:
        write_page(Path(config.doc), text)
    print(text)
    print(f"{result['seconds']:.0f} s; written to {out}")
    return result


if __name__ == "__main__":
    main()
