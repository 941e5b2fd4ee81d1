"""What a comparison shows and what it does not, computed from its numbers. HTML.

Two methods are told apart only where no seed of one reaches a seed of the other; with a single
seed nothing is.
"""

from __future__ import annotations

import math

from payoff.report.compare.run import BASE, EXACT, CompareRun
from payoff.report.formatting import count, number, percent, plural, text
from payoff.report.recorded import Array

SURE = 2.0  # standard errors that a loss of validity must have to be called one
LISTED = 8
ROUGH = 0.2  # a standard error of a share of the frontier beyond which it says nothing


def competing(run: CompareRun, calls: int, *, models: bool = False) -> list[str]:
    """The labels with a score at a budget, the best mean first; neither base nor exact answer.

    Args:
        run: the comparison.
        calls: the budget.
        models: only samples as a model draws them, nothing chosen among them afterwards.
    """
    found = [
        (run.sign * float(values.mean()), label)
        for label in run.at(calls)
        if label not in (BASE, EXACT) and not (models and chooses(label))
        if len(values := run.values(label, calls, run.main))
    ]
    return [label for _, label in sorted(found, key=lambda pair: -pair[0])]


def chooses(label: str) -> bool:
    """Whether the designs were chosen among more samples by their score."""
    return label == "best-of-n" or label.endswith("-selected")


def apart(a: Array, b: Array) -> bool:
    """Whether no seed of one reaches a seed of the other; False with fewer than two of either."""
    if min(len(a), len(b)) < 2:
        return False
    return bool(a.min() > b.max() or b.min() > a.max())


def leaders(run: CompareRun, calls: int) -> list[str]:
    """The best label at a budget and those it cannot be told from; empty with one seed."""
    order = competing(run, calls)
    if not order:
        return []
    best = run.values(order[0], calls, run.main)
    if len(best) < 2:
        return []
    return [x for x in order if x == order[0] or not apart(best, run.values(x, calls, run.main))]


def best(run: CompareRun, calls: int) -> str:
    """Who is best at a budget, as far as the seeds tell."""
    order = competing(run, calls)
    if not order:
        return f"At {plural(calls, 'reward call')} no method has a score."
    chosen = (
        ", whose designs are chosen among more samples by a score," if chooses(order[0]) else ""
    )
    who = f"At {plural(calls, 'reward call')} <b>{text(order[0], 60)}</b>{chosen}"
    return _lead(run, calls, order, f"{who} has")


def best_model(run: CompareRun, calls: int) -> str:
    """Who is best where nothing is chosen afterwards; empty if that is who is best anyway."""
    order, models = competing(run, calls), competing(run, calls, models=True)
    if not models or models[0] == order[0]:
        return ""
    who = f"Where nothing is chosen afterwards, the samples of <b>{text(models[0], 60)}</b>"
    return _lead(run, calls, models, f"{who} have")


def _lead(run: CompareRun, calls: int, order: list[str], who: str) -> str:
    """How far the first of an order is ahead of the rest."""
    first, rest = order[0], order[1:]
    values = run.values(first, calls, run.main)
    if not rest:
        alone = f"{who} a {subject(run)} of {shown(values)}"
        return f"{alone}; there is nothing to compare it with."
    way = "highest" if run.sign > 0 else "lowest"
    start = f"{who} the {way} {subject(run)}, {shown(values)}"
    after = f"{text(rest[0], 60)} with {shown(run.values(rest[0], calls, run.main))}"
    if len(values) < 2:
        return (
            f"{start}, before {after}. This is one seed: it does not say how much of the "
            "difference is chance."
        )
    near = [x for x in rest if not apart(values, run.values(x, calls, run.main))]
    if not near:
        others = "every seed of the others; next" if len(rest) > 1 else "every seed of the other,"
        return f"{start}: every one of its seeds is better than {others} comes {after}.".replace(
            "the other, comes ", "the other, "
        )
    behind = [x for x in rest if x not in near]
    told = (
        f"{start}, but it cannot be told apart from {names(near)}: their seeds overlap with its own"
    )
    return f"{told}. It is better in every seed than {names(behind)}." if behind else f"{told}."


def subject(run: CompareRun) -> str:
    """What the main measure is a measure of."""
    measure = "mean" if run.main == "reward" else run.main
    return f"{measure} {text(run.score, 40)}"


def shown(values: Array) -> str:
    """Mean and range over the seeds."""
    if len(values) < 2:
        return number(float(values.mean())) if len(values) else "none"
    low, high = number(float(values.min())), number(float(values.max()))
    mean = number(float(values.mean()))
    return mean if low == high else f"{mean} (seeds: {low} to {high})"


def names(labels: list[str]) -> str:
    """Labels in a row, escaped, the last after «and»."""
    escaped = [text(x, 60) for x in labels]
    return escaped[0] if len(escaped) == 1 else f"{', '.join(escaped[:-1])} and {escaped[-1]}"


