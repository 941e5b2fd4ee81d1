"""RGDM: the identities of its reconstruction, and the variants that reach p*."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from finetuning_cases import F64, QUICK, corrected, run_of, seeded, z_scores
from torch import Tensor

from payoff.denoisers import Corrected, Denoiser
from payoff.errors import UserError
from payoff.finetuning import RGDM, FinetuneConfig
from payoff.finetuning.rgdm_step import Draft, clean, drafts, shifted
from payoff.finetuning.run import Run
from payoff.metrics.estimate import Estimate
from payoff.metrics.paths import paths
from payoff.nets.equivariant import EquivariantTransformer
from payoff.predictions import Prediction
from payoff.problems import CloudProblem, GaussianSubspace, MixtureProblem
from payoff.processes import GaussianProcess
from payoff.rewards import FunctionReward
from payoff.samplers import DDIM
from payoff.schedules import Cosine, LinearBeta
from payoff.spaces import Centered
from payoff.targets import Target

RHO = 0.4


@pytest.mark.parametrize("schedule", [Cosine(), LinearBeta()])
def test_the_noise_form_of_the_shifted_target(schedule) -> None:
    r"""ε* = ε − (√α_t √(1−ᾱ_t)/β_t) δ̄ is the target x_0 + δ̄/a; it moves the mean by δ̄."""
    process = GaussianProcess(schedule=schedule)
    t, s = torch.tensor([0.2, 0.5, 0.9], dtype=F64), torch.tensor([0.1, 0.48, 0.5], dtype=F64)
    x0, noise, shift = torch.randn(3, 3, 2, dtype=F64, generator=seeded())
    alpha, sigma = process.schedule(t)
    x_t, _ = process.corrupt_with_noise(x0, t, noise=noise)
    a, _b, _std = process.coefficients(t, s)
    target = Prediction(x0 + shift / a[:, None], x_t, alpha, sigma)
    # the quantities of a chain of discrete steps, s being the one before t
    bar_t, bar_s = alpha**2, process.schedule(s)[0] ** 2
    step = bar_t / bar_s
    beta = 1 - step
    c = step.sqrt() * (1 - bar_t).sqrt() / beta
    assert torch.allclose(target.noise, noise - c[:, None] * shift)
    mean = (x_t - (beta / (1 - bar_t).sqrt())[:, None] * target.noise) / step.sqrt()[:, None]
    posterior = process.reverse(x_t, t, s, Prediction(x0, x_t, alpha, sigma))
    assert torch.allclose(mean, posterior.mean + shift)
    assert torch.allclose(process.reverse(x_t, t, s, target).mean, mean)


def linear(temperature: float = 0.8, n: int = 5000, data: bool = True, **options: Any):
    """A run of RGDM by hand on a Gaussian law with a linear reward, in double precision."""
    problem = GaussianSubspace.random(3, 2, temperature, dtype=F64)
    target = Target(corrected(problem), problem.reward, temperature)
    config = FinetuneConfig(
        calls=10**6, per_round=n, updates=1, batch_size=8, sampler_steps=10, noise_floor=0.0
    )
    x = problem.sample_base(20_000, generator=seeded(5)) if data else None
    return problem, run_of(RGDM(radius=RHO, **options), target, (3,), config, data=x)


def draft_of(method: RGDM, run: Run, n: int = 5000) -> Draft:
    assert run.data is not None
    return drafts(method, run, run.data[:n], None)


def test_drafts_are_posterior_samples() -> None:
    """x_s given x_0 has the law of the process at s, and given x_t too that of the posterior."""
    _problem, run = linear()
    method, process = RGDM(), run.policy.process
    draft = draft_of(method, run)
    alpha, sigma = process.schedule(draft.s)
    z = (draft.x_s - alpha[:, None] * draft.x0) / sigma[:, None]
    assert z_scores(z).abs().max() < 4
    assert z_scores(z**2, 1.0).abs().max() < 4
    mean = (
        draft.weight[:, None] * draft.x0
        + process.coefficients(draft.t, draft.s)[1][:, None] * draft.x_t
    )
    z = (draft.x_s - mean) / draft.std[:, None]
    assert z_scores(z**2, 1.0).abs().max() < 4
    assert z_scores(z * draft.x_t).abs().max() < 4


@pytest.mark.parametrize("proposal", ["gaussian", "kernel"])
def test_gaussian_proposals_amortise_classifier_guidance(proposal: str) -> None:
    r"""The shift is ρ²s²∇r/τ exactly for a linear reward: guidance of scale ρ²/τ."""
    options = {"score": "noisy", "shift": "gradient", "proposal": proposal}
    problem, run = linear(**options)
    # the kernel's own law has ρ = 1, held within ρ: no limit here
    method = RGDM(radius=RHO if proposal == "gaussian" else math.inf, **options)
    draft = draft_of(method, run)
    move = shifted(method, run, draft, None)
    rho = RHO if proposal == "gaussian" else 1.0
    slope = problem.theta / problem.temperature
    assert torch.allclose(move, (rho * draft.std)[:, None] ** 2 * slope)


def test_the_regression_has_the_guided_mean_as_its_optimum() -> None:
    r"""E[target | x_t] = x̂_0 + δ̄/a, hence the reverse mean is μ + (ρ²/τ) s² ∇r."""
    options = {"score": "noisy", "shift": "gradient", "proposal": "gaussian", "anchor": "data"}
    method = RGDM(radius=RHO, **options)
    problem, run = linear(**options)
    method.play(run)
    x_t, t, goal, x0 = run.memory["targets"]
    times = run.sampler().times(x_t.device, x_t.dtype)
    s = times[(times.unsqueeze(1) > t - 1e-9).sum(0)]
    process = run.policy.process
    a, _, std = process.coefficients(t, s)
    shift = (RHO**2 / problem.temperature) * std[:, None] ** 2 * problem.theta
    assert torch.allclose(goal - x0, shift / a[:, None])
    optimum = run.base(x_t, t).x0 + shift / a[:, None]
    residual = goal - optimum
    # the optimum leaves nothing that x_t could tell: neither a mean nor a slope
    assert z_scores(residual).abs().max() < 4
    assert z_scores(residual.unsqueeze(2) * x_t.unsqueeze(1)).abs().max() < 4
    base = run.base(x_t, t)
    guided = process.reverse(x_t, t, s, Prediction(optimum, x_t, base.alpha, base.sigma))
    plain = process.reverse(x_t, t, s, base)
    assert torch.allclose(guided.mean - plain.mean, shift)


class Steps(torch.nn.Module):
    """A free vector for every noise level of a grid: it can hold any constant shift."""

    def __init__(self, levels: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("levels", levels)
        self.shift = torch.nn.Parameter(torch.zeros(len(levels), dim, dtype=F64))

    def forward(self, x, level, cond=None):
        nearest = (level.unsqueeze(1) - self.levels).abs().argmin(1)
        return self.shift[nearest]


def test_a_trained_model_has_the_guided_mean() -> None:
    """All of the fit: the tuned kernels' means are those of classifier guidance, to 5 %."""
    problem = GaussianSubspace.random(2, 2, 0.5, dtype=F64)
    process, steps = problem.base.process, 6
    times = torch.linspace(1, 0, steps + 1, dtype=F64)[:-1]
    base = Corrected(problem.base, Steps(process.schedule.log_snr(times) / 8, 2))
    config = FinetuneConfig(
        **{"calls": 2000, "per_round": 2000, "updates": 400, "batch_size": 1000},
        **{
            "learning_rate": 0.05,
            "sampler_steps": steps,
            "evaluate": 16,
            "ema_decay": 0.9,
            "noise_floor": 0.0,
        },
    )
    method = RGDM(radius=0.7, score="noisy", shift="gradient", proposal="gaussian", anchor="model")
    tuned = method.fit(Target(base, problem.reward, 0.5), config, shape=(2,))
    x = torch.randn(5, 2, dtype=F64)
    for t, s in zip(times, [*times[1:], torch.zeros((), dtype=F64)], strict=True):
        one, two = process.reverse(x, t, s, tuned(x, t)), process.reverse(x, t, s, base(x, t))
        exact = 0.49 / 0.5 * float(two.std) ** 2 * problem.theta
        gap = (one.mean - two.mean - exact).norm(dim=1)
        assert (gap < 0.05 * exact.norm()).all(), t


