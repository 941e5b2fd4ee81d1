"""Write the tables of options in cli.md anew from the program: python docs/option_tables.py."""

import re
from pathlib import Path
from typing import Any, get_args

import typer.main

from payoff.cli import add_jobs, app

PAGE = Path(__file__).with_name("cli.md")
BLOCK = re.compile(r"(<!-- options of (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)
VALUES = {"str": "text", "int": "whole number", "float": "number", "path": "path"}
HEAD = "| option | value | default | meaning |\n|---|---|---|---|\n"
FIRST = "The run"


def value_of(parameter: Any) -> str:
    """The type of an option's value in a word."""
    kind = parameter.type_descriptor.annotation
    while get_args(kind):  # list[str], str | None
        kind = get_args(kind)[0]
    return VALUES[kind.__name__.lower()]


def row(parameter: Any) -> str:
    """One option as a row of a table."""
    flags = " / ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    value = "flag" if parameter.is_flag else parameter.metavar or value_of(parameter)
    default = parameter.default
    if parameter.is_flag or callable(default) or default in (None, (), []):
        default = ""
    text = parameter.help.replace("|", "\\|")
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    return f"| {flags} | {value} | {shown} | {text} |\n"


def tables(command: Any) -> str:
    """The options of a command, a table for each panel of its help."""
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            panels.setdefault(parameter.rich_help_panel or FIRST, []).append(row(parameter))
    titled = len(panels) > 1
    return "\n".join(
        (f"**{title}**\n\n" if titled else "") + HEAD + "".join(rows)
        for title, rows in panels.items()
    )


def main() -> None:
    """Replace every block of the page."""
    add_jobs([])
    commands = typer.main.get_command(app).commands
    text = PAGE.read_text(encoding="utf-8")
    made = BLOCK.sub(lambda m: f"{m[1]}\n{tables(commands[m[2]])}\n{m[3]}", text)
    PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
