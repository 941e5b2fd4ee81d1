"""What a fine-tuning run's numbers mean, in sentences. HTML, with user strings escaped."""

from __future__ import annotations

import math
from pathlib import Path

from payoff.report.finetune.run import LEAST, TuneRun
from payoff.report.formatting import count, duration, number, percent, plural, text
from payoff.report.frame import Card
from payoff.report.prose import total_time, with_unit
from payoff.report.recorded import Array, median

SURE = 2.0  # standard errors that a difference must have to be called one


def question(run: TuneRun) -> str:
    """What was asked for."""
    asked, rows = run.number("designs", "asked"), run.number("data", "rows")
    wanted = plural(int(asked), "new design") if asked else "new designs"
    way = "higher" if run.sign > 0 else "lower"
    learned = f" of {plural(int(rows), 'row')}" if rows else ""
    budget = run.number("calls", "budget")
    limit = f" and at most {count(budget)} reward calls" if budget is not None else ""
    return (
        f"Asked for: {wanted} with a {way} <b>{text(run.score, 60)}</b>, by tuning a generative "
        f"model{learned} with <b>{method(run)}</b>{limit}."
    )


def method(run: TuneRun) -> str:
    """The method's name."""
    return text(run.get("method", "name") or "an unrecorded method", 40)


def answer(run: TuneRun) -> str:
    """How far the reward went at what divergence, what it took, and why it ended."""
    before, after = median(run.base.usable()), median(run.designs.usable())
    name = text(run.score, 40)
    if after is None:
        first = f"None of the {count(len(run.designs.score))} designs is valid and has a score"
    elif before is None:
        first = f"The median {name} of the valid designs is {with_unit(run, after)}"
    elif not clear(run):
        first = (
            f"The median {name} went from {with_unit(run, before)} for the base model's samples to "
            f"{with_unit(run, after)} for the designs, counting valid ones only: no more than "
            "chance could do"
        )
    elif run.sign * (after - before) > 0:
        went = "rose" if run.sign > 0 else "fell"
        first = (
            f"The median {name} {went} from {with_unit(run, before)} for the base model's samples "
            f"to {with_unit(run, after)} for the designs, counting valid ones only"
        )
    else:
        first = (
            f"The median {name} did not improve: {with_unit(run, before)} for the base model's "
            f"samples, {with_unit(run, after)} for the designs, counting valid ones only"
        )
    kl, spent = run.number("tuning", "kl"), run.number("calls", "spent")
    moved = f", at a divergence of {number(kl, 3)} nats from the base" if kl is not None else ""
    cost = f"; this took {plural(int(spent), 'reward call')}" if spent is not None else ""
    return f"{first}{moved}{cost}. {ended(run)}"


def clear(run: TuneRun) -> bool:
    """Whether designs and base samples differ in their mean score, or are too few to say."""
    found = difference(run.base.usable(), run.designs.usable())
    return found is None or abs(found[0]) > SURE * found[1]


def ended(run: TuneRun) -> str:
    """Why the run ended, and which round was returned."""
    stopped, rounds = run.get("tuning", "stopped"), run.number("tuning", "rounds")
    many = "" if rounds is None else f" after {plural(int(rounds), 'round')}"
    if stopped:
        first = f"It stopped by itself{many}: {text(stopped)}."
    else:
        first = f"It ended{many} because its calls were spent."
    kept = run.number("tuning", "kept")
    if kept is None or rounds is None or kept >= rounds or (stopped and "are kept" in str(stopped)):
        return first
    which = f"Round {count(kept)}" if kept else "The base itself"
    why = ", where the held-out reward is best" if run.judge else ""
    return f"{first} {which} was returned{why}."


def verdict(run: TuneRun) -> str:
    """Whether the gain is real by the held-out judge, and what validity says."""
    return f"{_held_out(run)} {validity(run)}".strip()


