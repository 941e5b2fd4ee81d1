"""Numbers and names as text, for HTML and for plotly, with everything a user wrote escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

DIGITS = 4
MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any, digits: int = DIGITS) -> str:
    """A number with ``digits`` significant digits; a dash when there is none.

    >>> number(1234567.8), number(-12345.6), number(0.012345), number(3.0), number(None)
    ('1.235 × 10⁶', '−12,350', '0.01235', '3', '–')
    """
    if value is None or isinstance(value, str):
        return MISSING
    x = float(value)
    if not math.isfinite(x):
        return MISSING if math.isnan(x) else ("∞" if x > 0 else "−∞")
    if x == 0:
        return "0"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    power = int(exponent)
    if -4 < power < 6:
        decimals = max(digits - 1 - power, 0)
        written = f"{float(f'{mantissa}e{power}'):,.{decimals}f}"
    else:
        written = mantissa
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    if not -4 < power < 6:
        written += f" × 10{str(power).translate(_SUPERSCRIPT)}"
    return written.replace("-", "−")


def aligned(values: Iterable[Any], digits: int = DIGITS) -> list[str]:
    """The numbers of one column with the same number of decimals, so that they can be compared.

    The largest gets ``digits`` significant digits. Where that would leave little of the smallest
    (a column over more than three powers of ten), each number is written on its own.

    >>> aligned([215.6, 99.25, 7.0])
    ['215.6', '99.2', '7.0']
    """
    numbers = [float("nan") if v is None else float(v) for v in values]
    sizes = [abs(v) for v in numbers if math.isfinite(v) and v != 0]
    if not sizes or not 1e-3 <= max(sizes) < 1e6 or min(sizes) < 1e-3 * max(sizes):
        return [number(v, digits) for v in numbers]
    decimals = max(digits - 1 - math.floor(math.log10(max(sizes))), 0)
    return [
        f"{v:,.{decimals}f}".replace("-", "−") if math.isfinite(v) else number(v) for v in numbers
    ]


def count(value: Any) -> str:
    """A whole number with thousands separated: ``count(2174)`` is '2,174'."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return MISSING
    return f"{round(value):,}".replace("-", "−")


def plural(n: int, noun: str) -> str:
    """``plural(1, 'row')`` is '1 row', ``plural(2174, 'row')`` is '2,174 rows'."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def percent(share: Any) -> str:
    """A share in [0, 1] as a percentage without needless decimals."""
    if not isinstance(share, int | float) or not math.isfinite(share):
        return MISSING
    return f"{number(100 * float(share), 2 if abs(share) < 0.1 else 3)} %"


def duration(seconds: Any) -> str:
    """``duration(112.4)`` is '1 min 52 s'."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{number(seconds, 2 if seconds < 10 else 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(iso: Any) -> str:
    """``moment('2025-01-31T12:00:00+00:00')`` is '31 January 2025, 12:00 UTC'."""
    try:
        when = datetime.fromisoformat(str(iso))
    except ValueError:
        return short(iso)
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".rstrip()


def file_size(n: int) -> str:
    """Bytes as B, kB or MB."""
    if n < 1000:
        return f"{n} B"
    return f"{number(n / 1000, 3)} kB" if n < 1e6 else f"{number(n / 1e6, 3)} MB"


def short(value: Any, length: int = 40) -> str:
    """One line of at most ``length`` characters: white space collapsed, the middle left out."""
    line = " ".join(str(value).split())
    line = "".join(c for c in line if c.isprintable())
    if len(line) <= length:
        return line
    head = (length - 1) * 2 // 3
    return f"{line[:head]}…{line[head + 1 - length :]}"


def text(value: Any, length: int | None = None) -> str:
    """Escaped for HTML, in elements as in quoted attributes (and for plotly's own pseudo-HTML)."""
    return html.escape(str(value) if length is None else short(value, length), quote=True)


def cell(value: Any) -> str:
    """A table cell of any type, as escaped text."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value).replace("-", "−")
    if isinstance(value, float):
        return number(value)
    return text(value, 40)
