"""The page of a ``payoff compare`` run."""

from __future__ import annotations

from payoff.report.canvas import Figure
from payoff.report.compare import conclusion, figures, marks, tables
from payoff.report.compare.run import BASE, EXACT, CompareRun
from payoff.report.formatting import count, duration, number, plural, short, text
from payoff.report.frame import Card, Head, Section, draw, folded, render
from payoff.report.prose import total_time
from payoff.report.tables import command, files, pairs, timings


def page(run: CompareRun) -> str:
    """The whole page."""
    drawn: list[Figure] = []
    sections = [
        _conclusion(run),
        _table(run),
        _network(run),
        _calls(run, drawn),
        _divergence(run, drawn),
        _trade_offs(run, drawn),
        _costs(run, drawn),
        _made(run),
    ]
    return render(run, _head(run), sections, drawn)


def _most(run: CompareRun) -> int:
    return run.budgets[-1] if run.budgets else 0


def _head(run: CompareRun) -> Head:
    crashed = [c for c in run.cells if c.error]
    warnings = []
    if crashed and not run.get("warnings"):
        warnings.append(f"{plural(len(crashed), 'run')} of {count(len(run.cells))} crashed.")
    calls = _most(run)
    return Head(
        command="payoff compare",
        title=f"{short(run.name, 80)}: methods compared for {short(run.score, 60)}",
        question=_question(run),
        answer=conclusion.best(run, calls) if run.cells else "There is nothing to compare.",
        verdict=conclusion.validity(run, calls) or conclusion.overshoot(run, calls),
        cards=_cards(run),
        warnings=warnings,
    )


def _question(run: CompareRun) -> str:
    way = "higher" if run.sign > 0 else "lower"
    methods = [x for x in run.labels if x not in (BASE, EXACT)]
    budgets = conclusion.names([count(b) for b in run.budgets]) if run.budgets else ""
    spent = f" at {budgets} reward {'call' if budgets == '1' else 'calls'}" if budgets else ""
    return (
        f"Asked for: a comparison of {plural(len(methods), 'way')} to a {way} "
        f"<b>{text(run.score, 60)}</b>{spent}, each from the same base model and with "
        f"{plural(run.seeds, 'seed')}.{_rule(run)}"
    )


def _rule(run: CompareRun) -> str:
    """What the budget of a steering method is, where there is one."""
    if not any(x.startswith("steer:") for x in run.labels):
        return ""
    return " Methods that steer (<b>steer:</b>) spend the calls on every 100 samples."


def _cards(run: CompareRun) -> list[Card]:
    calls, found = _most(run), []
    order = conclusion.competing(run, calls)
    if order:
        value = float(run.values(order[0], calls, run.main).mean())
        name = f"{'Highest' if run.sign > 0 else 'Lowest'} {conclusion.subject(run)}"
        found.append(Card(name, number(value), text(order[0], 40), "designs"))
    for label, title in ((BASE, "Base model"), (EXACT, "Exact answer")):
        values = run.values(label, calls, run.main)
        if len(values):
            found.append(Card(title, number(float(values.mean())), conclusion.subject(run)))
    methods = [x for x in run.labels if x not in (BASE, EXACT)]
    found.append(Card("Methods", count(len(methods)), "with the baselines that spend calls"))
    if run.budgets:
        span = count(_most(run))
        if len(run.budgets) > 1:
            span = f"{count(run.budgets[0])} … {span}"
        found.append(Card("Reward calls", span, plural(len(run.budgets), "budget")))
    crashed = sum(bool(c.error) for c in run.cells)
    note = f"{count(crashed)} crashed" if crashed else "none crashed"
    runs = run.number("cells")
    number_of = len(run.cells) if runs is None else int(runs)
    found.append(Card("Runs", count(number_of), f"{plural(run.seeds, 'seed')}, {note}"))
    total = total_time(run)
    if total is not None:
        workers = run.number("config", "workers")
        note = f"{count(workers)} at a time" if workers else "one after another"
        found.append(Card("Time", duration(total), note))
    return found


