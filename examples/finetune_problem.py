"""Fine-tuning against an exact answer: how much of the frontier's reward a method gets.

The base is a mixture of two Gaussians with its exact denoiser, which has nothing to train; a small
network on top of it, a correction that starts at zero, has. The reward is a parabola, so that
p* ∝ p · exp(r/τ) is a mixture again, and for every divergence from the base the largest possible
mean reward is known: the frontier {(KL(p*_τ ‖ p), E_{p*_τ}[r])}.

    python examples/finetune_problem.py
    python examples/finetune_problem.py --method adjoint
    python examples/finetune_problem.py --toy
"""

from __future__ import annotations

import argparse

import torch

from payoff.denoisers import Corrected
from payoff.finetuning import METHODS, FinetuneConfig
from payoff.jobs.methods import make_method
from payoff.metrics import Estimate, paths
from payoff.nets import ResidualMLP
from payoff.problems import MixtureProblem
from payoff.processes import GaussianProcess
from payoff.samplers import DDIM
from payoff.schedules import Cosine
from payoff.targets import Target


def main() -> None:
    """Tune with one method, print every round, then the comparison with p* and the frontier."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", default="rgdm", choices=list(METHODS))
    parser.add_argument("--set", action="append", help="an option of the method: NAME=VALUE")
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--updates", type=int, default=400, help="optimiser steps a round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--toy", action="store_true", help="few calls, in seconds")
    options = parser.parse_args()
    calls, n, steps = (600, 500, 10) if options.toy else (options.calls, 10_000, 50)

    # kernels narrower than the floor decide nothing, and yet would hold most of the divergence
    process = GaussianProcess(schedule=Cosine(-8.0, 10.0), noise_floor=0.05)
    problem = MixtureProblem.two_modes(process)
    torch.manual_seed(options.seed)
    _, covariance = problem.base.moments()
    scale = float(covariance.diagonal().mean().sqrt())
    model = Corrected(problem.base, ResidualMLP(1, width=64, depth=2), sigma_data=scale)

    # whole samples weighted by their reward: the variant of rgdm that is exact with many samples
    given = options.set or (["level=sample"] if options.method == "rgdm" else [])
    method = make_method(options.method, given)
    config = FinetuneConfig(
        calls=calls,
        per_round=max(200, calls // 5),
        updates=20 if options.toy else options.updates,
        batch_size=512,
        sampler_steps=steps,
        evaluate=64 if options.toy else 256,
        seed=options.seed,
    )

    def show(entry: dict) -> None:
        print(f"round {entry['round']:3d}  calls {entry['calls']:6d}  KL {entry['kl']:.3f}")

    target = Target(model, problem.reward, problem.temperature)
    tuned = method.fit(target, config, progress=show)

    generator = torch.Generator().manual_seed(99)
    ours, theirs = (DDIM(d, problem.shape, steps, eta=1.0) for d in (tuned, model))
    x, divergences = paths(ours, theirs, n, generator=generator)
    reward, kl = Estimate.of(problem.reward(x)), Estimate.of(divergences)
    right = Estimate.of((x[:, 0] > 0.5).double())
    gain = reward.value - float(problem.base_reward())

    print(f"{'':<8} {'mean reward':>22} {'KL, nats':>22} {'right mode':>22}")
    for name, law, divergence, mean in (
        ("base", problem.base, 0.0, problem.base_reward()),
        ("p*", problem.tilted(), float(problem.kl()), problem.target_reward()),
    ):
        weight = float(law.log_weights.exp()[1])
        print(f"{name:<8} {float(mean):>22.4f} {divergence:>22.4f} {weight:>22.4f}")
    print(f"{method.name:<8} {reward!s:>22} {kl!s:>22} {right!s:>22}")
    most = MixtureProblem.two_modes(process, dtype=torch.float64).frontier_gain(kl.value)
    if most:
        share, error = 100 * gain / most, 100 * reward.stderr / most
        print(f"share of the frontier's gain at its own KL: ({share:.1f} ± {error:.1f}) %")
    if not method.claims_target:
        print(f"{method.name} does not claim p*; how far it goes is a matter of its budget")


if __name__ == "__main__":
    main()
