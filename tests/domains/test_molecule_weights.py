"""Weights that come with the package: small, with a card whose figures fresh samples bear out."""

from __future__ import annotations

import math

import pytest
import torch

from molecule_models import need_qm9
from payoff.domains.molecules.evaluate import products, sample
from payoff.domains.molecules.metrics import summary
from payoff.domains.molecules.model import MoleculeModel
from payoff.pretrained import CONFIG, WEIGHTS, shipped

MOST = 20e6  # bytes of all weights together
SHARES = ("atom_stability", "molecule_stability", "table_validity", "validity")


def test_they_are_small_and_have_a_card() -> None:
    folders = shipped()
    assert "qm9" in folders
    assert sum((folder / WEIGHTS).stat().st_size for folder in folders.values()) < MOST
    for folder in folders.values():
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
