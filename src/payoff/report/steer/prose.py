"""What a steering run's numbers mean, in sentences. HTML, with user strings escaped."""

from __future__ import annotations

from payoff.report.finetune.prose import (
    SURE,
    base_note,
    clear,
    difference,
    method,
    validity,
)
from payoff.report.formatting import count, duration, number, percent, plural, text
from payoff.report.frame import Card
from payoff.report.prose import total_time, with_unit
from payoff.report.recorded import median
from payoff.report.steer.run import SteerRun

# what the methods report, for those who do not know the names
MEANINGS = {
    "ess": "effective sample size: what the weighted particles, or candidates, of one design are "
    "worth in equal ones, at the end",
    "least_ess": "the smallest effective sample size on the way",
    "ancestors": "how many of the first particles have descendants at the end",
    "distinct": "different ones among the particles that were handed out",
    "resampled": "how often a population was resampled",
    "spread": "largest standard deviation of the log-weights at a check, nats",
    "log_z": "estimate of log Z, the log of the mean of exp(reward / τ) over the base",
    "log_z_stderr": "its standard error",
    "failed": "samples or reward calls without an answer",
    "failed_populations": "populations in which every reward failed: plain draws of the base",
    "missing_values": "values on the way that failed, and were replaced by the last known",
    "kl_bound": "largest possible divergence from the base, nats",
}
SMALL_ESS = 2.0


def question(run: SteerRun) -> str:
    """What was asked for."""
    asked, budget = run.number("designs", "asked"), run.number("calls", "budget")
    wanted = plural(int(asked), "new design") if asked else "new designs"
    way = "higher" if run.sign > 0 else "lower"
    limit = f" with at most {plural(int(budget), 'reward call')}" if budget is not None else ""
    return (
        f"Asked for: {wanted} with a {way} <b>{text(run.score, 60)}</b>, drawn with "
        f"<b>{method(run)}</b> from a generative model that stays as it is{limit}."
    )


def answer(run: SteerRun) -> str:
    """How far the score went, and what a design took."""
    before, after = median(run.base.usable()), median(run.designs.usable())
    name = text(run.score, 40)
    if after is None:
        first = f"None of the {count(len(run.designs.score))} designs is valid and has a score"
    elif before is None:
        first = f"The median {name} of the valid designs is {with_unit(run, after)}"
    else:
        ends = f"{with_unit(run, before)} for plain samples to {with_unit(run, after)}"
        if not clear(run):
            first = f"The median {name} went from {ends}: no more than chance could do"
        elif run.sign * (after - before) > 0:
            went = "rose" if run.sign > 0 else "fell"
            first = f"The median {name} of the valid ones {went} from {ends} for the designs"
        else:
            first = f"The median {name} of the valid ones did not improve: from {ends}"
    return f"{first}. {price(run)}"


def price(run: SteerRun) -> str:
    """What a design took."""
    calls, network = run.number("calls", "each"), run.number("network", "each")
    parts = []
    if calls is not None:
        parts.append(f"{number(calls, 3)} reward calls")
    if network is not None:
        parts.append(f"{number(network, 4)} evaluations of the network")
    return f"A design took {' and '.join(parts)}." if parts else ""


def verdict(run: SteerRun) -> str:
    """What the other judge says, what the method claims, and whether validity was lost."""
    return f"{_held_out(run)} {claim(run)} {validity(run)}".strip()


def _held_out(run: SteerRun) -> str:
    if not run.judge:
        return (
            "No held-out reward judged this run: if the reward is only a model of the truth, the "
            "search may have found its mistakes. Name another judge with <code>--held-out</code>."
        )
    who = f"The held-out judge, {text(run.judge, 40)}, which the method never asked,"
    found = difference(run.base.usable("held_out"), run.designs.usable("held_out"))
    if found is None:
        return f"{who} has too few values to tell whether the gain is real."
    gain, error = found
    gap = f"{number(abs(gain), 3)} ± {number(2 * error, 2)} (two standard errors)"
    if run.sign * gain > SURE * error:
        return f"{who} <b>agrees that the gain is real</b>: better by {gap}."
    if run.sign * gain < -SURE * error:
        return f"{who} <b>says that the designs are worse</b>, by {gap}."
    return f"{who} <b>sees no clear difference</b>: {gap}."


