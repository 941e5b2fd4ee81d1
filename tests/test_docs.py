"""The documentation is held to the code: its examples run, its links lead somewhere, and what it
lists (options, layers) is what there is.
"""

from __future__ import annotations

import dataclasses
import re
import runpy
import sys
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
import typer.main

from payoff.cli import add_jobs, app
from payoff.jobs.registry import JOBS
from test_architecture import LAYERS

ROOT = Path(__file__).parents[1]
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
PAGES = sorted(DOCS.rglob("*.md"))
WITH_README = [p for p in (ROOT / "README.md", *PAGES) if p.exists()]
SCRIPTS = sorted(p for p in EXAMPLES.glob("*.py") if "--toy" in p.read_text(encoding="utf-8"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[int, str]]:
    """The page's python blocks, each with the line it starts on."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, m.start(1)) + 1, m.group(1)) for m in BLOCK.finditer(text)]


def commands() -> dict[str, list]:
    """The options and arguments of every command, as the command line has them."""
    if "design" not in {command.name for command in app.registered_commands}:
        add_jobs([])
    group = typer.main.get_command(app)
    return {name: command.params for name, command in group.commands.items()}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name_of)
def test_examples_on_the_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = types.ModuleType("page")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    for line, source in blocks(page):
        # blank lines in front, so that a traceback names the line of the page
        code = compile("\n" * (line - 1) + source, str(page), "exec")
        exec(code, module.__dict__)


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_example_scripts_run(
    script: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [str(script), "--toy"])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example that prints nothing shows nothing"


def test_there_are_examples_to_run() -> None:
    assert len(SCRIPTS) >= 4
    assert sum(len(blocks(p)) for p in PAGES) >= 30


def anchors(page: Path) -> set[str]:
    """The fragments that headings of a page make, as code hosts spell them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", h.lower()) for h in headings]
    return {h.replace(" ", "-") for h in kept}


@pytest.mark.parametrize("page", WITH_README, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, fragment = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{name_of(page)} links to {target}, which is not there"
        if fragment:
            assert fragment in anchors(place), f"{name_of(page)}: no heading for {target}"


def test_every_page_is_reached_from_the_index() -> None:
    seen, queue = set(), [DOCS / "index.md"]
    while queue:
        page = queue.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = [t.partition("#")[0] for t in LINK.findall(page.read_text(encoding="utf-8"))]
        near = [(page.parent / t).resolve() for t in targets if t.endswith(".md")]
        queue += [p for p in near if p.exists()]
    methods = DOCS / "methods"  # the index links to the folder
    lost = [name_of(p) for p in PAGES if p not in seen and methods not in p.parents]
    assert not lost


def rows(command: str) -> dict[str, str]:
    """Table rows of the command's section of docs/cli.md, by the first flag in their first cell."""
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    section = text.partition(f"\n## payoff {command}")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `(--[a-z-]+)`.*$", section, re.MULTILINE)
    lines = [line for line in section.splitlines() if line.startswith("| `--")]
    return dict(zip(found, lines, strict=True))


@pytest.mark.parametrize("command", list(commands()))
def test_the_command_page_has_every_option_with_its_help(command: str) -> None:
    table = rows(command)
    params = [p for p in commands()[command] if p.param_type_name == "option" and p.name != "help"]
    for param in params:
        row = table.pop(param.opts[0], "")
        for flag in (*param.opts, *param.secondary_opts):
            assert f"`{flag}`" in row, f"docs/cli.md does not list {flag} of payoff {command}"
        assert f" {param.help} |" in row.replace("\\|", "|"), f"{param.opts[0]}: {param.help!r}"
    assert not table, f"docs/cli.md lists options that payoff {command} does not have"


@pytest.mark.parametrize("job", JOBS)
def test_the_command_page_has_every_default_of_the_options(job: str) -> None:
    table = rows(job)
    flags = {p.name: p.opts[0] for p in commands()[job] if p.param_type_name == "option"}
    for field in dataclasses.fields(JOBS[job].load_options()):
        default = field.default
        if default is dataclasses.MISSING or default is None or isinstance(default, bool):
            continue
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert f"| {shown} |" in table[flags[field.name]], f"{field.name}: its default is {shown}"


@pytest.mark.parametrize("job", JOBS)
def test_the_command_page_has_every_preset(job: str) -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    section = " ".join(text.partition(f"\n## payoff {job}")[2].partition("\n## ")[0].split())
    for name, values in JOBS[job].load_options().presets.items():
        assert f"`{name}`" in section
        for field, value in values.items():
            if not isinstance(value, list):
                flag = "--" + field.replace("_", "-")
                assert f"`{flag} {value}`" in section, f"preset {name}: {flag} is {value}"


@pytest.mark.parametrize("page", WITH_README, ids=name_of)
def test_no_page_names_an_option_that_is_not_there(page: Path) -> None:
    known = {f for ps in commands().values() for p in ps for f in (*p.opts, *p.secondary_opts)}
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(rf"payoff (?:{'|'.join(commands())})\b.*", text)
    unknown = {flag for line in lines for flag in FLAG.findall(line)} - known - {"--help"}
    assert not unknown, f"{name_of(page)} names {sorted(unknown)}"


def test_the_architecture_page_has_the_layers() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| L(\d+) \| ([^|]+)\|", text, re.MULTILINE))
    for level, units in enumerate(LAYERS):
        if "__init__" in units:
            continue
        named = set(re.findall(r"`([a-z_]+)`", table[str(level)]))
        assert named == set(units), f"layer {level}"


@pytest.mark.parametrize("figure", sorted((DOCS / "figures").glob("*.svg")), ids=name_of)
def test_figures_are_drawings_that_stand_alone(figure: Path) -> None:
    root = ElementTree.parse(figure).getroot()
    assert root.tag.endswith("svg")
    assert root.get("viewBox")
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert "script" not in names