def against_base(run: CompareRun, calls: int) -> str:
    """Which methods the base's own samples reach."""
    own = run.values(BASE, calls, run.main)
    if not len(own):
        return ""
    order = competing(run, calls)
    if run.closed_form:  # the base is known exactly there; only the method's seeds vary
        level = float(own.mean())
        over = [x for x in order if _over(run, x, calls, level)]
    else:
        over = [x for x in order if apart(own, run.values(x, calls, run.main))]
        over = [x for x in over if _over(run, x, calls, float(own.mean()))]
    rest = [x for x in order if x not in over]
    if not rest and run.closed_form:
        return (
            f"All have more than the base's exact {shown(own)}; what they have is measured on "
            "samples, which also carry the error of the sampler's steps."
        )
    if not rest:
        return f"All are better than the base, {shown(own)}." if len(own) > 1 else ""
    if len(own) < 2 and not run.closed_form:
        return f"The base's samples have {shown(own)}."
    are = "is" if len(rest) == 1 else "are"
    return f"Not clearly better than the base, {shown(own)}, {are} {names(rest)}."


def _over(run: CompareRun, label: str, calls: int, level: float) -> bool:
    values = run.values(label, calls, run.main)
    return len(values) > 1 and bool((run.sign * values > run.sign * level).all())


def validity(run: CompareRun, calls: int) -> str:
    """Which methods keep the share of valid samples that the base has."""
    own = run.values(BASE, calls, "valid")
    order = [x for x in competing(run, calls) if len(run.values(x, calls, "valid"))]
    if not len(own) or not order:
        return ""
    before, lost = float(own.mean()), []
    for label in order:
        after = float(run.values(label, calls, "valid").mean())
        error = math.hypot(_error(run, BASE, calls), _error(run, label, calls))
        if after < before - SURE * error:
            lost.append((label, after))
    if not lost:
        return (
            f"Validity is kept: no method makes fewer valid samples than the base, "
            f"{percent(before)}, beyond chance."
        )
    listed = names_with([(x, percent(v)) for x, v in lost])
    return f"Validity is lost, beyond chance, by {listed}; the base has {percent(before)}."


def names_with(pairs: list[tuple[str, str]]) -> str:
    """Labels in a row, each with a value in brackets."""
    told = [f"{text(label, 60)} ({value})" for label, value in pairs]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _error(run: CompareRun, label: str, calls: int) -> float:
    """Binomial standard error of the share of valid samples over all seeds."""
    cells = [c for c in run.group(label, calls) if "valid" in c.values]
    drawn = sum(c.values.get("samples", 0.0) for c in cells)
    share = float(run.values(label, calls, "valid").mean())
    # half a sample of doubt, so that shares of exactly 0 or 1 have an error too
    return math.sqrt(max(share * (1 - share), 0.5 / drawn) / drawn) if drawn else math.inf


def overshoot(run: CompareRun, calls: int) -> str:
    """Which methods have more reward than the exact answer at the problem's temperature."""
    exact = run.values(EXACT, calls, run.main)
    if not len(exact):
        return ""
    level = float(exact.mean())
    over = [x for x in competing(run, calls) if _over(run, x, calls, level)]
    told = f"The exact answer at the problem's temperature, p*, has {number(level)}"
    if not over:
        return f"{told}; no method clearly has more."
    return (
        f"{told}; {names(over)} {'has' if len(over) == 1 else 'have'} more in every seed, which is "
        "no merit: it means to have gone further from the base than the temperature asks for."
    )


def frontier(run: CompareRun, calls: int) -> str:
    """How much of the possible gain the methods make at their own divergence."""
    order = competing(run, calls)
    found = {x: v for x in order if len(v := run.values(x, calls, "share"))}
    clear = {x: float(v.mean()) for x, v in found.items() if _known(run, x, calls)}
    if not found:
        return ""
    told = []
    if clear:
        label = max(clear, key=lambda x: clear[x])
        told.append(
            "Measured at its own divergence from the base, the largest share of the possible gain "
            f"is made by {text(label, 60)}, {percent(clear[label])}."
        )
    if close := [x for x in found if x not in clear]:
        told.append(f"Too close to the base for its share to be known: {names(close)}.")
    if beyond := [x for x in order if x not in found and not x.startswith("steer:")]:
        told.append(
            "Where the frontier is not known, too far from the base or hardly moved: "
            f"{names(beyond)}."
        )
    return " ".join(told)


def _known(run: CompareRun, label: str, calls: int) -> bool:
    """Whether the share of the frontier is more than noise over noise."""
    errors = run.values(label, calls, "share_stderr")
    shares = run.values(label, calls, "share")
    if len(errors) < len(shares):
        return False
    own = math.sqrt(float((errors**2).sum())) / len(errors)
    between = float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
    return max(own, between) < ROUGH


def stopped(run: CompareRun) -> list[str]:
    """Learning that ended before its calls were spent, and cells without results, with the why."""
    told = []
    for cell in (*run.cells, *run.network):
        if cell.stopped or cell.error or cell.note:
            what = f"stopped: {cell.stopped}" if cell.stopped else f"crashed: {cell.error}"
            what = f"does not apply: {cell.note}" if cell.note else what
            unit = "network evaluation" if cell in run.network else "call"
            where = f"{cell.label}, {plural(cell.calls, unit)}, seed {cell.seed}"
            told.append(f"<b>{text(where, 100)}</b> {text(what, 300)}")
    rest = len(told) - LISTED
    return [*told[:LISTED], f"and {count(rest)} more, in compare.csv"] if rest > 0 else told
