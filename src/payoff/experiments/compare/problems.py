r"""The cells of a comparison on a problem with a closed form.

The base is the law itself with a trainable correction, so that what is measured is the method and
not the quality of a base. No law with divergence k from the base has more reward than the exact
frontier

.. math:: R(k) = \max_{\mathrm{KL}(q\|p)\le k} E_q[r] = E_{p^*_\tau}[r],\qquad
          \tau:\ \mathrm{KL}(p^*_\tau\|p) = k ,

so the share of its gain, :math:`(E_q[r]-E_p[r])/(R(k)-E_p[r])` at the method's own k, says how well
a method uses what it moves.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from payoff.denoisers import Corrected
from payoff.errors import UserError
from payoff.experiments.compare.cell import learning
from payoff.experiments.compare.config import CompareConfig
from payoff.experiments.compare.measures import sampled
from payoff.experiments.compare.plan import Cell, parse_method
from payoff.experiments.compare.steered import steered_problem
from payoff.experiments.finetune.counting import Evaluations
from payoff.experiments.finetune.methods import make_method
from payoff.finetuning import METHODS, Monitor
from payoff.metrics import (
    Estimate,
    bootstrap,
    energy_distance,
    mean_pairwise_distance,
    sliced_wasserstein,
)
from payoff.nets import ResidualMLP
from payoff.problems import GaussianMixture, GaussianSubspace, MixtureProblem, TokenChain
from payoff.problems.base import Problem
from payoff.targets import Target

MEASURES = {
    "reward": "mean reward of fresh samples",
    "gain": "how much that is above the base, exactly known",
    "kl": "divergence of the model's paths from the base's, nats",
    "frontier": "the most gain that any law has at this divergence",
    "share": "share of that gain",
    "weight_error": "largest error of a mode's weight against p*, in its standard errors",
    "w1": "Wasserstein-1 distance to exact draws of p*, over random directions where there are "
    "several; that of the same number of exact draws stands in the row of p*",
    "energy": "energy distance to them, 0 for equal laws (tokens as indicators)",
    "mode_1": "share of samples in the first mode",
    "mode_2": "share of samples in the second mode",
    "diversity": "mean distance of two samples",
    "spent": "reward calls used to learn; for a steering method per 100 samples",
    "network": "network evaluations for that",
    "backward": "how many of these were differentiated by the input",
    "seconds": "time for that",
    "memory": "largest memory of the process, MiB",
}
WIDTH, DEPTH = 128, 3
EXACT_DRAWS, REFERENCE = 4000, 20_000  # draws of p* that samples are compared with; their seed
REPEATS, LEAST_ENERGY = 30, 100
LEAST_KL = 1e-3  # nats: below this the share is noise over noise


def make_problem(
    name: str, temperature: float | None, dtype: torch.dtype = torch.float32
) -> Problem:
    """The problem of that name; the same for every seed of the learning."""
    tau = 1.0 if temperature is None else temperature
    if name == "mixture":
        return MixtureProblem.two_modes(temperature=tau, dtype=dtype)
    if name == "subspace":
        return GaussianSubspace.random(dim=16, latent_dim=4, temperature=tau, dtype=dtype)
    return TokenChain.random(vocabulary=4, length=5, temperature=tau, dtype=dtype)


def check(config: CompareConfig) -> None:
    """Refuse what does not apply to a closed form.

    Raises:
        UserError: an option of tables is set, or a method cannot work on it.
    """
    for name in ("reward", "held_out", "bounds", "identifiers", "categorical", "minimize"):
        if getattr(config, name):
            text = "--id" if name == "identifiers" else "--" + name.replace("_", "-")
            raise UserError(f"{text} does not apply to {config.source}, which has its own reward")
    if config.source == "chain":
        for label in config.labels():
            asked = parse_method(label)
            method = METHODS.get(asked.name) if asked.family == "tune" else None
            if method is not None and not method.tokens:
                raise UserError(
                    f"--methods {label}: {method.name} works on real vectors only, and chain is a "
                    "problem of tokens; leave it out"
                )
    make_problem(config.source, config.temperature)


def run_problem(cell: Cell, shared: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The rows of a cell on a closed form: the base with the exact answer, or a method."""
    problem = make_problem(shared["problem"], shared["temperature"])
    exact = make_problem(shared["problem"], shared["temperature"], torch.float64)
    n = shared["samples"]
    generator = torch.Generator().manual_seed(cell.seed + 11)
    if cell.kind == "base":
        return _exact_rows(problem, exact, n, generator)
    if cell.kind == "steer":
        row, x = steered_problem(cell, problem, learning(cell), n, generator)
        return [row if x is None else {**row, **measure(exact, x)}]
    assert cell.method is not None
    method, loop, monitor = make_method(cell.method, cell.settings), learning(cell), Monitor()
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        base = Corrected(problem.denoiser, _network(problem))
    target_of = Target(base, problem.reward, problem.temperature)
    network = Evaluations()
    network.watch(base)
    data = problem.sample_base(2000, generator=generator)
    began = time.perf_counter()
    tuned = method.fit(
        target_of,
        loop,
        data=data,
        monitor=monitor,
        checkpoint=folder / "tuning.pt",
        resume=True,
    )
    seconds, evaluations = time.perf_counter() - began, network.rows
    steps = loop.sampler_steps
    x, divergence = sampled(tuned, base, problem.shape, steps, n, generator=generator)
    found = measure(exact, x, divergence)
    last = monitor.history[-1]
    return [
        {
            **found,
            "family": "tune",
            "declared": "p*" if method.claims_target else "reward",
            "network": evaluations,
            "spent": last["calls"],
            "seconds": seconds,
            "rounds": last["round"],
            "stopped": monitor.stopped,
            "temperature": problem.temperature,
        }
    ]


