"""What the numbers mean, in sentences. Everything returned is HTML with user strings escaped."""

from __future__ import annotations

import numpy as np
import torch

from payoff.report.formatting import count, duration, number, percent, plural, text
from payoff.report.frame import Card
from payoff.report.recorded import Recorded
from payoff.report.run import DesignRun, median
from payoff.rewards import spearman

FEW = 3  # below this many points a rank correlation means nothing


def with_unit(run: Recorded, value: float | None) -> str:
    """A score with its unit."""
    if value is None or not run.unit:
        return number(value)
    return f'{number(value)} <span class="unit">{text(run.unit, 20)}</span>'


def question(run: DesignRun) -> str:
    """What was asked for."""
    rows, labelled = len(run.measured), int(np.isfinite(run.measured).sum())
    asked = run.number("designs", "asked")
    wanted = plural(int(asked), "new design") if asked else "new designs"
    way = "higher" if run.sign > 0 else "lower"
    return (
        f"Asked for: {wanted} with a {way} <b>{text(run.score, 60)}</b>"
        f"{f' (in {text(run.unit, 20)})' if run.unit else ''}, that look like the "
        f"{plural(rows, 'row')} of data, of which {count(labelled)} had a measured score."
    )


def answer(run: DesignRun) -> str:
    """The result in one sentence, or two when the truth is known."""
    n = len(run.predicted)
    if n == 0:
        return "No design passed the checks, so there is nothing to propose."
    label = run.best(run.measured)
    known = f"the best measured row of the data has {with_unit(run, label)}"
    if n == 1:
        first = (
            f"One design, with a predicted {text(run.score, 40)} of "
            f"{with_unit(run, float(run.predicted[0]))} (90 % interval {_interval(run)}); {known}."
        )
    else:
        first = (
            f"{count(n)} designs: their median predicted {text(run.score, 40)} is "
            f"{with_unit(run, median(run.predicted))} (90 % interval of a typical one: "
            f"{_interval(run)}), the best "
            f"{with_unit(run, run.best(run.predicted))}; {known}."
        )
    if run.oracle is None:
        return first
    middle = median(run.oracle)
    if middle is None:
        return f"{first} The oracle gave no score for any of them."
    valid = "" if run.valid is None else f", and {count(int(run.valid.sum()))} of {n} are valid"
    if n == 1:
        sound = "" if run.valid is None else f" and it is{'' if run.valid[0] else ' not'} valid"
        return f"{first} Its true score is {with_unit(run, middle)}{sound}."
    return (
        f"{first} Checked by the oracle, their true median is {with_unit(run, middle)}, "
        f"the best {with_unit(run, _best_valid(run))}{valid}."
    )


def verdict(run: DesignRun) -> str:
    """Whether the typical design beats the data's best label, and how sure that is."""
    label, n = run.best(run.measured), len(run.predicted)
    middle = median(run.predicted)
    if label is None or middle is None:
        return ""
    edge = median(run.judged["predicted_low" if run.sign > 0 else "predicted_high"])
    who = "The typical design" if n > 1 else "The design"
    caveat = "A measured score contains noise, and the best of many tends to be a lucky one."
    if edge is not None and run.sign * (edge - label) > 0:
        told = "is predicted to beat the best measured row even at the bad end of its interval."
    elif run.sign * (middle - label) > 0:
        told = "is predicted to beat the best measured row, but its interval does not exclude less."
    else:
        over = int((run.sign * (run.predicted - label) > 0).sum())
        are = "is" if over == 1 else "are"
        told = "is not predicted to beat the best measured row" + (
            f"; {count(over)} of {count(n)} {are}." if n > 1 else "."
        )
    return f"{who} {told} {caveat}"


def cards(run: DesignRun) -> list[Card]:
    """The key numbers."""
    n, label = len(run.predicted), run.best(run.measured)
    found = [
        Card(
            "Median predicted" if n != 1 else "Predicted",
            with_unit(run, median(run.predicted)),
            f"{_interval(run)}" if n else "no designs",
            "designs",
        ),
        Card("Best predicted", with_unit(run, run.best(run.predicted)), "of all designs"),
        Card(
            "Best measured row",
            with_unit(run, label),
            f"of {count(int(np.isfinite(run.measured).sum()))} labelled",
        ),
    ]
    if run.oracle is not None:
        failed = int((~np.isfinite(run.oracle)).sum())
        found.append(
            Card(
                "True median",
                with_unit(run, median(run.oracle)),
                f"best {number(_best_valid(run))}"
                + (f", {count(failed)} failed" if failed else ""),
                "oracle",
            )
        )
        if run.valid is not None and n:
            share = f"{count(int(run.valid.sum()))} of {count(n)}"
            found.append(Card("Valid", share, "judged by the oracle", "oracle"))
    mode = "chosen automatically" if run.get("aim", "mode") == "auto" else "given"
    found.append(Card("Aim", with_unit(run, run.number("aim", "chosen")), mode))
    chosen = chosen_candidate(run)
    if chosen is not None:
        note = f"rank correlation, {text(chosen.get('name', ''), 24)}"
        found.append(Card("Learned reward", number(chosen.get("rank_correlation"), 3), note))
    novelty, support = median(run.judged["novelty"]), median(run.judged["support"])
    note = f"distance to the nearest row; support {number(support, 3)}"
    found.append(Card("Median novelty", number(novelty, 3), note))
    total = total_time(run)
    if total is not None:
        calls = run.number("reward_calls")
        found.append(Card("Time", duration(total), f"{count(calls)} reward calls"))
    return found


