"""Judges by their names: those of a kind, a user's own functions, and sums and products of them.

==========================  ======================================================================
``qed``, ``molecules:qed``  a reward that comes with the kind of object
``lab:strength``            a function of the user's own
``qed + 0.2*logp``          an expression: numbers, ``+ - * /``, parentheses, ``clip(r, low, high)``
``terms.toml``              a file of terms with weights and transforms, see :func:`read_terms`
==========================  ======================================================================
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from payoff.configs import suggest
from payoff.domains.base import Domain, Judge
from payoff.domains.installed import kinds
from payoff.domains.kind import Kind
from payoff.errors import UserError
from payoff.naming import load_named
from payoff.rewards import FunctionReward, Reward
from payoff.rewards.algebra import Clip, Gate, Sum

TOKEN = re.compile(
    r"(?P<quoted>'[^']*'|\"[^\"]*\")"
    r"|(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d][\w.]*(?::[^\W\d][\w.]*)?)"
)
TERM_KEYS = ("reward", "weight", "clip", "sigmoid")
FILE_KEYS = ("term", "offset", "combine", "gate")


@dataclass(frozen=True)
class Combined(Judge):
    r"""A judge made of others, :math:`f(o) = g(f_1(o), \dots, f_P(o))`.

    Attributes:
        parts: the judges f_i; each is asked, and remembered, by itself.
        formula: g as a reward of tensors (n, P) of the parts' values.
        gate: place of the part that is asked first; where it is not above 0 no other is asked and
            the object has failed. None: there is no such.
    """

    parts: tuple[Judge, ...] = ()
    formula: Reward | None = None
    gate: int | None = None

    def combine(self, values: Tensor) -> Tensor:
        """Values (n,) from those of the parts (n, P); NaN where a part that is needed failed."""
        assert self.formula is not None
        return self.formula(values)


def combined(
    name: str,
    parts: Sequence[Judge],
    formula: Reward,
    *,
    gate: int | None = None,
    like: Judge | None = None,
) -> Combined:
    """Make one judge of several.

    Args:
        name: of the whole, in messages and reports.
        parts: the judges.
        formula: a reward of tensors (n, P) of their values.
        gate: place of the part that is a gate, or None.
        like: the judge that gives unit, help and held-out judge, or None.
    """

    def values_of(objects: Sequence[Any]) -> list[float]:
        columns = [torch.tensor(list(p.of(objects)), dtype=torch.float64) for p in parts]
        found: list[float] = formula(torch.stack(columns, 1)).tolist()
        return found

    def slope_of(numbers: Tensor) -> Tensor:
        columns = []
        for part in parts:
            assert part.slope is not None
            columns.append(part.slope(numbers))
        return formula(torch.stack(columns, 1))

    text = "\n".join(f"{part.name} {part.version}" for part in parts)
    chunks = [part.chunk for part in parts if part.chunk is not None]
    return Combined(
        name,
        values_of,
        unit="" if like is None else like.unit,
        help="" if like is None else like.help,
        version=hashlib.sha256(text.encode()).hexdigest()[:12],
        held_out=None if like is None else like.held_out,
        slope=slope_of if all(part.slope is not None for part in parts) else None,
        chunk=min(chunks) if chunks else None,
        parts=tuple(parts),
        formula=formula,
        gate=gate,
    )


def find_judge(
    domain: Domain, kind: Kind, name: Any, option: str = "--reward", *, gate: Any = None
) -> Judge:
    """The judge of a name, an expression or a file of terms, or a function; see the module.

    Args:
        domain: of the objects that it judges.
        kind: of the domain.
        name: as the user wrote it, or a function.
        option: where it was written.
        gate: a second judge; objects where it is not above 0 have failed.

    Raises:
        UserError: there is none of that name, it does not apply, or the expression is wrong.
    """
    if callable(name) or is_plain(str(name)):
        judge = _named(domain, kind, name, option)
    else:
        terms = _Terms(domain, kind, option)
        text = str(name)
        if text.endswith(".toml"):
            formula, own_gate = read_terms(Path(text), terms)
            if gate is not None and own_gate is not None:
                raise UserError(f"--gate {gate}: {text} names the gate {own_gate} already")
            gate = own_gate if gate is None else gate
        else:
            formula = read_expression(text, terms)
        judge = combined(text, terms.judges, formula)
    return judge if gate is None else _gated(judge, _named(domain, kind, gate, "--gate"))


def _gated(judge: Judge, gate: Judge) -> Judge:
    parts = judge.parts if isinstance(judge, Combined) else (judge,)
    inside = judge.formula if isinstance(judge, Combined) else _column(0)
    assert inside is not None
    formula, last = Gate(inside, _column(len(parts))), len(parts)
    name = f"{judge.name} where {gate.name}"
    return combined(name, [*parts, gate], formula, gate=last, like=judge)


def find_held_out(domain: Domain, kind: Kind, name: Any, reward: Judge) -> Judge | None:
    """The judge that watches: the one that is named, or the reward's own; None: there is none."""
    name = reward.held_out if name is None else name
    if name is None or name == "none":
        return None
    return find_judge(domain, kind, name, "--held-out")


