"""Train a conditional model on labelled vectors, save it, and compare it with the exact answer.

The data lie on a random subspace and the label is a noisy linear score, so the law of x given the
label is a known Gaussian: the mean score at every aim can be checked.

    python examples/train_conditional.py
    python examples/train_conditional.py --toy
"""

from __future__ import annotations

import argparse
import tempfile

import torch

from payoff.denoisers import NetDenoiser, Subspace
from payoff.metrics import mean_reward
from payoff.nets import ResidualMLP
from payoff.pretrained import from_pretrained, save_pretrained
from payoff.problems import GaussianSubspace
from payoff.samplers import DDIM
from payoff.training import FitConfig, fit

DIM, LATENT, NOISE = 16, 4, 0.2


def main() -> None:
    """Train, save, load, sample at four aims."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--toy", action="store_true", help="a short training, in seconds")
    toy = parser.parse_args().toy
    rows, n, config = (
        (2_000, 500, FitConfig(steps=150, batch_size=128))
        if toy
        else (20_000, 4_000, FitConfig(steps=3_000, batch_size=512))
    )

    problem = GaussianSubspace.random(DIM, LATENT)
    generator = torch.Generator().manual_seed(0)
    x = problem.sample_base(rows, generator=generator)
    label = problem.labels(x, NOISE, generator=generator)

    torch.manual_seed(0)  # the network's random start
    net = ResidualMLP(LATENT, width=64, depth=2, label_dim=1, affine=True)
    inner = NetDenoiser(net, problem.denoiser.process)
    trained = fit(Subspace(inner, DIM, LATENT), x, {"label": label}, config)

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(trained, folder, {"label": "score, its own units"})
        loaded = from_pretrained(folder)

    exact = problem.conditional(NOISE)
    print(f"{'aim':>5} {'mean score':>28} {'exact':>8} {'off the subspace':>17}")
    for aim in (0.0, 1.0, 2.0, 3.0):
        asked = {"label": torch.full((1, 1), aim)}  # one row holds for all samples
        drawn = DDIM(loaded, (DIM,), steps=50).sample(n, asked, generator=generator)
        score = mean_reward(problem.reward, drawn)
        truth = float(exact.moments(aim)[0] @ problem.theta)
        outside = float(problem.off_support(drawn).mean())
        print(f"{aim:>5.1f} {score!s:>28} {truth:>8.4f} {outside:>17.2e}")


if __name__ == "__main__":
    main()
