"""Fine-tuning molecules: what is paid for, what is left, how it goes on, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from molecule_models import need_qm9, trained
from payoff.errors import UserError
from payoff.finetuning import METHODS
from payoff.jobs.base import start
from payoff.jobs.finetune.job import Finetune
from payoff.jobs.model import Model
from payoff.jobs.sample import sample
from payoff.pretrained import save_pretrained
from payoff.rewards.ledger import Ledger

GIVEN: dict[str, Any] = {
    **{"calls": 48, "per_round": 16, "updates": 2, "batch_size": 8, "sampler_steps": 4},
    **{"evaluate": 16, "learning_rate": 1e-4, "keep": "last"},
    **{"reward": "molecules:stability", "held_out": "molecules:molecule_stability"},
    **{"method": "rwr", "count": 8},
    "score_invalid": True,  # no molecule of the small model is valid
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_qm9()
    return trained(tmp_path_factory.mktemp("molecules") / "tiny")


@pytest.fixture(scope="module")
def finished(model: Path) -> Path:
    """A finished run: its pilot, two rounds, a held-out reward."""
    return tune(model, model.parent / "finished")


def tune(model: Path, out: Path, *, resume: bool = False, **changes: Any) -> Path:
    start(Finetune, str(model), {**GIVEN, **changes}, out=out, resume=resume, quiet=True)
    return out


def record_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "run.json").read_text())


def weights(place: Path) -> torch.Tensor:
    return torch.cat([p.flatten() for p in Model.load(place).denoiser.parameters()])


def test_what_a_run_leaves_behind(finished: Path) -> None:
    record = record_of(finished)
    assert (record["kind"], record["domain"]) == ("finetune", "molecules")
    assert record["calls"]["pilot"] + record["calls"]["learning"] == GIVEN["calls"]
    designs = pl.read_csv(finished / "designs.csv")
    assert {"smiles", "score", "held_out", "valid", "stable"} <= set(designs.columns)
    assert len(designs) == 8
    assert len(pl.read_csv(finished / "base_designs.csv")) == record["calls"]["pilot"]
    history = pl.read_csv(finished / "history.csv")
    assert history["calls"].to_list() == [0, 16, 32, 36]
    assert {"stable", "unique", "valid", "kl", "held_out"} <= set(history.columns)
    assert history["kl"][0] == pytest.approx(0, abs=1e-3)
    assert not (finished / "state").exists()
    assert (finished / "designs.sdf").read_text().count("$$$$") == 8


def test_every_design_is_scored_once(finished: Path) -> None:
    """The ledger holds the pilot, the rounds and the designs, and nothing twice."""
    record, ledger = record_of(finished), Ledger(finished / "ledger.sqlite")
    known = ledger.count("molecules:stability")
    assert known == record["calls"]["spent"] + record["designs"]["count"]
    assert record["calls"]["distinct"] == record["calls"]["spent"]


def test_a_run_as_source_is_its_tuned_model(finished: Path, model: Path, tmp_path: Path) -> None:
    more = tune(finished, tmp_path / "more", calls=16, temperature=0.1, held_out="none")
    assert torch.equal(weights(more / "base"), weights(finished / "model"))
    assert not torch.equal(weights(finished / "model"), weights(model))
    assert torch.equal(weights(finished / "base"), weights(model))
    assert len(sample(finished, count=3, quiet=True).table) == 3


def test_resuming_gives_what_an_uninterrupted_run_gives(
    finished: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each round in turn; the base was copied, its source may be gone then."""
    out, play, rounds = model.parent / "resumed", METHODS["rwr"].play, []

    def once(self: Any, run: Any) -> None:
        play(self, run)
        if run.round not in rounds:
            rounds.append(run.round)
            raise KeyboardInterrupt

    monkeypatch.setattr(METHODS["rwr"], "play", once)
    for resume in (False, True, True):
        with pytest.raises(KeyboardInterrupt):
            tune(model, out, resume=resume)
    tune(model, out, resume=True)
    assert rounds == [0, 1, 2]
    counts = [Ledger(place / "ledger.sqlite").count() for place in (out, finished)]
    assert counts[0] == counts[1]
    for name in ("designs.csv", "base_designs.csv", "designs.sdf"):
        assert (out / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("method", ["rgdm", "ddpo", "dpo", "nft"])
def test_other_methods_work_on_ragged_sets(model: Path, tmp_path: Path, method: str) -> None:
    given = {"method": method, "temperature": 0.1, "held_out": "none", "calls": 32}
    record = record_of(tune(model, tmp_path / "run", **given))
    assert record["designs"]["count"] == 8
    assert record["calls"]["spent"] == 32
    assert record["tuning"]["kl"] > 0


def test_updates_too_small_to_matter_do_not(model: Path, tmp_path: Path) -> None:
    """Weights kept in half the size lie where bfloat16 rounds: there the least step moves many."""
    found = Model.load(model)
    source = save_pretrained(found.denoiser, tmp_path / "half", found.metadata(), half="float16")
    given = {"temperature": 0.1, "held_out": "none", "calls": 16, "learning_rate": 1e-8}
    record = record_of(tune(source, tmp_path / "run", **given))
    assert 0 <= record["tuning"]["kl"] < 1e-4


def test_the_temperature_of_molecules_is_not_that_of_tables(finished: Path) -> None:
    found = record_of(finished)["temperature"]
    assert found["share"] == 0.3
    assert found["value"] == pytest.approx(0.3 * found["sd"])


def test_where_nothing_is_valid_the_way_out_is_told(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--score-invalid"):
        tune(model, tmp_path / "run", score_invalid=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": None}, "which reward"),
        ({"reward": "molecules:qad"}, "did you mean 'qed'"),
        ({"held_out": "molecules:stabilty"}, "--held-out"),
        ({"reward": "no_such_module:f"}, "--reward no_such_module:f"),
        ({"method": "draft"}, "needs the reward's gradient"),
        ({"method": "adjoint"}, "is a black box"),
        ({"method": "rwx"}, "there is no such method"),
        ({"settings": ["share=2"]}, "share must lie between"),
        ({"base_steps": 3}, "--base-steps does not apply"),
    ],
)
def test_a_mistake_is_told(
    model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune(model, tmp_path / "run", **changes)
    assert not list((tmp_path / "run").glob("run.json"))
    if "settings" not in changes:
        assert not (tmp_path / "run").exists()