def _held_out(run: TuneRun) -> str:
    if not run.judge:
        return (
            "No held-out reward watched this run, so the gain is by the reward's own word: if "
            "the reward is only a model of the truth, the tuning may have found its mistakes. "
            "Give another judge with <code>--held-out</code> to know."
        )
    who = f"The held-out judge, {text(run.judge, 40)}, which nothing was learned from,"
    before, after = run.base.usable("held_out"), run.designs.usable("held_out")
    found = difference(before, after)
    if found is None:
        return f"{who} has too few values to tell whether the gain is real."
    gain, error = found
    gap = f"{number(abs(gain), 3)} ± {number(2 * error, 2)}"
    means = f"its mean goes from {number(before.mean())} to {number(after.mean())}"
    note = " (two standard errors)"
    if run.sign * gain > SURE * error:
        told = f"<b>agrees that the gain is real</b>: {means}, better by {gap}{note}."
    elif run.sign * gain < -SURE * error:
        told = f"<b>says that the designs got worse</b>: {means}, worse by {gap}{note}."
    else:
        told = f"<b>sees no clear difference</b>: {means}, a change of {gap}{note}."
    kept, rounds = run.number("tuning", "kept"), run.number("tuning", "rounds")
    chose = kept is not None and rounds is not None and kept < rounds
    favoured = " It did choose the round, which favours it a little." if chose else ""
    return f"{who} {told}{_share(run)}{favoured}"


def _share(run: TuneRun) -> str:
    """The gain by both judges, in the spread of the base's samples by each."""
    gains = []
    for judge in ("score", "held_out"):
        before, after = run.base.usable(judge), run.designs.usable(judge)
        if difference(before, after) is None or not before.std() > 0:
            return ""
        gains.append(run.sign * float(after.mean() - before.mean()) / float(before.std()))
    if gains[0] <= 0:
        return ""
    told = (
        f" Measured in the standard deviation of the base's samples, the gain is "
        f"{number(gains[0], 2)} by the tuning reward and {number(gains[1], 2)} by the held-out one"
    )
    if gains[1] <= 0:
        return f"{told}: none of it is confirmed, which is what over-optimisation looks like."
    if gains[1] < 0.5 * gains[0]:
        return f"{told}: less than half of it is confirmed, the rest may be over-optimisation."
    return f"{told}."


def difference(before: Array, after: Array) -> tuple[float, float] | None:
    """(difference of the means, its standard error) of independent samples; None if too few."""
    if len(before) < LEAST or len(after) < LEAST:
        return None
    error = math.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    return float(after.mean() - before.mean()), error


def validity(run: TuneRun) -> str:
    """The shares of valid designs, and whether the tuned model has lost some."""
    if not len(run.designs.valid) or not len(run.base.valid):
        return ""
    before, after = float(run.base.valid.mean()), float(run.designs.valid.mean())
    error = math.sqrt(
        before * (1 - before) / len(run.base.valid) + after * (1 - after) / len(run.designs.valid)
    )
    shares = f"{percent(after)} of the designs are valid, of the base's samples {percent(before)}"
    if after < before - SURE * error:
        return f"Validity was lost: {shares}."
    return f"{shares}."


def cards(run: TuneRun) -> list[Card]:
    """The key numbers."""
    before, after = median(run.base.usable()), median(run.designs.usable())
    found = [
        Card(f"Median {text(run.score, 24)}", with_unit(run, after), base_note(before), "designs"),
        Card("Best design", with_unit(run, run.best(run.designs.usable())), "of the valid ones"),
    ]
    if run.designs.held_out is not None:
        held, was = median(run.designs.usable("held_out")), median(run.base.usable("held_out"))
        found.append(Card("Median, held-out judge", number(held), base_note(was), "oracle"))
    kl = run.number("tuning", "kl")
    if kl is not None:
        error = run.number("tuning", "kl_stderr")
        note = "nats" if error is None else f"nats, standard error {number(error, 2)}"
        found.append(Card("Divergence", number(kl, 3), f"{note}, from the base"))
    if len(run.designs.valid):
        share = float(run.base.valid.mean()) if len(run.base.valid) else None
        valid = f"{count(int(run.designs.valid.sum()))} of {count(len(run.designs.valid))}"
        found.append(Card("Valid designs", valid, f"base {percent(share)}"))
    found += molecules(run)
    vendi = run.at("vendi", run.kept)
    if vendi is not None:
        note = f"different samples (Vendi score); base {number(run.at('vendi', 0), 3)}"
        found.append(Card("Diversity", number(vendi, 3), note))
    spent, budget = run.number("calls", "spent"), run.number("calls", "budget")
    if spent is not None:
        found.append(Card("Reward calls", count(spent), f"of {count(budget)} allowed"))
    total = total_time(run)
    if total is not None:
        reward = run.number("tuning", "reward_seconds")
        note = "" if reward is None else f"{duration(reward)} in the reward while tuning"
        found.append(Card("Time", duration(total), note))
    return found


