"""``python -m`` programs of the trainings on molecules."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from payoff.configs import from_dict
from payoff.errors import UserError


def command(
    module: str, options: type, train: Callable[..., Any], arguments: list[str] | None
) -> None:
    """``python -m MODULE``: ``train(options, out, resume=)`` with every option as a flag."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    for field in dataclasses.fields(options):
        kind: Any = type(field.default)
        action = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, default=field.default, help=field.metadata["help"], **action)
    given = vars(parser.parse_args(arguments))
    out, resume = given.pop("out"), given.pop("resume")
    try:
        train(from_dict(options, given), out, resume=resume)
    except UserError as error:
        parser.exit(2, f"{error}\n")