def claim(run: SteerRun) -> str:
    """Which law the method declares to draw from."""
    exact = run.get("method", "exact")
    if exact is None:
        return ""
    if not exact:
        return (
            f"{method(run)} is declared biased: it raises the reward, and its designs do not "
            "follow the base's own law weighted by exp(reward / τ), whatever its size."
        )
    size = run.entries("method", "size")
    name, value = text(size.get("name") or "size", 30), run.number("method", "size", "value")
    has = f", here {count(value)}" if value is not None else ""
    return (
        f"{method(run)} is declared exact: as its {name} grow{has}, its designs follow the base's "
        "own law weighted by exp(reward / τ)."
    )


def cards(run: SteerRun) -> list[Card]:
    """The key numbers."""
    before, after = median(run.base.usable()), median(run.designs.usable())
    found = [
        Card(f"Median {text(run.score, 24)}", with_unit(run, after), base_note(before), "designs"),
        Card("Best design", with_unit(run, run.best(run.designs.usable())), "of the valid ones"),
    ]
    if run.designs.held_out is not None:
        held, was = median(run.designs.usable("held_out")), median(run.base.usable("held_out"))
        found.append(Card("Median, held-out judge", number(held), base_note(was), "oracle"))
    if len(run.designs.valid):
        share = float(run.base.valid.mean()) if len(run.base.valid) else None
        valid = f"{count(int(run.designs.valid.sum()))} of {count(len(run.designs.valid))}"
        found.append(Card("Valid designs", valid, f"base {percent(share)}"))
    ess, value = run.number("steering", "reported", "ess"), run.number("method", "size", "value")
    if ess is not None and value is not None:
        least = run.number("steering", "reported", "least_ess")
        few = ess < SMALL_ESS <= value
        note = f"of {count(value)} for one design" + (": hardly more than one" if few else "")
        note += "" if least is None else f"; {number(least, 2)} at worst on the way"
        found.append(Card("Effective sample size", number(ess, 3), note))
    spent = run.number("calls", "spent")
    if spent is not None:
        pilot = run.number("calls", "pilot")
        note = f"{count(pilot)} of them for the temperature" if pilot else "temperature was given"
        found.append(Card("Reward calls", count(spent), note))
    network = run.number("network", "evaluations")
    if network is not None:
        backward = run.number("network", "backward")
        note = f"{count(backward)} of them differentiated" if backward else "none differentiated"
        found.append(Card("Network evaluations", count(network), note))
    total = total_time(run)
    if total is not None:
        steering = run.number("timings", "steering")
        note = "" if steering is None else f"{duration(steering)} of them drawing"
        found.append(Card("Time", duration(total), note))
    return found


def degeneracy(run: SteerRun) -> str:
    """What the method warned of, or that it did not."""
    warned, batches = run.number("steering", "warned"), run.number("steering", "batches")
    if warned is None or batches is None:
        return ""
    if not warned:
        return (
            f"<p>In none of the batches ({count(batches)}) did the method warn of "
            "designs that are worth less than their number says.</p>"
        )
    told = "its only batch" if batches == 1 else f"{count(warned)} of {count(batches)} batches"
    return (
        f"<p>The method warned in {told}: the text stands at the top of this page, with the number "
        "and what to change.</p>"
    )


def aim(run: SteerRun) -> str:
    """The temperature, and where it comes from."""
    tau = run.number("temperature", "value")
    if tau is None:
        return ""
    given = "given by the user"
    if run.get("temperature", "mode") == "pilot":
        pilot = plural(int(run.number("temperature", "calls") or 0), "sample")
        given = (
            f"a tenth of the standard deviation, {number(run.number('temperature', 'sd'), 3)}, of "
            f"the scores of {pilot} of the base, which count as reward calls"
        )
    return (
        f"The temperature τ is {number(tau, 3)} ({given}): a gain of τ is worth a factor e in "
        "probability."
    )


def calls(run: SteerRun) -> str:
    """Where the reward calls went, and what the ledger already knew."""
    spent = run.number("calls", "spent")
    if spent is None:
        return "The reward calls were not recorded."
    told = f"{plural(int(spent), 'reward call')} spent"
    fresh, failed = run.number("calls", "distinct"), run.number("calls", "failed")
    if fresh is not None:
        told += f"; {count(fresh)} of them were designs that the ledger did not know yet"
    if failed is not None:
        told += f"; the reward failed on {count(failed)}"
    judging, workers = run.number("calls", "judging"), run.number("steering", "workers")
    if judging is not None:
        told += f". Judging asked {count(judging)} times more, mostly what the ledger knew"
    where = f" The reward ran in {plural(int(workers), 'worker')}." if workers else ""
    return f"{told}.{where}"