def chosen_candidate(run: DesignRun) -> dict[str, object] | None:
    """The row of the cross-validation table that was chosen."""
    for candidate in candidates(run):
        if candidate.get("name") == run.get("reward", "chosen"):
            return candidate
    return None


def candidates(run: Recorded) -> list[dict[str, object]]:
    """The rows of the cross-validation table."""
    listed = run.get("reward", "candidates")
    return [c for c in listed if isinstance(c, dict)] if isinstance(listed, list) else []


def total_time(run: Recorded) -> float | None:
    """Seconds for the whole run: as recorded, or the sum of the stages."""
    timings = run.get("timings")
    if not isinstance(timings, dict):
        return None
    kept = {k: float(v) for k, v in timings.items() if isinstance(v, int | float)}
    return kept.get("total", sum(kept.values()) if kept else None)


def yield_note(run: DesignRun) -> str:
    """How many candidates were drawn and why some were turned down."""
    drawn, rejected = run.number("designs", "drawn"), run.get("designs", "rejected")
    if drawn is None:
        return ""
    reasons = []
    if isinstance(rejected, dict):
        pairs = [(str(k), v) for k, v in rejected.items() if isinstance(v, int | float) and v > 0]
        reasons = [f"{count(v)} {text(k, 60)}" for k, v in sorted(pairs, key=lambda p: -p[1])]
    turned = f" Turned down: {', '.join(reasons)}." if reasons else ""
    return f"{plural(int(drawn), 'candidate')} drawn.{turned}"


def truth_note(run: DesignRun) -> str:
    """Rank correlation and honest gap of prediction and truth, as an HTML list."""
    assert run.oracle is not None
    kept = np.isfinite(run.oracle) & np.isfinite(run.predicted)
    predicted, true = run.predicted[kept], run.oracle[kept]
    items = []
    failed = len(kept) - int(kept.sum())
    if failed:
        items.append(f"The oracle gave no score for {plural(failed, 'design')}.")
    if len(true) == 0:
        return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
    gap = median(true - predicted) or 0.0
    kind = "worse" if run.sign * gap < 0 else "better"
    items.append(
        f"<b>Honest gap</b>: the true score is typically {with_unit(run, abs(gap))} {kind} than "
        "predicted (median over the designs)."
    )
    inside = (true >= run.judged["predicted_low"][kept]) & (
        true <= run.judged["predicted_high"][kept]
    )
    items.append(
        f"<b>Interval</b>: {percent(float(inside.mean()))} of the true scores lie in their "
        "90 % interval. The intervals are made for rows beyond the best labels (see the learned "
        "reward); how far beyond these designs lie decides whether that is enough."
    )
    if len(true) >= FEW:
        rank = spearman(torch.from_numpy(predicted.copy()), torch.from_numpy(true.copy()))
        items.append(
            f"<b>Rank correlation</b>: {number(rank, 3)} among the designs. They were all picked "
            "for a good prediction, which usually makes this lower than over the data."
        )
    else:
        items.append("Too few designs for a rank correlation.")
    best = run.number("oracle", "data_best")
    if best is not None:
        over = int((run.sign * (true - best) > 0).sum())
        items.append(
            f"<b>Against the data</b>: the best row of the data truly has {with_unit(run, best)}; "
            f"{count(over)} of {plural(len(true), 'design')} {'is' if over == 1 else 'are'} better."
        )
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _interval(run: DesignRun) -> str:
    low, high = median(run.judged["predicted_low"]), median(run.judged["predicted_high"])
    return f"{number(low)} to {number(high)}"


def _best_valid(run: DesignRun) -> float | None:
    assert run.oracle is not None
    return run.best(run.oracle if run.valid is None else np.where(run.valid, run.oracle, np.nan))
