"""The ELBO errors: differences of two exact laws are differences of their log-densities."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from finetuning_cases import F64, aimed, chain_target, quick, run_of, seeded, small, z_scores

from payoff.finetuning import losses
from payoff.finetuning.awm import log_density_gain
from payoff.finetuning.rollouts import Samples
from payoff.predictions import TokenPrediction
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem, TokenChain
from payoff.processes import GaussianProcess, MaskProcess
from payoff.schedules import Cosine
from payoff.targets import Target


@pytest.mark.parametrize("name", ["one", "two_modes", "full"])
def test_a_difference_of_elbos_is_a_difference_of_log_densities(name: str) -> None:
    """Exact laws p and p*, any point: mean over t of e_p − e_p* is log p* − log p."""
    problem = {
        "one": GaussianSubspace.random(1, 1, dtype=F64),
        "two_modes": MixtureProblem.two_modes(dtype=F64),
        "full": GaussianSubspace.random(3, 3, 0.7, isotropic=False, dtype=F64),
    }[name]
    process, n = problem.base.process, 100_000
    end = torch.zeros((), dtype=F64)
    for x in problem.sample_base(3, generator=seeded(7)):
        x0 = x.expand(n, -1)
        t = losses.draw_times(process, n, like=x0, generator=seeded())
        x_t = process.corrupt(x0, t, generator=seeded(1))
        gain = losses.elbo_error(problem.base(x_t, t), x0, process, t)
        gain = gain - losses.elbo_error(problem.tilted()(x_t, t), x0, process, t)
        exact = problem.tilted().log_prob_t(x[None], end) - problem.base.log_prob_t(x[None], end)
        # the finite range of noise leaves a few 1e-3 out
        assert z_scores(gain, exact, floor=2e-3).abs().max() < 4


def test_of_one_gaussian_the_elbo_is_exact_by_quadrature() -> None:
    r"""N(m, v): E‖x_0 − x̂‖² is a polynomial; its integral over log-SNR against log-densities."""
    process = GaussianProcess(schedule=Cosine(-30.0, 30.0))
    log_snr = torch.linspace(-30, 30, 60_001, dtype=F64)
    t = process.schedule.time(log_snr)
    alpha, sigma = process.schedule(t)
    x = 0.8

    def elbo(m: float, v: float) -> float:
        gain = alpha * v / (alpha**2 * v + sigma**2)
        # x̂ − x = (1 − gain α)(m − x) + gain σ ε
        square = ((1 - gain * alpha) * (m - x)) ** 2 + (gain * sigma) ** 2
        error = 0.5 * losses._range(process) * (alpha / sigma) ** 2 * square
        return float(torch.trapezoid(error, log_snr) / 60)

    def log_density(m: float, v: float) -> float:
        return -0.5 * (x - m) ** 2 / v - 0.5 * math.log(v)

    for one, two in itertools.pairwise([(0.0, 1.0), (1.5, 0.4), (-0.3, 2.0)]):
        assert elbo(*one) - elbo(*two) == pytest.approx(
            log_density(*two) - log_density(*one), abs=1e-4
        )


def test_the_elbo_of_centred_clouds_counts_their_dimensions() -> None:
    problem = CloudProblem(3, temperature=2.0, dtype=F64)
    n, end = 60_000, torch.zeros((), dtype=F64)
    one = {"mask": torch.tensor([[True, True, False]])}
    x = problem.sample_base(1, one, generator=seeded(3))
    cond = {"mask": one["mask"].expand(n, -1)}
    x0, process = x.expand(n, -1, -1), problem.base.process
    t = losses.draw_times(process, n, like=x0, generator=seeded())
    x_t = process.corrupt(x0, t, cond, generator=seeded(1))
    tilted = problem.tilted()
    gain = losses.elbo_error(problem.base(x_t, t, cond), x0, process, t, cond)
    gain = gain - losses.elbo_error(tilted(x_t, t, cond), x0, process, t, cond)
    exact = problem.base.log_ratio(tilted, x, end, one)
    assert z_scores(gain, exact, floor=2e-3).abs().max() < 4


def test_the_elbo_of_exact_tokens_is_their_log_probability() -> None:
    """Exact marginals of any order: −ELBO is −log p itself, not only up to a constant."""
    chain = TokenChain.random(3, 3, dtype=F64)
    process, n = chain.base.process, 100_000
    for law in (chain.base, chain.tilted()):
        for i in (0, 11, 25):
            x0 = law.sequences[i].expand(n, -1)
            t = losses.draw_times(process, n, like=x0, generator=seeded()).double()
            x_t = process.corrupt(x0, t, generator=seeded(1))
            found = losses.elbo_error(law(x_t, t), x0, process, t)
            # times are kept off 0 by 1e-4, where there is next to nothing to predict
            assert z_scores(found, -law.log_table[i], floor=1e-3).abs().max() < 4


def test_by_enumeration_the_token_elbo_is_exact() -> None:
    """Every mask pattern by hand: with j of L hidden its weight is (j−1)!(L−j)!/L!."""
    chain = TokenChain.random(3, 3, dtype=F64)
    law, length = chain.base, 3
    x0 = law.sequences[5:6]
    total = 0.0
    for hidden in itertools.product([False, True], repeat=length):
        j = sum(hidden)
        if j == 0:
            continue
        x_t = torch.where(torch.tensor([hidden]), 3, x0)
        log_probs = law(x_t, torch.tensor(0.5)).log_probs.gather(-1, x0.unsqueeze(-1))[..., 0]
        weight = math.factorial(j - 1) * math.factorial(length - j) / math.factorial(length)
        total -= weight * float(log_probs[torch.tensor([hidden])].sum())
    assert total == pytest.approx(-float(law.log_table[5]))


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_times_are_stratified_in_log_snr(n: int) -> None:
    process = GaussianProcess()
    t = losses.draw_times(process, n, like=torch.zeros(1, dtype=F64), generator=seeded())
    assert t.shape == (n,)
    assert ((t >= 0) & (t <= 1)).all()
    level = (process.schedule.log_snr(t) + 14) / 28
    strata = (level.sort().values * n).floor()
    assert torch.equal(strata, torch.arange(n, dtype=F64))
    if n == 1000:  # shuffled: rows next to each other have nothing to do with each other
        gap = level[1:] - level[:-1]
        assert gap.abs().mean() > 0.2


def test_token_times_are_stratified_and_keep_off_the_ends() -> None:
    process: MaskProcess = TokenChain.random(3, 3).base.process
    t = losses.draw_times(process, 500, like=torch.zeros(1, dtype=torch.long), generator=seeded())
    assert t.dtype == torch.get_default_dtype()
    assert t.min() >= 1e-4
    assert t.max() < 1
    assert torch.equal((t.sort().values * 500).floor(), torch.arange(500.0))


def test_log_density_gains_of_awm_are_those_of_the_laws() -> None:
    """A policy that is p* exactly: its gain over the base is r/τ − log Z of every sample."""
    problem = MixtureProblem.two_modes(dtype=F64)
    method = quick("awm")
    target = Target(aimed().denoiser, problem.reward)
    run = run_of(method, target, (1,), small())
    run.policy, run.base = problem.tilted(), problem.base
    x = problem.sample_base(4, generator=seeded()).repeat(2000, 1)
    gain = log_density_gain(run, Samples(x, problem.reward(x)), 8).view(2000, 4)
    exact = problem.reward(x[:4]) - problem.log_partition()
    assert z_scores(gain, exact, floor=2e-3).abs().max() < 4


def test_log_density_gains_of_tokens() -> None:
    chain, target = chain_target()
    run = run_of(quick("awm"), target, (3,), small())
    run.policy, run.base = chain.tilted(), chain.base
    x = chain.sample_base(4, generator=seeded()).repeat(3000, 1)
    gain = log_density_gain(run, Samples(x, chain.reward(x)), 8).view(3000, 4)
    exact = chain.reward(x[:4]) / chain.temperature - chain.log_partition()
    assert z_scores(gain, exact, floor=2e-3).abs().max() < 4


def test_gains_of_dpo_are_those_of_the_laws() -> None:
    """DPO's implicit reward, of winners and of losers, by its own shared draws."""
    problem = MixtureProblem.two_modes(dtype=F64)
    method = quick("dpo", draws=4)
    run = run_of(method, Target(aimed().denoiser, problem.reward), (1,), small())
    run.policy, run.base = problem.tilted(), problem.base
    pair = problem.sample_base(2, generator=seeded(1))
    repeats = 4000
    gains = method._gains(run, pair[:1].expand(repeats, 1), pair[1:].expand(repeats, 1), None)
    exact = problem.reward(pair) - problem.log_partition()
    for gain, one in zip(gains, exact, strict=True):
        assert z_scores(gain, one, floor=2e-3).abs().max() < 4


def test_elbo_of_a_wrong_token_model_is_larger() -> None:
    chain = TokenChain.random(3, 3, dtype=F64)
    process, n = chain.base.process, 4000
    x0 = chain.sample_base(n, generator=seeded())
    t = losses.draw_times(process, n, like=x0, generator=seeded(1)).double()
    x_t = process.corrupt(x0, t, generator=seeded(2))
    flat = TokenPrediction.of_logits(torch.zeros(n, 3, 3, dtype=F64), x_t, 3)
    gap = losses.elbo_error(flat, x0, process, t) - losses.elbo_error(
        chain.base(x_t, t), x0, process, t
    )
    assert float(z_scores(gap)) > 4
