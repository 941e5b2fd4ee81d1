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
    ("checks", "domains"),
    ("experiments", "report"),
    ("commands",),
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
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
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
