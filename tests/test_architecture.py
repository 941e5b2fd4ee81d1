"""The layers, read from the imports.

A module imports only from layers below its own, and inside a layer only from its own folder; two
top-level modules of one layer do not import each other. The table is the picture in
docs/architecture.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = (
    ("errors", "spaces", "whitening"),
    ("configs", "kernels", "naming", "predictions", "schedules"),
    ("processes",),
    ("denoisers", "nets"),
    ("samplers", "rewards", "pretrained"),
    ("targets",),
    ("values", "metrics", "training"),
    ("guidance", "problems"),
    ("steering", "finetuning"),
    ("domains",),
    ("checks", "jobs"),
    ("report",),
    ("results",),
    ("commands", "training_command", "functions"),
    ("cli",),
    ("__init__", "__main__"),
)
LAYER = {unit: level for level, units in enumerate(LAYERS) for unit in units}

# Domain packages: slow to import, and not there in every installation.
HEAVY = {
    *("rdkit", "trimesh", "diffusers", "transformers", "peft", "aerosandbox", "neuralfoil"),
    *("qm9pack", "tblite", "dftd4", "ot", "RNA", "ray", "botorch", "gpytorch", "timm", "open_clip"),
    "posebusters",
}
LONGEST_FILE, LONGEST_FUNCTION = 600, 60
SOURCE = Path(__file__).parents[1] / "src" / "payoff"
FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(f.relative_to(SOURCE)) for f in FILES]
Node = ast.Import | ast.ImportFrom


def unit_of(path: Path) -> str:
    """The top-level module or folder a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, Node]]:
    """Every imported dotted name; ``from payoff import x`` counts as payoff.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module == "payoff":
                yield from ((f"payoff.{alias.name}", node) for alias in node.names)
            else:
                yield module, node


def complaints(path: Path, tree: ast.AST) -> Iterator[str]:
    own = unit_of(path)
    for name, node in imports(tree):
        where = f"{path.relative_to(SOURCE)}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"{where}: relative import; write payoff.… so that the layers can be read"
        root, _, rest = name.partition(".")
        if root != "payoff" or not rest or rest == "__version__":
            continue
        other = rest.split(".")[0]
        if other not in LAYER:
            yield f"{where}: payoff.{other} is in no layer; add it to the table"
        elif other != own and LAYER[other] >= LAYER[own]:
            yield f"{where}: {own} (layer {LAYER[own]}) imports {other} (layer {LAYER[other]})"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_down(path: Path) -> None:
    assert unit_of(path) in LAYER, f"{unit_of(path)} is in no layer; add it to the table"
    assert not list(complaints(path, ast.parse(path.read_text())))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_heavy_packages_are_imported_late_and_in_domains_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    late = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for name, node in imports(tree):
        if name.split(".")[0] in HEAVY:
            where = f"{path.relative_to(SOURCE)}:{node.lineno}: {name}"
            assert unit_of(path) == "domains", f"{where} outside domains/"
            assert id(node) in late, f"{where} at the top of the module; import it where it is used"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_sizes_and_names(path: Path) -> None:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    vague = {"utils", "util", "common", "helpers", "misc"} & set(parts)
    assert not vague, f"{vague} says nothing about what is inside"
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


def test_the_law_is_not_vacuous() -> None:
    """A planted upward import, an import across a layer and a relative one are all seen."""
    planted = SOURCE / "kernels.py"
    for line in (
        "from payoff.samplers import DDIM",
        "from payoff import predictions",
        "from .spaces import Space",
        "def f():\n    import payoff.cli",
        "from payoff.nowhere import x",
    ):
        assert list(complaints(planted, ast.parse(line))), line
    assert not list(complaints(planted, ast.parse("from payoff import __version__, spaces")))
    inside = SOURCE / "rewards" / "base.py"
    assert not list(complaints(inside, ast.parse("from payoff.rewards.algebra import Sum")))


KINDLESS = ("jobs", "report", "checks", "cli", "commands")
"""Units that know no kind of object: they import none and name none in a string."""
KIND_NAMES = {path.parent.name for path in (SOURCE / "domains").glob("*/kind.py")}
WORDS = KIND_NAMES | {"qm9", "rdkit", "smiles"}
OFFENDERS: set[str] = {
    *("report/foils.py", "report/molecule_design.py"),
    *("report/molecules.py", "report/finetune/page.py", "report/page.py"),
}
"""Files that still know a kind; the list may only become shorter."""


def kinds_in(tree: ast.AST) -> Iterator[str]:
    """Imports of a kind's package, and strings that are or begin with a kind's name."""
    for name, node in imports(tree):
        parts = name.split(".")
        if parts[:2] == ["payoff", "domains"] and parts[2:3] and parts[2] in KIND_NAMES:
            yield f"line {node.lineno} imports {name}"
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) in documentation:
            continue
        found = {word for word in WORDS if node.value == word or node.value.startswith(f"{word}:")}
        if found:
            yield f"line {node.lineno} names {', '.join(sorted(found))}"


def test_jobs_know_no_kind() -> None:
    """Nothing outside ``domains/`` imports a kind or names one, but for the listed files."""
    found = {}
    for path in FILES:
        if unit_of(path) in KINDLESS:
            complaints_here = list(kinds_in(ast.parse(path.read_text())))
            if complaints_here:
                found[str(path.relative_to(SOURCE))] = complaints_here
    new = {name: what for name, what in found.items() if name not in OFFENDERS}
    assert not new, f"files that know a kind of object: {new}"
    healed = OFFENDERS - set(found)
    assert not healed, f"no offenders any more: take {sorted(healed)} from the list"


def test_the_law_of_kinds_is_not_vacuous() -> None:
    for line in (
        "from payoff.domains.vectors import Codec",
        "def f():\n    import payoff.domains.molecules.files",
        "NAME = 'molecules'",
        "REWARD = 'airfoils:lift_to_drag'",
    ):
        assert list(kinds_in(ast.parse(line))), line
    assert not list(kinds_in(ast.parse('"""molecules"""\nfrom payoff.domains.base import Data')))


LIGHT = {"__future__", "collections", "dataclasses", "math", "pathlib", "re", "typing"}


@pytest.mark.parametrize("name", sorted(KIND_NAMES))
def test_a_kind_imports_nothing_heavy(name: str) -> None:
    """``kind.py`` answers ``--help``: at the top it imports small modules only."""
    tree = ast.parse((SOURCE / "domains" / name / "kind.py").read_text())
    for node in tree.body:
        for module, _ in imports(node) if isinstance(node, ast.Import | ast.ImportFrom) else ():
            root = module.split(".")[0]
            own = module in ("payoff.configs", "payoff.errors", "payoff.domains.kind")
            light = module.endswith((".kind", ".config"))
            assert root in LIGHT or own or light, f"{name}/kind.py imports {module}"


def _graph(folder: str) -> dict[str, set[str]]:
    """Modules of a folder with the modules of the folder that they import, late imports too."""
    modules = {
        ".".join(("payoff", *p.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): p
        for p in FILES
        if unit_of(p) == folder
    }
    graph = {}
    for name, path in modules.items():
        tree = ast.parse(path.read_text())
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{a.name}" for a in node.names} & modules.keys()
                found |= inner or {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        graph[name] = {module for module in found if module in modules} - {name}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """A circle of imports, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    for start in sorted(graph):
        if found := visit(start, []):
            return found
    return []


CIRCLES = {
    "rewards": "operators of a reward make sums",
    "finetuning": "RGDM in three files",
    "domains": "limits are parsed by the table that they are for",
}
"""Folders in which a circle is known, and why."""


@pytest.mark.parametrize("folder", sorted({unit_of(path) for path in FILES}))
def test_no_circle_inside_a_folder(folder: str) -> None:
    found = circle_in(_graph(folder))
    if folder in CIRCLES:
        assert found, f"no circle in {folder} any more: take it from CIRCLES"
        return
    assert not found, " imports ".join(found)


def test_circles_are_found() -> None:
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