def molecules(run: TuneRun) -> list[Card]:
    """The key numbers that only molecules have."""
    stable, before = run.designs.stable, run.base.stable
    if stable is None or not len(stable):
        return []
    share = percent(float(before.mean())) if before is not None and len(before) else "unknown"
    found = [Card("Stable", f"{count(int(stable.sum()))} of {count(len(stable))}", f"base {share}")]
    unique, valid = run.number("designs", "unique"), run.number("designs", "valid")
    if unique is not None and valid:
        note = f"SMILES among the {count(valid)} valid"
        found.append(Card("Different molecules", count(unique), note))
    return found


def base_note(value: float | None) -> str:
    """The note of a card: what the base has."""
    return "base unknown" if value is None else f"base {number(value)}"


def aim(run: TuneRun) -> str:
    """What the method works towards, and at which temperature."""
    given = "given by the user"
    if run.get("temperature", "mode") == "pilot":
        pilot = plural(int(run.number("temperature", "calls") or 0), "sample")
        given = (
            f"{run.number('temperature', 'share') or 0.1:g} times the standard deviation, "
            f"{number(run.number('temperature', 'sd'), 3)}, of the scores of {pilot} of the "
            "base, which count as reward calls"
        )
    tau = run.number("temperature", "value")
    heat = f"The temperature τ is {number(tau, 3)} ({given})." if tau is not None else ""
    if run.get("method", "claims_target"):
        told = (
            "works towards the base's own distribution with every design weighted by "
            f"exp({'' if run.sign > 0 else '−'}reward / τ): a smaller temperature τ asks for more "
            "of the reward and allows more distance from the base."
        )
    else:
        told = (
            f"works towards the {'highest' if run.sign > 0 else 'lowest'} reward; only the number "
            "of rounds, the stopping rules and the held-out judge keep it near the base."
        )
    return f"<b>{method(run)}</b> {told} {heat}"


def calls(run: TuneRun) -> str:
    """Where the reward calls went, and what the ledger already knew."""
    spent = run.number("calls", "spent")
    if spent is None:
        return "The reward calls were not recorded."
    parts = []
    for key, name in (("pilot", "for the temperature"), ("learning", "for learning")):
        value = run.number("calls", key)
        if value:
            parts.append(f"{count(value)} {name}")
    split = f" ({', '.join(parts)})" if parts else ""
    told = f"{plural(int(spent), 'reward call')} spent{split}"
    fresh = run.number("calls", "distinct")
    if fresh is not None:
        hits = max(0, int(spent - fresh))
        told += (
            f"; {count(fresh)} of them were designs that the ledger did not know yet, "
            f"{count(hits)} {'was' if hits == 1 else 'were'} answered from the ledger"
        )
    failed, judging = run.number("calls", "failed"), run.number("calls", "judging")
    if failed is not None:
        told += f"; the reward failed on {count(failed)}"
    if judging is not None:
        told += f". Judging the result took {count(judging)} more, outside the budget"
    ledger = str(run.get("ledger") or "")
    if ledger and Path(ledger).parent in (run.folder, run.folder.resolve()):
        ledger = Path(ledger).name
    place = f" The ledger is <code>{text(ledger, 80)}</code>." if ledger else ""
    return f"{told}.{place}"
