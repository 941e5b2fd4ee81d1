"""What tuning a model of molecules rests on: rounding, and a value learned from few scores.

    python benchmarks/molecule_tuning.py qm9

First table: how far a model's paths are from its own, nats, when nothing was changed, when every
weight has moved by one of Adam's steps at a rate that should not matter, and when as much was
added at random; with matrix products in single precision and in bfloat16, both models alike.

Second table: what a value network has learned of a reward from scored samples of the model, begun
with the model's own first blocks and begun anew (96 wide), as the share of the reward's variance
that it explains on other samples, by log-SNR; and the CPU seconds of learning. Samples without a
score are left out; with ``--failures`` they count as the reward that this share of the known ones
falls below (0: the worst), and the share explained is still that of the others.

Third table, with ``--bands``: molecules drawn along the last of these values (``--strength``, in
units of one standard deviation of the reward), which is looked at within a band of log-SNR only:
mean reward, how far their paths are from the model's own, and how many are valid and different.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from payoff.denoisers import Denoiser
from payoff.domains.molecules.codecs import decoded
from payoff.domains.molecules.config import PRODUCTS
from payoff.domains.molecules.evaluate import products
from payoff.domains.molecules.guided import LIMIT
from payoff.domains.molecules.metrics import summary
from payoff.domains.molecules.model import MoleculeModel
from payoff.domains.molecules.rewards import REWARDS
from payoff.errors import UserError
from payoff.finetuning.advantages import replace_failed
from payoff.finetuning.monitor import floored_kl
from payoff.guidance import Guided
from payoff.metrics import Estimate
from payoff.nets.invariant import InvariantTransformer
from payoff.rewards import FunctionReward
from payoff.rewards.base import Cond
from payoff.samplers import stochastic
from payoff.targets import Target
from payoff.values import Learned, value_network

BLUR = 0.05  # no kernel narrower, as in the comparison of methods
LEVELS = (0.0, 2.0, 4.0, 6.0, 9.0)
STEPS, NOISE = 25, 2.0
BATCH = 250


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(model: MoleculeModel, size: float, *, by: str) -> Denoiser:
    """A copy whose weights have all moved by ``size``: by Adam's first step, or at random."""
    copied = copy.deepcopy(model.denoiser).requires_grad_(True)
    generator = seeded(0)
    cond = model.conditions(64, generator=generator)
    x = torch.randn(64, *model.shape, generator=generator)
    x = copied.process.space.project(x, cond)  # type: ignore[attr-defined]
    loss = copied(x, torch.full((64,), 0.5), cond).x0.square().mean()
    loss.backward()
    with torch.no_grad():
        for weight in copied.parameters():
            if weight.grad is None:
                continue
            drawn = torch.randn(weight.shape, generator=generator)
            weight += size * (weight.grad if by == "adam" else drawn).sign()
    return copied.requires_grad_(False)


def rounding(model: MoleculeModel, n: int) -> None:
    """The first table."""
    print("| every weight moved by | fp32, nats | bf16, nats |\n|---|---|---|")
    rows = [("nothing", 0.0, "adam"), ("1e-8, Adam's first step", 1e-8, "adam")]
    rows += [("1e-8, signs at random", 1e-8, "random")]
    for title, size, by in rows:
        other, found = moved(model, size, by=by), []
        for kind in ("fp32", "bf16"):
            cond = model.conditions(n, generator=seeded(1))
            with products(kind):
                found.append(
                    floored_kl(
                        *(other, model.denoiser, model.shape, STEPS, n, cond, BLUR),
                        generator=seeded(2),
                    )
                )
        print(f"| {title} | {' | '.join(map(nats, found))} |", flush=True)


def nats(found: Estimate) -> str:
    return f"{found.value:.2g} ± {found.stderr:.1g}"