def short_name(judge: Judge) -> str:
    """The judge's name in tables: without the origin of its parts."""
    if isinstance(judge, Combined):
        return re.sub(r"[^\W\d][\w.]*:(?=[^\W\d])", "", judge.name)
    return judge.name.rpartition(":")[2]


def is_plain(text: str) -> bool:
    """Whether a text is one name, not an expression or a file of terms."""
    if text.endswith(".toml") or re.search(r"[\s+*()\[\]'\"]", text) or text.startswith("-"):
        return False
    if re.fullmatch(r"[\d.eE-]+", text):
        return False
    return ":" in text or not re.search(r"[-/]", text)


def _named(domain: Domain, kind: Kind, name: Any, option: str) -> Judge:
    """The judge of one name."""
    if callable(name):
        return domain.own_judge(name, getattr(name, "__qualname__", type(name).__name__))
    prefix, colon, rest = str(name).rpartition(":")
    own = kind.name if not colon else prefix
    if own in kinds():
        other = own != kind.name
        found = kinds()[own].load().judge_for(domain, rest) if other else domain.judge(rest)
        if found is not None:
            return found
        names = domain.judge_names()
        known = ", ".join(f"{kind.name}:{known}" for known in names)
        have = f"there are: {known}" if names else f"{kind.plural} come with none"
        raise UserError(
            f"{option} {name}: there is no such reward{suggest(rest, names)} ({have}; or "
            "MODULE:FUNCTION of your own)"
        )

    def hint(owner: Any, missing: str) -> str:
        public = [n for n in dir(owner) if not n.startswith("_") and callable(getattr(owner, n))]
        return suggest(missing, public) or (
            f" (it defines: {', '.join(public[:8])})" if public else "; it defines no function"
        )

    function = load_named(name, f"{option} {name}", "MODULE:FUNCTION", "lab:strength", hint)
    if not callable(function):
        raise UserError(f"{option} {name} is a {type(function).__name__}, not a function")
    return domain.own_judge(function, name)


class _Terms:
    """The judges of an expression, each once."""

    def __init__(self, domain: Domain, kind: Kind, option: str) -> None:
        self.domain, self.kind, self.option = domain, kind, option
        self.judges: list[Judge] = []

    def column(self, name: str) -> Reward:
        """The values of the judge of a name, as a reward of tensors (n, P)."""
        judge = _named(self.domain, self.kind, name, self.option)
        known = [other.name for other in self.judges]
        if judge.name not in known:
            self.judges.append(judge)
            return _column(len(known))
        return _column(known.index(judge.name))


def _column(place: int) -> Reward:
    return FunctionReward(lambda values, cond: values[:, place])


