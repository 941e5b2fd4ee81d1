"""The report of a run that tuned a model of molecules: real molecules in a made-up folder."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import polars as pl
import pytest
import torch
from fabricated_tuning import tune_run
from test_browser import BROWSER, Drawn, dom_of
from test_report import figures_of, page_of, words_of

from molecule_models import need_qm9
from payoff.domains.molecules.bonds import bond_orders
from payoff.domains.molecules.files import read_molecules, write_molecules
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.qm9 import load_qm9, split
from payoff.domains.molecules.rewards import REWARDS
from payoff.report import build
from payoff.report.molecules import SHOWN, ball_and_stick, first_structure, gallery


@pytest.fixture(scope="module")
def molecules() -> list[Molecule]:
    need_qm9()
    data = load_qm9()
    return data.molecules(split("valid", len(data))[:24])


def run_of(folder: Path, molecules: list[Molecule]) -> Path:
    """A finished run whose designs and base are these molecules; every third is not valid."""
    tune_run(folder, held_gain=None)
    for name, some in (("designs", molecules), ("base_designs", molecules[::-1])):
        score = REWARDS["qed"].score(some)
        frame = pl.DataFrame(
            {
                "smiles": [
                    None if i % 3 == 2 else smiles_of(to_rdkit(m)) for i, m in enumerate(some)
                ],
                "score": score,
                "valid": [i % 3 != 2 for i in range(len(some))],
                "stable": [i % 2 == 0 for i in range(len(some))],
            }
        ).with_row_index("place")
        frame = frame.sort(["valid", "score"], descending=True)
        ordered = [some[i] for i in frame["place"]]
        write_molecules(folder / f"{name}.sdf", ordered)
        frame.drop("place").write_csv(folder / f"{name}.csv")
    (folder / "data.parquet").unlink()
    history = pl.read_csv(folder / "history.csv").drop("diversity", "vendi")
    rising = pl.Series([0.5 + 0.05 * i for i in range(len(history))])
    history.with_columns(rising.alias("stable"), rising.alias("unique")).write_csv(
        folder / "history.csv"
    )
    record = json.loads((folder / "run.json").read_text())
    record |= {"domain": "molecules", "data": {"model": "qm9"}}
    record["designs"] |= {"unique": 16, "valid": 16}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_the_best_molecules_are_drawn_side_by_side(tmp_path: Path, molecules) -> None:
    folder = run_of(tmp_path / "run", molecules)
    page = page_of(folder)
    drawn = re.findall(r'<figure class="molecule">(.*?)</figure>', page, re.DOTALL)
    assert len(drawn) == 2 * SHOWN
    best = pl.read_csv(folder / "designs.csv").head(SHOWN)
    for cell, row in zip(drawn, best.to_dicts(), strict=False):
        svg = re.search(r"<svg.*</svg>", cell, re.DOTALL)
        assert svg is not None
        element = ElementTree.fromstring(svg.group(0))
        assert element.get("aria-label") == row["smiles"]
        assert len(list(element)) >= 2
        shown = float(cell.split("<figcaption>")[1].split("<")[0].split()[-1])
        assert shown == pytest.approx(row["score"], rel=1e-3)
    words = words_of(page)
    for part in ("The best designs", "The best of the base", "Stable: every atom has its valence"):
        assert part in words, part
    assert "Support is" not in words
    assert "effective number" not in words


def test_what_molecules_have_instead_of_distances_is_drawn(tmp_path: Path, molecules) -> None:
    figures = figures_of(page_of(run_of(tmp_path / "run", molecules)))
    assert {"cost-stable", "cost-unique", "cost-valid", "cost-kl", "structure"} <= set(figures)
    assert not {"cost-diversity", "cost-vendi"} & set(figures)


def test_the_turning_molecule_is_the_best_one(tmp_path: Path, molecules) -> None:
    """Its balls are the atoms of the first entry, its sticks as many as the orders of its bonds."""
    folder = run_of(tmp_path / "run", molecules)
    best = read_molecules(folder / "designs.sdf").molecules[0]
    traces = figures_of(page_of(folder))["structure"]["data"]
    assert {trace["type"] for trace in traces} == {"scatter3d"}
    balls = {t["name"]: len(t["x"]) for t in traces if t["mode"] == "markers"}
    assert balls == {s: best.symbols.count(s) for s in set(best.symbols)}
    (sticks,) = (t for t in traces if t["mode"] == "lines")
    orders = bond_orders(best.numbers, best.positions)
    assert sticks["x"].count(None) == int(orders.triu().sum())


def test_sticks_end_beside_their_atoms() -> None:
    """Ethene: the two lines of its double bond run on either side of the axis, C to C."""
    positions = torch.tensor([[0.0, 0, 0], [1.33, 0, 0]])
    plot = ball_and_stick("key", Molecule(torch.tensor([6, 6]), positions), "").plot
    (sticks,) = (t for t in plot.data if t.mode == "lines")
    ends = torch.tensor(
        [[p for p in axis if p is not None] for axis in (sticks.x, sticks.y, sticks.z)]
    )
    pairs = ends.T.reshape(-1, 2, 3)
    assert len(pairs) == 2
    torch.testing.assert_close(
        pairs[:, 1] - pairs[:, 0], (positions[1] - positions[0]).expand(2, 3)
    )
    torch.testing.assert_close(pairs.mean(0), positions)
    assert float((pairs[0] - pairs[1]).norm(dim=-1).min()) > 0.05


def test_an_entry_that_cannot_be_read_is_passed_over(tmp_path: Path, molecules) -> None:
    radical = Molecule(torch.tensor([6, 1]), torch.tensor([[0.0, 0, 0], [1.1, 0, 0]]))
    write_molecules(tmp_path / "m.sdf", [radical, *molecules[:2]])
    found = first_structure(tmp_path / "m.sdf", 3)
    assert found is not None
    assert found[0] == 1
    assert torch.equal(found[1].numbers, molecules[0].numbers)
    assert first_structure(tmp_path / "m.sdf", 1) is None
    assert first_structure(tmp_path / "nowhere.sdf", 3) is None


def test_names_cannot_become_code() -> None:
    need_qm9()
    page = gallery("best", ["CC", "<script>alert(1)</script>"], ["a <b>note", "other"])
    assert page.count("<svg") == 1
    assert "a &lt;b&gt;note" in page
    assert "<script" not in page


def test_without_rdkit_the_page_has_its_tables(
    tmp_path: Path, molecules, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_of(tmp_path / "run", molecules)
    for name in [n for n in sys.modules if n.split(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    page = build(folder).read_text()
    assert 'class="molecule"' not in page
    assert "payoff finetune" in page


@pytest.mark.skipif(BROWSER is None, reason="needs a headless Chromium")
def test_a_browser_draws_the_page_and_its_policy_stops_nothing(tmp_path: Path, molecules) -> None:
    """The turning molecule needs WebGL, which a headless browser may lack; all else is drawn."""
    page = build(run_of(tmp_path / "run", molecules))
    dom, log = dom_of(page, tmp_path / "profile")
    marks = Drawn(dom).marks
    assert all(n > 0 for name, n in marks.items() if name != "structure"), marks
    assert '<html lang="en" class="drawn">' in dom
    assert "Refused" not in log
    assert "Uncaught" not in log
    assert dom.count('<figure class="molecule">') == 2 * SHOWN