def scored(model: MoleculeModel, reward: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples (n, ...), their mask, and the standardised reward of each, NaN where it failed."""
    generator = seeded(3)
    cond = model.conditions(n, generator=generator)
    sampler = stochastic(model.denoiser, model.shape, STEPS, NOISE)
    with products():
        x = sampler.sample(n, cond, generator=generator, batch_size=BATCH)
    found = torch.as_tensor(REWARDS[reward].score(decoded(model.codec, x, {"mask": cond["mask"]})))
    known = found[~found.isnan()]
    order = torch.randperm(n, generator=generator)  # they come sorted by size
    return x[order], cond["mask"][order], ((found - known.mean()) / known.std()).float()[order]


def learned(model: MoleculeModel, args: argparse.Namespace) -> Learned:
    """The second table; the last value."""
    n = args.scored
    x, mask, score = scored(model, args.reward, n + args.others)
    levels = " | ".join(f"log-SNR {level:g}" for level in LEVELS)
    print(f"| begun | failures | steps | CPU s | {levels} |\n|{'---|' * (4 + len(LEVELS))}")
    for begun, share, count in product(args.begun, args.failures or [None], args.value_steps):
        value, began = fresh(model, begun), time.process_time()
        taught = score[:n] if share is None else replace_failed(score[:n], share)
        with products(args.products):
            value.fit(
                *(x[:n], {"mask": mask[:n]}),
                **{"scores": taught, "steps": count, "batch_size": 128, "rate": 1e-3},
                generator=seeded(4),
            )
            spent = time.process_time() - began
            shares = explained(value, x[n:], mask[n:], score[n:])
        cells = " | ".join(f"{share:.2f}" for share in shares)
        failed = "left out" if share is None else f"{share:g}"
        print(f"| {begun} | {failed} | {count} | {spent:.0f} | {cells} |", flush=True)
    return value


def led(model: MoleculeModel, value: Learned, args: argparse.Namespace) -> None:
    """The third table."""
    value.requires_grad_(False)
    reward = REWARDS[args.reward]
    sign = -1.0 if args.minimize else 1.0
    print("| log-SNR | mean | divergence, nats | valid % | different % |\n|---|---|---|---|---|")
    for low, high in args.bands:
        options = {"scale": sign * args.strength, "limit": LIMIT, "interval": (low, high)}
        guided = Guided(model.denoiser, value, **options)
        cond = model.conditions(args.led, generator=seeded(6))
        sampler = stochastic(guided, model.shape, STEPS, NOISE)
        paths = model.conditions(args.led // 5, generator=seeded(7))
        with products():
            x = sampler.sample(args.led, cond, generator=seeded(6), batch_size=BATCH)
            kl = floored_kl(
                *(guided, model.denoiser, model.shape, STEPS, args.led // 5, paths, BLUR),
                generator=seeded(7),
            )
        found = decoded(model.codec, x, {"mask": cond["mask"]})
        scores = torch.as_tensor(reward.score(found))
        mean, kinds = Estimate.of(scores[~scores.isnan()]), summary(found)
        print(
            f"| {low:g} to {high:g} | {mean.value:.4f} ± {mean.stderr:.4f} | {kl.value:.1f} ± "
            f"{kl.stderr:.1f} | {100 * kinds['validity']:.1f} | {100 * kinds['uniqueness']:.1f} |",
            flush=True,
        )


def bands(text: str) -> list[tuple[float, float]]:
    """Pairs of log-SNRs, low:high, with commas between them."""
    pairs = [part.partition(":") for part in text.split(",")]
    return [(float(low), float(high)) for low, _, high in pairs]


def fresh(model: MoleculeModel, begun: str) -> Learned:
    """A value that has learned nothing: with the model's blocks, or with none of it (anew)."""
    target = Target(model.denoiser, FunctionReward(lambda x, cond: x.flatten(1)[:, 0]), 1.0)
    torch.manual_seed(0)
    if begun == "blocks":
        return Learned(value_network(model.denoiser, model.shape, 96), target, "mean")
    net = InvariantTransformer(model.codec.features, 1, 96, 4, pair_width=24, vectors=16)
    return Learned(net, target, "mean")


@torch.no_grad()
def explained(value: Learned, x: Tensor, mask: Tensor, score: Tensor) -> list[float]:
    """Shares of the variance of scores (n,), one for each of the log-SNRs."""
    fine = ~score.isnan()
    x, mask, score = x[fine], mask[fine], score[fine]
    found = []
    for batches in noised(value, x, mask):
        error = (torch.cat([value(*batch) for batch in batches]) - score).square().mean()
        found.append(float(1 - error / score.var()))
    return found


def noised(value: Learned, x: Tensor, mask: Tensor) -> Iterator[list[tuple[Tensor, Tensor, Cond]]]:
    """Samples at each of the log-SNRs, in batches of what a value is asked with: (x_t, t, cond)."""
    process = value.target.denoiser.process
    times = torch.linspace(0, 1, 2001)[1:-1]
    ratios = process.schedule.log_snr(times)  # type: ignore[attr-defined]
    for level in LEVELS:
        t = times[(ratios - level).abs().argmin()].expand(len(x))
        x_t = process.corrupt(x, t, {"mask": mask}, generator=seeded(5))
        parts = torch.arange(len(x)).split(BATCH)
        yield [(x_t[rows], t[rows], {"mask": mask[rows]}) for rows in parts]


def loaded(args: argparse.Namespace) -> MoleculeModel:
    """The model that is named, on so many threads; ends the program where there is none."""
    torch.set_num_threads(args.threads)
    try:
        return MoleculeModel.load(args.model)
    except UserError as error:
        sys.exit(f"error: {error}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--reward", default="qed", choices=REWARDS)
    parser.add_argument("--paths", type=int, default=250, help="paths of a divergence; 0: none")
    parser.add_argument("--scored", type=int, default=2400, help="samples that are learned from")
    parser.add_argument("--others", type=int, default=1600, help="samples it is judged by")
    parser.add_argument("--value-steps", type=int, nargs="+", default=[100, 400])
    parser.add_argument(
        "--begun", nargs="+", default=["blocks", "anew"], choices=["blocks", "anew"]
    )
    parser.add_argument("--failures", type=float, nargs="+", help="shares of the known rewards")
    parser.add_argument("--products", default="fp32", choices=PRODUCTS, help="of the values")
    parser.add_argument("--bands", type=bands, help="log-SNRs: --bands=-2:4,0:6")
    parser.add_argument("--strength", type=float, default=8.0, help="of the bands' guidance")
    parser.add_argument("--led", type=int, default=400, help="molecules a band")
    parser.add_argument("--minimize", action="store_true", help="a lower reward is better")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    model = loaded(args)
    if args.paths:
        rounding(model, args.paths)
        print()
    value = learned(model, args)
    if args.bands:
        print()
        led(model, value, args)


if __name__ == "__main__":
    main()