@pytest.mark.parametrize("choice", ["soft", "argmax", "sampled"])
@pytest.mark.parametrize("proposal", ["ball", "kernel"])
@pytest.mark.parametrize("shift", ["candidates", "zeroth-order", "gradient"])
def test_no_move_leaves_the_feasible_set(shift: str, proposal: str, choice: str) -> None:
    """At most ρ standard deviations, whichever way the move is found."""
    if shift == "gradient" and choice == "sampled":
        pytest.skip("a sampled Gaussian shift has its noise added")
    options = {"score": "noisy", "shift": shift, "proposal": proposal, "choice": choice}
    method = RGDM(radius=0.3, **options)
    _, run = linear(temperature=0.05, **options)  # a slope that matters
    draft = draft_of(method, run, 500)
    move = shifted(method, run, draft, None)
    length = move.norm(dim=1) / draft.std
    assert length.max() <= 0.3 + 1e-9
    assert length.max() > 0.05


@pytest.mark.parametrize("shift", ["candidates", "zeroth-order"])
def test_black_box_shifts_agree_with_the_gradient(shift: str) -> None:
    """Of a linear reward: the zeroth-order shift on average, the soft one of many candidates."""
    many = 6 if shift == "zeroth-order" else 400
    n = 3000 if shift == "zeroth-order" else 400
    options: dict[str, Any] = {"score": "noisy", "proposal": "gaussian", "choice": "soft"}
    _, run = linear(score="noisy")
    method = RGDM(radius=RHO, shift=shift, candidates=many, **options)
    draft = draft_of(method, run, n)
    exact = shifted(RGDM(radius=RHO, shift="gradient", **options), run, draft, None)
    found = shifted(method, run, draft, None)
    # the draft itself is a candidate: soft means lean to it by 1 / many
    gap = (found - exact) / draft.std[:, None]
    lean = (
        0.0
        if shift == "zeroth-order"
        else 3 / many * float((exact / draft.std[:, None]).norm(dim=1).max())
    )
    assert z_scores(gap, floor=lean).abs().max() < 4