def _exact_rows(
    problem: Problem, exact: Problem, n: int, generator: torch.Generator
) -> list[dict[str, Any]]:
    """The base and the exact answer: weights of their own draws, everything else by formula."""
    rows: list[dict[str, Any]] = []
    for label, x, reward, kl in (
        ("base", problem.sample_base(n, generator=generator), exact.base_reward(), 0.0),
        (
            "p* (exact)",
            problem.sample_target(n, generator=generator),
            exact.target_reward(),
            float(exact.kl()),
        ),
    ):
        row = measure(exact, x, Estimate(kl, 0.0, n))
        row |= {"reward": float(reward), "reward_stderr": 0.0, "share_stderr": None}
        row["gain"] = float(reward - exact.base_reward())
        row["share"] = row["gain"] / row["frontier"] if row["frontier"] else None
        if label != "base" and "weights_exact" in row:
            known = [float(v) for v in row["weights_exact"].split()]
            row |= {f"mode_{i + 1}": v for i, v in enumerate(known)}
            row |= {f"mode_{i + 1}_stderr": None for i in range(len(known))}
        rows.append({"label": label, "family": "base", "spent": 0, "seconds": 0.0, **row})
    return rows


def measure(problem: Problem, x: Tensor, kl: Estimate | None = None) -> dict[str, Any]:
    """The measures of samples x (n, ...) of a law at this divergence; ``problem`` in float64."""
    x = x.double() if x.is_floating_point() else x
    reward = Estimate.of(problem.reward(x).double())
    gain = reward.value - float(problem.base_reward())
    found: dict[str, Any] = {
        "samples": len(x),
        "reward": reward.value,
        "reward_stderr": reward.stderr,
        "gain": gain,
        "gain_stderr": reward.stderr,
        "kl": None if kl is None else kl.value,
        "kl_stderr": None if kl is None else kl.stderr,
        "frontier": None,
        "share": None,
        "share_stderr": None,
        "weight_error": None,
        **distances(problem, x),
    }
    if kl is not None and kl.value > LEAST_KL:
        found["frontier"] = problem.frontier_gain(kl.value)
        if found["frontier"] is not None:
            found["share"] = gain / found["frontier"]
            found["share_stderr"] = reward.stderr / found["frontier"]
    if isinstance(problem, MixtureProblem):
        found |= _weights(problem, x)
    return found


def distances(problem: Problem, x: Tensor) -> dict[str, Any]:
    """How far samples are from exact draws of p*, and how varied they are, each with its error."""
    own, found = torch.Generator().manual_seed(REFERENCE), dict[str, Any]()
    y = problem.sample_target(max(EXACT_DRAWS, len(x)), generator=own)
    if isinstance(problem, TokenChain):
        count = problem.denoiser.vocabulary
        x, y = (nn.functional.one_hot(v, count).flatten(1).double() for v in (x, y))
    else:
        y = y.to(x)

        def far(rows: Tensor) -> Tensor:
            directions = torch.Generator().manual_seed(REFERENCE)
            return torch.tensor(sliced_wasserstein(rows, y, generator=directions).value)

        w1 = bootstrap(far, x, REPEATS, generator=own)
        found |= {"w1": w1.value, "w1_stderr": w1.stderr}
    if len(x) >= LEAST_ENERGY:
        energy = energy_distance(x, y[: len(x)])
        found |= {"energy": energy.value, "energy_stderr": energy.stderr}
    if len(x) > 2:
        varied = mean_pairwise_distance(x)
        found |= {"diversity": varied.value, "diversity_stderr": varied.stderr}
    return found


def _weights(problem: MixtureProblem, x: Tensor) -> dict[str, Any]:
    """Shares of the samples in each mode of p*, and how far off they are."""
    tilted = problem.tilted()
    assert isinstance(tilted, GaussianMixture)
    t = torch.zeros((), dtype=x.dtype)
    own = tilted.responsibilities(x, t).argmax(1)
    exact = tilted.log_weights.exp().double()
    share = torch.bincount(own, minlength=len(exact)).double() / len(x)
    error = (exact * (1 - exact) / len(x)).sqrt()
    worst = float(((share - exact).abs() / error.clamp(min=1e-12)).max())
    own_error = (share * (1 - share) / len(x)).sqrt().tolist()
    modes = {f"mode_{i + 1}": v for i, v in enumerate(share.tolist())}
    modes |= {f"mode_{i + 1}_stderr": v for i, v in enumerate(own_error)}
    return {
        **modes,
        "weight_error": worst,
        "weights": " ".join(f"{v:.4f}" for v in share.tolist()),
        "weights_exact": " ".join(f"{v:.4f}" for v in exact.tolist()),
    }


class _TokenNet(nn.Module):
    """Logits (B, L, V) of partly masked tokens (B, L), zero at the start."""

    def __init__(self, length: int, vocabulary: int) -> None:
        super().__init__()
        self.length, self.vocabulary = length, vocabulary
        self.body = nn.Sequential(
            nn.Linear(length * (vocabulary + 1) + 1, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
        )
        self.head = nn.Linear(WIDTH, length * vocabulary)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Any = None) -> Tensor:
        seen = nn.functional.one_hot(x, self.vocabulary + 1).flatten(1).to(self.head.weight)
        h = self.body(torch.cat([seen, noise_level.to(seen).unsqueeze(1)], 1))
        return self.head(h).reshape(len(x), self.length, self.vocabulary)


def _network(problem: Problem) -> nn.Module:
    if isinstance(problem, TokenChain):
        return _TokenNet(problem.shape[0], problem.denoiser.vocabulary)
    return ResidualMLP(problem.shape[0], width=WIDTH, depth=DEPTH)