def _conclusion(run: CompareRun) -> Section:
    told = ""
    for budget in run.budgets:
        found = [
            conclusion.best(run, budget),
            conclusion.best_model(run, budget),
            conclusion.against_base(run, budget),
            conclusion.overshoot(run, budget),
            conclusion.validity(run, budget),
            conclusion.frontier(run, budget),
        ]
        told += f"<h3>{plural(budget, 'reward call')}</h3>" if len(run.budgets) > 1 else ""
        told += f"<ul>{''.join(f'<li>{s}</li>' for s in found if s)}</ul>"
    ended = conclusion.stopped(run)
    stops = (
        "<h3>Stopped, crashed or not applicable</h3>"
        f"<ul>{''.join(f'<li>{s}</li>' for s in ended)}</ul>"
        if ended
        else "<p>No run stopped before its calls were spent, and none crashed.</p>"
    )
    rule = (
        '<p class="caption">Computed from the table. Two methods are told apart only if no seed of '
        "one reaches a seed of the other"
        + (
            f"; with {plural(run.seeds, 'seed')} even that happens by chance now and then."
            if 1 < run.seeds < 5
            else "."
            if run.seeds > 1
            else ", which takes at least two seeds: here is one."
        )
        + "</p>"
    )
    content = f'<div class="facts">{told}{stops}</div>{rule}'
    return Section("conclusion", "What this shows", content)


def _table(run: CompareRun) -> Section:
    budgets = run.budgets or [0]
    parts = []
    for budget in budgets:
        title = f"<h3>{plural(budget, 'reward call')}</h3>" if budget else ""
        parts.append(f"{title}{tables.results(run, budget)}")
    bold = (
        f'<p class="caption">Bold: the best {conclusion.subject(run)} of its table, and every '
        "method that cannot be told from it.</p>"
        if run.seeds > 1
        else ""
    )
    return Section("table", "The table", "".join(parts) + bold + tables.legend(run))


def _network(run: CompareRun) -> Section | None:
    view = run.by_network
    if view is None:
        return None
    parts = [
        f"<h3>{plural(budget, 'network evaluation')} for 100 samples</h3>"
        f"{tables.results(view, budget)}"
        for budget in view.budgets
    ]
    told = (
        "<p>The steering methods as large as so many evaluations of the network allow, whatever "
        "that takes in reward calls: for rewards that cost less than the network.</p>"
    )
    return Section("network", "At equal network evaluations", told + "".join(parts))


def _calls(run: CompareRun, drawn: list[Figure]) -> Section | None:
    note = "One mark a seed, a stroke at their mean." if run.seeds > 1 else "One seed."
    found = [figures.against_calls(run)]
    if found[0] is None:
        columns = [run.main, "held_out"] if run.has("held_out") else [run.main]
        found = [figures.rows(run, "rows-score", columns, note)]
    found.append(figures.ways(run))
    content = "".join(draw(f, drawn) for f in found if f is not None)
    title = "Score against reward calls" if len(run.budgets) > 1 else "The scores"
    return Section("calls", title, content) if content else None


def _divergence(run: CompareRun, drawn: list[Figure]) -> Section | None:
    found = figures.against_divergence(run)
    what = "Gain" if run.closed_form else "Score"
    if found is None:
        return None
    return Section("divergence", f"{what} against divergence", draw(found, drawn))


def _trade_offs(run: CompareRun, drawn: list[Figure]) -> Section | None:
    found = "".join(draw(f, drawn, titled=True) for f in figures.trade_offs(run))
    if not found:
        return None
    content = f'{marks.legend(run)}<div class="grid">{found}</div>{figures.trade_note(run)}'
    what = "variety and in distance to p*" if run.closed_form else "validity and variety"
    return Section("trade", f"What the score costs in {what}", content)


def _costs(run: CompareRun, drawn: list[Figure]) -> Section | None:
    note = "Without training the base and without judging."
    figure = figures.rows(
        run, "rows-cost", ["seconds", "network", "memory"], note, without=(BASE, EXACT)
    )
    if figure is None:
        return None
    parts = []
    for budget in run.budgets:
        found = tables.costs(run, budget)
        if found:
            parts.append((plural(budget, "reward call"), found))
    content = draw(figure, drawn) + folded(parts) + tables.legend(run, cost=True)
    return Section("costs", "Time and memory", content)


def _made(run: CompareRun) -> Section:
    parts = [
        ("Configuration", pairs(run.entries("config"))),
        ("Time", timings(run)),
        ("Versions", pairs(run.entries("versions"))),
        ("Files", files(run.folder, nested=False)),
    ]
    content = (
        "<p>Every method at every budget and seed is a run of its own in <code>cells/</code>; those"
        " that tune a model on a table are ordinary fine-tuning runs, for which <code>payoff "
        "report</code> writes a page too. Every model is judged by fresh samples, whose calls are "
        "no part of anyone's budget.</p>"
        "<p>To make it again (the same seeds give the same numbers on the same machine, but for "
        f"the times):</p><pre>{text(command(run))}</pre>{folded(parts)}"
    )
    return Section("made", "How it was made", content)