def test_nan_rewards_move_nothing() -> None:
    """Rows whose reward fails are regressed on as they are."""
    nan = FunctionReward(lambda x, cond: torch.where(x[:, 0] > 0, math.nan, x[:, 0]))
    for shift in ("candidates", "zeroth-order", "gradient"):
        method = RGDM(radius=1e-9, score="noisy", shift=shift, proposal="gaussian", candidates=4)
        _, run = linear()
        run.reward.reward = nan
        draft = draft_of(method, run, 500)
        move = shifted(method, run, draft, None)
        assert move.isfinite().all()
        failed = draft.x_s[:, 0] > 1e-6
        assert (move[failed] == 0).all()


def test_candidates_cost_what_they_say() -> None:
    """Never more calls than the round allows; the draft itself is one of the candidates."""
    for shift, cost in (("candidates", 5), ("zeroth-order", 5), ("gradient", 1)):
        method = RGDM(score="noisy", shift=shift, candidates=5, proposal="ball")
        assert method.cost() == cost
        _, run = linear(n=23)
        method.play(run)
        assert run.reward.meter.rows == 23 // cost * cost


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"candidates": 1}, "candidates must be at least 2"),
        ({"candidates": 2, "shift": "zeroth-order"}, "candidates must be at least 3"),
        ({"score": "noisy", "shift": "candidates", "candidates": 500}, "500 candidates"),
        ({"radius": 0.0}, "radius"),
        ({"mix": 1.5}, "mix"),
        ({"latest": 0.05}, "latest"),
        ({"earliest": 0.35, "latest": 0.35}, "no step of 10 starts"),
        ({"score": "clean"}, "score must be one of value, x0hat, noisy"),
    ],
)
def test_options_that_cannot_work_are_refused(options, told) -> None:
    problem = GaussianSubspace.random(3, 2)
    config = FinetuneConfig(calls=100, sampler_steps=10, evaluate=16)
    with pytest.raises(UserError, match=told):
        RGDM(**options).fit(Target(corrected(problem), problem.reward), config)


