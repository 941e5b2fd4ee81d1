"""Checking a part: which laws, in which order, and what is said about them."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from payoff.checks import (
    denoisers,
    domains,
    methods,
    networks,
    processes,
    rewards,
    samplers,
    schedules,
    values,
)
from payoff.checks.findings import (
    FAILS,
    HOLDS,
    REMARK,
    SKIPPED,
    Budget,
    Finding,
    Spent,
    examine,
    told,
)
from payoff.checks.inputs import global_seed
from payoff.checks.parts import load, resolve
from payoff.domains.kind import Kind
from payoff.errors import UserError

SECONDS = 120.0
COST = "what the check cost"
_COLOURS = {HOLDS: "green", FAILS: "bold red", REMARK: "yellow", SKIPPED: "dim"}
Shape = tuple[int, ...]


def check(
    part: Any,
    *,
    kind: str | None = None,
    shape: Shape | None = None,
    tokens: int | None = None,
    seed: int = 0,
    calls: int | None = None,
    seconds: float | None = SECONDS,
    name: str | None = None,
    source: Any = None,
) -> list[Finding]:
    """Hold a part to the library's laws.

    Args:
        part: an object, a class, a function without arguments that makes the part, or a plain
            function that is a reward ``f(x, cond)`` or a network ``f(x, noise_level, cond)``; or a
            :class:`~payoff.domains.kind.Kind` of object.
        kind: one of ``KINDS``; None: from its class, else from the names of its arguments.
        shape: of one row, without the batch axis; None: the part's own, else what it takes.
        tokens: size of the vocabulary if rows are tokens.
        seed: of everything that is drawn.
        calls: rows of a reward, or calls of another part, that may be spent; None: any number.
        seconds: after which no further call is made; None: any time.
        name: how messages call the part.
        source: data of a kind; None: the first data set that comes with it.

    Returns:
        One finding a law, and last a remark on what the check cost. What a call raises is a
        finding.

    Raises:
        UserError: the part cannot be made, or it cannot be told what it is.

    >>> from payoff.checks import check
    >>> findings = check(lambda x, cond: x.mean(), shape=(3,))
    >>> findings[0].status, findings[0].measured
    ('fails', 'shape () for 4 rows')
    """
    if isinstance(part, Kind):
        return _kind(part, source, seed, Budget(calls, seconds))
    with global_seed(seed):  # a network made by a factory starts the same every time
        return _checked(part, kind, shape, tokens, seed, Budget(calls, seconds), name)


def _kind(kind: Kind, source: Any, seed: int, budget: Budget) -> list[Finding]:
    """The findings on a kind of object and the remark on their cost."""
    if source is None:
        if not kind.sources:
            raise UserError(
                f"the kind {kind.name} comes with no data: name some to check it on ({kind.help})"
            )
        source = kind.sources[0]
    findings = domains.check_kind(kind, source, seed=seed, budget=budget)
    cost = f"{budget.used} calls in {budget.elapsed:.1f} s, checked as a kind of object"
    return [*findings, Finding(COST, REMARK, cost)]


def _checked(
    part: Any,
    kind: str | None,
    shape: Shape | None,
    tokens: int | None,
    seed: int,
    budget: Budget,
    name: str | None,
) -> list[Finding]:
    kind, part = resolve(part, kind, name)
    try:
        findings = _examined(kind, part, shape, tokens, seed, budget)
    except UserError as error:
        findings = [Finding("it can be tested", FAILS, str(error))]
    except Spent as spent:
        findings = [Finding("it can be tested", SKIPPED, str(spent))]
    except (Exception, SystemExit) as error:  # the user's code may do anything
        findings = [Finding("it can be tested", FAILS, f"it raised {told(error)}")]
    unit = "rows" if kind == "reward" else "calls"
    cost = f"{budget.used} {unit} in {budget.elapsed:.1f} s, checked as a {kind}"
    if kind == "reward":
        cost = f"{budget.used} rows in {budget.batches} calls, {budget.elapsed:.1f} s, as a {kind}"
    return [*findings, Finding(COST, REMARK, cost)]


def run(name: str, **options: Any) -> list[Finding]:
    """:func:`check` of the part called ``module:name``; same options, same errors."""
    return check(load(name), name=name, **options)


def _examined(
    kind: str, part: Any, shape: Shape | None, tokens: int | None, seed: int, budget: Budget
) -> list[Finding]:
    if kind == "reward":
        return examine(rewards.RewardSubject(part, shape, tokens, seed, budget), rewards.LAWS)
    if kind == "network":
        return examine(networks.NetworkSubject(part, shape, seed, budget), networks.LAWS)
    if kind == "denoiser":
        return examine(denoisers.DenoiserSubject(part, shape, seed, budget), denoisers.LAWS)
    if kind == "sampler":
        return examine(samplers.SamplerSubject(part, seed, budget), samplers.LAWS)
    if kind == "schedule":
        return examine(schedules.ScheduleSubject(part, budget), schedules.LAWS)
    if kind == "process":
        return examine(processes.ProcessSubject(part, shape, seed, budget), processes.LAWS)
    if kind == "value":
        return examine(values.ValueSubject(part, shape, seed, budget), values.LAWS)
    return examine(methods.MethodSubject(part, seed, budget), methods.LAWS)


def print_findings(
    findings: list[Finding], title: str = "", console: Console | None = None
) -> None:
    """A table of findings, what to do below each one that fails, and a line that counts them."""
    console = console or Console(highlight=False)
    table = Table(title=escape(title) or None, title_justify="left", box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("law", ratio=2)
    table.add_column("measured", ratio=3)
    for f in findings:
        measured = Text(f.measured)
        if f.advice:
            measured.append(f"\n→ {f.advice}", style="bold" if f.status == FAILS else "")
        table.add_row(Text(f.status, style=_COLOURS[f.status]), Text(f.name), measured)
    console.print(table)
    counted = [f.status for f in findings if f.name != COST]
    one = {HOLDS: "holds", FAILS: "fails", REMARK: "remark", SKIPPED: "skipped"}
    many = {HOLDS: "hold", FAILS: "fail", REMARK: "remarks", SKIPPED: "skipped"}
    counts = {s: counted.count(s) for s in one}
    words = [f"{n} {(one if n == 1 else many)[s]}" for s, n in counts.items() if n]
    console.print(Text("\n" + ", ".join(words)))


def failed(findings: list[Finding]) -> bool:
    """Whether a law fails; remarks and skipped laws do not count."""
    return any(f.status == FAILS for f in findings)


def shape_from(text: str | None) -> Shape | None:
    """``"18"`` -> (18,), ``"5,3"`` or ``"5x3"`` -> (5, 3)."""
    if text is None:
        return None
    try:
        shape = tuple(int(n) for n in text.lower().replace("x", ",").strip("() ,").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(f"--shape {text}: give the size of one row, for instance 18 or 5,3")
    return shape


def command(
    name: str,
    *,
    kind: str | None = None,
    shape: str | None = None,
    tokens: int | None = None,
    seed: int = 0,
    calls: int | None = None,
    seconds: float = SECONDS,
    source: Any = None,
) -> int:
    """``payoff check``: print the findings; 0 if no law fails, else 2."""
    if calls is not None and calls < 1:
        raise UserError(f"--calls {calls}: a check needs at least one call")
    if not seconds > 0:
        raise UserError(f"--seconds {seconds:g}: give a time above 0")
    if tokens is not None and tokens < 2:
        raise UserError(f"--tokens {tokens}: a vocabulary has at least two tokens")
    findings = run(
        name,
        kind=kind,
        shape=shape_from(shape),
        tokens=tokens,
        seed=seed,
        calls=calls,
        seconds=seconds,
        source=source,
    )
    # a part that prints to a file or a pipe gets lines that do not depend on the terminal
    width = None if os.isatty(1) else 110
    print_findings(findings, name, Console(highlight=False, width=width))
    return 2 if failed(findings) else 0