def read_expression(text: str, terms: _Terms) -> Reward:
    """Compile an expression of names into a formula; nothing in it is ever executed.

    Raises:
        UserError: it is not an expression, or contains something else than the module lists.
    """
    names: list[str] = []

    def placeheld(match: re.Match[str]) -> str:
        if match["number"] is not None or match[0] == "clip":
            return match[0]
        names.append(match["name"] or match[0][1:-1])
        return f" _{len(names) - 1} "  # apart from a number before it

    said = f"{terms.option} {text!r}"
    try:
        tree = ast.parse(TOKEN.sub(placeheld, text).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(
            f"{said} is no expression: write names, numbers, + - * / and parentheses, for "
            'instance "qed + 0.2*logp"'
        ) from None
    try:
        found = _compiled(tree, names, terms, said)
    except RecursionError:
        raise UserError(f"{said} is nested too deeply") from None
    if not isinstance(found, Reward):
        raise UserError(f"{said} is a number and names no reward")
    return found


def _compiled(node: ast.AST, names: list[str], terms: _Terms, said: str) -> Reward | float:
    def part(child: ast.AST) -> Reward | float:
        return _compiled(child, names, terms, said)

    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return _finite(node.value, said)
    if isinstance(node, ast.Name) and re.fullmatch(r"_\d+", node.id):
        return terms.column(names[int(node.id[1:])])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return -part(node.operand) if isinstance(node.op, ast.USub) else part(node.operand)
    if isinstance(node, ast.BinOp):
        return _operated(node.op, part(node.left), part(node.right), said)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "clip":
        arguments = [part(argument) for argument in node.args]
        if len(arguments) == 3 and not node.keywords:
            reward, low, high = arguments
            if isinstance(reward, Reward) and isinstance(low, float) and isinstance(high, float):
                if low <= high:
                    return Clip(reward, low, high)
                raise UserError(f"{said}: clip(…, {low:g}, {high:g}) has its limits the wrong way")
        raise UserError(f"{said}: write clip(NAME, LOW, HIGH) with two numbers as limits")
    raise UserError(
        f"{said}: only names, numbers, + - * /, parentheses and clip(NAME, LOW, HIGH) are allowed"
    )


def _operated(
    op: ast.operator, left: Reward | float, right: Reward | float, said: str
) -> Reward | float:
    found: Reward | float
    if isinstance(op, ast.Div):
        if isinstance(right, Reward):
            raise UserError(f"{said}: a reward can be divided by a number, not by a reward")
        if right == 0:
            raise UserError(f"{said} divides by zero")
        found = left / right
    elif isinstance(op, ast.Add):
        found = left + right
    elif isinstance(op, ast.Sub):
        found = left - right
    elif isinstance(op, ast.Mult):
        found = left * right
    else:
        raise UserError(f"{said}: only + - * / are allowed")
    return found if isinstance(found, Reward) else _finite(found, said)


def _finite(number: float, said: str) -> float:
    try:
        found = float(number)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise UserError(f"{said}: a number in it is not finite")
    return found


def read_terms(path: Path, terms: _Terms) -> tuple[Reward, str | None]:
    r"""Read a formula from a TOML file of terms.

    .. math:: b + \sum_i w_i\, t_i(f_i), \qquad \text{or} \qquad b + \prod_i w_i\, t_i(f_i)

    The file has one ``[[term]]`` a judge, with ``reward = NAME`` and, where wanted, ``weight``,
    ``clip = [low, high]`` and ``sigmoid = [middle, width]``, applied in the order clip, sigmoid,
    weight: :math:`1/(1+e^{-(f-\text{middle})/\text{width}})`, falling for a negative width. Beside
    the terms it may have ``offset``, ``combine = "sum"`` or ``"product"``, and ``gate = NAME``.

    Returns:
        the formula, and the name of the gate or None.

    Raises:
        UserError: the file is missing or damaged, or a key is unknown or has a wrong value.
    """
    said = f"{terms.option} {path}"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{said}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{said} is no TOML file: {error}") from None
    _check_keys(content, FILE_KEYS, said)
    listed = content.get("term", [])
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{said}: give at least one [[term]] with reward = NAME")
    found = [_term(entry, f"{said}, term {i}", terms) for i, entry in enumerate(listed, 1)]
    gate, how = content.get("gate"), content.get("combine", "sum")
    if gate is not None and not isinstance(gate, str):
        raise UserError(f"{said}: gate is a name, not {gate!r}")
    if how not in ("sum", "product"):
        raise UserError(f"{said}: combine is 'sum' or 'product', not {how!r}")
    offset = _number(content.get("offset", 0.0), f"{said}: offset")
    if how == "sum":
        return Sum(found, offset=offset), gate
    whole: Reward = found[0]
    for factor in found[1:]:
        whole = whole * factor
    return whole + offset, gate


def _term(entry: Any, said: str, terms: _Terms) -> Reward:
    if not isinstance(entry, dict) or not isinstance(entry.get("reward"), str):
        raise UserError(f"{said}: reward = NAME is missing")
    _check_keys(entry, TERM_KEYS, said)
    value = terms.column(entry["reward"])
    if "clip" in entry:
        low, high = _pair(entry["clip"], f"{said}: clip")
        if not low <= high:
            raise UserError(f"{said}: clip = [{low:g}, {high:g}] has its limits the wrong way")
        value = Clip(value, low, high)
    if "sigmoid" in entry:
        middle, width = _pair(entry["sigmoid"], f"{said}: sigmoid")
        if width == 0:
            raise UserError(f"{said}: the width of a sigmoid is not 0")
        value = _sigmoid(value, middle, width)
    return value * _number(entry.get("weight", 1.0), f"{said}: weight")


def _sigmoid(reward: Reward, middle: float, width: float) -> Reward:
    def squashed(values: Tensor, cond: Any) -> Tensor:
        return torch.sigmoid((reward(values) - middle) / width)

    return FunctionReward(squashed)


def _check_keys(entry: dict[str, Any], known: Sequence[str], said: str) -> None:
    for key in entry:
        if key not in known:
            raise UserError(f"{said}: there is no key '{key}'{suggest(key, known)}")


def _pair(value: Any, said: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise UserError(f"{said} is two numbers in brackets, not {value!r}")
    return _number(value[0], said, infinite=True), _number(value[1], said, infinite=True)


def _number(value: Any, said: str, *, infinite: bool = False) -> float:
    wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value)
    if wrong or not (infinite or math.isfinite(value)):
        raise UserError(f"{said} is a number, not {value!r}")
    return float(value)