@pytest.mark.parametrize(("earliest", "latest"), [(0.0, 1.0), (0.25, 0.6), (0.5, 0.5)])
def test_only_steps_between_two_noise_levels_are_shifted(earliest: float, latest: float) -> None:
    method, run = linear(n=400)
    method.earliest, method.latest = earliest, latest
    x0, cond = clean(run, 400)
    starts = set(drafts(method, run, x0, cond).t.tolist())
    grid = run.sampler().times(x0.device, x0.dtype)[:-1].tolist()
    assert starts == {t for t in grid if earliest <= t <= latest}


def test_a_black_box_reward_has_no_gradient_to_shift_by() -> None:
    problem = GaussianSubspace.random(3, 2)
    box = FunctionReward(lambda x, cond: x[:, 0], differentiable=False)
    config = FinetuneConfig(calls=100, sampler_steps=10, evaluate=16)
    with pytest.raises(UserError, match="candidates or zeroth-order"):
        RGDM(score="noisy").fit(Target(corrected(problem), box), config)


def test_data_and_conditions_belong_together_and_values_are_of_vectors() -> None:
    problem = GaussianSubspace.random(3, 2)
    target, config = (
        Target(corrected(problem), problem.reward),
        FinetuneConfig(calls=50, evaluate=16),
    )
    cond = {"label": torch.zeros(3, 1)}
    with pytest.raises(UserError, match="3 rows of conditions"):
        RGDM().fit(target, config, data=torch.zeros(9, 3), cond=cond)
    flat = CloudProblem(3, process=GaussianProcess())  # no set: its rows have no common centre
    free = Corrected(flat.base, torch.nn.Identity())
    free.net.register_parameter("p", torch.nn.Parameter(torch.zeros(())))
    with pytest.raises(UserError, match="learned of vectors"):
        RGDM().fit(Target(free, flat.reward), config)
    cloud = CloudProblem(3)
    free = Corrected(cloud.base, torch.nn.Identity())
    free.net.register_parameter("p", torch.nn.Parameter(torch.zeros(())))
    with pytest.raises(UserError, match="multiple of 8"):
        RGDM(value_width=20).fit(Target(free, cloud.reward), config)


def test_few_calls_are_enough_where_a_step_costs_one() -> None:
    """16 candidates are no reason to refuse 10 calls where candidates are not scored."""
    problem = GaussianSubspace.random(3, 2)
    target = Target(corrected(problem), problem.reward)
    config = FinetuneConfig(calls=10, per_round=10, updates=2, evaluate=16, sampler_steps=4)
    for options in ({"level": "sample"}, {"score": "value", **QUICK["rgdm"], "candidates": 16}):
        RGDM(**options).fit(target, config)


def test_mix_zero_is_the_plain_loss() -> None:
    """λ = 0: an exact base has the least plain loss already, and the reward moves nothing."""
    problem = GaussianSubspace.random(3, 2, 0.5)
    target = Target(corrected(problem), problem.reward, 0.5)
    config = FinetuneConfig(calls=500, per_round=500, updates=100, batch_size=256, evaluate=512)
    kls = []
    for mix in (0.0, 1.0):
        method = RGDM(score="noisy", shift="gradient", mix=mix, proposal="gaussian", radius=1.0)
        tuned = method.fit(target, config)
        kls.append(
            float(paths(*samplers(tuned, target.denoiser, 25), 500, generator=seeded())[1].mean())
        )
    assert kls[0] < 0.1 * kls[1]


def samplers(tuned: Denoiser, base: Denoiser, steps: int):
    shape = base.base.shape  # type: ignore[union-attr]
    return DDIM(tuned, shape, steps, eta=1.0), DDIM(base, shape, steps, eta=1.0)


