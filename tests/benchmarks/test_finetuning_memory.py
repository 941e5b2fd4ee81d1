"""Memory of a round of fine-tuning, by allocated bytes: flat where it should be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def module():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import finetuning_memory

        yield finetuning_memory
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def rounds(module) -> dict[str, list[tuple[int, int]]]:
    """(peak bytes, bytes stored of the paths) of every way at 5, 10, 20 and 40 steps."""
    return {
        way: [module.round_of(way, steps, module.TOY) for steps in module.TOY.steps]
        for way in module.WAYS
    }


def test_the_allocator_is_counted_to_the_byte(module) -> None:
    def work() -> torch.Tensor:
        a = torch.ones(1000, 250)
        b = a + 1  # two of a million bytes
        del a
        return b

    peak, left = module.bytes_of(work)
    assert 2_000_000 <= peak <= 2_000_100
    assert 1_000_000 <= left <= 1_000_100


@pytest.mark.parametrize("way", ["draft", "adjoint"])
def test_a_round_grows_by_what_it_stores_of_its_paths_and_by_nothing_else(rounds, way: str) -> None:
    """Eight times the steps: no activation is kept, since what is stored explains the growth."""
    (first, less), (last, more) = rounds[way][0], rounds[way][-1]
    assert abs((last - first) - (more - less)) < 0.02 * first


def test_without_checkpoints_memory_grows_with_the_steps(module, rounds) -> None:
    """Linearly: each step adds its activations, which outweigh all that is flat."""
    peaks = [peak for peak, _ in rounds["draft without checkpoints"]]
    slopes = [
        (b - a) / (n - m)
        for a, b, m, n in zip(
            peaks, peaks[1:], module.TOY.steps, module.TOY.steps[1:], strict=False
        )
    ]
    assert max(slopes) < 1.05 * min(slopes)
    size = module.TOY
    assert min(slopes) > 4 * size.batch * size.width * module.FLOAT  # of several layers
    assert peaks[-1] > 10 * rounds["draft"][-1][0]


def test_checkpoints_change_no_gradient(module) -> None:
    """What is compared computes the same."""
    weights = []
    for straight in (False, True):
        method = module.DRaFT()
        run = module.run_of(method, module.TOY, sampler_steps=4, updates=2, batch_size=64)
        with pytest.MonkeyPatch.context() as patch:
            if straight:
                patch.setattr("payoff.finetuning.draft.checkpoint", module.straight)
            method.play(run)
        weights.append(torch.cat([p.detach().flatten() for p in run.trainable]))
    assert torch.allclose(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_a_rollout_is_stored_once(module) -> None:
    """States and densities; beside them a number a path and a time a step."""
    for steps in (5, 40):
        row = module.rollout(steps)
        stored = row["states"] + row["densities"]
        assert stored <= row["left"] <= stored + 8 * module.LONG.batch + 1000


def test_the_script_prints_its_tables(module, monkeypatch, tmp_path, capsys) -> None:
    out = tmp_path / "memory.json"
    monkeypatch.setattr(sys, "argv", ["finetuning_memory.py", "--toy", "--out", str(out)])
    monkeypatch.setattr(module, "TOY", module.Size(width=16, depth=1, steps=(2, 4), repeats=1))
    module.main()
    text = capsys.readouterr().out
    assert text.count("|---|") >= 3
    assert "nan" not in text
    assert out.exists()
