"""Weights that come with the package: small, with a card whose figures fresh samples bear out."""

from __future__ import annotations

import json
import math

import pytest
import torch

from molecule_models import need_qm9
from payoff.domains.molecules.evaluate import products, sample
from payoff.domains.molecules.guide import LabelGuide
from payoff.domains.molecules.metrics import summary
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.property import PropertyNet
from payoff.domains.molecules.qm9 import PROPERTIES, load_qm9, split
from payoff.pretrained import CONFIG, SHIPPED, WEIGHTS, shipped

MOST = 20e6  # bytes of all weights together
SHARES = ("atom_stability", "molecule_stability", "table_validity", "validity")


def test_they_are_small_and_have_a_card() -> None:
    assert "qm9" in shipped()
    files = sorted(SHIPPED.rglob(WEIGHTS))
    folders = [file.parent for file in files]
    assert {shipped()["qm9"] / name for name in ("", "guide", "evaluator")} <= set(folders)
    assert sum(file.stat().st_size for file in files) < MOST
    for folder in folders:
        card = (folder / "README.md").read_text(encoding="utf-8")
        for told in ("data", "command", "CPU hours", "stability", "Licence"):
            assert told in card, f"{folder.name}'s card does not say its {told}"
        assert (folder / CONFIG).exists()


@pytest.mark.slow
def test_the_figures_of_the_card_hold_for_fresh_samples() -> None:
    need_qm9()
    model = MoleculeModel.load("qm9")
    told, n = model.metadata["metrics"], 100
    fresh = torch.Generator().manual_seed(4)
    with products():
        found = summary(sample(model.denoiser, model.codec, model.sizes, n, generator=fresh))
    card = (shipped()["qm9"] / "README.md").read_text(encoding="utf-8")
    for name in SHARES:
        share, count = told[name], told["samples"]
        # an atom is not independent of the others in its molecule: count molecules for both
        error = math.sqrt(share * (1 - share) * (1 / n + 1 / count))
        assert abs(found[name] - share) < 4 * error, name
        assert f"{100 * share:.1f}" in card


def test_what_comes_beside_the_generator_reads_real_molecules() -> None:
    """Within 4 standard errors of the cards' mean absolute errors, on other molecules."""
    need_qm9()
    evaluator, guide, data = (
        PropertyNet.from_pretrained("qm9"),
        LabelGuide.from_pretrained("qm9"),
        load_qm9(),
    )
    assert set(evaluator.names) == set(guide.scales.names) == set(PROPERTIES)
    rows = split("test", len(data))[:200]
    known = torch.stack([data.column(name)[rows] for name in evaluator.names], 1)
    error = (evaluator(data.molecules(rows)) - known).abs()
    told = torch.tensor([evaluator_card(name) for name in evaluator.names])
    z = (error.mean(0) - told) / (error.std(0) / len(rows) ** 0.5)
    assert z.abs().max() < 4


def evaluator_card(name: str) -> float:
    config = json.loads((shipped()["qm9"] / "evaluator" / CONFIG).read_text())
    return float(config["metadata"]["metrics"][f"mae_{name}"])