def share_of_the_frontier(problem: MixtureProblem, tuned: Denoiser, base: Denoiser, steps: int):
    """(share of the frontier's gain at the model's own KL, its error, z of a mode's weight)."""
    x, kl = paths(*samplers(tuned, base, steps), 4000, generator=seeded(3))
    divergence, reward = Estimate.of(kl), Estimate.of(problem.reward(x))
    taus = torch.logspace(-1, 1.5, 400).tolist()
    rewards, kls = problem.frontier(taus)
    nearest = int((kls - divergence.value).abs().argmin())
    gain = float(rewards[nearest] - problem.base_reward())
    weight = Estimate.of((x[:, 0] > 0.5).double())
    # against the exact model on the same steps and noise: the grid is not its fault
    walk = DDIM(problem.tilted(), (1,), steps, eta=1.0).sample(4000, generator=seeded(3))
    exact = float((walk[:, 0] > 0.5).double().mean())
    found = reward.value - float(problem.base_reward())
    return found / gain, reward.stderr / gain, weight.z(exact)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["value", "sample"])
def test_the_exact_variants_reach_the_target(variant: str) -> None:
    """95 % of the frontier's gain at the model's own KL, and the weights of the modes.

    The schedule ends at 5 % of noise: the last kernels of one that goes on to 0.1 % have so little
    that a divergence of paths is all error of the network there, and no tilt.
    """
    process = GaussianProcess(schedule=Cosine(-8.0, 6.0))
    problem = MixtureProblem.two_modes(process, temperature=1.0)
    target = Target(corrected(problem, 32, 2.4), problem.reward)
    common = {"sampler_steps": 40, "evaluate": 64, "evaluate_every": 50, "noise_floor": 0.0}
    if variant == "value":
        method = RGDM.of_value(problem.value())
        loop = {"calls": 5000, "per_round": 1000, "updates": 100, "learning_rate": 3e-3}
    else:
        method = RGDM(level="sample")
        loop = {"calls": 8000, "per_round": 8000, "updates": 800, "learning_rate": 1e-3}
    config = FinetuneConfig(**loop, **common, batch_size=256 if variant == "value" else 512)
    tuned = method.fit(target, config)
    share, error, z = share_of_the_frontier(problem, tuned, target.denoiser, 40)
    assert share > 0.95, (share, error)
    assert abs(z) < 3


@pytest.mark.slow
def test_a_learned_value_of_sets_leads_to_the_target() -> None:
    """Centred clouds, a black box: 70 % of the gain of p*, at most 1.3 times its divergence."""
    process = GaussianProcess(Centered(), Cosine(-8.0, 6.0))
    problem = CloudProblem(3, stiffness=0.5, process=process)
    torch.manual_seed(0)
    net = EquivariantTransformer(0, width=32, depth=1, pair_width=16, vectors=8)
    box = FunctionReward(problem.reward, differentiable=False)
    target = Target(Corrected(problem.base, net), box)
    config = FinetuneConfig(
        **{"calls": 2000, "per_round": 500, "updates": 40, "batch_size": 64, "evaluate": 16},
        **{"learning_rate": 3e-3, "sampler_steps": 15, "evaluate_every": 50, "noise_floor": 0.0},
    )
    method = RGDM(value_steps=100, value_width=16, radius=2.0)
    tuned = method.fit(target, config, shape=(3, 3))
    exact, mine, base = (
        DDIM(model, (3, 3), 15, eta=1.0) for model in (problem.tilted(), tuned, target.denoiser)
    )
    # the grid is not the method's fault: all three walk on the same steps and noise
    x, kl = paths(mine, base, 2000, generator=seeded(3))
    best, least = paths(exact, base, 2000, generator=seeded(3))
    start = problem.reward(base.sample(2000, generator=seeded(3))).mean()
    gain, whole = problem.reward(x).mean() - start, problem.reward(best).mean() - start
    assert 0.7 < float(gain / whole) < 1.2
    assert float(kl.mean()) < 1.3 * float(least.mean())
