"""The loop of long trainings on a network that is no denoiser: it learns and resumes to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from payoff.training.loop import CHECKPOINT, Loop


@dataclass
class Options:
    batch_size: int = 8
    learning_rate: float = 0.05
    hold: int = 20
    warmup: int = 3
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    gradient_clip: float = 10.0
    seed: int = 0
    steps: int = 60
    minutes: float = 0.0
    log_every: int = 5
    checkpoint_minutes: float = 5.0
    evaluate_minutes: float = 0.0


class Regression(Loop):
    """Least squares of y = x w with noise in the inputs, drawn from the loop's generator."""

    def __init__(self, config: Options, out: Path) -> None:
        self.x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
        self.y = self.x @ torch.tensor([[1.0], [-2.0], [0.5]])
        torch.manual_seed(config.seed)
        self.net = nn.Linear(3, 1)
        super().__init__(config, self.net, torch.ones(40, dtype=torch.long), 1, out)

    def trained(self) -> nn.Module:
        return self.net

    def loss(self) -> Tensor:
        rows, _ = self.batches.next()
        noise = 0.01 * torch.randn(len(rows), 3, generator=self.generator)
        return (self.net(self.x[rows] + noise) - self.y[rows]).square().flatten()

    def evaluate(self) -> None:
        self.log(error=float((self.frozen()(self.x) - self.y).square().mean()))


def state(run: Regression) -> list[Tensor]:
    return [*run.net.state_dict().values(), *run.average.state_dict().values()]


def test_it_learns_whatever_has_a_loss(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = []
    run = Regression(Options(steps=300), tmp_path)
    run.to_the_end(lines.append)
    error = (run.frozen()(run.x) - run.y).square().mean()
    assert float(error) < 0.05 * float(run.y.var())
    assert [line["step"] for line in lines] == list(range(5, 301, 5))


def test_resuming_gives_the_uninterrupted_result(tmp_path: Path) -> None:
    whole = Regression(Options(), tmp_path / "whole")
    whole.to_the_end()
    Regression(Options(steps=23), tmp_path / "part").to_the_end()
    assert (tmp_path / "part" / CHECKPOINT).exists()
    rest = Regression(Options(seed=0), tmp_path / "part")
    rest.net.weight.data.zero_()  # the checkpoint's weights count, not those that it starts with
    rest.to_the_end()
    assert rest.step == whole.step == 60
    assert all(torch.equal(a, b) for a, b in zip(state(whole), state(rest), strict=True))
