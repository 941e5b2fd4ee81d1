"""What a value knows of the chance that a molecule is valid, and what insisting on it does.

    python benchmarks/molecule_feasible.py qm9 --reward xtb_gap --minimize

Molecules of the model are scored; those that are not valid have no score. Two values are learned
from the same ones: one in which a failure counts as the second percentile of the known rewards, and
one that learns the chance of a score apart.

First table, on other molecules of the model, by log-SNR: the correlation of the value with the
reward of those that have one, and how well it tells those from the others: the chance that it is
higher for a valid molecule than for one that is not (0.5: it knows nothing).

Second table: molecules drawn along the second value, v = a · reward + b · log chance, the reward in
its standard deviations: how many are valid and different, and the mean reward of the valid ones.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import torch
from molecule_tuning import BATCH, LEVELS, NOISE, STEPS, loaded, noised, seeded  # beside this file
from torch import Tensor

from payoff.domains.molecules.codecs import decoded
from payoff.domains.molecules.evaluate import products
from payoff.domains.molecules.guided import LIMIT
from payoff.domains.molecules.metrics import smiles_of, to_rdkit
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.molecule import Molecule
from payoff.domains.molecules.rewards import REWARDS
from payoff.finetuning.advantages import replace_failed
from payoff.finetuning.rgdm_step import FAILED
from payoff.guidance import Guided
from payoff.metrics import Estimate
from payoff.rewards import FunctionReward
from payoff.samplers import stochastic
from payoff.targets import Target
from payoff.values import Feasible, Learned, value_network
from payoff.values.base import Value

WIDTH, LATEST = 96, 0.75


class Insisting(Value):
    """a · reward + b · log chance of a value of both."""

    differentiable = True

    def __init__(self, value: Feasible, reward: float, chance: float) -> None:
        self.value, self.reward, self.chance = value, reward, chance

    def __call__(self, x_t, t, cond=None, *, generator=None):
        return self.value.weighed(x_t, t, cond, reward=self.reward, chance=self.chance)


def judged(found: list[Molecule | None], reward: str) -> tuple[Tensor, list[str]]:
    """The reward (n,) of molecules, NaN where they are not valid, and the SMILES of the others."""
    perceived = [to_rdkit(molecule) for molecule in found]
    values = torch.full((len(found),), torch.nan)
    rows = [i for i, mol in enumerate(perceived) if mol is not None]
    values[rows] = torch.as_tensor(REWARDS[reward].score([found[i] for i in rows])).float()
    return values, [smiles_of(mol) for mol in perceived if mol is not None]


def drawn(model: MoleculeModel, denoiser, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples (n, ...) and their mask, in random order of size."""
    generator = seeded(seed)
    cond = model.conditions(n, generator=generator)
    cond = {"mask": cond["mask"][torch.randperm(n, generator=generator)]}
    sampler = stochastic(denoiser, model.shape, STEPS, NOISE)
    with products():
        x = sampler.sample(n, cond, generator=generator, batch_size=BATCH)
    return x, cond["mask"]


def ranked(guess: Tensor, there: Tensor) -> float:
    """The chance that a guess (n,) is higher where something is there than where it is not."""
    gaps = guess[there][:, None] - guess[~there][None]
    return float(((gaps > 0).float() + 0.5 * (gaps == 0)).mean())


@torch.no_grad()
def known(value: Learned, x: Tensor, mask: Tensor, score: Tensor) -> list[str]:
    """Correlation and rank of a value at every log-SNR."""
    there, cells = ~score.isnan(), []
    for batches in noised(value, x, mask):
        apart = isinstance(value, Feasible)
        pairs = [value.parts(*batch) if apart else (value(*batch),) * 2 for batch in batches]
        reward, chance = (torch.cat(part) for part in zip(*pairs, strict=True))
        r = float(torch.corrcoef(torch.stack([reward[there], score[there]]))[0, 1])
        cells.append(f"{r:.2f}, {ranked(chance, there):.2f}")
    return cells


def learned(model: MoleculeModel, args: argparse.Namespace) -> Feasible:
    """The first table; the value that learns the chance apart."""
    x, mask = drawn(model, model.denoiser, args.scored + args.others, 3)
    score, _ = judged(decoded(model.codec, x, {"mask": mask}), args.reward)
    score = (-1 if args.minimize else 1) * score
    fine = score[~score.isnan()]
    print(f"{len(fine)} of {len(score)} valid, reward {fine.mean():.3f}, sd {fine.std():.3f}\n")
    score = (score - fine.mean()) / fine.std()
    n, target = args.scored, Target(model.denoiser, FunctionReward(lambda x, cond: x[:, 0, 0]), 1.0)
    levels = " | ".join(f"log-SNR {level:g}" for level in LEVELS)
    print(f"| failures | CPU s | {levels} |\n|{'---|' * (2 + len(LEVELS))}")
    for kind in (Learned, Feasible):
        torch.manual_seed(0)
        net = value_network(model.denoiser, model.shape, WIDTH, 2 if kind is Feasible else 1)
        value, began = kind(net, target, "mean"), time.process_time()
        taught = score[:n] if kind is Feasible else replace_failed(score[:n], FAILED)
        with products():
            value.fit(
                *(x[:n], {"mask": mask[:n]}),
                **{"scores": taught, "steps": args.value_steps, "batch_size": 128, "rate": 1e-3},
                **{"latest": LATEST, "generator": seeded(4)},
            )
            spent = time.process_time() - began
            cells = known(value, x[n:], mask[n:], score[n:])
        title = "learned apart" if kind is Feasible else "count as the second percentile"
        print(f"| {title} | {spent:.0f} | {' | '.join(cells)} |", flush=True)
    assert isinstance(value, Feasible)
    return value.requires_grad_(False)


def led(model: MoleculeModel, value: Feasible, args: argparse.Namespace) -> None:
    """The second table."""
    print("\n| reward | chance | mean | valid % | different % |\n|---|---|---|---|---|")
    for reward, chance in product(args.strengths, args.insist):
        guided = Guided(model.denoiser, Insisting(value, reward, chance), limit=LIMIT)
        x, mask = drawn(model, guided, args.led, 6)
        values, smiles = judged(decoded(model.codec, x, {"mask": mask}), args.reward)
        mean = Estimate.of(values[~values.isnan()])
        valid, kinds = len(smiles) / len(x), len(set(smiles)) / max(1, len(smiles))
        print(
            f"| {reward:g} | {chance:g} | {mean.value:.3f} ± {mean.stderr:.3f} | "
            f"{100 * valid:.1f} | {100 * kinds:.1f} |",
            flush=True,
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--reward", default="qed", choices=REWARDS)
    parser.add_argument("--minimize", action="store_true", help="a lower reward is better")
    parser.add_argument("--scored", type=int, default=2500, help="samples that are learned from")
    parser.add_argument("--others", type=int, default=1000, help="samples it is judged by")
    parser.add_argument("--value-steps", type=int, default=400)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 3.0, 6.0])
    parser.add_argument("--insist", type=float, nargs="+", default=[0.0, 3.0, 10.0, 30.0])
    parser.add_argument("--led", type=int, default=500, help="molecules of a row")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    model = loaded(args)
    led(model, learned(model, args), args)


if __name__ == "__main__":
    main()
